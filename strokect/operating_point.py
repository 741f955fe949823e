"""Thresholds and the patient score: pure functions on arrays of probabilities."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import NotEstimableError, ParamsError
from strokect.sequence import SequenceHead, context

Floats = NDArray[np.float64]
SENSITIVITY_GOAL = re.compile(r"sensitivity\s*>=\s*(0?\.\d+|1(?:\.0*)?)")


def parse_goal(goal: str) -> float | None:
    """None for `f2`, the target for `sensitivity >= x`. Raises ParamsError for anything else."""
    match = SENSITIVITY_GOAL.fullmatch(goal.strip())
    if goal.strip() != "f2" and match is None:
        raise ParamsError(
            f"params.yaml: tune_threshold.goal is {goal!r}; allowed: f2, or 'sensitivity >= 0.95' with a number up to 1"
        )
    return float(match[1]) if match else None


def choose_threshold(probability: Floats, labels: NDArray[np.int64], goal: str) -> float:
    """The threshold t of the rule "stroke iff p ≥ t" that meets `goal` on these scores.

    `f2` maximises 5·TP / (5·TP + 4·FN + FP); ties go to the higher threshold. `sensitivity >= x` takes the largest t whose
    sensitivity is at least x. The threshold lies half-way to the next lower score, so that rounding cannot flip a slice.
    """
    if len(np.unique(labels)) < 2 or not np.isfinite(probability).all():
        raise NotEstimableError("a threshold needs finite scores and both classes")
    target = parse_goal(goal)
    values = np.unique(probability)[::-1]  # descending
    order = np.argsort(-probability, kind="stable")
    last = np.searchsorted(-probability[order], -values, side="right") - 1  # last position with p >= value
    tp = np.cumsum(labels[order])[last]
    fp = last + 1 - tp
    positives = int(labels.sum())
    if target is None:
        best = int(np.argmax(5 * tp / (5 * tp + 4 * (positives - tp) + fp)))
    else:
        best = int(np.argmax(tp >= np.ceil(target * positives - 1e-9)))
    lower = values[best + 1] if best + 1 < len(values) else 0.0
    return float((values[best] + lower) / 2)


def series_probability(
    rule: Mapping[str, Any], probability: Floats, logits: Floats, patients: NDArray[np.str_], order: NDArray[np.int64]
) -> Floats:
    """(n,) slice probabilities that patient scores are made of, under the `patient` section of operating_point.json.

    `probability` (n,) is that of single slices, `logits` (n, M) those of each model that ships. The sequence head was fitted on
    logits of single models, so it is applied to each model's, and the probabilities are averaged, as calibration is.
    """
    if rule["sequence"] is None:
        return probability
    head = SequenceHead.from_json(rule["sequence"])
    return np.mean([head(context(column, patients, order)) for column in logits.T], axis=0)


def patient_scores(probability: Floats, patients: NDArray[np.str_], top_k: int) -> tuple[NDArray[np.str_], Floats]:
    """Patient ids (sorted) and the mean of each patient's `top_k` highest slice probabilities (all of them if fewer)."""
    names, index = np.unique(patients, return_inverse=True)
    scores = np.array([np.sort(probability[index == i])[-top_k:].mean() for i in range(len(names))])
    return names, scores


def patient_labels(labels: NDArray[np.int64], patients: NDArray[np.str_]) -> NDArray[np.int64]:
    """1 for each patient (sorted by id) with a positive slice."""
    names, index = np.unique(patients, return_inverse=True)
    result = np.zeros(len(names), np.int64)
    np.maximum.at(result, index, labels)
    return result
