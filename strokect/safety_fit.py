"""Fitting the safety layer: limits of the gate under one joint false-reject rate, and the refer band. Pure functions on arrays.

Everything here sees out-of-fold scores of development slices only, and never an evaluation outlier.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strokect.errors import SafetyError
from strokect.gate import Standard
from strokect.out_of_fold import SliceRule
from strokect.pixel_checks import Limit, fit_limits
from strokect.texture import GUARD
from strokect.uncertainty import MEASURES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
STEPS = 24  # of the bisection for the joint level: 2⁻²⁴ of the range
SERIES_SHARE = (0.5, 0.9)  # a series is never rejected for less than the first share of its slices, and always above the second


@dataclass(frozen=True)
class Scored:
    """Development slices as the gate and their own fold's model saw them; n slices in one order."""

    pixels: dict[str, Floats]  # descriptor → (n,)
    texture: Floats  # (n,) distance of the brain's texture to that of all slices
    raw_gate: Floats  # (n,) gate score by the fold that holds the slice out, on that fold's own scale
    fold: NDArray[np.int64]  # (n,) that fold
    gate: Floats  # (n,) the score on the scale that all folds share
    logits: Floats  # (n,) out-of-fold
    sampled: Floats  # (n, T) the same under Monte Carlo dropout
    probability: Floats  # (n,) out-of-fold, cross-fitted
    decision: NDArray[np.int64]  # (n,) out-of-fold, cross-fitted
    labels: NDArray[np.int64]  # (n,)
    patients: NDArray[np.str_]  # (n,)

    @property
    def wrong(self) -> Bools:
        """(n,) whether the out-of-fold decision is not the label."""
        return np.asarray(self.decision != self.labels)

    def take(self, where: Bools) -> "Scored":
        """The slices of `where` (n,)."""
        return Scored(
            {name: values[where] for name, values in self.pixels.items()},
            self.texture[where],
            self.raw_gate[where],
            self.fold[where],
            self.gate[where],
            self.logits[where],
            self.sampled[where],
            self.probability[where],
            self.decision[where],
            self.labels[where],
            self.patients[where],
        )


def on_common_scale(raw: Floats, fold: NDArray[np.int64], seen: Bools) -> Floats:
    """Raw gate scores (n,) on the scale that the folds share, which is taken from the slices of `seen` (n,) only."""
    common = np.empty(len(raw))
    for number in np.unique(fold):
        own = fold == number
        common[own] = Standard.of(raw[own & seen])(raw[own])
    return common


def limit_above(values: Floats, share: float) -> float:
    """The lowest limit that at most `share` of the values (n,) exceed, half-way to the next one: rounding cannot flip a slice."""
    ordered = np.sort(values)
    last = ordered[len(ordered) - 1 - int(share * len(ordered) + 1e-9)]  # the highest value that must not exceed the limit
    higher = ordered[ordered > last]
    return float((last + higher[0]) / 2 if len(higher) else last)


@dataclass(frozen=True)
class GateLimits:
    """Limits of all layers that one joint false-reject rate gave."""

    level: float  # tail of each single check
    pixels: dict[str, Limit]
    texture: float
    gate_threshold: float

    def rejects(self, scored: Scored) -> Bools:
        """(n,) whether any layer objects."""
        texture, gate = scored.texture <= self.texture, scored.gate <= self.gate_threshold
        return outside(scored.pixels, self.pixels) | ~texture | ~gate


def outside(pixels: dict[str, Floats], limits: dict[str, Limit]) -> Bools:
    """(n,) whether any descriptor lies outside its limits; NaN does."""
    return np.any([~limit.holds(pixels[name]) for name, limit in limits.items()], axis=0)


