"""Each slice in the frame of its own head: in the middle, of one size, whatever the picture's resolution, crop and brightness."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from strokect.npy_rows import blocks
from strokect.registration import Floats

FRAME_CELLS = 32  # side of the grid on which the head is looked for
HEAD_RAMP = 0.4, 0.7  # of the mean level of what is bright: below it a cell is not head, above it it is
MIN_LEVEL = 40.0  # grey levels: a darker mean is that of a picture without a head
REACH = 1.7  # from the middle of the head to the side of its frame, in standard deviations of the head; an ellipse ends at 1.4
CUT_CHORD = 0.42  # of a head's largest width or height: an outermost line that is longer is a cut
CUT_SHIFT, CUT_GROWTH = 0.1, 0.05  # of the standard deviation: how far a cut of a tenth moves the middle and narrows the spread
IMAGES = 256  # brought into their frames at once


def head_frames(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(N, S, S) uint8 → (N, side, side) uint8: each head in the middle of a square that it fills, what lies outside is black.

    Middle and size are mean and standard deviation of the bright cells of a coarse grid, without what is thinner than two cells.
    """
    out = np.empty((len(images), side, side), np.uint8)
    for start, pictures in blocks(images, IMAGES):
        block = pictures.astype(np.float32)
        x, y, spread, _ = _find_heads(block)
        out[start : start + len(block)] = _cut_out(block, x, y, spread, side)
    return out


def uncut_frames(images: NDArray[np.uint8], side: int) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Rows (M,) of heads that end in a straight line, and their frames (M, side, side) as if what was cut off were there."""
    rows, frames = [np.empty(0, np.int64)], [np.empty((0, side, side), np.uint8)]
    for start, pictures in blocks(images, IMAGES):
        block = pictures.astype(np.float32)
        x, y, spread, level = _find_heads(block)
        left, right, top, bottom = _cut_sides(block, level)
        cut = np.flatnonzero(left | right | top | bottom)
        away_x, away_y = (right.astype(np.float32) - left)[cut], (bottom.astype(np.float32) - top)[cut]
        moved_x, moved_y = x[cut] + CUT_SHIFT * spread[cut] * away_x, y[cut] + CUT_SHIFT * spread[cut] * away_y
        sides = (left.astype(np.float32) + right + top + bottom)[cut]
        rows.append(cut + start)
        frames.append(_cut_out(block[cut], moved_x, moved_y, spread[cut] * (1 + CUT_GROWTH * sides), side))
    return np.concatenate(rows), np.concatenate(frames)


def _cut_out(block: Floats, x: Floats, y: Floats, spread: Floats, side: int) -> NDArray[np.uint8]:
    rows, columns = (_sampler(middle, spread, side, block.shape[1]) for middle in (y, x))
    return np.clip(np.rint(rows @ block @ columns.transpose(0, 2, 1)), 0, 255).astype(np.uint8)


def _cut_sides(block: Floats, level: Floats) -> tuple[NDArray[np.bool_], ...]:
    """(B,) each: whether the head ends in a straight line on the left, right, top, bottom."""
    bright = block > HEAD_RAMP[0] * level[:, None, None]
    found = []
    for axis in (1, 2):
        length = bright.sum(axis=axis)  # (B, S) bright pixels of each column, then of each row
        widest, place = length.max(axis=1), np.arange(len(length))
        for order in (slice(None), slice(None, None, -1)):
            profile = length[:, order]
            start = (profile > 0).argmax(axis=1)
            chord = np.maximum(profile[place, start], profile[place, np.minimum(start + 1, profile.shape[1] - 1)])
            found.append((chord > CUT_CHORD * widest) & (widest > 0))
    return tuple(found)


def _find_heads(block: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """(B, S, S) → middle x, y and standard deviation (B,) of the head, in sides of the picture, and its grey level."""
    size = block.shape[1]
    edges = np.linspace(0, size, FRAME_CELLS + 1)
    pixel = np.arange(size)
    share = np.clip(np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel), 0, None).astype(np.float32)
    share /= share.sum(axis=1, keepdims=True)
    grid = share @ block @ share.T
    bright = grid > MIN_LEVEL / 2
    level = np.maximum((grid * bright).sum(axis=(1, 2)) / np.maximum(bright.sum(axis=(1, 2)), 1), MIN_LEVEL)
    low, high = HEAD_RAMP
    weight = np.clip((grid / level[:, None, None] - low) / (high - low), 0, 1)
    weight = maximum_filter(minimum_filter(weight, (1, 3, 3), mode="constant"), (1, 3, 3)) + 1e-6  # without headrest and tubes
    place = (np.arange(FRAME_CELLS, dtype=np.float32) + 0.5) / FRAME_CELLS
    total = weight.sum(axis=(1, 2))
    across, down = weight.sum(axis=1), weight.sum(axis=2)
    x, y = across @ place / total, down @ place / total
    spread_x = (across * np.square(place - x[:, None])).sum(axis=1) / total
    spread_y = (down * np.square(place - y[:, None])).sum(axis=1) / total
    return x, y, np.sqrt(spread_x + spread_y), level


def _sampler(middle: Floats, spread: Floats, side: int, size: int) -> Floats:
    """(B, side, size) weights that take `side` places about `middle` out of `size` pixels, each over the triangle it covers."""
    place = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1) * REACH
    centre = (middle[:, None] + place * spread[:, None]) * size  # (B, side)
    width = np.maximum(2 * REACH * spread * size / side, 1)[:, None, None]
    weight = np.clip(1 - np.abs(centre[:, :, None] - (np.arange(size, dtype=np.float32) + 0.5)) / width, 0, None)
    return np.asarray(weight / np.maximum(weight.sum(axis=2, keepdims=True), 0.5), np.float32)
