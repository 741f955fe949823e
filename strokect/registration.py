"""Do two pictures show the same slice? They are laid over each other, and then what the brain tissue shows must agree.

Skulls of two patients fit onto each other well enough for any likeness of whole pictures; their sulci, ventricles and noise do
not. So the likeness is a correlation over soft tissue alone, without what is coarse, after an affine alignment.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, minimum_filter

Floats = NDArray[np.float32]

# Two frames show the same slice from these likenesses on: of the tissue, and where there is too little of it (vertex, face) of
# all that is not air, where two patients' skulls are alike, too. "maybe" is for frames of 32 pixels, to be looked at again in
# finer ones. On CT-ICH and the phantom no two patients' slices passed 0.72 and 0.93, and few altered copies fell below 0.83 and
# 0.96.
SAME = {"maybe": (0.6, 0.8), "same": (0.82, 0.95)}
STEPS = 10  # of the alignment on the coarse frames; on finer ones, which start from there, half as many
OUTLIER = 0.3, 0.2  # residual, in standard deviations of the picture, that halves a pixel's weight: in the first steps, later
DAMPING = 1e-3
MAX_STRETCH = 1.35  # largest and smallest singular value of a motion: a copy is not stretched further than a crop stretches it
TISSUE = 0.6, 1.4  # levels of soft tissue, of its median
DARK, BRIGHT = 30.0, 230.0  # grey levels that are no tissue in either picture, whatever its brightness
COARSE_SHARE = 21.3  # side ÷ standard deviation of the blur that is taken away; 3 of 64 pixels
MIN_TISSUE = 0.02  # of the frame; with less there is nothing to compare


@dataclass(frozen=True)
class Comparison:
    """Likenesses (B,) in −1 … 1, `tissue` NaN where there is too little; both −1 where the two do not fit on each other.

    `motion` (B, 2, 3): where a point (x, y, 1) of the first frame lies in the second, in half sides.
    """

    tissue: Floats
    whole: Floats
    motion: Floats

    def is_same(self, how_sure: str) -> NDArray[np.bool_]:
        """(B,) whether both show one slice; `how_sure` is a key of SAME."""
        tissue, whole = SAME[how_sure]
        return np.where(np.isnan(self.tissue), self.whole >= whole, self.tissue >= tissue)


def compare(one: NDArray[np.uint8], other: NDArray[np.uint8], motion: Floats | None = None) -> Comparison:
    """Align frames (B, n, n) uint8 of `other` to those of `one`, from `motion` or from none, and say how alike they are."""
    start = np.tile(np.eye(2, 3, dtype=np.float32), (len(one), 1, 1)) if motion is None else motion
    first, second = one.astype(np.float32), other.astype(np.float32)
    found = _align(first, second, start, STEPS if motion is None else STEPS // 2)
    stretch = np.linalg.svd(found[:, :, :2], compute_uv=False)
    usable = (stretch[:, 0] < MAX_STRETCH) & (stretch[:, 1] > 1 / MAX_STRETCH)
    tissue, whole = (np.where(usable, likeness, np.float32(-1)) for likeness in _likenesses(first, second, found))
    return Comparison(tissue, whole, found)


def flipped(frames: NDArray[np.uint8], signs: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Frames (B, n, n), each mirrored from left to right where signs[:, 0] is −1, and upside down where signs[:, 1] is."""
    out = np.array(frames)
    across, down = signs[:, 0] < 0, signs[:, 1] < 0
    out[across] = out[across][:, :, ::-1]
    out[down] = out[down][:, ::-1]
    return out


def _points(side: int) -> Floats:
    """(side², 3): x, y, 1 of every pixel in half sides from the middle."""
    line = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / (side / 2)
    x, y = np.meshgrid(line, line)
    return np.stack([x.ravel(), y.ravel(), np.ones(side * side, np.float32)], axis=1)


