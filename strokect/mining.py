"""Hard negatives and missed positives of a fold's own training part, found by an early checkpoint.

Early, because after convergence the hard set is memorised slices and label noise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strokect.params import HnmParams


@dataclass(frozen=True)
class HardSet:
    """Positions in the training part, each sorted ascending."""

    negatives: NDArray[np.int64]  # labelled normal, scored most like stroke
    positives: NDArray[np.int64]  # labelled stroke, scored most like normal


def mine(logits: NDArray[np.float32], labels: NDArray[np.int64], params: HnmParams) -> HardSet:
    """The hardest `negative_fraction` of the negatives and `positive_fraction` of the positives, rounded up."""
    negatives, positives = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    return HardSet(
        _hardest(negatives, logits[negatives], params.negative_fraction),
        _hardest(positives, -logits[positives], params.positive_fraction),
    )


def _hardest(positions: NDArray[np.int64], hardness: NDArray[np.float32], fraction: float) -> NDArray[np.int64]:
    count = int(np.ceil(fraction * len(positions)))
    return np.sort(positions[np.argsort(-hardness, kind="stable")[:count]])
