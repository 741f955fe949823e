"""Selective prediction: which uncertainty finds the wrong decisions best, and what answering less is worth.

Only measures that exist for a patient whom the models have not seen: Monte Carlo dropout, entropy, nearness to the threshold,
distance of the features. The spread between folds is none of them, as four of five have trained on the patient.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import NotEstimableError
from strokect.statistics import bootstrap_weights, estimate, estimate_auc, patients_of_rarer, tie_groups

Floats = NDArray[np.float64]
COVERAGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1)


def compare_measures(
    measures: dict[str, Floats], wrong: NDArray[np.bool_], patients: NDArray[np.str_], *, resamples: int, seed: int
) -> dict[str, Any]:
    """How well each measure (n,) finds the slices that are decided wrongly, out-of-fold.

    AUROC of error detection with a patient-clustered interval; error rate at each coverage when the least sure are left out;
    AURC, the mean error rate over all coverages (Geifman & El-Yaniv 2017), with its patient-clustered interval, beside that of a
    perfect ranking. Raises NotEstimableError on a measure that is NaN somewhere, or without a slice.
    """
    if not len(wrong):
        raise NotEstimableError("there is no slice whose errors a measure of uncertainty could find")
    errors = wrong.astype(np.int64)
    counts, index = bootstrap_weights(patients, resamples, seed)
    with_error = patients_of_rarer(errors, index) if errors.any() else 0
    report: dict[str, Any] = {}
    for name, values in measures.items():
        risks = risk_coverage(errors, values)
        report[name] = {
            "error_detection_auroc": estimate_auc(errors, values, counts, index),
            "aurc": float(risks.mean()),
            "aurc_ci95": estimate(partial(aurc, errors, values), counts, index, patients=with_error)["ci95"],
            "error_rate_at_coverage": {f"{c:g}": float(risks[max(1, round(c * len(risks))) - 1]) for c in COVERAGES},
        }
    return {
        "n": len(errors),
        "n_errors": int(errors.sum()),
        "perfect_aurc": float(risk_coverage(errors, errors.astype(float)).mean()),
        "measures": report,
    }


def risk_coverage(errors: NDArray[np.int64], uncertainty: Floats) -> Floats:
    """(n,) error rate among the k surest slices, k = 1 … n; slices that tie share their errors."""
    values, group = np.unique(uncertainty, return_inverse=True)
    share = np.bincount(group, errors, len(values)) / np.bincount(group, minlength=len(values))
    order = np.argsort(uncertainty, kind="stable")
    return np.asarray(np.cumsum(share[group][order]) / np.arange(1, len(errors) + 1))


def aurc(errors: NDArray[np.int64], uncertainty: Floats, weights: Floats) -> Floats:
    """(R,) mean of `risk_coverage` where weights (R, n) say how often each slice was drawn; NaN where none was."""
    order, starts = tie_groups(uncertainty)
    drawn = weights[:, order]
    size, wrong = np.add.reduceat(drawn, starts, axis=1), np.add.reduceat(drawn * errors[order], starts, axis=1)  # (R, G)
    answered, erred = np.cumsum(size, axis=1) - size, np.cumsum(wrong, axis=1) - wrong  # before each group
    harmonic = np.r_[0.0, np.cumsum(1 / np.arange(1, int(weights.sum(1).max()) + 1))]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(size > 0, wrong / size, 0.0)
        # The j-th slice of a group sees (erred + j·share) / (answered + j) = share + (erred − share·answered) / (answered + j).
        ends = (answered + size).astype(np.int64)
        spread = harmonic[ends] - harmonic[answered.astype(np.int64)]
        return np.asarray((share * size + (erred - share * answered) * spread).sum(1) / weights.sum(1))


def choose_measure(comparison: dict[str, Any]) -> str:
    """The measure with the highest AUROC of error detection; the first one where that is not estimable."""
    measures = comparison["measures"]

    def auroc(name: str) -> float:
        value = measures[name]["error_detection_auroc"]["value"]
        return -1.0 if value is None else float(value)

    return max(measures, key=auroc)
