"""How strange a slice looks to a fold model: out-of-distribution scores on its pooled features, in numpy.

Every score takes features (m, F) and gives (m,) float64, higher = stranger. Features that are not finite score +inf, so that
a threshold refuses them; no score is ever NaN. `n` below counts the slices of the fold's training part.

The last features keep what decides between the classes and forget the rest. `mahalanobis_stages` therefore reads the pooled
stages (m, G) instead: what the network saw on the way, texture first.

Energy and ViM need the logits of a softmax, but our head has one logit z. [-z/2, z/2] gives the same softmax, as any shift
of it does, and here the shift matters: with [0, z] every confident "normal" would be as strange as can be.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import NotEstimableError

Features = NDArray[np.float32]  # (m, F), or (m, G) for pooled stages
Floats = NDArray[np.float64]
Statistics = Mapping[str, NDArray[np.float32]]  # what SHAPES says

RANK = 192  # principal directions kept: two bases of 1536 features are 2.4 MB
BANK = 480  # training slices kept for the nearest neighbours: 2.9 MB of 1536 features
NEIGHBOURS = 5
FLOOR = 1e-4  # of the mean variance: float32 rounding in a direction without variance must not count for much

# Array by array, one letter per axis; a letter has the same length wherever it stands in one file. F = number of features,
# G stage features, K classes, R directions, B slices in the bank.
GAUSSIAN = {"means": "KF", "basis": "FR", "variances": "R", "residual": ""}
RAW, UNIT = ({f"{prefix}_{name}": axes for name, axes in GAUSSIAN.items()} for prefix in ("raw", "unit"))
STAGES = {f"stages_{name}": axes.replace("F", "G") for name, axes in GAUSSIAN.items()} | {"centre": "G", "spread": "G"}
HEAD = {"weight": "F", "bias": ""}
SHAPES: dict[str, dict[str, str]] = {
    "energy": HEAD,
    "knn": {"bank": "BF"},
    "mahalanobis": RAW,
    "mahalanobis_joint": RAW | UNIT,
    "mahalanobis_normalised": UNIT,
    "mahalanobis_stages": STAGES,
    "vim": {**HEAD, "vim_basis": "FR", "vim_alpha": ""},
}


def fit_statistics(
    features: Features,
    stages: Features,
    labels: NDArray[np.int64],
    weight: Features,
    bias: float | np.float32,
    rank: int | None = None,
) -> dict[str, NDArray[np.float32]]:
    """The statistics of all scores from one fold's training part.

    features (n, F), pooled stages (n, G), labels (n,), and the head's weight (F,) and bias. `rank` is the number of principal
    directions kept, by default RANK but at most n / 4: the variance along a direction needs slices to be estimated from. Raises
    NotEstimableError where features are not finite or do not vary.
    """
    x, y, w = np.asarray(features, np.float64), np.asarray(stages, np.float64), np.asarray(weight, np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise NotEstimableError(f"feature gate: features of {len(x)} training slices, and some are not finite")
    rank = rank or min(RANK, max(len(x) // 4, 1))
    kept = np.unique(np.linspace(0, len(x) - 1, BANK).round().astype(np.int64))  # even over slices, so over patients
    made: dict[str, Any] = {"weight": weight, "bias": bias, "bank": _unit(x[kept])}
    # Channels of different stages differ in scale by orders of magnitude; those of one layer do not.
    made |= {"centre": y.mean(axis=0), "spread": np.maximum(y.std(axis=0), max(FLOOR * y.std(axis=0).mean(), 1e-12))}
    for prefix, points in (("raw", x), ("unit", _unit(x)), ("stages", (y - made["centre"]) / made["spread"])):
        made |= {f"{prefix}_{name}": value for name, value in _fit_gaussian(points, labels, min(rank, points.shape[1])).items()}
    centred = x - _origin(w, np.float64(bias))
    basis = _principal(centred, min(rank, x.shape[1]))[1]
    outside = np.sqrt(_outside(centred, centred @ basis, basis))
    least = np.sqrt(FLOOR * _square_sum(centred).mean())
    made |= {"vim_basis": basis, "vim_alpha": np.abs(x @ w + bias).mean() / 2 / max(outside.mean(), least)}
    return {name: np.asarray(value, np.float32) for name, value in made.items()}


def _fit_gaussian(x: Floats, labels: NDArray[np.int64], rank: int) -> dict[str, Any]:
    """Class means and the shared within-class covariance, regularised as a probabilistic PCA.

    n may be below F, so the covariance as such has no inverse. Its `rank` largest principal directions keep their variance;
    all others get the mean of what is left (Tipping & Bishop, J. R. Stat. Soc. B 1999, eq. 8).
    """
    classes = np.unique(labels)
    means = np.stack([x[labels == c].mean(axis=0) for c in classes])  # (K, F)
    variances, basis = _principal(x - means[np.searchsorted(classes, labels)], rank)
    if not variances.sum() > 0:
        raise NotEstimableError(f"feature gate: the features of {len(x)} training slices do not vary within a class")
    floor = FLOOR * variances.mean()
    residual = variances[rank:].mean() if rank < len(variances) else variances[-1]
    return dict(zip(GAUSSIAN, (means, basis, np.maximum(variances[:rank], floor), max(residual, floor)), strict=True))


def _principal(centred: Floats, rank: int) -> tuple[Floats, Floats]:
    """All F variances in descending order, and the first `rank` principal directions (F, rank)."""
    variances, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    return np.maximum(variances[::-1], 0.0), directions[:, ::-1][:, :rank]


def _unit(x: Any) -> Any:
    """Rows of length 1, of the same type; a row of zeros stays one."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _origin(weight: Any, bias: Any) -> Any:
    """The shortest u with logit 0: -pinv(W)·b, the same for [0, z] and [-z/2, z/2]."""
    return -weight * bias / np.maximum(weight @ weight, weight.dtype.type(1e-30))


