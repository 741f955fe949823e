"""The patient score: pure functions on arrays of probabilities. How thresholds are chosen is in `strokect.thresholds`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.sequence import SequenceHead, context

Floats = NDArray[np.float64]


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


def uncalibrated_scores(rule: Mapping[str, Any], raw: Floats, patients: NDArray[np.str_]) -> Floats | None:
    """(P,) patient scores of slice probabilities before calibration (n,); None where a fitted sequence head makes the scores."""
    return None if rule["sequence"] else patient_scores(raw, patients, int(rule["top_k"]))[1]


def patient_labels(labels: NDArray[np.int64], patients: NDArray[np.str_]) -> NDArray[np.int64]:
    """1 for each patient (sorted by id) with a positive slice."""
    names, index = np.unique(patients, return_inverse=True)
    result = np.zeros(len(names), np.int64)
    np.maximum.at(result, index, labels)
    return result
