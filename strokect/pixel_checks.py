"""First layer of the out-of-distribution gate: is this picture a head CT slice in the brain window at all?

`measure` gives numbers a person can look at, `fit_limits` takes their range from slices that are known to be right, and
`find_flags` says which are out of range. Nothing here has learnt anything else. Shape is measured on a small copy, texture on the
file's own pixels. CT fixes the grey scale: in the brain window air is 0, bone 255 and brain near 125, whoever made the scanner.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from strokect.annotations import measure_strokes
from strokect.errors import DataError, ReleaseError
from strokect.images import GREY_TOLERANCE, Picture
from strokect.morphology import DARK, Grey, Mask, dilate, erode, find_head, shrink

BONE = 235  # grey level on the small copy, where bone is averaged with what lies beside it
MIN_BRAIN_PX = 12  # of the small copy; fewer have no median worth the name
RIM_PX = 7  # of the small copy: scalp and thin skull, which is as sharp as ink, lie within half of it from the outline


@dataclass(frozen=True)
class Check:
    """What a descriptor may be. None = no limit on that side. `code` is the flag raised outside.

    The bounds are the limits themselves if `fixed`; else they are guards: limits fitted to data are never tighter, so that
    another hospital's slices are not turned away for a harmless difference.
    """

    code: str
    low: float | None
    high: float | None
    fixed: bool = False


@dataclass(frozen=True)
class Limit:
    """Allowed range of one descriptor, both ends included; None = no limit on that side."""

    low: float | None
    high: float | None

    def holds(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Values of any shape → whether each is in the range; NaN and infinity are not."""
        x = np.asarray(values, dtype=np.float64)
        inside = np.isfinite(x)
        if self.low is not None:
            inside = inside & (x >= self.low)
        if self.high is not None:
            inside = inside & (x <= self.high)
        return np.asarray(inside)


CHECKS: dict[str, Check] = {
    "chroma": Check("colour", None, GREY_TOLERANCE, fixed=True),
    "aspect_ratio": Check("aspect_ratio", None, 1.6, fixed=True),
    "contrast": Check("blank", 32.0, None, fixed=True),  # 99.5th − 0.5th percentile, grey levels
    "frame_level": Check("inverted", None, 64.0, fixed=True),  # median of the outermost 2 %
    "frame_bright": Check("frame", None, 0.15),  # share of the outermost 2 % that is not dark
    "background": Check("background", None, 8.0),  # 60th percentile outside the head: air is 0, an MRI's is noise
    "head_area": Check("head_size", 0.025, 0.62),  # share of the picture
    "head_offset": Check("head_position", None, 0.3),  # centroid to the middle of the picture, in its sides
    "straight_edge": Check("cropped", None, 0.45),  # longest contour on one row or column, share of the head's height or width
    "skull_ring": Check("no_skull_ring", 0.35, None),  # share of directions from the centroid that meet bone near the outline
    "bone_share": Check("bone_share", 0.06, 0.85),  # of the head
    "air_share": Check("air_in_head", None, 0.2),  # of the head; lungs are more
    "brain_level": Check("window", 80.0, 180.0),  # median of what is neither bone nor dark, away from both
    "brain_spread": Check("window", 8.0, 100.0),  # its interquartile range
    "fine_noise": Check("noise", 0.5, 25.0),  # mean difference of neighbouring pixels of the brain, grey levels
    "blockiness": Check("jpeg_artefacts", None, 1.8),  # the same across 8 × 8 block borders ÷ inside blocks
    "strokes": Check("annotation", None, 2.0),  # thin white strokes met by one row of pixels over the brain
    "bright_strokes": Check("annotation", None, 1.2),  # length × contrast of thin, sharp white or grey lines over soft tissue
    "dark_strokes": Check("annotation", None, 0.6),  # and of black ones
}
GUARDS = {name: Limit(check.low, check.high) for name, check in CHECKS.items()}  # limits where no data has been seen
REASONS: dict[str, str] = {
    "colour": "colour picture",
    "aspect_ratio": "the picture is too long or too narrow for an axial slice",
    "blank": "blank picture",
    "inverted": "bright background: an inverted grey scale or a framed picture",
    "frame": "the edge of the picture is not black: a screenshot, a frame or a cut-off head",
    "background": "the background is not black, as air is on CT",
    "head_size": "no head of plausible size found",
    "head_position": "the head is far from the middle of the picture",
    "cropped": "part of the head is cut off",
    "no_skull_ring": "no skull ring found",
    "bone_share": "too little or too much bone for a head CT slice",
    "air_in_head": "too much air inside the outline for a head",
    "window": "not the brain window (level 40, width 120)",
    "noise": "noise or smoothing unlike a CT slice",
    "jpeg_artefacts": "the picture was compressed too strongly (JPEG blocks)",
    "annotation": "text or drawn lines over the brain",
}


