"""Calibration of probabilities that are already there: in the large, and slope, by logistic recalibration (Cox 1958).

Every figure takes weights (R, n) as those of `strokect.statistics` do, and is NaN where a resample does not define it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.calibration import sigmoid
from strokect.edges import MIN_PATIENTS
from strokect.statistics import patients_of_rarer, resampled
from strokect.uncertainty import EDGE

Floats = NDArray[np.float64]
STEPS = 60  # of Newton's method; it needs about ten
MAX_STEP, MAX_SIZE = 2.0, 40.0  # of the coefficients of standardised logits; beyond the second, the classes are separated
UNDEFINED = 0.05  # share of resamples without a value above which there is no interval


def logit_of(probability: Floats) -> Floats:
    """Logit of probabilities of any shape, kept EDGE away from 0 and 1."""
    p = np.clip(probability, EDGE, 1 - EDGE)
    return np.asarray(np.log(p) - np.log1p(-p))


def in_the_large(labels: NDArray[np.int64], logit: Floats, weights: Floats) -> Floats:
    """The intercept a (R,) of logit P(y = 1) = a + logit: 0 if as many are positive as the probabilities say."""
    return _newton(labels, np.ones((len(logit), 1)), logit, weights)[:, 0]


def slope(labels: NDArray[np.int64], logit: Floats, weights: Floats) -> Floats:
    """The slope b (R,) of logit P(y = 1) = a + b · logit: 1 if right, below 1 if the probabilities are too sure of themselves."""
    if not np.ptp(logit) > 0:
        return np.full(len(weights), np.nan)
    spread = float(logit.std())
    design = np.stack([np.ones(len(logit)), (logit - logit.mean()) / spread], axis=1)  # (n, 2)
    found = _newton(labels, design, np.zeros(len(logit)), weights)[:, 1] / spread
    x, total = design[:, 1], weights.sum(1)
    varies = weights @ x**2 / total - (weights @ x / total) ** 2 > 1e-9  # a resample of equal scores has no slope
    return np.where(varies, found, np.nan)


def _newton(labels: NDArray[np.int64], design: Floats, offset: Floats, weights: Floats) -> Floats:
    """Weighted logistic regression without penalty for each row of weights (R, n): coefficients (R, p), NaN without a maximum."""
    products = np.einsum("ni,nj->nij", design, design).reshape(len(design), -1)  # (n, p·p)
    beta, p = np.zeros((len(weights), design.shape[1])), design.shape[1]
    positive = weights @ labels
    found = (positive > 0) & (positive < weights.sum(1))
    step = np.zeros_like(beta)
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
            probability = sigmoid(beta[found] @ design.T + offset)  # (F, n)
            gradient = (weights[found] * (labels - probability)) @ design
            curvature = ((weights[found] * probability * (1 - probability)) @ products).reshape(-1, p, p)
            step = np.linalg.solve(curvature + 1e-12 * np.eye(p), gradient[..., None])[..., 0]
            beta[found] += np.clip(step, -MAX_STEP, MAX_STEP)
            np.clip(beta, -10 * MAX_SIZE, 10 * MAX_SIZE, out=beta)
            if not len(step) or np.abs(step).max() < 1e-9:
                break
    converged = np.zeros(len(weights), bool)
    converged[found] = (np.abs(step) < 1e-6).all(axis=1) if len(step) else False
    beta[~converged | (np.abs(beta) > MAX_SIZE).any(axis=1)] = np.nan
    return beta


def estimate_where_defined(
    metric: Callable[[Floats], Floats], counts: NDArray[np.int64], index: NDArray[np.int64], patients: int
) -> dict[str, Any]:
    """`statistics.estimate` with percentiles, and without an interval where more than UNDEFINED of the resamples have no value.

    Separated classes, say: an interval of the resamples that happen to have a slope would be far too narrow.
    """
    value = float(metric(np.ones((1, len(index))))[0])
    if not np.isfinite(value):
        return {"value": None, "ci95": None}
    drawn = resampled(metric, counts, index)
    if patients < MIN_PATIENTS or np.isnan(drawn).mean() > UNDEFINED:
        return {"value": value, "ci95": None}
    return {"value": value, "ci95": [float(x) for x in np.nanpercentile(drawn, [2.5, 97.5])]}


def calibration_figures(
    labels: NDArray[np.int64], probability: Floats, counts: NDArray[np.int64], index: NDArray[np.int64]
) -> dict[str, Any]:
    """`in_the_large` and `slope` of probabilities (n,), each with its patient-clustered interval."""
    logit, fewer = logit_of(probability), patients_of_rarer(labels, index)
    return {
        "in_the_large": estimate_where_defined(lambda w: in_the_large(labels, logit, w), counts, index, fewer),
        "slope": estimate_where_defined(lambda w: slope(labels, logit, w), counts, index, fewer),
    }
