"""Standard error of the area under the ROC curve without resampling: DeLong's for single items, Obuchowski's for clusters.

DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44:837; Obuchowski 1997, Biometrics 53:567. With one item per cluster the second
is the first. The structural components come from midranks (Sun & Xu 2014), so n log n, not positives × negatives.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

Floats = NDArray[np.float64]
MIN_CLUSTERS = 2  # with a positive, and with a negative item: a variance needs two


def structural_components(labels: NDArray[np.int64], score: Floats) -> Floats:
    """(n,) for a positive item the share of negatives below it, for a negative one the share of positives above it; ties half."""
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    overall, own = rankdata(score), np.empty(len(score))
    own[positive], own[~positive] = rankdata(score[positive]), rankdata(score[~positive])
    return np.where(positive, (overall - own) / n, 1 - (overall - own) / m)


def auc_standard_error(labels: NDArray[np.int64], score: Floats, clusters: NDArray[Any]) -> tuple[float, float | None]:
    """ROC AUC of scores (n,) and its standard error over clusters (n,), such as patients.

    The error is None where the variance is not estimable: fewer than MIN_CLUSTERS clusters with a positive or with a negative
    item, or an estimate of 0 (every positive above every negative), which no sample proves. The AUC is NaN with one class only.
    """
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        return float("nan"), None
    component = structural_components(labels, score)
    auc = float(component[positive].mean())
    _, index = np.unique(clusters, return_inverse=True)
    count = index.max() + 1
    # Per cluster: the sum of its components, minus what as many average items would give.
    of_positive = np.bincount(index[positive], component[positive] - auc, count)
    of_negative = np.bincount(index[~positive], component[~positive] - auc, count)
    with_positive = len(np.unique(index[positive]))
    with_negative = len(np.unique(index[~positive]))
    if min(with_positive, with_negative) < MIN_CLUSTERS:
        return auc, None
    s10 = with_positive / ((with_positive - 1) * m) * (of_positive**2).sum()
    s01 = with_negative / ((with_negative - 1) * n) * (of_negative**2).sum()
    s11 = count / (count - 1) * (of_positive * of_negative).sum()
    variance = s10 / m + s01 / n + 2 * s11 / (m * n)
    return auc, float(np.sqrt(variance)) if variance > 0 else None


def analytic_auc(labels: NDArray[np.int64], score: Floats, clusters: NDArray[Any]) -> dict[str, Any]:
    """`{"value", "se", "ci95", "method"}`; None where not estimable.

    The interval is normal on the logit scale (Pepe 2003, page 107): it stays within 0 and 1. What it covers:
    docs/results/statistics.md.
    """
    method = "DeLong" if len(np.unique(clusters)) == len(labels) else "Obuchowski"
    auc, error = auc_standard_error(labels, score, clusters)
    if error is None:
        ranks = np.isfinite(auc) and len(np.unique(score)) > 1  # equal scores rank nothing
        return {"value": auc if ranks else None, "se": None, "ci95": None, "method": method}
    half = float(norm.ppf(0.975)) * error / (auc * (1 - auc))
    low, high = (float(expit(logit(auc) + side)) for side in (-half, half))
    return {"value": auc, "se": error, "ci95": [low, high], "method": method}
