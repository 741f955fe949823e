"""Calibrators: from a logit to a probability that means what it says. Applying one needs numpy only.

Fitting is in `strokect.calibration_fit`, which the service does not carry.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from strokect.errors import ReleaseError

METHODS = ("none", "temperature", "affine", "isotonic")


def sigmoid(logit: ArrayLike) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow at either end; NaN stays NaN."""
    x = np.asarray(logit, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # NaN is passed on, and turned away where a decision is made
        return np.exp(-np.logaddexp(0.0, -x))


@dataclass(frozen=True)
class Calibrator:
    """none: p = σ(z). temperature, affine (Platt 1999): p = σ(scale·z + shift). isotonic: p interpolated over knots."""

    method: str
    scale: float = 1.0
    shift: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()  # (logit, probability), both ascending

    def __call__(self, logit: ArrayLike) -> NDArray[np.float64]:
        """Logits of any shape → probabilities of the same shape, float64 in [0, 1]; NaN stays NaN."""
        z = np.asarray(logit, dtype=np.float64)
        if self.method == "isotonic":
            x, y = np.array(self.knots).T
            return np.where(np.isnan(z), np.nan, np.interp(z, x, y))
        return sigmoid(self.scale * z + self.shift)

    def to_json(self) -> dict[str, Any]:
        """The form kept in models/operating_point.json."""
        return {"method": self.method, "scale": self.scale, "shift": self.shift, "knots": [list(k) for k in self.knots]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Calibrator":
        """Inverse of `to_json`; raises ReleaseError on anything that is not a calibrator."""
        try:
            knots = tuple((float(x), float(y)) for x, y in value["knots"])
            calibrator = cls(str(value["method"]), float(value["scale"]), float(value["shift"]), knots)
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseError(f"operating_point.json: calibration is malformed ({error!r})") from None
        if calibrator.method not in METHODS:
            raise ReleaseError(f"operating_point.json: unknown calibration {calibrator.method!r}; known: {', '.join(METHODS)}")
        numbers = np.array([calibrator.scale, calibrator.shift, *np.ravel(knots)])
        if not np.isfinite(numbers).all():
            raise ReleaseError("operating_point.json: calibration holds a number that is not finite")
        return calibrator
