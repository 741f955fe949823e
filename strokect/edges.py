"""Intervals where a bootstrap's is wrong: of figures that are 0 or 1, and Wilson's beside the others.

Every resample gives a figure of 0 or 1 again, so a percentile interval would call six hits of six certain.
"""

from typing import Any

import numpy as np


def all_or_none(all_of_them: bool, trials: int) -> tuple[float, float]:
    """Clopper and Pearson's two-sided 95 % interval after `trials` successes of as many, or none: one bound in closed form."""
    bound = 0.025 ** (1 / trials)
    return (bound, 1.0) if all_of_them else (0.0, 1 - bound)


def widened_at_the_edge(found: dict[str, Any], trials: int) -> dict[str, Any]:
    """A figure of 0 or 1, whose percentile interval has no width, with the exact interval after `trials` of one outcome."""
    if found["value"] not in (0.0, 1.0):
        return found
    return found | {"ci95": list(all_or_none(found["value"] == 1.0, trials)) if trials else None}


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
