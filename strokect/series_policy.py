"""The decision about a series of slices: a pure function of what was decided about each of them and of their probabilities.

The probability is the one that evaluation measured: the mean of the k highest slice probabilities of all slices, those referred
or rejected among them. Evaluation has no refer band for patients; what is added here only ever sends more series to a person.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from strokect.errors import NoResultError
from strokect.operating_point import patient_scores
from strokect.policy import REJECT_REASONS, Decision, Policy

Floats = NDArray[np.float64]

NOTHING = "no slice could be judged"
REJECTED = "too many of its slices are rejected"
UNANSWERED = "every slice that its probability is the mean of is referred or rejected"
SEVERAL = "the upload holds more than one study or patient"
REFER_REASONS = {
    "leaning": "a slice that its probability is the mean of is referred or rejected",
    "suspicious": "a slice with a probability of stroke at or above the slice threshold is referred or rejected",
    "few": "it has fewer slices than its probability is the mean of",
    "incomplete": "slices are missing or could not be read",
    "several": SEVERAL,
}
ORDERS = {
    "position": "Slices are ordered from the lowest up by their positions.",
    "instance": "Slices are ordered by instance number: the files carry no positions, so which end is the top is not known.",
    "upload": "Slices are in the order sent, taken as from the lowest up: pictures carry no positions.",
}


@dataclass(frozen=True)
class SeriesDecision:
    """One of the four answers, for a series. Everything after `flags` is None or empty for a reject."""

    decision: Literal["stroke", "normal", "refer", "reject"]
    reasons: tuple[str, ...]  # for people; a stroke has one only where several studies or patients were sent
    flags: tuple[str, ...]  # what the gate objects to in the rejected slices; empty unless the series is rejected
    probability: float | None
    top: tuple[int, ...]  # the slices that the probability is the mean of; with ties more than k


def decide_series(
    policy: Policy,
    patient: Mapping[str, Any],
    decisions: Sequence[Decision],
    own: Floats,
    in_series: Floats,
    incomplete: bool = False,
    several: bool = False,
) -> SeriesDecision:
    """Decisions and probabilities of n slices → SeriesDecision, under the `patient` section of operating_point.json.

    `own` (n,) are the probabilities of single slices, `in_series` (n,) those of `operating_point.series_probability`.

    reject: no slices, or more of them rejected than the policy allows.
    stroke: the patient's probability reaches the patient threshold, and at least one of its top slices was itself answered.
    refer: it reaches it and none of the top slices was answered; or it does not, but a top slice, or any slice at or above the
        slice threshold, is referred or rejected, there are fewer than k slices, the series is `incomplete`, or `several` studies
        or patients were sent, of which it is one.
    normal: otherwise.

    Raises NoResultError when a number is missing or no probability: a rejected slice's too, for the mean may hold it.
    """
    if not decisions:
        return SeriesDecision("reject", (NOTHING,), (), None, ())
    if policy.rejects_series([decision.decision for decision in decisions]):
        flags = tuple(sorted({flag for decision in decisions for flag in decision.flags}))
        return SeriesDecision("reject", (REJECTED, *(REJECT_REASONS[flag] for flag in flags)), flags, None, ())
    for numbers in (own, in_series):
        if numbers.shape != (len(decisions),) or not ((numbers >= 0) & (numbers <= 1)).all():  # False for NaN
            raise NoResultError("a slice of the series has no probability")
    k = int(patient["top_k"])
    _, scores = patient_scores(in_series, np.zeros(len(in_series), np.str_), k)
    probability = float(scores[0])
    top = in_series >= np.sort(in_series)[-k:][0]
    answered = np.array([decision.decision in ("stroke", "normal") for decision in decisions])
    indices = tuple(int(i) for i in np.flatnonzero(top))
    mixed = (SEVERAL,) if several else ()
    if probability >= float(patient["threshold"]):
        if answered[top].any():
            return SeriesDecision("stroke", mixed, (), probability, indices)
        return SeriesDecision("refer", (UNANSWERED, *mixed), (), probability, indices)
    doubts = {
        "leaning": not answered[top].all(),
        "suspicious": bool((~answered & (own >= policy.threshold)).any()),
        "few": len(decisions) < k,
        "incomplete": incomplete,
        "several": several,
    }
    reasons = tuple(reason for name, reason in REFER_REASONS.items() if doubts[name])
    return SeriesDecision("refer" if reasons else "normal", reasons, (), probability, indices)


def rule_in_words(patient: Mapping[str, Any], by: Literal["position", "instance", "upload"]) -> str:
    """How a series ordered `by` is judged under the `patient` section of operating_point.json; the `rule` of an answer."""
    neighbours = ", each judged with its neighbours and its place in the series" if patient["sequence"] is not None else ""
    return (
        f"The probability is the mean of the {int(patient['top_k'])} highest slice probabilities{neighbours}; stroke from "
        f"{float(patient['threshold']):.3f} on, as evaluated. Referred and rejected slices count too; a series that leans on "
        "them, that lacks slices, or that is not all of one study of one patient that was sent, is referred instead of called "
        f"normal. {ORDERS[by]}"
    )
