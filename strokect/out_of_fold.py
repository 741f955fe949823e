"""Out-of-fold predictions of the exported folds, and the operating point that is chosen on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.calibration import Calibrator, sigmoid
from strokect.calibration_fit import CROSS_FIT_GROUPS, choose_method, fit_calibrator, fit_sequence_head, log_loss, patient_groups
from strokect.errors import DataError
from strokect.guarantee import promise
from strokect.operating_point import patient_labels, patient_scores
from strokect.params import TuneThresholdParams
from strokect.reporting import Judged
from strokect.sequence import SequenceHead, context
from strokect.splits import development_rows
from strokect.thresholds import choose_threshold, parse_goal

Floats = NDArray[np.float64]
FOLD_MODELS = "single fold models"
PROMISED = "of the patient threshold a sensitivity is promised, of them and not of their average"
OPTIONAL = ("reference", "before_mining")  # arrays of oof.npz that a run may have


@dataclass(frozen=True)
class OutOfFold:
    """Each development slice as the one fold model saw it that never trained on it; in manifest order."""

    rows: NDArray[np.int64]  # (n,) manifest rows
    fold: NDArray[np.int64]  # (n,)
    logits: Floats  # (n,) mean over the views that ship
    labels: NDArray[np.int64]  # (n,)
    patients: NDArray[np.str_]  # (n,)
    order: NDArray[np.int64]  # (n,) sorts the slices of a patient
    views: Floats  # (n, V) logits in each view that ships; the first is the slice as it is
    reference: Floats | None = None  # (n,) logits of the fp32 fold models, where something else ships
    before_mining: Floats | None = None  # (n,) logits before the fine-tuning on hard slices, where there was one


@dataclass(frozen=True)
class SliceRule:
    """How a slice is decided: "stroke" where its calibrated probability is at least the threshold."""

    calibrator: Calibrator
    threshold: float


@dataclass(frozen=True)
class Tuned:
    """The operating point, and what it does to patients that had no part in choosing it (cross-fitted)."""

    calibrator: Calibrator
    calibration_log_loss: dict[str, float]  # cross-fitted, by method; empty where params fix the method
    slices: Judged
    whole: Judged
    sequence: SequenceHead | None  # of `patient_rule: sequence`
    patient_scores: Floats  # (P,) that the patient threshold that ships was chosen on; calibrated on all patients
    in_series: Floats  # (n,) cross-fitted slice probabilities that the patient scores are made of
    positive_patients: int
    log_loss_before: float
    log_loss_after: float  # cross-fitted, the choice of the method included


def load_out_of_fold(exports: Path, folds: tuple[int, ...], manifest: pd.DataFrame, split: pd.DataFrame) -> OutOfFold:
    """Read oof.npz of every fold. Raises DataError unless each development slice is there exactly once, in the same views."""
    pieces = {fold: dict(np.load(exports / str(fold) / "oof.npz", allow_pickle=False)) for fold in folds}
    views = {tuple(piece["views"].tolist()) for piece in pieces.values()}
    if len(views) != 1:
        raise DataError(f"{exports}: folds were exported with different views {sorted(views)}: run `dvc repro export`")
    for name in OPTIONAL:
        if len({name in piece for piece in pieces.values()}) != 1:
            raise DataError(
                f"{exports}: folds were exported in different forms (export.precision, export.student, hnm.enabled): "
                "run `dvc repro export`"
            )
    rows = np.concatenate([piece["rows"] for piece in pieces.values()])
    if not np.array_equal(np.sort(rows), development_rows(split)):
        raise DataError(f"{exports}: out-of-fold predictions do not cover the development part once each: run `dvc repro export`")
    order = np.argsort(rows)
    rows = rows[order]

    def of_views(name: str) -> Floats:
        return np.concatenate([piece[name].astype(np.float64) for piece in pieces.values()])[order]

    optional = {name: of_views(name).mean(axis=1) for name in OPTIONAL if name in pieces[folds[0]]}

    return OutOfFold(
        rows=rows,
        fold=np.concatenate([np.full(len(piece["rows"]), fold) for fold, piece in pieces.items()])[order],
        logits=of_views("logits").mean(axis=1),
        labels=manifest["label"].to_numpy(np.int64)[rows],
        patients=manifest["patient"].to_numpy(np.str_)[rows],
        order=manifest["slice"].to_numpy(np.int64)[rows],
        views=of_views("logits"),
        **optional,
    )


def tune(oof: OutOfFold, params: TuneThresholdParams) -> Tuned:
    """Choose calibration and both thresholds on out-of-fold logits; judge each patient by choices made without them."""
    logits, labels, patients = oof.logits, oof.labels, oof.patients
    goal = parse_goal(params.goal)
    truth, names = patient_labels(labels, patients), np.unique(patients)
    probability, patient_probability = np.empty(len(labels)), np.empty(len(names))
    decision, patient_decision = np.empty(len(labels), np.int64), np.empty(len(names), np.int64)
    groups = patient_groups(patients, labels, CROSS_FIT_GROUPS, params.seed)
    in_series, around = np.empty(len(labels)), context(logits, patients, oof.order)
    for group in np.unique(groups):
        own, rest = groups == group, groups != group
        rule = slice_rule(logits[rest], labels[rest], patients[rest], params)
        seen, probability[own] = rule.calibrator(logits[rest]), rule.calibrator(logits[own])
        decision[own] = probability[own] >= rule.threshold
        head = _sequence_head(around[rest], labels[rest], params)
        in_series[own] = head(around[own]) if head else probability[own]
        held, scores = patient_scores(in_series[own], patients[own], params.patient_top_k)
        others, seen_scores = patient_scores(head(around[rest]) if head else seen, patients[rest], params.patient_top_k)
        at = np.searchsorted(names, held)
        patient_probability[at] = scores
        others_truth = truth[np.searchsorted(names, others)]
        patient_decision[at] = scores >= choose_threshold(seen_scores, others_truth, goal, judging=True)

    method, losses = _calibration(logits, labels, patients, params)
    calibrator, head = fit_calibrator(method, logits, labels), _sequence_head(around, labels, params)
    _, scores = patient_scores(head(around) if head else calibrator(logits), patients, params.patient_top_k)
    thresholds = choose_threshold(calibrator(logits), labels, goal.of_slices()), choose_threshold(scores, truth, goal)
    raw = sigmoid(logits)
    # A sequence head is fitted, so there are no raw scores of it: the cross-fitted ones stand in.
    _, raw_scores = patient_scores(in_series if head else raw, patients, params.patient_top_k)
    return Tuned(
        calibrator,
        losses,
        slices=Judged(probability, raw, decision, thresholds[0], raw),
        whole=Judged(patient_probability, raw_scores, patient_decision, thresholds[1], None if head else raw_scores),
        sequence=head,
        patient_scores=scores,
        in_series=in_series,
        positive_patients=int(truth.sum()),
        log_loss_before=log_loss(raw, labels),
        log_loss_after=log_loss(probability, labels),
    )


def _sequence_head(around: Floats, labels: NDArray[np.int64], params: TuneThresholdParams) -> SequenceHead | None:
    return fit_sequence_head(around, labels) if params.patient_rule == "sequence" else None


def slice_rule(logits: Floats, labels: NDArray[np.int64], patients: NDArray[np.str_], params: TuneThresholdParams) -> SliceRule:
    """Calibration and slice threshold for the goal, fitted on these slices (n,) and no other; the choice of the method, too."""
    method, _ = _calibration(logits, labels, patients, params)
    calibrator = fit_calibrator(method, logits, labels)
    return SliceRule(calibrator, choose_threshold(calibrator(logits), labels, parse_goal(params.goal).of_slices()))


def _calibration(
    logits: Floats, labels: NDArray[np.int64], patients: NDArray[np.str_], params: TuneThresholdParams
) -> tuple[str, dict[str, float]]:
    """The method that params fix, or that these slices ask for with the cross-fitted log loss of each."""
    if params.calibration != "auto":
        return params.calibration, {}
    return choose_method(logits, labels, patient_groups(patients, labels, CROSS_FIT_GROUPS, params.seed))


def operating_point_json(
    tuned: Tuned,
    params: TuneThresholdParams,
    *,
    folds: Sequence[int],
    views: list[str],
    exports: dict[str, str],
    group_by: str,
) -> dict[str, Any]:
    """models/operating_point.json. `folds` are those it was chosen on; `exports` maps the name of each model that ships to the
    SHA-256 of its model.onnx, which ties the two together.
    """
    goal, positives = parse_goal(params.goal), tuned.positive_patients
    promised = promise(positives, goal.target, goal.confidence, FOLD_MODELS) if goal.kind == "guaranteed" else None
    return {
        "schema": 2,
        "calibration": tuned.calibrator.to_json(),
        "calibration_log_loss_cross_fitted": tuned.calibration_log_loss,
        "views": views,
        "slice": {"threshold": tuned.slices.threshold, "goal": params.goal},
        "patient": {
            "threshold": tuned.whole.threshold,
            "goal": params.goal,
            "rule": params.patient_rule,
            "top_k": params.patient_top_k,
            "sequence": tuned.sequence.to_json() if tuned.sequence else None,
            "promise": promised,
        },
        "chosen_on": f"out-of-fold predictions of {FOLD_MODELS}; {PROMISED if promised else 'empirical, no guarantee'}",
        "group_by": group_by,
        "folds": list(folds),
        "exports": exports,
    }
