"""Noise and grey levels of the brain taken together: each may be usual where the three of them never are.

A drawn head, another modality or a rendering of the same window has the right levels and the wrong grain for them. Fitted to the
development slices; `strokect.pixel_checks` measures the descriptors and limits each on its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strokect.errors import ReleaseError, SafetyError

Floats = NDArray[np.float64]

TEXTURE = "texture"  # the flag raised outside
TEXTURE_REASON = "noise and grey levels of the brain do not go together as on the training slices"
DESCRIPTORS = ("fine_noise", "brain_level", "brain_spread")  # how sharp, how bright, how varied
# Standard deviations of the logarithms, added to those of the cohort: what another scanner, kernel or slice thickness would add,
# which one hospital's slices do not show. More would let drawn heads pass, none would refuse every slice of a noisier scanner.
BETWEEN_SCANNERS = (0.2, 0.05, 0.2)
GUARD = 3.0  # standard deviations; a limit is never tighter


@dataclass(frozen=True)
class Texture:
    """Normal distribution of the descriptors' logarithms; plain numbers, so that a policy can be compared."""

    centre: tuple[float, ...]  # (3,)
    precision: tuple[tuple[float, ...], ...]  # (3, 3) inverse covariance

    @classmethod
    def of(cls, measured: Mapping[str, ArrayLike]) -> "Texture":
        """{descriptor: (n,) values of right slices}; those that could not be measured do not count.

        Raises SafetyError where fewer than two could.
        """
        points = _logarithms(measured)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) < 2:
            raise SafetyError(f"noise and grey levels of the brain could be measured on {len(points)} development slices only")
        covariance = np.cov(points.T) + np.diag(np.square(BETWEEN_SCANNERS))
        return cls(tuple(points.mean(axis=0).tolist()), tuple(map(tuple, np.linalg.inv(covariance).tolist())))

    def distance(self, measured: Mapping[str, ArrayLike]) -> Floats:
        """Mahalanobis distance of n pictures (n,), or () of one, in standard deviations; +inf where a descriptor is missing."""
        centred = _logarithms(measured) - self.centre
        with np.errstate(invalid="ignore"):
            distance = np.sqrt(np.einsum("...i,ij,...j->...", centred, self.precision, centred))
        return np.where(np.isfinite(distance), distance, np.inf)

    def to_json(self) -> dict[str, Any]:
        """The form kept in the release."""
        return {"descriptors": list(DESCRIPTORS), "centre": list(self.centre), "precision": [list(row) for row in self.precision]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Texture":
        """Inverse of `to_json`; raises ReleaseError unless the numbers are finite and give a distance."""
        centre, precision, n = np.array(value["centre"], np.float64), np.array(value["precision"], np.float64), len(DESCRIPTORS)
        if (
            value["descriptors"] != list(DESCRIPTORS)
            or (centre.shape, precision.shape) != ((n,), (n, n))
            or not np.isfinite([*centre, *precision.ravel()]).all()
            or not np.allclose(precision, precision.T)
            or np.linalg.eigvalsh(precision)[0] <= 0
        ):
            raise ReleaseError("policy.json: texture is not a centre and a precision matrix of " + ", ".join(DESCRIPTORS))
        return cls(tuple(centre.tolist()), tuple(map(tuple, precision.tolist())))


def _logarithms(measured: Mapping[str, ArrayLike]) -> Floats:
    """(n, 3), or (3,) of one picture; a descriptor of 0 has no logarithm, so there is a least one."""
    values = np.stack([np.asarray(measured[name], np.float64) for name in DESCRIPTORS], axis=-1)
    return np.log(np.maximum(values, 0.01))
