"""A fitted feature gate: the score of one fold's model on the scale that all folds share, and the file it is kept in."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strokect.errors import NotEstimableError, ReleaseError
from strokect.feature_gate import SHAPES, Features, Statistics, score_by
from strokect.files import atomic_path

Floats = NDArray[np.float64]

POSITIVE = ("variances", "residual", "alpha", "scale", "spread")  # endings of names whose values are above 0


@dataclass(frozen=True)
class Standard:
    """Location and scale of a fold's scores: folds are averaged in these units and meet one threshold."""

    location: float
    scale: float

    @classmethod
    def of(cls, scores: ArrayLike) -> "Standard":
        """Median, and distance from it to the 95 % quantile, of out-of-fold scores (n,), all finite.

        The tail, so that folds reject alike at a common threshold: with the median absolute deviation, CT-ICH's folds rejected
        from 0.4 to 3 % where together they rejected 2. In units of σ if normal.
        """
        s = np.asarray(scores, np.float64)
        location = float(np.median(s)) if s.size and np.isfinite(s).all() else np.nan
        scale = (float(np.quantile(s, 0.95)) - location) / 1.645 if np.isfinite(location) else np.nan
        if not scale > 0:
            raise NotEstimableError(
                f"feature gate: {s.size} out-of-fold scores have no scale (none, not finite, or mostly alike)"
            )
        return cls(location, scale)

    def __call__(self, scores: ArrayLike) -> Floats:
        """Scores of any shape in units of the fold's scale; infinity stays infinity."""
        return (np.asarray(scores, np.float64) - self.location) / self.scale


@dataclass(frozen=True)
class Gate:
    """One fold's share of the feature gate."""

    score: str  # a key of SCORES
    statistics: Statistics  # at least what SHAPES[score] names
    standard: Standard

    def __call__(self, features: Features, stages: Features) -> Floats:
        """Features (m, F), pooled stages (m, G) → strangeness (m,) on the folds' common scale; +inf where it cannot be told."""
        return self.standard(score_by(self.score, features, stages, self.statistics))


def save_gate(path: Path, gate: Gate) -> None:
    """Write what the gate's score needs as .npz: at most 3 MB for 1536 features."""
    with atomic_path(path) as temporary:
        arrays = {name: gate.statistics[name] for name in SHAPES[gate.score]}
        np.savez(temporary, allow_pickle=False, score=gate.score, **asdict(gate.standard), **arrays)


def load_gate(path: Path, num_features: int, num_stage_features: int) -> Gate:
    """Read a gate. Raises ReleaseError naming the file unless it is whole, finite and for so many features."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        score = str(arrays.pop("score"))
    except Exception as error:  # numpy, zipfile and zlib raise many types; every one of them means: unusable
        raise ReleaseError(f"{path}: cannot be read as a feature gate ({type(error).__name__})") from error
    if score not in SHAPES:
        raise ReleaseError(f"{path}: unknown score {score!r}; known: {', '.join(SHAPES)}")
    shapes = SHAPES[score] | {"location": "", "scale": ""}
    if set(arrays) != set(shapes):
        raise ReleaseError(f"{path}: holds {', '.join(sorted(arrays))}; {score} needs {', '.join(sorted(shapes))}")
    lengths = {"F": num_features, "G": num_stage_features}
    for name, axes in shapes.items():
        value = arrays[name]
        if value.ndim != len(axes) or any(not n or lengths.setdefault(a, n) != n for a, n in zip(axes, value.shape, strict=True)):
            raise ReleaseError(
                f"{path}: {name} has shape {value.shape}, which does not fit {num_features} features "
                f"and {num_stage_features} stage features, or the rest"
            )
        if value.dtype.kind != "f" or not np.isfinite(value).all() or (name.endswith(POSITIVE) and (value <= 0).any()):
            raise ReleaseError(f"{path}: {name} holds something that is not a finite number, or not above 0 as it must be")
    return Gate(score, arrays, Standard(float(arrays.pop("location")), float(arrays.pop("scale"))))
