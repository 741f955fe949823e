"""The form of metrics/oof.json and metrics/evaluate.json, and the sentences that must stand beside the numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.operating_point import patient_labels
from strokect.statistics import summarise

Floats = NDArray[np.float64]
FIGURES = ("roc_auc", "average_precision", "accuracy", "sensitivity", "specificity", "f2", "ece", "brier")


def report(
    part: str,
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    probability: Floats,
    slice_decision: NDArray[np.int64],
    patient_probability: Floats,
    patient_decision: NDArray[np.int64],
    *,
    slice_threshold: float,
    patient_threshold: float,
    cohort: dict[str, Any],
    sidecar: dict[str, Any],
    audit: dict[str, Any],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Slice and patient level figures of one part, with what they are figures of. Patients are sorted by id."""
    names = np.unique(patients)
    truth = patient_labels(labels, patients)
    bootstrap = {"resamples": resamples, "seed": seed}
    return {
        "part": part,
        "slice": summarise(labels, probability, slice_decision, patients, threshold=slice_threshold, **bootstrap),
        "patient": summarise(truth, patient_probability, patient_decision, names, threshold=patient_threshold, **bootstrap),
        "n_slices": len(labels),
        "n_patients": len(names),
        "n_positive_patients": int(truth.sum()),
        "group_by": sidecar["group_by"],
        "target": sidecar["target"],
        "device": sidecar["device"],
        "backbone": sidecar["backbone"],
        "source": cohort["source"],
        "labels": cohort["labels"],
        "data_sha256": cohort["data_sha256"],
        "audit_allowed": audit["allowed"],
        "interval": f"95 % percentile interval over {resamples} bootstrap resamples of patients",
        "notes": notes(part, cohort, sidecar, audit),
    }


def notes(part: str, cohort: dict[str, Any], sidecar: dict[str, Any], audit: dict[str, Any]) -> list[str]:
    """What a reader must know before believing a figure."""
    lines = []
    if part == "oof":
        lines.append(
            "Out-of-fold: each patient is judged by the one fold model that never saw them, with calibration and thresholds "
            "chosen on other patients. The service averages all folds; there is no out-of-fold estimate of that average."
        )
    else:
        lines.append("Test part: judged by the exported ensemble with the operating point chosen out-of-fold.")
    if sidecar["group_by"] == "none":
        lines.append("NOT patient-independent: slices of one patient are in several parts (split.group_by: none).")
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
    return f"{figure['value']:.3f} [{figure['ci95'][0]:.3f}, {figure['ci95'][1]:.3f}]"