def _moved(frames: Floats, motion: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """(B, n²) level of each frame where `motion` takes the pixels, bilinear, and whether that is inside."""
    side = frames.shape[1]
    place = motion @ _points(side).T * (side / 2) + (side - 1) / 2  # (B, 2, n²)
    inside = ((place >= 0) & (place <= side - 1)).all(axis=1)
    place = np.clip(place, 0, side - 1.001)
    whole = place.astype(np.int32)
    right, below = (place - whole).transpose(1, 0, 2)
    corner = whole[:, 1] * side + whole[:, 0]
    corner += (np.arange(len(frames), dtype=np.int32) * side * side)[:, None]
    levels = frames.ravel()
    at = [levels.take(corner + step) for step in (0, 1, side, side + 1)]
    upper, lower = at[0] + right * (at[1] - at[0]), at[2] + right * (at[3] - at[2])
    return upper + below * (lower - upper), inside


def _align(one: Floats, other: Floats, motion: Floats, steps: int) -> Floats:
    """Affine motion (B, 2, 3) that lays `other` on `one`: inverse compositional Gauss–Newton (Baker & Matthews 2004).

    Gain and offset of the grey levels are fitted in each step, and what does not fit (the part that a crop cut off) loses weight
    by Cauchy's function.
    """
    side = one.shape[1]
    target = one.reshape(len(one), -1)
    target = (target - target.mean(axis=1, keepdims=True)) / (target.std(axis=1, keepdims=True) + 1e-6)
    down, across = np.gradient(target.reshape(one.shape), 2 / side, axis=(1, 2))
    points = _points(side)
    slope = np.concatenate([part.reshape(len(one), 1, -1) * points.T for part in (across, down)], axis=1)  # (B, 6, n²)
    weight = np.ones_like(target)
    for step in range(steps):
        level, inside = _moved(other, motion)
        weight = weight * inside
        residual = _fit_levels(level, target, weight)
        weight = inside / (1 + np.square(residual / OUTLIER[2 * step >= steps]))
        residual = _fit_levels(level, target, weight)
        weighted = slope * weight[:, None]
        curvature = weighted @ slope.transpose(0, 2, 1) + DAMPING * np.eye(6, dtype=np.float32)
        change = np.linalg.solve(curvature, weighted @ residual[:, :, None])[:, :, 0].reshape(-1, 2, 3)
        motion = _compose(motion, change)
    return motion


def _fit_levels(level: Floats, target: Floats, weight: Floats) -> Floats:
    """(B, n²) what is left of gain · level + offset − target, with the gain and offset of least weighted squares."""
    total = weight.sum(axis=1, keepdims=True) + 1e-6
    level = level - (weight * level).sum(axis=1, keepdims=True) / total
    target = target - (weight * target).sum(axis=1, keepdims=True) / total
    gain = (weight * level * target).sum(axis=1, keepdims=True) / ((weight * level * level).sum(axis=1, keepdims=True) + 1e-6)
    return gain * level - target


def _compose(motion: Floats, change: Floats) -> Floats:
    """motion ∘ (identity + change)⁻¹."""
    square = np.tile(np.eye(3, dtype=np.float32), (len(motion), 1, 1))
    moved = square.copy()
    square[:, :2] = motion
    moved[:, :2] += change
    singular = np.abs(np.linalg.det(moved)) < 1e-3  # has run away; the likeness will say so
    moved[singular] = np.eye(3)
    return np.asarray((square @ np.linalg.inv(moved))[:, :2], np.float32)


def _likenesses(one: Floats, other: Floats, motion: Floats) -> tuple[Floats, Floats]:
    """Correlation (B,) of the two over the tissue that both show, and over all that is not air; see `Comparison`."""
    level, inside = _moved(other, motion)
    level, inside = level.reshape(one.shape), inside.reshape(one.shape)
    both = inside & (one > DARK) & (level > DARK)
    soft = both & (one < BRIGHT) & (level < BRIGHT)
    pictures = [picture / _median(picture, soft) for picture in (one, level)]
    low, high = TISSUE
    tissue = both
    for picture in pictures:
        tissue = tissue & (picture > low) & (picture < high)
    tissue = minimum_filter(tissue, (1, 3, 3))  # the edges of bone are alike in all heads
    clipped = [picture.clip(low, high) for picture in pictures]
    enough = tissue.mean(axis=(1, 2)) >= MIN_TISSUE
    return np.where(enough, _correlation(clipped, tissue), np.float32(np.nan)), _correlation(clipped, both)


def _correlation(pictures: list[Floats], where: NDArray[np.bool_]) -> Floats:
    """(B,) of two pictures (B, n, n) in a mask of that shape, without what is coarser than n ÷ COARSE_SHARE."""
    kept = where.astype(np.float32)
    sigma = (0, kept.shape[1] / COARSE_SHARE, kept.shape[1] / COARSE_SHARE)
    around = gaussian_filter(kept, sigma) + 1e-6
    total = kept.sum(axis=(1, 2), keepdims=True) + 1e-6
    fine = []
    for picture in pictures:
        detail = picture - gaussian_filter(picture * kept, sigma) / around
        fine.append((detail - (detail * kept).sum(axis=(1, 2), keepdims=True) / total) * kept)
    size = np.sqrt(np.square(fine[0]).sum(axis=(1, 2)) * np.square(fine[1]).sum(axis=(1, 2)))
    return np.asarray((fine[0] * fine[1]).sum(axis=(1, 2)) / (size + 1e-6), np.float32)


def _median(picture: Floats, mask: NDArray[np.bool_]) -> Floats:
    """(B, 1, 1) median of each picture where `mask` is, 1 where it is nowhere."""
    values = [float(np.median(levels[where])) if where.any() else 1.0 for levels, where in zip(picture, mask, strict=True)]
    return np.array(values, np.float32)[:, None, None]