def fit_gate(scored: Scored, max_false_reject: float) -> GateLimits:
    """The tightest limits under which at most `max_false_reject` of the slices, and of the positive ones, are rejected.

    One level for every check, found by bisection, so that all layers share one joint rate. The rate of the positives has a bound
    of its own, because a gate that throws out large bleeds is dangerous. Raises SafetyError where no level does it.
    """

    def at(level: float) -> GateLimits:
        texture = max(GUARD, limit_above(scored.texture[np.isfinite(scored.texture)], level))
        return GateLimits(level, fit_limits(scored.pixels, level), texture, limit_above(scored.gate, level))

    def holds(limits: GateLimits) -> bool:
        rejected = limits.rejects(scored)
        rates = [rejected.mean(), *(rejected[scored.labels == label].mean() for label in (1,) if (scored.labels == label).any())]
        return bool(max(rates) <= max_false_reject)

    if not np.isfinite(scored.gate).all():
        raise SafetyError("the feature gate gave a development slice a score that is not finite")
    low, high = 0.0, max_false_reject
    if not holds(at(low)):
        failing, positive = outside(scored.pixels, at(low).pixels), scored.labels == 1
        worst = {name: float((~limit.holds(scored.pixels[name])).mean()) for name, limit in at(low).pixels.items()}
        named = ", ".join(f"{name} {share:.1%}" for name, share in sorted(worst.items(), key=lambda item: -item[1])[:3] if share)
        raise SafetyError(
            f"{failing.mean():.1%} of the development slices ({failing[positive].mean():.1%} of the positive ones) fail "
            f"a pixel check at its widest limit ({named}); safety.max_false_reject is {max_false_reject:g}. Look at these "
            "pictures (the checks are in strokect/pixel_checks.py), or raise it knowingly"
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(at(middle)) else (low, middle)
    return at(low)


def series_share(rejected: Bools, patients: NDArray[np.str_], max_false_reject: float) -> float:
    """The share of rejected slices above which a series is rejected: at most `max_false_reject` of the patients have more.

    Within SERIES_SHARE, whatever the patients are like: below a half one region could take the series along, and a limit of 1
    would never reject.
    """
    shares = np.array([rejected[patients == patient].mean() for patient in np.unique(patients)])
    return float(np.clip(limit_above(shares, max_false_reject), *SERIES_SHARE))


def uncertainties(scored: Scored, rule: SliceRule, probability: Floats) -> dict[str, Floats]:
    """Each admissible measure (n,) of probabilities (n,) under a rule; higher is less sure."""
    spread = rule.calibrator(scored.sampled).std(axis=1)
    return {name: measure(probability, rule.threshold, spread, scored.gate) for name, measure in MEASURES.items()}


@dataclass(frozen=True)
class ReferGoal:
    """What the refer band is for: at most `rate` of the accepted slices, or, above 0, at most `error_rate` among the answered."""

    rate: float
    error_rate: float = 0.0


def refer_limit(uncertainty: Floats, errors: Bools, rejected: Bools, goal: ReferGoal) -> float:
    """The limit of uncertainty (n,) above which a slice that is not `rejected` (n,) is referred.

    Raises SafetyError where no band leaves the error rate that is asked for.
    """
    accepted = uncertainty[~rejected]
    if not len(accepted):
        raise SafetyError("every development slice is rejected: there is nothing to refer")
    if not goal.error_rate:
        return limit_above(accepted, goal.rate)
    order = np.argsort(accepted, kind="stable")
    ordered, wrong = accepted[order], errors[~rejected][order]
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])  # slices that tie are answered or referred together
    risk = np.cumsum(wrong)[ends] / (ends + 1)
    holding = np.flatnonzero(risk <= goal.error_rate)
    if not len(holding):
        raise SafetyError(
            f"safety.refer_error_rate {goal.error_rate:g} is out of reach: the best band leaves an error rate of "
            f"{risk.min():.3f} among the answered slices. Raise it, or set it to 0 and choose safety.refer_rate"
        )
    last = ordered[ends[holding[-1]]]
    higher = ordered[ordered > last]
    return float((last + higher[0]) / 2 if len(higher) else last)