def measure(picture: Picture) -> dict[str, float]:
    """All descriptors of CHECKS. One that cannot be measured (there is no head, no brain) is NaN."""
    grey = picture.grey
    height, width = grey.shape
    small = shrink(grey)
    low, high = np.percentile(small, (0.5, 99.5))
    band = max(2, round(0.02 * min(height, width)))
    frame = np.concatenate([grey[:band].ravel(), grey[-band:].ravel(), grey[:, :band].ravel(), grey[:, -band:].ravel()])
    measured = dict.fromkeys(CHECKS, math.nan) | {
        "chroma": float(picture.chroma),
        "aspect_ratio": max(height, width) / min(height, width),
        "contrast": float(high - low),
        "frame_level": float(np.median(frame)),
        "frame_bright": float((frame > DARK).mean()),
    }
    head = find_head(small)
    measured["head_area"] = float(head.mean())
    if head.any():
        measured |= _describe_head(small, head)
        bone = (small >= BONE) & head
        brain = head & (small > DARK) & ~dilate(bone, 3) & ~dilate(~head, 5)
        if np.count_nonzero(brain) >= MIN_BRAIN_PX:
            lower, median, upper = np.percentile(small[brain], (25, 50, 75))
            measured |= {"brain_level": float(median), "brain_spread": float(upper - lower)}
            inside = Image.fromarray(brain).resize((width, height), Image.Resampling.NEAREST)
            measured |= _describe_texture(grey, np.asarray(inside))
        measured["strokes"] = _strokes(grey)
        core = Image.fromarray(head & ~dilate(~head, RIM_PX)).resize((width, height), Image.Resampling.NEAREST)
        measured |= measure_strokes(grey, np.asarray(core), measured["fine_noise"])
    return measured


def fit_limits(values: Mapping[str, ArrayLike], alpha: float) -> dict[str, Limit]:
    """{descriptor: (n,) values of right slices} → limits that leave a share `alpha` of them outside, each descriptor on its own.

    Two-sided limits are the alpha/2 and 1 − alpha/2 quantiles, one-sided ones the alpha or 1 − alpha quantile, none tighter than
    the guard in CHECKS; fixed ones are those of CHECKS. A smaller alpha never gives tighter limits. NaN does not count.
    Raises DataError if a descriptor is missing.
    """
    missing = [name for name in CHECKS if name not in values]
    if missing:
        raise DataError(f"limits of the pixel checks need values of every descriptor; missing: {', '.join(missing)}")
    limits = {}
    for name, check in CHECKS.items():
        known = np.asarray(values[name], dtype=np.float64)
        known = known[np.isfinite(known)]
        if check.fixed or not known.size:
            limits[name] = Limit(check.low, check.high)
            continue
        tail = alpha if check.low is None or check.high is None else alpha / 2
        low = None if check.low is None else min(check.low, float(np.quantile(known, tail)))
        high = None if check.high is None else max(check.high, float(np.quantile(known, 1 - tail)))
        limits[name] = Limit(low, high)
    return limits


def find_flags(measured: Mapping[str, float], limits: Mapping[str, Limit]) -> list[str]:
    """Sorted codes (keys of REASONS) of the descriptors outside their limits; one that is NaN or absent is outside.

    A blank picture fails nearly every check; it is only called blank, and coloured if it is.
    """
    codes = {CHECKS[name].code for name, limit in limits.items() if not limit.holds(measured.get(name, math.nan))}
    return sorted(codes & {"blank", "colour"} if "blank" in codes else codes)


def limits_to_json(limits: Mapping[str, Limit]) -> dict[str, dict[str, float | None]]:
    """The form kept in the release."""
    return {name: {"low": limit.low, "high": limit.high} for name, limit in limits.items()}


