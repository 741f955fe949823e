"""Shapes on small grey pictures and masks, in numpy alone: extremes of squares, connected parts, and where the head is."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]
Grey = NDArray[np.uint8]

WORK_PX = 128  # longer side of the small copy: 2 mm a pixel, so that a skull is still 2 pixels thick
DARK = 24  # grey level; up to it are air and fat
OPENING_PX = 5  # of the small copy: takes away headrests and tubes, which are thinner


def shrink(grey: Grey) -> Grey:
    """Copy whose longer side is at most WORK_PX, each pixel the mean of those it covers."""
    scale = WORK_PX / max(grey.shape)
    if scale >= 1:
        return grey
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX))


def find_head(small: Grey) -> Mask:
    """The densest bright object without what is thin (headrest, tubes), its holes filled; all False if there is none."""
    bright = small > DARK
    thick = bright & dilate(erode(bright, OPENING_PX), OPENING_PX)
    if not thick.any():
        return thick
    density = np.asarray(
        Image.fromarray(thick.astype(np.uint8) * 255)
        .resize((8, 8), Image.Resampling.BOX)
        .resize(thick.shape[::-1], Image.Resampling.BILINEAR)
    )
    seed = np.zeros_like(thick)
    seed[np.unravel_index(np.argmax(np.where(thick, density, 0)), thick.shape)] = True
    outside = np.zeros_like(thick)
    outside[[0, -1]] = outside[:, [0, -1]] = True
    return ~reach(outside, ~reach(seed, thick))


def reach(seed: Mask, mask: Mask) -> Mask:
    """The parts of `mask` (4-connected) that `seed` touches."""
    across = _runs(mask)
    down = _runs(np.ascontiguousarray(mask.T))
    reached = seed & mask
    while True:
        wider = _fill_runs(_fill_runs(reached, across).T, down).T
        if np.array_equal(wider, reached):
            return reached
        reached = wider


def _runs(mask: Mask) -> NDArray[np.intp]:
    """(H, W): the number of the horizontal run each pixel of `mask` lies in, 0 outside."""
    starts = mask.copy()
    starts[:, 1:] &= ~mask[:, :-1]
    return np.where(mask, np.cumsum(starts.ravel()).reshape(mask.shape), 0)


def _fill_runs(reached: Mask, runs: NDArray[np.intp]) -> Mask:
    touched = np.zeros(runs.max() + 1, np.bool_)
    touched[runs[reached]] = True
    touched[0] = False
    return touched[runs]


def erode(values: NDArray[Any], size: int) -> NDArray[Any]:
    return _extreme(values, size, np.minimum)


def dilate(values: NDArray[Any], size: int) -> NDArray[Any]:
    return _extreme(values, size, np.maximum)


def _extreme(values: NDArray[Any], size: int, of: Callable[..., NDArray[Any]]) -> NDArray[Any]:
    """Extreme of the size × size square around each pixel (size odd), by doubling: van Herk's result in log₂(size) passes."""
    for _ in range(2):
        values = np.pad(values, ((size // 2, size // 2), (0, 0)), mode="edge")
        span = 1
        while span < size:
            step = min(span, size - span)
            values = of(values[:-step], values[step:])
            span += step
        values = values.T
    return values
