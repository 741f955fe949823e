"""Monte Carlo dropout on the heads, and the measures of uncertainty that a refer band may be built on. NumPy only.

Dropout sits between the pooled features and the linear head (Gal & Ghahramani 2016 with one dropout layer), so T passes of the
network differ in the head alone: the backbone runs once and the heads are sampled here.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strokect.calibration import Calibrator
from strokect.errors import NoResultError

Floats = NDArray[np.float64]
EDGE = 1e-6  # probabilities are kept this far from 0 and 1 where a logarithm is taken


def dropout_masks(sha256: str, fold: int, views: int, samples: int, features: int, rate: float) -> NDArray[np.bool_]:
    """Which features each Monte Carlo sample keeps: (V, T, F) bool, True with probability 1 − rate.

    Seeded by the SHA-256 of the input's bytes and the number of the fold, so the same bytes give the same masks on any worker
    and in any order.
    """
    seed = [int(sha256[i : i + 8], 16) for i in range(0, 64, 8)]
    return np.random.default_rng([*seed, fold]).random((views, samples, features), np.float32) >= rate


def sample_logits(
    features: NDArray[np.float32], weight: NDArray[np.float32], bias: float, rate: float, masks: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Pooled features (V, F) of one fold, its head (F,) and masks (V, T, F) → logits (V, T), scaled as torch's dropout is."""
    kept = (features * weight / np.float32(1 - rate))[..., None]  # (V, F, 1)
    return np.asarray((masks.astype(np.float32) @ kept)[..., 0] + np.float32(bias), np.float32)


def logit_variance(features: ArrayLike, weight: ArrayLike, rate: float) -> Floats:
    """Closed form of the variance that dropout gives the logit: rate / (1 − rate) · Σ (wᵢ fᵢ)²; features (..., F) → (...)."""
    product = np.asarray(features, np.float64) * np.asarray(weight, np.float64)
    return np.asarray(rate / (1 - rate) * (product**2).sum(-1))


def mc_std(sampled: NDArray[np.float32], calibrator: Calibrator) -> float:
    """Sampled logits (V, T) of one fold → standard deviation of its calibrated probability over the T samples."""
    return float(calibrator(sampled.astype(np.float64).mean(axis=0)).std())


def _logit(probability: ArrayLike) -> Floats:
    p = np.clip(np.asarray(probability, np.float64), EDGE, 1 - EDGE)
    return np.asarray(np.log(p) - np.log1p(-p))


def entropy(probability: ArrayLike) -> Floats:
    """Entropy of the answer in bits: 1 where the probability is a half, 0 where it is certain."""
    p = np.clip(np.asarray(probability, np.float64), EDGE, 1 - EDGE)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def nearness(probability: ArrayLike, threshold: float) -> Floats:
    """Minus the distance of the probability to the threshold, in logits: 0 on the threshold, the more negative the surer."""
    return np.asarray(-np.abs(_logit(probability) - _logit(threshold)))


# What may decide about referring: quantities that exist for a patient no model has seen. The spread between folds is not one of
# them, because out-of-fold only one of the models has not trained on the patient. Higher is less sure, for each.
# Arguments: probability (n,), threshold, Monte Carlo standard deviation (n,), gate score (n,).
MEASURES: dict[str, Callable[[Floats, float, Floats, Floats], Floats]] = {
    "nearness": lambda probability, threshold, std, distance: nearness(probability, threshold),
    "entropy": lambda probability, threshold, std, distance: entropy(probability),
    "mc_std": lambda probability, threshold, std, distance: np.asarray(std, np.float64),
    "feature_distance": lambda probability, threshold, std, distance: np.asarray(distance, np.float64),
}


def measure_uncertainty(name: str, probability: float, threshold: float, std: float, distance: float) -> float:
    """One of MEASURES for one slice. Raises NoResultError when it is not finite."""
    value = float(MEASURES[name](np.array([probability]), threshold, np.array([std]), np.array([distance]))[0])
    if not np.isfinite(value):
        raise NoResultError(f"the uncertainty {name} is not finite")
    return value
