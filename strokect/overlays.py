"""Is something drawn on a picture? A lesion's contour on a training slice is the answer written beside the question.

Pictures of `annotations.FINE_PX` and more are measured as the service measures them (`pixel_checks`: lines and text over the
brain, white, grey or black), with limits well above what any of the 2,501 untouched slices of CT-ICH has (1.6, 0.6 and 2.0). In
smaller ones the brain is as thin and sharp as ink; there only a closed curve of one grey level is drawn without doubt: noise
gives tissue no such level.

At the skull base and in the face ink is told from thin bone by two things together, neither of which says enough alone: some
sharp thin line, and a thin curve of one light grey level, as a pen has it; thin bone is of all levels. No untouched slice of
CT-ICH has both.

White is the level of bone, too, which is thin at the skull base. But bone closes round the brain, round air or round fat; no thin
wall of it that closes round a piece of soft tissue has soft tissue beyond it, too, for most of its way, as a contour in the brain
has.
"""

from collections.abc import Mapping

import numpy as np
from PIL import Image
from scipy.ndimage import binary_fill_holes, find_objects, label

from strokect.annotations import FINE_PX, WINDOW
from strokect.morphology import Grey, Mask, dilate, erode, find_head, shrink

DRAWN = {
    "bright_strokes": 3.0,
    "dark_strokes": 1.0,
    "strokes": 4.0,
}  # descriptors of `pixel_checks`, above which something is drawn
GRAINY = 12.0  # fine_noise above which noise alone can make `strokes`
LINED = 0.8  # bright_strokes that are enough beside a curve of one level
LEVELS_OF_PEN = range(188, 245, 3)  # light grey to where bone is clipped
PEN = 5  # grey levels about that of the pen, which JPEG leaves within
CURVE = 0.035  # least height and width of such a curve, as a share of the shorter side
THIN_PX = 5  # of the opening that takes a curve away
STEP = 25  # grey levels between a curve and what is around
LEVELS = 10, 250  # air and bone are of one level, too, beyond these
RING_PX, HOLE_PX = 12, 6  # least pixels of a curve, and of what it encloses
LONE = 4.0  # times as many thin pixels of a level as of the levels around
SLACK = 1  # grey levels within a curve
WHITE = 235  # JPEG takes up to 20 levels off a white line of one pixel
SOFT = 60, 215  # grey levels of soft tissue
ENCLOSED = 0.0015, 0.12  # of the picture; less is a cell of the skull base, more the skull itself
INSIDE, BEYOND = 0.75, 0.65  # least share of soft tissue in what it encloses, and just beyond it
WALL = 0.01  # of the shorter side: from what is enclosed to just beyond a white curve, at least 3 px


def is_drawn_on(grey: Grey, measured: Mapping[str, float]) -> bool:
    """(H, W) uint8 as the file has it, and what `pixel_checks.measure` says of it."""
    grainy = measured["fine_noise"] > GRAINY
    if any(measured[name] > limit for name, limit in DRAWN.items() if not (grainy and name == "strokes")):
        return True  # NaN, no head or no brain to draw on, is above no limit
    if measured["bright_strokes"] > LINED and _has_level_curve(grey):
        return True
    return _has_white_curve(grey) or (min(grey.shape) < FINE_PX and (_has_ring(grey) or _has_ring(255 - grey)))


def _has_level_curve(grey: Grey) -> bool:
    """Whether a thin curve of one light grey level, ± PEN, is in the head; it need not close. A headrest is another one."""
    size, least = round(WINDOW * min(grey.shape)) | 1, CURVE * min(grey.shape)
    head = Image.fromarray(find_head(shrink(grey))).resize(grey.shape[::-1], Image.Resampling.NEAREST)
    thin = (grey - dilate(erode(grey, size), size) >= STEP) & np.asarray(head)
    for level in LEVELS_OF_PEN:
        parts, _ = label(thin & (np.abs(grey.astype(np.int16) - level) <= PEN), np.ones((3, 3)))
        if any(min(box.stop - box.start for box in boxes) >= least for boxes in find_objects(parts)):
            return True
    return False


def _has_ring(grey: Grey) -> bool:
    """Whether a thin bright closed curve of one grey level is in the picture."""
    thin = grey - dilate(erode(grey, THIN_PX), THIN_PX) >= STEP
    counts = np.bincount(grey[thin], minlength=256).astype(float)
    around = np.convolve(counts, np.ones(17) / 17, "same")
    levels = np.flatnonzero((counts >= RING_PX) & (counts >= LONE * (around - counts / 17)))
    return any(
        _closed(thin & (np.abs(grey.astype(np.int16) - level) <= SLACK)) for level in levels if LEVELS[0] <= level < LEVELS[1]
    )


def _closed(mask: Mask) -> bool:
    parts, found = label(mask, np.ones((3, 3)))
    for number in np.flatnonzero(np.bincount(parts.ravel(), minlength=found + 1)[1:] >= RING_PX) + 1:
        ring = parts == number
        if np.count_nonzero(binary_fill_holes(ring)) - np.count_nonzero(ring) >= HOLE_PX:
            return True
    return False


def _has_white_curve(grey: Grey) -> bool:
    """Whether white encloses a small part of soft tissue and has soft tissue beyond it, too, for most of the way round.

    The white may touch bone on the rest of the way: what is looked at is the part that it encloses, not the line itself.
    """
    white = grey >= WHITE
    soft = (grey >= SOFT[0]) & (grey <= SOFT[1])
    parts, found = label(~white)
    size, inside = (np.bincount(parts.ravel(), weights, found + 1) for weights in (None, soft.ravel()))
    fit = (size >= ENCLOSED[0] * grey.size) & (size <= ENCLOSED[1] * grey.size) & (inside >= INSIDE * size)
    wall = max(3, round(WALL * min(grey.shape)))
    boxes = find_objects(parts)
    for number in np.flatnonzero(fit[1:]) + 1:
        rows, columns = boxes[number - 1]
        if min(rows.start, columns.start) < wall or rows.stop > len(grey) - wall or columns.stop > grey.shape[1] - wall:
            continue  # cut off by the picture's edge, which is no head's middle
        box = slice(rows.start - wall, rows.stop + wall), slice(columns.start - wall, columns.stop + wall)
        part = binary_fill_holes(parts[box] == number)
        beyond = dilate(part, 2 * wall - 1) & ~dilate(part, 2 * wall - 3)
        if np.mean(soft[box][beyond]) >= BEYOND:
            return True
    return False
