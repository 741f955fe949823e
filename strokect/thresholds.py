"""Goals of a threshold, and the threshold that meets one: `tune_threshold.goal`. Not in the service, which reads the number."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from strokect.errors import NotEstimableError, ParamsError
from strokect.guarantee import guaranteed_threshold

Floats = NDArray[np.float64]
Kind = Literal["f2", "youden", "sensitivity", "cost", "guaranteed"]
ALLOWED = (
    "f2; youden; 'sensitivity >= 0.95'; 'cost fn=10 fp=1'; or 'guaranteed sensitivity >= 0.95 confidence 0.95', "
    "with sensitivities up to 1 (below 1 where guaranteed), confidence between 0 and 1 and costs above 0"
)
SHARE = r"(0?\.\d+|1(?:\.0*)?)"
NUMBER = r"(\d+(?:\.\d+)?)"
PATTERNS: dict[Kind, re.Pattern[str]] = {
    "f2": re.compile(r"f2"),
    "youden": re.compile(r"youden"),
    "sensitivity": re.compile(rf"sensitivity\s*>=\s*{SHARE}"),
    "cost": re.compile(rf"cost\s+fn={NUMBER}\s+fp={NUMBER}"),
    "guaranteed": re.compile(rf"guaranteed\s+sensitivity\s*>=\s*{SHARE}\s+confidence\s+{SHARE}"),
}


@dataclass(frozen=True)
class Goal:
    """A parsed goal. `target` and `confidence` are of a sensitivity; `missed` and `alarm` what a false answer costs."""

    kind: Kind
    target: float = 0.0
    confidence: float = 0.0
    missed: float = 0.0  # cost of a false negative
    alarm: float = 0.0  # cost of a false positive

    def of_slices(self) -> "Goal":
        """The goal of the slice threshold: slices of a patient are not independent, so nothing is promised for them."""
        return Goal("sensitivity", self.target) if self.kind == "guaranteed" else self


def parse_goal(text: str) -> Goal:
    """`tune_threshold.goal` → Goal. Raises ParamsError that lists what is allowed."""
    for kind, pattern in PATTERNS.items():
        if match := pattern.fullmatch(text.strip()):
            numbers = [float(number) for number in match.groups()]
            if kind == "cost" and min(numbers) > 0:
                return Goal("cost", missed=numbers[0], alarm=numbers[1])
            if kind == "guaranteed" and 0 < numbers[0] < 1 and 0 < numbers[1] < 1:
                return Goal("guaranteed", *numbers)
            if kind == "sensitivity" and numbers[0] > 0:
                return Goal("sensitivity", numbers[0])
            if kind in ("f2", "youden"):
                return Goal(kind)
    raise ParamsError(f"params.yaml: tune_threshold.goal is {text!r}; allowed: {ALLOWED}")


def choose_threshold(probability: Floats, labels: NDArray[np.int64], goal: Goal, *, judging: bool = False) -> float:
    """The threshold t of the rule "stroke iff p ≥ t" that meets `goal` on these scores.

    f2 maximises 5·TP / (5·TP + 4·FN + FP), youden sensitivity + specificity (Youden 1950); cost minimises
    missed·FN + alarm·FP at the share of positives that these scores have. Ties go to the higher threshold. Where calling nobody
    is cheaper than any of them, cost says so with a threshold between the highest score and 1; it is what was asked for, and
    the sensitivity of 0 beside it shows it. sensitivity takes the
    largest t whose sensitivity is at least the target; guaranteed needs one score per patient, and `strokect.guarantee` explains
    it and `judging`. The threshold lies half-way to the next lower score, so that rounding cannot flip a slice.
    """
    if len(np.unique(labels)) < 2 or not np.isfinite(probability).all():
        raise NotEstimableError("a threshold needs finite scores and both classes")
    if goal.kind == "guaranteed":
        return guaranteed_threshold(probability, labels, goal.target, goal.confidence, judging=judging)
    values = np.unique(probability)[::-1]  # descending
    order = np.argsort(-probability, kind="stable")
    last = np.searchsorted(-probability[order], -values, side="right") - 1  # last position with p >= value
    tp = np.cumsum(labels[order])[last]
    fp = last + 1 - tp
    positives = int(labels.sum())
    fn, negatives = positives - tp, len(labels) - positives
    if goal.kind == "sensitivity":
        best = int(np.argmax(tp >= np.ceil(goal.target * positives - 1e-9)))
    elif goal.kind == "youden":
        best = int(np.argmax(np.round(tp / positives - fp / negatives, 12)))
    elif goal.kind == "cost":
        cost = np.round(goal.missed * fn + goal.alarm * fp, 9)
        best = int(np.argmin(cost))
        if goal.missed * positives < cost[best] and values[0] < 1:
            return float((values[0] + 1) / 2)  # nobody is called
    else:
        best = int(np.argmax(5 * tp / (5 * tp + 4 * fn + fp)))
    lower = values[best + 1] if best + 1 < len(values) else 0.0
    return float((values[best] + lower) / 2)
