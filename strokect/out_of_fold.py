"""Out-of-fold predictions of the exported folds, and the operating point that is chosen on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.calibration import Calibrator
from strokect.calibration_fit import choose_method, fit_calibrator, log_loss, patient_groups
from strokect.errors import DataError
from strokect.operating_point import choose_threshold, patient_labels, patient_scores
from strokect.params import TuneThresholdParams

Floats = NDArray[np.float64]
CROSS_FIT_GROUPS = 5


@dataclass(frozen=True)
class OutOfFold:
    """Each development slice as the one fold model saw it that never trained on it; in manifest order."""

    rows: NDArray[np.int64]  # (n,) manifest rows
    fold: NDArray[np.int64]  # (n,)
    logits: Floats  # (n,) mean over the views that ship
    labels: NDArray[np.int64]  # (n,)
    patients: NDArray[np.str_]  # (n,)


@dataclass(frozen=True)
class Tuned:
    """The operating point, and what it does to patients that had no part in choosing it (cross-fitted)."""

    calibrator: Calibrator
    calibration_log_loss: dict[str, float]  # cross-fitted, by method
    slice_threshold: float
    patient_threshold: float
    probability: Floats  # (n,) cross-fitted
    slice_decision: NDArray[np.int64]  # (n,) by a threshold chosen on the other patients
    patient_probability: Floats  # (P,) cross-fitted, patients sorted by id
    patient_decision: NDArray[np.int64]  # (P,)
    log_loss_before: float
    log_loss_after: float


def load_out_of_fold(exports: Path, folds: tuple[int, ...], manifest: pd.DataFrame, split: pd.DataFrame) -> OutOfFold:
    """Read oof.npz of every fold. Raises DataError unless each development slice is there exactly once, in the same views."""
    pieces = {fold: dict(np.load(exports / str(fold) / "oof.npz", allow_pickle=False)) for fold in folds}
    views = {tuple(piece["views"].tolist()) for piece in pieces.values()}
    if len(views) != 1:
        raise DataError(f"{exports}: folds were exported with different views {sorted(views)}: run `dvc repro export`")
    rows = np.concatenate([piece["rows"] for piece in pieces.values()])
    development = np.flatnonzero(split["part"].to_numpy(str) != "test")
    if not np.array_equal(np.sort(rows), development):
        raise DataError(f"{exports}: out-of-fold predictions do not cover the development part once each: run `dvc repro export`")
    order = np.argsort(rows)
    rows = rows[order]
    return OutOfFold(
        rows=rows,
        fold=np.concatenate([np.full(len(piece["rows"]), fold) for fold, piece in pieces.items()])[order],
        logits=np.concatenate([piece["logits"].astype(np.float64).mean(axis=1) for piece in pieces.values()])[order],
        labels=manifest["label"].to_numpy(np.int64)[rows],
        patients=manifest["patient"].to_numpy(np.str_)[rows],
    )


def tune(oof: OutOfFold, params: TuneThresholdParams) -> Tuned:
    """Choose calibration and both thresholds on out-of-fold logits; judge each patient by choices made without them."""
    groups = patient_groups(oof.patients, oof.labels, CROSS_FIT_GROUPS, params.seed)
    method, losses = choose_method(oof.logits, oof.labels, groups)
    if params.calibration != "auto":
        method = params.calibration
    names = np.unique(oof.patients)
    truth = patient_labels(oof.labels, oof.patients)
    probability = np.empty(len(oof.labels))
    slice_decision = np.empty(len(oof.labels), np.int64)
    patient_probability, patient_decision = np.empty(len(names)), np.empty(len(names), np.int64)
    for group in np.unique(groups):
        own = groups == group
        calibrator = fit_calibrator(method, oof.logits[~own], oof.labels[~own])
        others = calibrator(oof.logits[~own])
        probability[own] = calibrator(oof.logits[own])
        slice_decision[own] = probability[own] >= choose_threshold(others, oof.labels[~own], params.goal)
        held, held_scores = patient_scores(probability[own], oof.patients[own], params.patient_top_k)
        rest, rest_scores = patient_scores(others, oof.patients[~own], params.patient_top_k)
        at, elsewhere = np.searchsorted(names, held), np.searchsorted(names, rest)
        patient_probability[at] = held_scores
        patient_decision[at] = held_scores >= choose_threshold(rest_scores, truth[elsewhere], params.goal)

    calibrator = fit_calibrator(method, oof.logits, oof.labels)
    calibrated = calibrator(oof.logits)
    _, scores = patient_scores(calibrated, oof.patients, params.patient_top_k)
    return Tuned(
        calibrator=calibrator,
        calibration_log_loss=losses,
        slice_threshold=choose_threshold(calibrated, oof.labels, params.goal),
        patient_threshold=choose_threshold(scores, truth, params.goal),
        probability=probability,
        slice_decision=slice_decision,
        patient_probability=patient_probability,
        patient_decision=patient_decision,
        log_loss_before=losses["none"],
        log_loss_after=log_loss(probability, oof.labels),
    )


def operating_point_json(
    tuned: Tuned, params: TuneThresholdParams, views: list[str], exports: dict[str, str], group_by: str
) -> dict[str, Any]:
    """models/operating_point.json; `exports` maps fold → SHA-256 of its model.onnx, which ties the two together."""
    return {
        "schema": 1,
        "calibration": tuned.calibrator.to_json(),
        "calibration_log_loss_cross_fitted": tuned.calibration_log_loss,
        "views": views,
        "slice": {"threshold": tuned.slice_threshold, "goal": params.goal},
        "patient": {
            "threshold": tuned.patient_threshold,
            "goal": params.goal,
            "rule": "mean_top_k",
            "top_k": params.patient_top_k,
        },
        "chosen_on": "out-of-fold predictions of single fold models",
        "group_by": group_by,
        "folds": [int(fold) for fold in exports],
        "exports": exports,
    }
