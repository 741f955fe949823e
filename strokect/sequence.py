"""The sequence head: a slice judged together with its neighbours and its place in the series. For whole series only.

A bleed goes through several slices and noise does not, and the lowest and highest slices seldom show one. Needs numpy only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.calibration import sigmoid
from strokect.errors import ReleaseError

Floats = NDArray[np.float64]
REACH = 3  # slices to either side
WIDTH = 2 * REACH + 1 + 3  # logits of the neighbourhood, then place, place² and how far above the middle


def context(logits: Floats, patients: NDArray[np.str_], order: NDArray[np.int64]) -> Floats:
    """(n, WIDTH) of slices (n,) in any order: each one's neighbourhood in its patient's series, which `order` sorts.

    Beyond the first and the last slice these are repeated; the place runs from 0 (lowest) to 1 (highest).
    """
    found = np.empty((len(logits), WIDTH))
    for patient in np.unique(patients):
        rows = np.flatnonzero(patients == patient)
        rows = rows[np.argsort(order[rows], kind="stable")]
        padded = np.pad(logits[rows], REACH, mode="edge")
        found[rows, : 2 * REACH + 1] = np.lib.stride_tricks.sliding_window_view(padded, 2 * REACH + 1)
        place = np.linspace(0.0, 1.0, len(rows))
        found[rows, 2 * REACH + 1 :] = np.stack([place, place**2, np.maximum(place - 0.5, 0.0)], axis=1)
    return found


@dataclass(frozen=True)
class SequenceHead:
    """p = σ(context · weights + bias)."""

    weights: tuple[float, ...]  # (WIDTH,)
    bias: float

    def __call__(self, given: Floats) -> Floats:
        """Context (n, WIDTH) → probability (n,); NaN stays NaN."""
        return sigmoid(given @ np.array(self.weights) + self.bias)

    def to_json(self) -> dict[str, Any]:
        """The form kept in models/operating_point.json."""
        return {"weights": list(self.weights), "bias": self.bias}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "SequenceHead":
        """Inverse of `to_json`; raises ReleaseError on anything that is not a head of WIDTH weights."""
        try:
            head = cls(tuple(float(weight) for weight in value["weights"]), float(value["bias"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseError(f"operating_point.json: the sequence head is malformed ({error!r})") from None
        if len(head.weights) != WIDTH or not np.isfinite([*head.weights, head.bias]).all():
            raise ReleaseError(f"operating_point.json: the sequence head needs {WIDTH} finite weights and a bias")
        return head
