"""Decision-curve analysis: is acting on the model better than treating everybody, or nobody? (Vickers & Elkin 2006)."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.errors import NotEstimableError

Floats = NDArray[np.float64]
THRESHOLDS = np.round(np.arange(0.01, 0.991, 0.01), 2)  # probabilities at which somebody would act


def net_benefit(labels: NDArray[np.int64], probability: Floats, thresholds: Floats = THRESHOLDS) -> pd.DataFrame:
    """Columns threshold, model, everybody, nobody: TP/n − FP/n · t/(1 − t) of acting on probability ≥ t, per item.

    A unit is one true positive: 0.1 is worth ten more found in a hundred, without a false alarm.
    Raises NotEstimableError without an item or with a probability that is NaN.
    """
    if not len(labels) or np.isnan(probability).any():
        raise NotEstimableError(
            f"a decision curve needs items and no NaN among their probabilities: {int(np.isnan(probability).sum())} of "
            f"{len(labels)} are"
        )
    called = probability[None, :] >= thresholds[:, None]  # (T, n)
    odds = thresholds / (1 - thresholds)
    hits, alarms = (called & (labels == 1)).mean(axis=1), (called & (labels == 0)).mean(axis=1)
    share = labels.mean()
    everybody = share - (1 - share) * odds
    return pd.DataFrame({"threshold": thresholds, "model": hits - alarms * odds, "everybody": everybody, "nobody": 0.0})
