"""Sensitivity and specificity of a rule that may also refer or reject, counted in the three ways there are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.statistics import bootstrap_weights, estimate_share

DECISIONS = ("stroke", "normal", "refer", "reject")


def combine(decision: NDArray[np.int64], rejected: NDArray[np.bool_], referred: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Decisions 0 or 1 (n,), what the gate rejects and what the band refers → one of DECISIONS for each; reject comes first."""
    answer = np.where(decision == 1, "stroke", "normal")
    return np.where(rejected, "reject", np.where(referred, "refer", answer))


def account(
    labels: NDArray[np.int64], decisions: NDArray[np.str_], patients: NDArray[np.str_], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Counts by class, and sensitivity and specificity with patient-clustered intervals.

    `as_errors`: refer and reject count as wrong. `to_a_human`: they count as right, because somebody looks. `answered_only`: they
    are left out, with the share that was answered (coverage) beside.
    """
    counts, index = bootstrap_weights(patients, resamples, seed)
    abstained = ~np.isin(decisions, ("stroke", "normal"))
    ways = {"as_errors": (labels >= 0, False), "to_a_human": (labels >= 0, True), "answered_only": (~abstained, False)}
    report: dict[str, Any] = {
        "counts": {
            name: {decision: int(((decisions == decision) & (labels == label)).sum()) for decision in DECISIONS}
            for label, name in enumerate(("normal", "stroke"))
        }
    }
    for way, (counted, human_is_right) in ways.items():
        report[way] = {}
        for figure, label, word in (("sensitivity", 1, "stroke"), ("specificity", 0, "normal")):
            of = (labels == label) & counted
            right = of & ((decisions == word) | (abstained & human_is_right))
            report[way][figure] = estimate_share(right, of, counts, index)
    everything = np.ones(len(labels), bool)
    report["answered_only"]["coverage"] = estimate_share(~abstained, everything, counts, index)
    return report