def limits_from_json(value: Any) -> dict[str, Limit]:
    """Inverse of `limits_to_json`; raises ReleaseError unless exactly the sides that CHECKS limits have a finite number."""
    if not isinstance(value, dict) or set(value) != set(CHECKS):
        raise ReleaseError(f"pixel checks: limits are needed for exactly these descriptors: {', '.join(CHECKS)}")
    limits = {}
    for name, check in CHECKS.items():
        entry = value[name]
        if not isinstance(entry, dict) or set(entry) != {"low", "high"}:
            raise ReleaseError(f"pixel checks: the limits of {name} are not of the form {{low, high}}")
        for side, bound in (("low", check.low), ("high", check.high)):
            number = entry[side]
            is_number = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
            if (number is None) != (bound is None) or not (number is None or is_number):
                raise ReleaseError(
                    f"pixel checks: {name}.{side} is {number!r}; it must be {'null' if bound is None else 'a number'}"
                )
        limits[name] = Limit(entry["low"], entry["high"])
    return limits


def _describe_head(small: Grey, head: Mask) -> dict[str, float]:
    height, width = head.shape
    rows, columns = np.nonzero(head)
    y, x = rows.mean(), columns.mean()
    area = len(rows)
    away = small[~dilate(head, 9)]
    bone = (small >= BONE) & head
    # Along 120 rays from the centroid: the outermost pixel of the head, and whether bone lies in the outer 40 % before it.
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)[:, None]
    radius = np.arange(math.ceil(math.hypot(height, width)))
    row, column = np.rint(y + np.sin(angle) * radius).astype(int), np.rint(x + np.cos(angle) * radius).astype(int)
    in_picture = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = row.clip(0, height - 1), column.clip(0, width - 1)
    outermost = np.where(head[row, column] & in_picture, radius, 0).max(axis=1, keepdims=True)
    ring = bone[row, column] & in_picture & (radius >= 0.6 * outermost)
    return {
        "background": float(np.percentile(away, 60)) if away.size else 255.0,
        "head_offset": math.hypot((y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5),
        "straight_edge": max(_straight(head), _straight(head.T)),
        "skull_ring": float(ring.any(axis=1).mean()),
        "bone_share": float(np.count_nonzero(bone) / area),
        "air_share": float(np.count_nonzero(small[head] <= DARK) / area),
    }


def _straight(head: Mask) -> float:
    """Longest part of the left or right contour that lies on one column, as a share of the head's height."""
    steps = np.diff(np.pad(head.astype(np.int8), ((0, 0), (1, 1))), axis=1)  # +1 enters the head, −1 leaves it
    longest = max((steps == 1).sum(axis=0).max(), (steps == -1).sum(axis=0).max())
    return float(longest / np.count_nonzero(head.any(axis=1)))


def _describe_texture(grey: Grey, brain: Mask) -> dict[str, float]:
    """Differences of neighbouring pixels in the brain, capped at 40 so that edges do not drown them."""
    at_border, inside = [], []
    for pixels, mask in ((grey.T, brain.T), (grey, brain)):
        steps = np.minimum(np.abs(np.diff(pixels.astype(np.int16), axis=0)), 40) * mask[1:]
        total, count = steps.sum(axis=1), mask[1:].sum(axis=1)
        border = np.arange(len(total)) % 8 == 7  # JPEG's blocks start in the corner
        at_border.append(total[border].sum() / max(count[border].sum(), 1))
        inside.append(total[~border].sum() / max(count[~border].sum(), 1))
    noise = float(np.mean(inside))
    return {"fine_noise": noise, "blockiness": (float(np.mean(at_border)) + 0.25) / (noise + 0.25)}


def _strokes(grey: Grey) -> float:
    """Thin white strokes that a row of pixels meets over the brain, in the busiest band as high as a stroke is wide.

    A white top-hat: thinner than `size`, at least 60 grey levels above what is around, and around it neither bone nor air. It
    needs fewer pixels than `measure_strokes`, so that text is found in small pictures too.
    """
    size = max(3, round(0.008 * min(grey.shape)) | 1)
    opened = dilate(erode(grey, size), size)
    around = 2 * size + 1
    thin = (grey > 200) & (grey - opened > 60)  # opened ≤ grey, so that nothing wraps
    thin &= ~dilate((opened >= 215) | (opened <= DARK), around)
    starts = (thin[:, 1:] & ~thin[:, :-1]).sum(axis=1)
    return float(np.convolve(starts, np.ones(size), "same").max() / size)
