"""Thin drawn structures over the brain: text, contours and calipers in white, light grey or black.

What a person or a viewer draws is few pixels wide, and most of its height is reached within one pixel. What a scanner sees is
blurred by its point spread function over two or three, and bone and air, which are clipped and so sharp, are wide or lie beside
more of their kind. So ink is what an opening takes away (a closing if it is black), in soft tissue, with a step of one pixel on
both of its sides; and as an annotation is long or has many letters, lengths are summed.
"""

import numpy as np
from numpy.typing import NDArray

from strokect.morphology import DARK, Grey, Mask, dilate, erode

FINE_PX = 400  # shorter side; in smaller pictures the brain's own furrows and vessels are as thin and sharp as ink
WIDEST = 0.0077  # stroke, as a share of the shorter side: 4 px of 512, 5 of 650
BONE = 215  # grey level of what is no soft tissue even without what is thin
STEEP = 35, 70  # least step at the edges of bright and of black ink, grey levels; fat between muscles is dark and fairly sharp
INK = 70  # black ink is darker; the fluid in a furrow of the brain is not, for its neighbours blur into it
SHARP = 0.7, 0.65  # least step ÷ height over what is around, mean of a part; bright and black
SHORTEST = 0.006  # part, as a share of the shorter side; noise is shorter
MOST = 0.05  # of the pixels; a picture with more is texture, and nobody follows it
ACROSS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns)


def measure_strokes(grey: Grey, inside: Mask) -> dict[str, float]:
    """{bright_strokes, dark_strokes}: ink in the head, in hundredths of the picture's shorter side × the whole grey scale.

    A white line as long as the picture on black is 100, a light grey one over the brain a fifth of that. `grey` is (H, W) uint8
    at the file's own resolution, `inside` (H, W) the head without its rim. Both are 0 for pictures smaller than FINE_PX.
    """
    side = min(grey.shape)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if side < FINE_PX or not rows.size:
        return {"bright_strokes": 0.0, "dark_strokes": 0.0}
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    grey, inside = grey[box], inside[box]
    return {
        "bright_strokes": _ink(grey, inside, side, STEEP[0], SHARP[0], (DARK, BONE)),
        "dark_strokes": _ink(255 - grey, inside & (grey <= INK), side, STEEP[1], SHARP[1], (255 - BONE, 255 - DARK)),
    }


def _ink(grey: Grey, inside: Mask, side: int, steep: int, sharp: float, tissue: tuple[int, int]) -> float:
    size = max(3, round(0.011 * side) | 1)  # wider than the widest stroke with its soft edges
    opened = dilate(erode(grey, size), size)
    without = erode(dilate(opened, size), size)  # nor black ink between or beside bright
    other = (without <= tissue[0]) | (without >= tissue[1])
    height = grey - opened  # opened ≤ grey, so that nothing wraps
    step = np.minimum(step_height(grey, max(2, round(WIDEST * side))), height)
    drawn = (step >= steep) & inside & ~dilate(other, 2 * size + 1)
    if np.count_nonzero(drawn) > MOST * grey.size:
        return 100.0
    rows, columns, part = find_parts(drawn)
    if not len(part):
        return 0.0
    count = np.bincount(part)
    steps, heights = (np.bincount(part, values[drawn]) / count for values in (step, height))
    length = np.maximum(_extent(rows, part), _extent(columns, part)) / side
    kept = (length >= SHORTEST) & (steps >= sharp * heights)
    return float(100 * (length * steps / 255)[kept].sum())


def _extent(at: NDArray[np.intp], part: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows (or columns) from the first to the last pixel of each part, both included."""
    first, last = np.full(part.max() + 1, at.max()), np.zeros(part.max() + 1, np.intp)
    np.minimum.at(first, part, at)
    np.maximum.at(last, part, at)
    return last - first + 1


def step_height(grey: Grey, reach: int) -> Grey:
    """Height of bright strokes at most `reach` pixels wide: (H, W) uint8, 0 where there is none.

    In one of four directions the level must rise from one pixel to the next before a pixel, and fall so behind it, both within
    `reach` pixels: the lower of the two steps counts.
    """
    height, width = grey.shape
    best = np.zeros_like(grey)
    padded = np.pad(grey, 1, mode="edge")
    for down, right in ACROSS:
        before = padded[1 - down : 1 - down + height, 1 - right : 1 - right + width]
        behind = padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        rise = np.maximum(grey, before) - before
        fall = np.maximum(grey, behind) - behind
        np.maximum(best, np.minimum(_spread(rise, down, right, reach), _spread(fall, -down, -right, reach)), out=best)
    return best


def _spread(steps: Grey, down: int, right: int, reach: int) -> Grey:
    """Largest of `steps` at a pixel and the reach − 1 before it in a direction."""
    span = 1
    while span < reach:
        by = min(span, reach - span)
        moved = steps.copy()
        to, source = _slices(by * down), _slices(-by * down)
        to_x, source_x = _slices(by * right), _slices(-by * right)
        np.maximum(steps[to, to_x], steps[source, source_x], out=moved[to, to_x])
        steps, span = moved, span + by
    return steps


def _slices(by: int) -> slice:
    return slice(by, None) if by >= 0 else slice(None, by)


def find_parts(mask: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """(rows, columns, part) of the n pixels of `mask` in reading order; `part` counts its 8-connected parts from 0.

    Each pixel takes the smallest number among its neighbours, and then that of the pixel of this number, until nothing changes.
    """
    rows, columns = np.nonzero(mask)
    number = np.full((mask.shape[0] + 1, mask.shape[1] + 2), -1)
    number[rows + 1, columns + 1] = np.arange(len(rows))
    pairs = []
    for down, right in ((0, -1), (-1, -1), (-1, 0), (-1, 1)):
        other = number[rows + 1 + down, columns + 1 + right]
        here = np.flatnonzero(other >= 0)
        pairs.append(np.stack([here, other[here]]))
    one, two = np.concatenate(pairs, axis=1)
    root = np.arange(len(rows))
    while one.size:
        low = np.minimum(root[one], root[two])
        np.minimum.at(root, root[one], low)
        np.minimum.at(root, root[two], low)
        while not np.array_equal(root, root[root]):
            root = root[root]
        differ = root[one] != root[two]
        one, two = one[differ], two[differ]
    return rows, columns, np.unique(root, return_inverse=True)[1]