def _square_sum(x: NDArray[np.floating]) -> Floats:
    return np.einsum("...i,...i->...", x, x, dtype=np.float64)


def _outside(centred: NDArray[np.floating], inside: NDArray[np.floating], basis: NDArray[np.floating]) -> Floats:
    """Squared length of what of `centred` (..., F) lies outside the basis (F, R), given its coordinates `inside` (..., R).

    As a vector first: the difference of the two squared lengths would be the rounding of float32 where little lies outside.
    """
    return _square_sum(centred - inside @ basis.T)


def _squared_distance(x: Features, statistics: Statistics, prefix: str) -> Floats:
    """(m,) squared Mahalanobis distance to the nearest class mean."""
    means, basis, variances, residual = (statistics[f"{prefix}_{name}"] for name in GAUSSIAN)
    centred = (x - means[:, None]).reshape(-1, x.shape[1])  # (K·m, F)
    inside = centred @ basis  # (K·m, R)
    squared = _square_sum(inside / np.sqrt(variances)) + _outside(centred, inside, basis) / float(residual)
    return squared.reshape(len(means), len(x)).min(axis=0)


def energy(features: Features, statistics: Statistics) -> Floats:
    """-log Σ exp of the logits [-z/2, z/2] (Liu et al., NeurIPS 2020, temperature 1)."""
    half = (features @ statistics["weight"] + statistics["bias"]).astype(np.float64) / 2
    return -np.logaddexp(-half, half)


def knn(features: Features, statistics: Statistics) -> Floats:
    """Euclidean distance between L2-normalised features and their k-th nearest training slice (Sun et al., ICML 2022).

    k = NEIGHBOURS of an evenly drawn bank of at most BANK slices (the paper's "random sampling").
    """
    cosine = _unit(features) @ statistics["bank"].T  # (m, B)
    k = min(NEIGHBOURS, cosine.shape[1])
    return np.sqrt(np.maximum(2.0 - 2.0 * -np.partition(-cosine, k - 1, axis=1)[:, k - 1].astype(np.float64), 0.0))


def mahalanobis(features: Features, statistics: Statistics) -> Floats:
    """√ min over classes of (x - μ)ᵀ Σ⁻¹ (x - μ) (Lee et al., NeurIPS 2018), Σ as in `_fit_gaussian`."""
    return np.sqrt(_squared_distance(features, statistics, "raw"))


def mahalanobis_normalised(features: Features, statistics: Statistics) -> Floats:
    """The Mahalanobis distance of L2-normalised features ("Mahalanobis++", Müller & Hein, ICML 2025)."""
    return np.sqrt(_squared_distance(_unit(features), statistics, "unit"))


def mahalanobis_joint(features: Features, statistics: Statistics) -> Floats:
    """√ (mahalanobis² + mahalanobis_normalised²).

    Plain features see what excites the network too much, but weak features of an unknown direction stay near the mean;
    normalised ones see the direction alone. Both squares are in the same unit: about F for a training slice.
    """
    return np.sqrt(_squared_distance(features, statistics, "raw") + _squared_distance(_unit(features), statistics, "unit"))


def mahalanobis_stages(stages: Features, statistics: Statistics) -> Floats:
    """The Mahalanobis distance of all pooled stages at once (Lee et al., NeurIPS 2018, fit a regression over layers instead)."""
    return np.sqrt(_squared_distance((stages - statistics["centre"]) / statistics["spread"], statistics, "stages"))


def vim(features: Features, statistics: Statistics) -> Floats:
    """α·‖part of x - u outside the principal subspace‖ - log Σ exp of the logits (Wang et al., CVPR 2022).

    u is the point with logit 0; α makes the first term as large as the larger logit on average. The rank is ours, not 512.
    """
    centred = features - _origin(statistics["weight"], statistics["bias"])
    basis = statistics["vim_basis"]
    outside = np.sqrt(_outside(centred, centred @ basis, basis))
    return float(statistics["vim_alpha"]) * outside + energy(features, statistics)


def _refusing(score: Callable[[Features, Statistics], Floats]) -> Callable[[Features, Statistics], Floats]:
    def strangeness(features: Features, statistics: Statistics) -> Floats:
        x = np.asarray(features, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = score(x, statistics)
        return np.where(np.isfinite(scores) & np.isfinite(x).all(axis=1), scores, np.inf)

    strangeness.__doc__ = score.__doc__
    return strangeness


SCORES: dict[str, Callable[[Features, Statistics], Floats]] = {
    score.__name__: _refusing(score)
    for score in (energy, knn, mahalanobis, mahalanobis_joint, mahalanobis_normalised, mahalanobis_stages, vim)
}


def score_by(name: str, features: Features, stages: Features, statistics: Statistics) -> Floats:
    """The score `name` of slices with features (m, F) and pooled stages (m, G): (m,)."""
    return SCORES[name](stages if name == "mahalanobis_stages" else features, statistics)
