"""All figures of one level, slices or patients, in the form of metrics/oof.json and metrics/evaluate.json."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.delong import analytic_auc
from strokect.edges import MIN_PATIENTS, Scale, f2_of_shares, wilson
from strokect.errors import NotEstimableError
from strokect.statistics import (
    bootstrap_weights,
    brier,
    ece,
    estimate,
    estimate_auc,
    estimate_precision,
    estimate_share,
    log_loss,
    patients_of_rarer,
    predictive_values,
    weighted_share,
)

Floats = NDArray[np.float64]
# Of probabilities: how they are computed, and on which scale their interval is.
OF_PROBABILITIES: dict[str, tuple[Callable[[NDArray[np.int64], Floats, Floats], Floats], Scale]] = {
    "ece": (ece, "reflected"),
    "brier": (brier, "share"),
    "log_loss": (log_loss, "positive"),
}


def summarise(
    labels: NDArray[np.int64],
    score: Floats,
    ranking: Floats,
    decisions: NDArray[np.int64],
    patients: NDArray[Any],
    *,
    threshold: float,
    prevalence: Sequence[float],
    resamples: int,
    seed: int,
    uncalibrated: Floats | None = None,
) -> dict[str, Any]:
    """All figures of one level (slices, or patients when each has one row) in the form of metrics/evaluate.json.

    `ranking` is what ROC AUC and average precision order the items by; `score` is the probability, `uncalibrated` the one before
    calibration, where there is such a thing. `prevalence` lists the shares of positives that PPV and NPV are given for.
    """
    if uncalibrated is not None and not np.isfinite(uncalibrated).all():
        raise NotEstimableError("figures need finite probabilities before calibration, too")
    if not (np.isfinite(score).all() and np.isfinite(ranking).all() and len(score) == len(labels) > 0):
        raise NotEstimableError("figures need at least one item and finite scores")
    if len(np.unique(patients)) < 2:
        raise NotEstimableError("an interval over patients needs at least two of them")
    counts, index = bootstrap_weights(patients, resamples, seed)
    y, d = labels, decisions
    tp, fp, fn, tn = (y * d), ((1 - y) * d), (y * (1 - d)), ((1 - y) * (1 - d))
    shares = {"accuracy": (tp + tn, np.ones_like(y)), "sensitivity": (tp, y), "specificity": (tn, 1 - y)}
    found = {name: estimate_share(*of, counts, index) for name, of in shares.items()}
    fewer = patients_of_rarer(y, index)
    f2: dict[str, Any] = {"value": None, "ci95": None}
    if y.any():
        f2 = estimate(lambda w: weighted_share(5 * tp, 5 * tp + 4 * fn + fp, w), counts, index, patients=fewer)
    if fewer >= MIN_PATIENTS:
        f2 = _f2_at_the_edge(f2, found, float(y.mean()))

    def predicted(prevalent: float, which: int) -> dict[str, Any]:
        def metric(w: Floats) -> Floats:
            return predictive_values(weighted_share(tp, y, w), weighted_share(tn, 1 - y, w), prevalent)[which]

        return _at_the_edge(estimate(metric, counts, index, patients=fewer), found, prevalent, which)

    def of_probabilities(p: Floats) -> dict[str, Any]:
        return {
            name: estimate(partial(metric, y, p), counts, index, patients=fewer, scale=scale)
            for name, (metric, scale) in OF_PROBABILITIES.items()
        }

    return {
        "roc_auc": estimate_auc(y, ranking, counts, index),
        "average_precision": estimate_precision(y, ranking, counts, index),
        **found,
        "f2": f2,
        **of_probabilities(score),
        "before_calibration": None if uncalibrated is None else of_probabilities(uncalibrated),
        "roc_auc_analytic": analytic_auc(y, ranking, patients),
        **({name + "_analytic": _wilson(*of) for name, of in shares.items()} if len(counts[0]) == len(y) else {}),
        "at_prevalence": [{"prevalence": share, "ppv": predicted(share, 0), "npv": predicted(share, 1)} for share in prevalence],
        "threshold": threshold,
        "confusion_matrix": {"tn": int(tn.sum()), "fp": int(fp.sum()), "fn": int(fn.sum()), "tp": int(tp.sum())},
        "per_class": {"normal": _per_class(tn.sum(), fn.sum(), fp.sum()), "stroke": _per_class(tp.sum(), fp.sum(), fn.sum())},
        "n": len(y),
        "n_positive": int(y.sum()),
    }


def _wilson(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> dict[str, Any]:
    """A share of independent items in the form of `analytic_auc`, None where there is no item, or one for an interval."""
    k, n = int(numerator.sum()), int(denominator.sum())
    return {"value": k / n if n else None, "ci95": list(wilson(k, n)) if n >= MIN_PATIENTS else None, "method": "Wilson"}


def _at_the_edge(value: dict[str, Any], found: dict[str, Any], prevalent: float, which: int) -> dict[str, Any]:
    """A PPV or NPV of 0 or 1 with the interval that the exact one of the share behind it gives, the other share as it is."""
    if value["value"] not in (0.0, 1.0) or not (found["sensitivity"]["ci95"] and found["specificity"]["ci95"]):
        return value
    sensitivity, specificity = (np.array(found[name]["ci95"]) for name in ("sensitivity", "specificity"))
    # Behind a PPV of 1 is a specificity of 1, behind one of 0 a sensitivity of 0; with an NPV it is the other way round.
    if (which == 0) == (value["value"] == 1.0):
        sensitivity = np.full(2, found["sensitivity"]["value"])
    else:
        specificity = np.full(2, found["specificity"]["value"])
    low, high = predictive_values(sensitivity, specificity, prevalent)[which]
    return {"value": value["value"], "ci95": [float(low), float(high)]}


def _f2_at_the_edge(f2: dict[str, Any], found: dict[str, Any], positive: float) -> dict[str, Any]:
    """An F2 of 0 or 1 with the interval that the exact ones of sensitivity and specificity give at the share of positives."""
    if f2["value"] not in (0.0, 1.0):
        return f2
    end = 0 if f2["value"] == 1.0 else -1
    sensitivity, specificity = ((found[name]["ci95"] or [1.0])[end] for name in ("sensitivity", "specificity"))
    return {"value": f2["value"], "ci95": sorted([f2_of_shares(sensitivity, specificity, positive), f2["value"]])}


def _per_class(hit: int, wrongly_called: int, missed: int) -> dict[str, float | int | None]:
    """Precision, recall, F1 and support of one class; None where nothing was called or nothing is there."""
    called, present = int(hit + wrongly_called), int(hit + missed)
    return {
        "precision": float(hit / called) if called else None,
        "recall": float(hit / present) if present else None,
        "f1": float(2 * hit / (called + present)) if called + present else None,
        "support": present,
    }
