"""A sensitivity that is promised: the largest threshold that keeps it for patients the threshold has not seen, with confidence.

Learn-then-Test (Angelopoulos et al. 2021, arXiv:2110.01052) with fixed-sequence testing from the lowest threshold up: "the
sensitivity at t is below the target" is rejected while the binomial test says so. Positives are independent patients, so with n
of them and m missed the test is Clopper–Pearson's, and the threshold is an order statistic of their scores.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import NotEstimableError

Floats = NDArray[np.float64]
LISTED = (0.8, 0.9, 0.95, 0.98)  # sensitivities that the metrics say a guarantee of, or how many patients it would take
CONFIDENCE = 0.95


def allowed_misses(positives: int, target: float, confidence: float) -> int | None:
    """How many of `positives` a threshold may miss so that its sensitivity is ≥ `target` with `confidence`; None: not even 0.

    The largest m with P(Binomial(n, 1 − target) ≤ m) ≤ 1 − confidence.
    """
    from scipy.stats import (
        binom,
    )  # here: every stage reads params, which checks the goal with this module, and scipy takes a second

    misses = np.arange(positives + 1)
    passed = binom.cdf(misses, positives, 1 - target) <= 1 - confidence + 1e-12
    return int(passed.sum()) - 1 if positives and passed[0] else None


def needed_positives(target: float, confidence: float) -> int:
    """How many positive patients a promise takes when none of them is missed: the smallest n with targetⁿ ≤ 1 − confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(target) - 1e-9)


def sensitivity_bound(positives: int, misses: int, confidence: float) -> float:
    """Clopper and Pearson's one-sided lower bound on the sensitivity after `misses` of `positives`."""
    from scipy.stats import beta

    if positives < 1:
        raise NotEstimableError("a bound on the sensitivity needs at least one positive patient")
    return float(beta.ppf(1 - confidence, positives - misses, misses + 1)) if misses < positives else 0.0


def guaranteed_threshold(
    scores: Floats, labels: NDArray[np.int64], target: float, confidence: float, *, judging: bool = False
) -> float:
    """The largest t of the rule "positive iff score ≥ t" whose sensitivity is promised; half-way to the next lower score.

    `scores` (n,) and `labels` (n,) are those of patients, one each. Raises NotEstimableError on scores that are not finite and,
    saying how many positive patients would be enough, where there are too few.

    `judging`: the rule is made again on a part of a cohort only to judge the others. Where the part is too small for the
    promise that the cohort can carry, it misses none of its positives, the most cautious that the rule ever is.
    """
    if not np.isfinite(scores).all():
        raise NotEstimableError(f"a guarantee needs finite scores; {int((~np.isfinite(scores)).sum())} of {len(scores)} are not")
    positives = np.sort(scores[labels == 1])
    misses = allowed_misses(len(positives), target, confidence)
    if misses is None and judging and len(positives):
        misses = 0
    if misses is None:
        raise NotEstimableError(
            f"a sensitivity of {target:g} with confidence {confidence:g} is not available: it needs at least "
            f"{needed_positives(target, confidence)} positive patients to choose a threshold on, here are {len(positives)}"
        )
    at = positives[misses]
    lower = scores[scores < at]
    return float((at + (lower.max() if len(lower) else 0.0)) / 2)


def promise(positives: int, target: float, confidence: float, models: str) -> dict[str, Any]:
    """What a guaranteed threshold promises, and of which `models`, for operating_point.json."""
    return {
        "sensitivity": target,
        "confidence": confidence,
        "positive_patients": positives,
        "misses_allowed": allowed_misses(positives, target, confidence),
        "models": models,
    }


def no_promise(cohort: dict[str, Any], group_by: str) -> str | None:
    """Why nothing can be promised to new patients from this run, if so; from cohort.json and `split.group_by`."""
    if cohort["labels"] == "shuffled":
        return "the labels are permuted and mean nothing"
    if group_by != "patient":
        return "slices of one patient are in several parts, so no score is out-of-fold"
    if not cohort["patient_level_verifiable"]:
        return "the data name no patients, so nobody can count them"
    return None


def guarantees(scores: Floats, labels: NDArray[np.int64], impossible: str | None = None) -> list[dict[str, Any]]:
    """For each of LISTED: the threshold that promises it and the specificity it costs here, or the patients it would take.

    `impossible` is what `no_promise` says: then nothing is available, whatever the scores.
    """
    positives, table = int(labels.sum()), []
    for target in LISTED:
        entry: dict[str, Any] = {"sensitivity": target, "confidence": CONFIDENCE, "positive_patients": positives}
        if impossible is not None:
            table.append({**entry, "available": False, "reason": impossible})
            continue
        if allowed_misses(positives, target, CONFIDENCE) is None:
            table.append({**entry, "available": False, "needs_positive_patients": needed_positives(target, CONFIDENCE)})
            continue
        threshold = guaranteed_threshold(scores, labels, target, CONFIDENCE)
        negatives = scores[labels == 0]
        specificity = float((negatives < threshold).mean()) if len(negatives) else None
        table.append({**entry, "available": True, "threshold": threshold, "specificity": specificity})
    return table
