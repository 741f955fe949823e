"""Fitting the safety layer: limits of the gate under one joint false-reject rate, and the refer band. Pure functions on arrays.

Everything here sees out-of-fold scores of development slices only, and never an evaluation outlier.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.calibration_fit import patient_groups
from strokect.errors import SafetyError
from strokect.pixel_checks import Limit, fit_limits
from strokect.statistics import bootstrap_weights, estimate, roc_auc
from strokect.uncertainty import MEASURES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
STEPS = 24  # of the bisection for the joint level: 2⁻²⁴ of the range
CROSS_FIT_GROUPS = 5
SERIES_SHARE = 0.5  # a series is never rejected for less than half of its slices
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


@dataclass(frozen=True)
class Scored:
    """Development slices as the gate and their own fold's model saw them; n slices in one order."""

    pixels: dict[str, Floats]  # descriptor → (n,)
    gate: Floats  # (n,) gate score of the slice's own fold on the common scale
    probability: Floats  # (n,) out-of-fold, cross-fitted
    decision: NDArray[np.int64]  # (n,) out-of-fold, cross-fitted
    mc_std: Floats  # (n,)
    labels: NDArray[np.int64]  # (n,)
    patients: NDArray[np.str_]  # (n,)

    def take(self, where: Bools) -> "Scored":
        """The slices of `where` (n,)."""
        return Scored(
            {name: values[where] for name, values in self.pixels.items()},
            self.gate[where],
            self.probability[where],
            self.decision[where],
            self.mc_std[where],
            self.labels[where],
            self.patients[where],
        )


@dataclass(frozen=True)
class GateLimits:
    """Limits of all layers that one joint false-reject rate gave."""

    level: float  # tail of each single check
    pixels: dict[str, Limit]
    gate_threshold: float

    def rejects(self, scored: Scored) -> Bools:
        """(n,) whether any layer objects."""
        return outside(scored.pixels, self.pixels) | ~(scored.gate <= self.gate_threshold)


def outside(pixels: dict[str, Floats], limits: dict[str, Limit]) -> Bools:
    """(n,) whether any descriptor lies outside its limits; NaN does."""
    return np.any([~limit.holds(pixels[name]) for name, limit in limits.items()], axis=0)


def fit_gate(scored: Scored, max_false_reject: float) -> GateLimits:
    """The tightest limits under which at most `max_false_reject` of the slices, and of the positive ones, are rejected.

    One level for every check, found by bisection, so that all layers share one joint rate. The rate of the positives has a bound
    of its own, because a gate that throws out large bleeds is dangerous. Raises SafetyError where no level does it.
    """

    def at(level: float) -> GateLimits:
        # Half-way into the gap above the quantile, as thresholds are chosen elsewhere: rounding cannot flip a slice.
        return GateLimits(level, fit_limits(scored.pixels, level), float(np.quantile(scored.gate, 1 - level, method="higher")))

    def holds(limits: GateLimits) -> bool:
        rejected = limits.rejects(scored)
        rates = [rejected.mean(), *(rejected[scored.labels == label].mean() for label in (1,) if (scored.labels == label).any())]
        return bool(max(rates) <= max_false_reject)

    if not np.isfinite(scored.gate).all():
        raise SafetyError("the feature gate gave a development slice a score that is not finite")
    low, high = 0.0, max_false_reject
    if not holds(at(low)):
        share = float(outside(scored.pixels, at(low).pixels).mean())
        raise SafetyError(
            f"{share:.1%} of the development slices fail a pixel check whose limit is fixed; safety.max_false_reject is "
            f"{max_false_reject:g}. Look at these pictures (see `make repro`'s audit page) or raise it knowingly"
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(at(middle)) else (low, middle)
    return at(low)


def series_share(rejected: Bools, patients: NDArray[np.str_]) -> float:
    """Largest share of rejected slices of any development patient, or SERIES_SHARE if that is more."""
    return float(max(SERIES_SHARE, max(rejected[patients == patient].mean() for patient in np.unique(patients))))


def uncertainties(scored: Scored, threshold: float) -> dict[str, Floats]:
    """Each admissible measure for every slice; higher is less sure."""
    return {name: measure(scored.probability, threshold, scored.mc_std, scored.gate) for name, measure in MEASURES.items()}


def refer_limit(uncertainty: Floats, rejected: Bools, refer_rate: float) -> float:
    """The limit above which at most `refer_rate` of the slices that are not rejected lie."""
    accepted = uncertainty[~rejected]
    if not len(accepted):
        raise SafetyError("every development slice is rejected: there is nothing to refer")
    return float(np.quantile(accepted, 1 - refer_rate, method="higher"))


def compare_measures(scored: Scored, threshold: float, *, resamples: int, seed: int) -> dict[str, Any]:
    """How well each measure finds the slices that are decided wrongly, out-of-fold.

    AUROC of error detection with a patient-clustered interval; error rate at each coverage when the least sure are left out;
    AURC, the mean error rate over all coverages (Geifman & El-Yaniv 2017), beside that of a perfect ranking.
    """
    errors = (scored.decision != scored.labels).astype(np.int64)
    counts, index = bootstrap_weights(scored.patients, resamples, seed)
    report: dict[str, Any] = {}
    for name, values in uncertainties(scored, threshold).items():
        risks = risk_coverage(errors, values)
        report[name] = {
            "error_detection_auroc": estimate(lambda w, values=values: roc_auc(errors, values, w), counts, index),  # type: ignore[misc]
            "aurc": float(risks.mean()),
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


def choose_measure(comparison: dict[str, Any]) -> str:
    """The measure with the highest AUROC of error detection; the first one where that is not estimable."""
    measures = comparison["measures"]

    def auroc(name: str) -> float:
        value = measures[name]["error_detection_auroc"]["value"]
        return -1.0 if value is None else float(value)

    return max(measures, key=auroc)


def cross_fitted(
    scored: Scored, threshold: float, measure: str, max_false_reject: float, refer_rate: float, seed: int
) -> tuple[Bools, Bools]:
    """(n,) rejected and (n,) referred, each patient by limits that were fitted without that patient."""
    rejected, referred = np.zeros(len(scored.labels), bool), np.zeros(len(scored.labels), bool)
    groups = patient_groups(scored.patients, scored.labels, CROSS_FIT_GROUPS, seed)
    uncertainty = uncertainties(scored, threshold)[measure]
    for group in np.unique(groups):
        own, rest = groups == group, groups != group
        seen = scored.take(rest)
        limits = fit_gate(seen, max_false_reject)
        band = refer_limit(uncertainty[rest], limits.rejects(seen), refer_rate)
        rejected[own] = limits.rejects(scored.take(own))
        referred[own] = ~rejected[own] & (uncertainty[own] > band)
    return rejected, referred
