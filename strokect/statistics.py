"""Figures with patient-clustered bootstrap intervals.

Every metric takes weights (R, n), one row per bootstrap resample (how often each item was drawn), and gives (R,) values.
A metric that a resample does not define (no positive drawn) is NaN there.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.delong import analytic_auc
from strokect.edges import f2_of_shares, least_precision, widened_at_the_edge, wilson
from strokect.errors import NotEstimableError

Floats = NDArray[np.float64]
ECE_BINS = 10
PROBABILITY_FLOOR = 1e-7  # kept between a probability and 0 or 1 where a logarithm is taken
CHUNK = 250  # resamples at a time: 250 × 10,000 items are 20 MB


def _tie_groups(score: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending order (n,) and the position at which each group of equal scores starts."""
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    return order, np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def roc_auc(labels: NDArray[np.int64], score: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve (Mann–Whitney, ties count half)."""
    order, starts = _tie_groups(score)
    w, y = weights[:, order], labels[order]
    positive = np.add.reduceat(w * y, starts, axis=1)
    negative = np.add.reduceat(w * (1 - y), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positive * (below + 0.5 * negative)).sum(1) / (positive.sum(1) * negative.sum(1))


def average_precision(labels: NDArray[np.int64], score: Floats, weights: Floats) -> Floats:
    """Σ (R_i − R_{i−1})·P_i over descending thresholds, as scikit-learn defines it."""
    order, starts = _tie_groups(-score)
    w, y = weights[:, order], labels[order]
    hits = np.add.reduceat(w * y, starts, axis=1)
    seen = np.cumsum(np.add.reduceat(w, starts, axis=1), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(seen > 0, np.cumsum(hits, axis=1) / seen, 0.0)
        return (hits * precision).sum(1) / hits.sum(1)


def brier(labels: NDArray[np.int64], score: Floats, weights: Floats) -> Floats:
    """Mean squared difference between probability and label."""
    return weights @ (score - labels) ** 2 / weights.sum(1)


def log_loss(labels: NDArray[np.int64], score: Floats, weights: Floats) -> Floats:
    """Mean −log of the probability that the label was given."""
    p = np.clip(score, PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    return weights @ -np.where(labels == 1, np.log(p), np.log1p(-p)) / weights.sum(1)


def predictive_values(sensitivity: Floats, specificity: Floats, prevalence: float) -> tuple[Floats, Floats]:
    """PPV and NPV (R,) by Bayes' rule where `prevalence` of the items are positive; NaN where nothing would be called so."""
    hit, alarm = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    cleared, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    with np.errstate(invalid="ignore", divide="ignore"):
        return hit / (hit + alarm), cleared / (cleared + missed)


def ece(labels: NDArray[np.int64], score: Floats, weights: Floats) -> Floats:
    """Expected calibration error over ECE_BINS adaptive bins, of equal mass (Nguyen & O'Connor 2015); edges from all items."""
    bins = calibration_bins(score)
    one_hot = (bins[:, None] == np.arange(ECE_BINS)).astype(float)  # (n, bins)
    gap = weights @ (one_hot * (score - labels)[:, None])  # (R, bins): Σ w (p − y)
    return np.abs(gap).sum(1) / weights.sum(1)


def calibration_bins(score: Floats) -> NDArray[np.int64]:
    """(n,) number of the equal-mass bin of each score; equal scores share a bin."""
    edges = np.quantile(score, np.linspace(0, 1, ECE_BINS + 1)[1:-1])
    return np.searchsorted(edges, score, side="right").astype(np.int64)


def weighted_share(numerator: NDArray[Any], denominator: NDArray[Any], weights: Floats) -> Floats:
    """Share (R,) of `numerator` (n,) in `denominator` (n,), 0 or 1 each, under weights (R, n); NaN where that has no weight."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ numerator.astype(float)) / (weights @ denominator.astype(float))


def bootstrap_weights(patients: NDArray[Any], resamples: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw patients with replacement: counts (R, P) and the patient number (n,) of each item."""
    names, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples), index


def estimate(
    metric: Callable[[Floats], Floats], counts: NDArray[np.int64], index: NDArray[np.int64]
) -> dict[str, float | list[float] | None]:
    """`{"value", "ci95"}` of a metric that maps weights (R, n) to (R,): the figure itself and its percentile interval.

    Both are None where the sample does not define the figure.
    """
    value = float(metric(np.ones((1, len(index))))[0])
    if not np.isfinite(value):
        return {"value": None, "ci95": None}
    drawn = np.concatenate([metric(counts[i : i + CHUNK, index].astype(float)) for i in range(0, len(counts), CHUNK)])
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"value": value, "ci95": [float(low), float(high)]}


def estimate_share(
    numerator: NDArray[Any], denominator: NDArray[Any], counts: NDArray[np.int64], index: NDArray[np.int64]
) -> dict[str, Any]:
    """`estimate` of the share of `numerator` (n,) in `denominator` (n,), 0 or 1 each, where the numerator is part of it.

    A share of 0 or 1 is so in every resample, and the percentile interval would have no width: six hits of six would be certain.
    There the interval is Clopper and Pearson's, with as many trials as patients have a part in the denominator.
    """
    found = estimate(lambda w: weighted_share(numerator, denominator, w), counts, index)
    return widened_at_the_edge(found, len(np.unique(index[denominator > 0])))


