"""Thin drawn structures over the brain: text, contours and calipers in white, light grey or black.

What a person or a viewer draws is few pixels wide, and most of its height is reached within one pixel. What a scanner sees is
blurred by its point spread function over two or three, and bone and air, which are clipped and so sharp, are wide or lie beside
more of their kind. So ink is what an opening takes away (a closing if it is black), in soft tissue, with a step of one pixel on
both of its sides; and as an annotation is long or has many letters, lengths are summed. Small calcifications (choroid plexus,
ligaments, arteries) are clipped too and so do count, but are short; ink beside bone or air, in the neck above all, does not.
"""

import numpy as np
from numpy.typing import NDArray

from strokect.morphology import DARK, Grey, Mask, dilate, erode

FINE_PX = 500  # shorter side; in smaller copies of a slice the brain's own furrows and vessels are as thin and sharp as ink
REACH = 0.0077  # from a pixel of a stroke to either of its edges, as a share of the shorter side: 4 px of 512, 5 of 650
WINDOW = 0.011  # of the opening, as such a share; strokes are thinner, so at most 6 px of 512 with their soft edges
BONE = 215  # grey level of what is no soft tissue even without what is thin
BRIGHT_STEP = 35, 35  # grey levels: least step of a pixel, and mean over a part; light grey on brain has no more
BLACK_STEP = 70, 85  # black on brain has 125; fat between muscles and the fluid in a furrow are dark and fairly sharp
GRAIN = 5.0  # a step is also at least so many times the mean difference of neighbouring pixels; noise has few such
SHARP = 0.73  # least step ÷ height over what is around, means over a part; the scanner's blur leaves less
SHORTEST = 0.006  # part, as a share of the shorter side; the grain of CT is shorter
MOST = 0.05  # of the pixels; a picture with more is texture, and nobody follows it
ACROSS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns)


def measure_strokes(grey: Grey, inside: Mask, grain: float) -> dict[str, float]:
    """{bright_strokes, dark_strokes}: ink in the head, in hundredths of the picture's shorter side × the whole grey scale.

    A white line as long as the picture on black is 100, a light grey one over the brain a fifth of that. `grey` is (H, W) uint8
    at the file's own resolution, `inside` (H, W) the head without its rim, `grain` the mean difference of neighbouring pixels in
    the brain, NaN where there is none. Both are 0 for pictures smaller than FINE_PX.
    """
    side = min(grey.shape)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if side < FINE_PX or not rows.size:
        return {"bright_strokes": 0.0, "dark_strokes": 0.0}
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    grey, inside = grey[box], inside[box]
    return {
        "bright_strokes": _ink(grey, inside, side, _least(BRIGHT_STEP, grain), (DARK, BONE)),
        "dark_strokes": _ink(255 - grey, inside, side, _least(BLACK_STEP, grain), (255 - BONE, 255 - DARK)),
    }


def _least(step: tuple[int, int], grain: float) -> tuple[float, float]:
    noise = 0.0 if np.isnan(grain) else GRAIN * grain
    return max(step[0], noise), max(step[1], noise)


def _ink(grey: Grey, inside: Mask, side: int, least: tuple[float, float], tissue: tuple[int, int]) -> float:
    """Σ length × step of the bright parts in grey levels strictly between the two of `tissue`."""
    size = round(WINDOW * side) | 1
    opened = dilate(erode(grey, size), size)
    without = erode(dilate(opened, size), size)  # nor what is thin and black
    other = (without <= tissue[0]) | (without >= tissue[1])
    height = grey - opened  # opened ≤ grey, so that nothing wraps
    step = np.minimum(step_height(grey, round(REACH * side)), height)
    drawn = (step >= least[0]) & inside & ~dilate(other, 2 * size + 1)
    if np.count_nonzero(drawn) > MOST * grey.size:
        return 100.0
    rows, columns, part = find_parts(drawn)
    if not len(part):
        return 0.0
    count = np.bincount(part)
    steps, heights = (np.bincount(part, values[drawn]) / count for values in (step, height))
    length = np.maximum(_extent(rows, part), _extent(columns, part)) / side
    kept = (length >= SHORTEST) & (steps >= least[1]) & (steps >= SHARP * heights)
    return float(100 * (length * steps / 255)[kept].sum())


def _extent(at: NDArray[np.intp], part: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows (or columns) from the first to the last pixel of each part, both included."""
    first, last = np.full(part.max() + 1, at.max()), np.zeros(part.max() + 1, np.intp)
    np.minimum.at(first, part, at)
    np.maximum.at(last, part, at)
    return last - first + 1


def step_height(grey: Grey, reach: int) -> Grey:
    """Least of the steps at the two edges of bright strokes: (H, W) uint8, 0 where there is none.

    In one of four directions the level must rise from one pixel to the next at a pixel or at most `reach` − 1 before it, and fall
    so as close behind it: the lower of the largest rise and the largest fall counts. Strokes are so at most 2 · `reach` − 1 wide.
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
