"""Whether what ships instead of the fp32 fold models (int8, a student) is good enough, judged out-of-fold."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import TrainingError
from strokect.out_of_fold import OutOfFold, Tuned, tune
from strokect.params import ToleranceParams, TuneThresholdParams
from strokect.reporting import Judged
from strokect.statistics import ece, roc_auc, weighted_share

# What is compared, in slices, and whether more of it is worse.
HIGHER_IS_WORSE = {"roc_auc": False, "ece": True, "sensitivity": False}
ADVICE = (
    "Ship the fp32 fold models (export.precision: fp32, export.student: none), train the student for longer "
    "(export.student_epochs), or raise export.tolerance knowingly"
)


def variant_figures(labels: NDArray[np.int64], slices: Judged) -> dict[str, float]:
    """Figures of slices (n,): ROC AUC of the raw scores, ECE and sensitivity of the cross-fitted probabilities and decisions."""
    once = np.ones((1, len(labels)))
    return {
        "roc_auc": float(roc_auc(labels, slices.ranking, once)[0]),
        "ece": float(ece(labels, slices.probability, once)[0]),
        "sensitivity": float(weighted_share(labels * slices.decision, labels, once)[0]),
    }


def refusals(reference: dict[str, float], shipped: dict[str, float], tolerance: ToleranceParams) -> list[str]:
    """One clause per figure that is worse than the reference's by more than its tolerance (absolute)."""
    clauses = []
    for name, higher_is_worse in HIGHER_IS_WORSE.items():
        change, allowed = shipped[name] - reference[name], asdict(tolerance)[name]
        if not (change if higher_is_worse else -change) <= allowed:  # a NaN is no pass
            clauses.append(f"{name} {reference[name]:.4f} → {shipped[name]:.4f} ({change:+.4f}, tolerance {allowed:g})")
    return clauses


def accept(
    oof: OutOfFold,
    tuned: Tuned,
    sidecar: dict[str, Any],
    params: TuneThresholdParams,
    tolerance: ToleranceParams,
) -> dict[str, Any]:
    """The section "variant" of metrics/oof.json, nothing where the fp32 fold models ship.

    The fold models are tuned in the same way (`tune`) on the same slices. `sidecar` is that of an exported fold. Raises
    TrainingError naming each figure that falls out of `tolerance`.
    """
    if oof.reference is None:
        return {}
    before = tune(replace(oof, logits=oof.reference), params)
    reference, shipped = (variant_figures(oof.labels, slices) for slices in (before.slices, tuned.slices))
    student = sidecar["backbone"] if "taught_by" in sidecar else None
    if worse := refusals(reference, shipped, tolerance):
        what = f"the {sidecar['precision']} {f'student {student}' if student else 'export'}"
        raise TrainingError(f"{what} is worse than the fp32 fold models out-of-fold: {'; '.join(worse)}. {ADVICE}")
    variant = {"precision": sidecar["precision"], "student": student, "reference": reference, "shipped": shipped}
    return {"variant": {**variant, "tolerance": asdict(tolerance)}}