def estimate_auc(labels: NDArray[np.int64], score: Floats, counts: NDArray[np.int64], index: NDArray[np.int64]) -> dict[str, Any]:
    """`estimate` of `roc_auc`; None where all scores are equal, which ranks nothing: 0.5 would look like a finding.

    An area of 1 (or 0) is so in every resample. Its interval is Clopper and Pearson's, with as many trials as there are pairs of
    patients, one giving a positive item and the other a negative one, that share nobody. Raises NotEstimableError on NaN.
    """
    if not _ranks(score):
        return {"value": None, "ci95": None}
    with_positive, with_negative = (np.unique(index[labels == label]) for label in (1, 0))
    pairs = min(len(with_positive), len(with_negative), len(np.union1d(with_positive, with_negative)) // 2)
    return widened_at_the_edge(estimate(lambda w: roc_auc(labels, score, w), counts, index), pairs)


def estimate_precision(
    labels: NDArray[np.int64], score: Floats, counts: NDArray[np.int64], index: NDArray[np.int64]
) -> dict[str, Any]:
    """`estimate` of `average_precision`, None and NaN as in `estimate_auc`; one of 1 has the lower end that its AUC's leaves."""
    if not _ranks(score):
        return {"value": None, "ci95": None}
    found = estimate(lambda w: average_precision(labels, score, w), counts, index)
    area = estimate_auc(labels, score, counts, index)["ci95"]
    if found["value"] != 1.0 or area is None:
        return found
    return found | {"ci95": [least_precision(area[0], float(labels.mean())), 1.0]}


def _ranks(score: Floats) -> bool:
    if np.isnan(score).any():
        raise NotEstimableError(f"{int(np.isnan(score).sum())} of {len(score)} scores are NaN, which cannot be ranked")
    return len(np.unique(score)) > 1


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
) -> dict[str, Any]:
    """All figures of one level (slices, or patients when each has one row) in the form of metrics/evaluate.json.

    `ranking` is what ROC AUC and average precision order the items by; `score` is the probability. `prevalence` lists the
    shares of positives that PPV and NPV are given for.
    """
    if not (np.isfinite(score).all() and np.isfinite(ranking).all() and len(score) == len(labels) > 0):
        raise NotEstimableError("figures need at least one item and finite scores")
    if len(np.unique(patients)) < 2:
        raise NotEstimableError("an interval over patients needs at least two of them")
    counts, index = bootstrap_weights(patients, resamples, seed)
    y, d = labels, decisions
    tp, fp, fn, tn = (y * d), ((1 - y) * d), (y * (1 - d)), ((1 - y) * (1 - d))
    metrics: dict[str, Callable[[Floats], Floats]] = {
        "ece": lambda w: ece(y, score, w),
        "brier": lambda w: brier(y, score, w),
        "log_loss": lambda w: log_loss(y, score, w),
    }

    shares = {"accuracy": (tp + tn, np.ones_like(y)), "sensitivity": (tp, y), "specificity": (tn, 1 - y)}
    found = {name: estimate_share(*of, counts, index) for name, of in shares.items()}
    f2 = estimate(lambda w: weighted_share(5 * tp, 5 * tp + 4 * fn + fp, w), counts, index)
    if f2["value"] in (0.0, 1.0):
        end = 0 if f2["value"] == 1.0 else -1
        sensitivity, specificity = ((found[name]["ci95"] or [1.0])[end] for name in ("sensitivity", "specificity"))
        f2["ci95"] = sorted([f2_of_shares(sensitivity, specificity, float(y.mean())), f2["value"]])

    def predicted(prevalent: float, which: int) -> dict[str, Any]:
        def metric(w: Floats) -> Floats:
            return predictive_values(weighted_share(tp, y, w), weighted_share(tn, 1 - y, w), prevalent)[which]

        return _at_the_edge(estimate(metric, counts, index), found, prevalent, which)

    return {
        "roc_auc": estimate_auc(y, ranking, counts, index),
        "average_precision": estimate_precision(y, ranking, counts, index),
        **found,
        "f2": f2,
        **{name: estimate(metric, counts, index) for name, metric in metrics.items()},
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
    """A share of independent items in the form of `analytic_auc`, None where there is no item."""
    k, n = int(numerator.sum()), int(denominator.sum())
    return {"value": k / n if n else None, "ci95": list(wilson(k, n)) if n else None, "method": "Wilson"}


def _at_the_edge(value: dict[str, Any], found: dict[str, Any], prevalent: float, which: int) -> dict[str, Any]:
    """A PPV or NPV of 0 or 1 with the interval that the exact one of the share behind it gives, the other share as it is."""
    if value["value"] not in (0.0, 1.0):
        return value
    sensitivity, specificity = (np.array(found[name]["ci95"]) for name in ("sensitivity", "specificity"))
    # Behind a PPV of 1 is a specificity of 1, behind one of 0 a sensitivity of 0; with an NPV it is the other way round.
    if (which == 0) == (value["value"] == 1.0):
        sensitivity = np.full(2, found["sensitivity"]["value"])
    else:
        specificity = np.full(2, found["specificity"]["value"])
    low, high = predictive_values(sensitivity, specificity, prevalent)[which]
    return {"value": value["value"], "ci95": [float(low), float(high)]}


def _per_class(hit: int, wrongly_called: int, missed: int) -> dict[str, float | int | None]:
    """Precision, recall, F1 and support of one class; None where nothing was called or nothing is there."""
    called, present = int(hit + wrongly_called), int(hit + missed)
    return {
        "precision": float(hit / called) if called else None,
        "recall": float(hit / present) if present else None,
        "f1": float(2 * hit / (called + present)) if called + present else None,
        "support": present,
    }
