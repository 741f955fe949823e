"""The form of metrics/oof.json and metrics/evaluate.json, and the sentences that must stand beside the numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.edges import METHOD
from strokect.figures import summarise
from strokect.files import read_json
from strokect.manifest import NOT_VERIFIABLE
from strokect.operating_point import patient_labels

Floats = NDArray[np.float64]
CLASS_WORDS = {"normal": "negative", "stroke": "positive"}  # keys of the metrics → words: a positive is what the target says
FIGURES = ("roc_auc", "average_precision", "accuracy", "sensitivity", "specificity", "f2", "ece", "brier", "log_loss")


@dataclass(frozen=True)
class Judged:
    """One level of one part as it was judged. Patients are sorted by id."""

    probability: Floats  # (n,)
    ranking: Floats  # (n,) what ROC AUC orders by: cross-fitted probabilities of different calibrators do not share a scale
    decision: NDArray[np.int64]  # (n,)
    threshold: float  # the one that ships
    uncalibrated: Floats | None = None  # (n,) probability before calibration; None where there is no such thing


def read_audit(metrics: Path = Path("metrics")) -> dict[str, Any]:
    """metrics/audit.json completed by what metrics/split.json found later: `allowed` holds every exception in force."""
    audit, split = read_json(metrics / "audit.json"), read_json(metrics / "split.json")
    return {
        "passed": audit["passed"] and split["passed"],
        "allowed": [*audit["allowed"], *split["allowed"]],
        "findings": [*audit["findings"], *split["findings"]],
    }


def report(
    part: str,
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    slices: Judged,
    whole: Judged,
    *,
    cohort: dict[str, Any],
    sidecar: dict[str, Any],
    audit: dict[str, Any],
    prevalence: Sequence[float],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Figures of slices (n,) and of whole patients, with what they are figures of."""
    names = np.unique(patients)
    truth = patient_labels(labels, patients)

    def level(judged: Judged, y: NDArray[np.int64], who: NDArray[np.str_]) -> dict[str, Any]:
        scores = judged.probability, judged.ranking, judged.decision
        settings: dict[str, Any] = {"threshold": judged.threshold, "prevalence": prevalence, "resamples": resamples, "seed": seed}
        return summarise(y, *scores, who, uncalibrated=judged.uncalibrated, **settings)

    return {
        "part": part,
        "slice": level(slices, labels, patients),
        "patient": level(whole, truth, names),
        "n_slices": len(labels),
        "n_patients": len(names),
        "n_positive_patients": int(truth.sum()),
        "patient_level_verifiable": cohort["patient_level_verifiable"],
        "group_by": sidecar["group_by"],
        "target": sidecar["target"],
        "device": sidecar["device"],
        "backbone": sidecar["backbone"],
        "source": cohort["source"],
        "labels": cohort["labels"],
        "data_sha256": cohort["data_sha256"],
        "audit_allowed": audit["allowed"],
        "interval": METHOD.format(resamples=resamples),
        "notes": notes(part, cohort, sidecar, audit),
    }


def notes(part: str, cohort: dict[str, Any], sidecar: dict[str, Any], audit: dict[str, Any]) -> list[str]:
    """What a reader must know before believing a figure."""
    lines, student = [], "taught_by" in sidecar
    if part == "oof":
        unit = "patient" if sidecar["group_by"] == "patient" else "slice"
        shipped = "The service averages all folds; that average has no out-of-fold estimate."
        if student:
            shipped = (
                "What ships is one student taught by all folds on all of these slices; it has no out-of-fold estimate. The fold "
                "models judged here are students too, each taught by one fold model that did not see what they are judged on."
            )
        lines.append(
            f"Out-of-fold: each {unit} is judged by the one fold model that was not trained on it, with calibration and "
            "thresholds chosen on other patients (so the confusion matrix is not that of the one threshold shown, which ships). "
            f"ROC AUC and average precision are those of the raw scores. {shipped}"
        )
    elif part == "external":
        judge = "student" if student else "ensemble"
        lines.append(f"External data: judged by the exported {judge} of a frozen release; nothing was fitted on these slices.")
    else:
        judge = "student" if student else "ensemble"
        lines.append(f"Test part: judged by the exported {judge} with the operating point chosen out-of-fold.")
        of_folds = "students of single folds" if student else "single fold models"
        lines.append(
            f"The {judge} is not what out-of-fold figures, guarantees and the refer band are about: those are of {of_folds}. "
            "A difference between the two parts is one of models as well as of patients, and neither estimates the other."
        )
    if sidecar["group_by"] == "none":
        lines.append("NOT patient-independent: slices of one patient are in several parts (split.group_by: none).")
    if not cohort["patient_level_verifiable"]:
        lines.append(NOT_VERIFIABLE)
    if cohort["labels"] == "shuffled":
        lines.append("Control run: labels were permuted between patients and mean nothing.")
    if cohort["synthetic"]:
        lines.append("Synthetic phantom: these figures say that the pipeline works, nothing about patients.")
    lines.extend(f"Audit exception in force: {check}." for check in audit["allowed"])
    return lines


def metrics_table(metrics: dict[str, Any]) -> str:
    """The figures of both levels as an aligned text table with intervals."""
    lines = [f"{'':20}{'slice':>26}{'patient':>28}"]
    for name in FIGURES:
        cells = [figure_text(metrics[level][name]) for level in ("slice", "patient")]
        lines.append(f"{name:20}{cells[0]:>26}{cells[1]:>28}")
    lines.append(f"{'threshold':20}{metrics['slice']['threshold']:>10.3f}{metrics['patient']['threshold']:>28.3f}")
    return "\n".join(lines)


def figure_text(figure: dict[str, Any]) -> str:
    """A figure with its interval, or that it is not estimable."""
    if figure["value"] is None:
        return "not estimable"
    if figure["ci95"] is None:
        return f"{figure['value']:.3f} [interval not estimable]"
    return f"{figure['value']:.3f} [{figure['ci95'][0]:.3f}, {figure['ci95'][1]:.3f}]"
