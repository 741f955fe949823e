"""From resampled figures to a 95 % interval, and the intervals of figures that are 0 or 1, which every resample gives again.

Percentiles of resamples cover too rarely where a figure is near 1 and patients are few. What these cover instead is simulated:
docs/results/statistics.md.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

Scale = Literal["share", "positive", "linear", "reflected"]
MIN_PATIENTS = 2  # that a figure rests on: one patient says nothing about how patients differ
METHOD = (
    "95 % interval: Student's t with the standard error of {resamples} bootstrap resamples of patients, on the logit scale (log "
    "loss: log scale); ECE: reflected percentiles; exact where a share is 0 or 1"
)


def interval(value: float, drawn: NDArray[np.float64], patients: int, scale: Scale) -> list[float] | None:
    """The interval of a figure whose resamples are `drawn` (R,), NaN where undefined; None where it is not estimable.

    `patients` are those the figure rests on, of the class that has fewer: Student's t has one degree of freedom less. A `share`
    lies between 0 and 1 (logit), a `positive` figure above 0 (log), a `linear` one anywhere. `reflected` is for a figure that
    every resample makes larger, as an ECE: what resampling adds is taken off (the basic bootstrap; Davison & Hinkley 1997, 5.2).
    Fewer than MIN_PATIENTS, or resamples that all agree, leave no interval.
    """
    if patients < MIN_PATIENTS or np.isfinite(drawn).sum() < 2 or not np.nanstd(drawn) > 1e-12:
        return None
    if scale == "reflected":
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        return [max(0.0, float(2 * value - high)), max(value, float(2 * value - low))]
    half = float(t.ppf(0.975, patients - 1) * np.nanstd(drawn, ddof=1))
    if scale == "linear":
        return [value - half, value + half]
    if value <= 0 or (scale == "share" and value >= 1):
        return None
    if scale == "positive":
        factor = float(np.exp(half / value))
        return [value / factor, value * factor]
    odds, factor = value / (1 - value), float(np.exp(min(half / (value * (1 - value)), 700.0)))
    return [odds / factor / (1 + odds / factor), 1 / (1 + 1 / (odds * factor))]


def all_or_none(all_of_them: bool, trials: int) -> tuple[float, float]:
    """Clopper and Pearson's two-sided 95 % interval after `trials` successes of as many, or none: one bound in closed form."""
    bound = 0.025 ** (1 / trials)
    return (bound, 1.0) if all_of_them else (0.0, 1 - bound)


def widened_at_the_edge(found: dict[str, Any], trials: int) -> dict[str, Any]:
    """A figure of 0 or 1, as every resample has it, with the exact interval after `trials` of one outcome; None if too few."""
    if found["value"] not in (0.0, 1.0):
        return found
    return found | {"ci95": list(all_or_none(found["value"] == 1.0, trials)) if trials >= MIN_PATIENTS else None}


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's two-sided 95 % interval of a share (1927), for independent trials; covers near 0 and 1, too."""
    z, share = 1.959963984540054, successes / trials
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * float(np.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2))
    return max(0.0, centre - half), min(1.0, centre + half)


def f2_of_shares(sensitivity: float, specificity: float, positive: float) -> float:
    """F2 where `positive` of the items are positive; of the lower ends of both shares, it is the lower end of an F2 of 1."""
    hits, alarms = sensitivity * positive, (1 - specificity) * (1 - positive)
    return 5 * hits / (4 * positive + hits + alarms)


def least_precision(area: float, positive: float) -> float:
    """The least average precision of scores whose ROC AUC is `area`, where `positive` of the items are positive.

    With u(r) the false positive rate at recall r, the area is 1 − ∫u and the precision ∫ rπ / (rπ + (1 − π)u) over r in [0, 1];
    the least of it has rπ + (1 − π)u proportional to √r wherever u > 0.
    """
    q = (1 - area) * (1 - positive)
    if q < positive / 6:
        return 1 - float(np.sqrt(2 * q / (3 * positive)))
    return 8 / 9 * positive / (positive + 2 * q)
