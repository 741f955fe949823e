"""Decision-curve analysis: is acting on the model better than treating everybody, or nobody? (Vickers & Elkin 2006)."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.errors import NotEstimableError
from strokect.statistics import bootstrap_weights, estimate, patients_of_rarer

Floats = NDArray[np.float64]
LISTED = (0.05, 0.1, 0.2, 0.3, 0.5)  # of THRESHOLDS, those whose net benefit stands with its interval in the metrics
THRESHOLDS = np.round(np.arange(0.01, 0.991, 0.01), 2)  # probabilities at which somebody would act


def net_benefit(labels: NDArray[np.int64], probability: Floats, thresholds: Floats = THRESHOLDS) -> pd.DataFrame:
    """Columns threshold, model, everybody, nobody: TP/n − FP/n · t/(1 − t) of acting on probability ≥ t, per item.

    A unit is one true positive: 0.1 is worth ten more found in a hundred, without a false alarm.
    Raises NotEstimableError without an item or with a probability that is NaN.
    """
    _check(labels, probability)
    called = probability[None, :] >= thresholds[:, None]  # (T, n)
    odds = thresholds / (1 - thresholds)
    hits, alarms = (called & (labels == 1)).mean(axis=1), (called & (labels == 0)).mean(axis=1)
    share = labels.mean()
    everybody = share - (1 - share) * odds
    return pd.DataFrame({"threshold": thresholds, "model": hits - alarms * odds, "everybody": everybody, "nobody": 0.0})


def net_benefit_figures(
    labels: NDArray[np.int64], probability: Floats, patients: NDArray[np.str_], *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """At each of LISTED, with patient-clustered intervals: the net benefit of acting on the model, and what it gains over the
    better of acting on everybody and on nobody.
    """
    _check(labels, probability)
    counts, index = bootstrap_weights(patients, resamples, seed)
    fewer = patients_of_rarer(labels, index)
    entries = []
    for threshold in LISTED:
        odds, called = threshold / (1 - threshold), probability >= threshold
        worth = np.where(labels == 1, 1.0, -odds)  # of calling each item
        entries.append(
            {
                "threshold": threshold,
                "model": estimate(partial(_mean, worth * called), counts, index, patients=fewer, scale="linear"),
                "gain": estimate(partial(_gain, worth * called, worth), counts, index, patients=fewer, scale="linear"),
            }
        )
    return entries


def _mean(values: Floats, weights: Floats) -> Floats:
    return np.asarray(weights @ values / weights.sum(1))


def _gain(model: Floats, everybody: Floats, weights: Floats) -> Floats:
    return _mean(model, weights) - np.maximum(_mean(everybody, weights), 0.0)


def _check(labels: NDArray[np.int64], probability: Floats) -> None:
    if not len(labels) or np.isnan(probability).any():
        raise NotEstimableError(
            f"a decision curve needs items and no NaN among their probabilities: {int(np.isnan(probability).sum())} of "
            f"{len(labels)} are"
        )
