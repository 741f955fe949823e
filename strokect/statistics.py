"""Figures with patient-clustered bootstrap intervals.

Every metric takes weights (R, n), one row per bootstrap resample (how often each item was drawn), and gives (R,) values.
A metric that a resample does not define (no positive drawn) is NaN there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.edges import MIN_PATIENTS, Scale, interval, least_precision, widened_at_the_edge
from strokect.errors import NotEstimableError

Floats = NDArray[np.float64]
ECE_BINS = 10
PROBABILITY_FLOOR = 1e-7  # kept between a probability and 0 or 1 where a logarithm is taken
CHUNK = 250  # resamples at a time: 250 × 10,000 items are 20 MB


def tie_groups(score: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending order (n,) and the position at which each group of equal scores starts."""
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    return order, np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def roc_auc(labels: NDArray[np.int64], score: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve (Mann–Whitney, ties count half)."""
    order, starts = tie_groups(score)
    w, y = weights[:, order], labels[order]
    positive = np.add.reduceat(w * y, starts, axis=1)
    negative = np.add.reduceat(w * (1 - y), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    with np.errstate(invalid="ignore", divide="ignore"):
        return (positive * (below + 0.5 * negative)).sum(1) / (positive.sum(1) * negative.sum(1))


def average_precision(labels: NDArray[np.int64], score: Floats, weights: Floats) -> Floats:
    """Σ (R_i − R_{i−1})·P_i over descending thresholds, as scikit-learn defines it."""
    order, starts = tie_groups(-score)
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
    """Draw patients with replacement: counts (R, P) and the patient number (n,) of each item. NotEstimableError on none."""
    if not len(patients):
        raise NotEstimableError("there is nothing to make a figure of: no slice, no patient")
    names, index = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    return rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples), index


def patients_of_rarer(labels: NDArray[np.int64], index: NDArray[np.int64]) -> int:
    """How many patients have an item of the class that fewer of them have; of the one class where there is only one."""
    return min(len(np.unique(index[labels == label])) for label in np.unique(labels))


def resampled(metric: Callable[[Floats], Floats], counts: NDArray[np.int64], index: NDArray[np.int64]) -> Floats:
    """(R,) values of a metric that maps weights (R, n) to (R,) in every resample; NaN where it is undefined."""
    return np.concatenate([metric(counts[i : i + CHUNK, index].astype(float)) for i in range(0, len(counts), CHUNK)])


def estimate(
    metric: Callable[[Floats], Floats],
    counts: NDArray[np.int64],
    index: NDArray[np.int64],
    *,
    patients: int,
    scale: Scale = "share",
) -> dict[str, float | list[float] | None]:
    """`{"value", "ci95"}` of a metric that maps weights (R, n) to (R,): the figure itself and its interval (`edges.interval`).

    Both are None where the sample does not define the figure, and `ci95` where it is not estimable: fewer than two `patients`, or
    resamples that all agree. `patients` are those that the figure rests on.
    """
    value = float(metric(np.ones((1, len(index))))[0])
    if not np.isfinite(value):
        return {"value": None, "ci95": None}
    return {"value": value, "ci95": interval(value, resampled(metric, counts, index), patients, scale)}


def estimate_share(
    numerator: NDArray[Any], denominator: NDArray[Any], counts: NDArray[np.int64], index: NDArray[np.int64]
) -> dict[str, Any]:
    """`estimate` of the share of `numerator` (n,) in `denominator` (n,), 0 or 1 each, where the numerator is part of it.

    A share of 0 or 1 is so in every resample, and six hits of six would be certain. There the interval is Clopper and Pearson's,
    with as many trials as patients have a part in the denominator.
    """
    patients = len(np.unique(index[denominator > 0]))
    found = estimate(lambda w: weighted_share(numerator, denominator, w), counts, index, patients=patients)
    return widened_at_the_edge(found, patients)


def estimate_auc(labels: NDArray[np.int64], score: Floats, counts: NDArray[np.int64], index: NDArray[np.int64]) -> dict[str, Any]:
    """`estimate` of `roc_auc`; None where all scores are equal, which ranks nothing: 0.5 would look like a finding.

    An area of 1 (or 0) is so in every resample. Its interval is Clopper and Pearson's, with as many trials as there are pairs of
    patients, one giving a positive item and the other a negative one, that share nobody. Raises NotEstimableError on NaN.
    """
    if not _ranks(score):
        return {"value": None, "ci95": None}
    with_positive, with_negative = (np.unique(index[labels == label]) for label in (1, 0))
    pairs = min(len(with_positive), len(with_negative), len(np.union1d(with_positive, with_negative)) // 2)
    fewer = min(len(with_positive), len(with_negative))
    return widened_at_the_edge(estimate(lambda w: roc_auc(labels, score, w), counts, index, patients=fewer), pairs)


def estimate_precision(
    labels: NDArray[np.int64], score: Floats, counts: NDArray[np.int64], index: NDArray[np.int64]
) -> dict[str, Any]:
    """`estimate` of `average_precision`, None and NaN as in `estimate_auc`; one of 1 has the lower end that its AUC's leaves."""
    if not _ranks(score):
        return {"value": None, "ci95": None}
    fewer = patients_of_rarer(labels, index)
    found = estimate(lambda w: average_precision(labels, score, w), counts, index, patients=fewer)
    area = estimate_auc(labels, score, counts, index)["ci95"]
    if found["value"] != 1.0 or area is None or fewer < MIN_PATIENTS:
        return found
    return found | {"ci95": [least_precision(area[0], float(labels.mean())), 1.0]}


def _ranks(score: Floats) -> bool:
    if np.isnan(score).any():
        raise NotEstimableError(f"{int(np.isnan(score).sum())} of {len(score)} scores are NaN, which cannot be ranked")
    return len(np.unique(score)) > 1
