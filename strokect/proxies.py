"""Proxy outliers: pictures that are no slice of the cohort, on which the feature gate's score is chosen. Pipeline only.

They are other kinds than the outliers that the gate is evaluated on (`strokect.outliers`): what chooses must not also judge.
The phantom alone is in both, as other patients; what is reported on it is no independent figure.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_sample_images

from strokect import phantom
from strokect.errors import NotEstimableError
from strokect.head_crop import Crop
from strokect.hounsfield import BRAIN_ONLY, Windows
from strokect.slices import model_input, picture_of_hu, resize_slice
from strokect.statistics import roc_auc

Picture = NDArray[np.uint8]  # (C, S, S), or (S, S) where it is drawn anew
PATCHES = 4  # per side, in a patch-shuffled slice
PHANTOM_SLICES = 5  # per phantom patient


def proxy_outliers(
    images: Picture, rng: Generator, per_kind: int, *, with_phantom: bool, windows: Windows = BRAIN_ONLY, crop: Crop = "none"
) -> dict[str, Picture]:
    """Held-out slices (n, C, S, S) uint8 → kind → proxy outliers (per_kind, C, S, S) uint8, kinds in a fixed order.

    `with_phantom` adds phantom slices, with `windows` and `crop` of the cohort; leave them out where that is the phantom itself.
    What is drawn has the same grey levels in every channel. Two generators in the same state give the same pictures, and one
    kind's pictures do not depend on which other kinds there are.
    """
    channels, size = images.shape[1:3]
    kinds: dict[str, Callable[[Generator], Picture]] = {
        **{name: _drawn(draw, size, per_kind) for name, draw in DRAWN.items()},
        **{name: _changed(change, images, per_kind) for name, change in CHANGES.items()},
    }
    if with_phantom:
        kinds["phantom"] = lambda generator: _phantom(generator, size, per_kind, windows, crop)
    streams = rng.spawn(len(kinds))
    made = {name: make(stream) for (name, make), stream in zip(kinds.items(), streams, strict=True)}
    return {name: np.repeat(m, channels, axis=1) if m.shape[1] < channels else m for name, m in made.items()}


def choose_score(
    held_out: Mapping[str, NDArray[np.float64]], proxies: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> tuple[str, dict[str, dict[str, float]]]:
    """The score that tells proxies from held-out slices best, and the table it was chosen by.

    `held_out`: score → (n,); `proxies`: kind → score → (m,); higher = stranger, infinity allowed. The table is kind → score →
    AUROC (outlier = positive); the winner has the highest mean over kinds, the first name among equals. NaN raises
    NotEstimableError.
    """
    if not proxies or not held_out:
        raise NotEstimableError("choosing a gate score needs at least one score and one kind of proxy outliers")
    names = sorted(held_out)
    table = {
        kind: {name: _auroc(held_out[name], scores[name], f"{name} on {kind}") for name in names}
        for kind, scores in proxies.items()
    }
    means = {name: float(np.mean([row[name] for row in table.values()])) for name in names}
    return max(names, key=lambda name: means[name]), table


def _auroc(inlier: NDArray[np.float64], outlier: NDArray[np.float64], what: str) -> float:
    score = np.concatenate([inlier, outlier]).astype(np.float64)
    if not len(inlier) or not len(outlier) or np.isnan(score).any():
        raise NotEstimableError(
            f"AUROC of {what}: {len(inlier)} held-out slices, {len(outlier)} outliers, or a score that is NaN"
        )
    labels = np.repeat([0, 1], [len(inlier), len(outlier)])
    return float(roc_auc(labels, score, np.ones((1, len(score))))[0])


def _drawn(draw: Callable[[int, Generator], Picture], size: int, count: int) -> Callable[[Generator], Picture]:
    return lambda rng: np.stack([draw(size, rng)[None] for _ in range(count)])


def _changed(
    change: Callable[[Picture, Picture, Generator], Picture], images: Picture, count: int
) -> Callable[[Generator], Picture]:
    """Every slice is used once before any is used twice; the partner that a change may mix in is another slice."""

    def make(rng: Generator) -> Picture:
        first = np.resize(rng.permutation(len(images)), count)
        other = (first + rng.integers(1, max(len(images), 2), count)) % len(images)
        return np.stack([change(images[a], images[b], rng) for a, b in zip(first, other, strict=True)])

    return make


def _photo(size: int, rng: Generator) -> Picture:
    """A square grey crop of one of scikit-learn's two bundled photographs, half to all of its height."""
    photos = load_sample_images().images
    grey = np.array(Image.fromarray(photos[rng.integers(len(photos))]).convert("L"))
    side = int(grey.shape[0] * rng.uniform(0.5, 1.0))
    top, left = (int(rng.integers(length - side + 1)) for length in grey.shape)
    return resize_slice(grey[top : top + side, left : left + side], size)[0]


def _smooth_noise(size: int, rng: Generator) -> Picture:
    """Noise of amplitude 1/f, the spectrum of natural scenes (Field, J. Opt. Soc. Am. A 1987), stretched to 0–255."""
    row, column = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)
    frequency = np.maximum(np.hypot(row, column), 1.0 / size)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) / frequency, s=(size, size))
    low, high = np.quantile(field, [0.01, 0.99])
    return _to_levels((field - low) / (high - low) * 255.0)


def _phantom(rng: Generator, size: int, count: int, windows: Windows, crop: Crop) -> Picture:
    """Slices of the synthetic cohort."""
    patients = -(-count // PHANTOM_SLICES)
    pieces = phantom.make_cohort(patients=patients, slices=PHANTOM_SLICES, size=min(size, 192), seed=int(rng.integers(2**31)))
    return np.stack([model_input(picture_of_hu(piece.hu, windows), size, crop) for piece in pieces][:count])


def _shuffled(image: Picture, other: Picture, rng: Generator) -> Picture:
    """PATCHES × PATCHES squares in another order; a remainder of the side stays black."""
    step = image.shape[-1] // PATCHES
    places = [(slice(r * step, (r + 1) * step), slice(c * step, (c + 1) * step)) for r in range(PATCHES) for c in range(PATCHES)]
    made = np.zeros_like(image)
    for target, source in zip(places, rng.permutation(len(places)), strict=True):
        made[:, *target] = image[:, *places[source]]
    return made


def _turned(image: Picture, other: Picture, rng: Generator) -> Picture:
    """A quarter turn either way, half a turn, or upside down."""
    turn = int(rng.integers(4))
    return image[:, ::-1] if turn == 0 else np.rot90(image, turn, axes=(1, 2))


def _foreign_window(image: Picture, other: Picture, rng: Generator) -> Picture:
    """Levels as another window or display curve would give them: a strong gamma, or a washed-out range."""
    level = image / 255.0
    if rng.random() < 0.5:
        return _to_levels(255.0 * level ** (rng.uniform(2.5, 4.0) if rng.random() < 0.5 else rng.uniform(0.25, 0.4)))
    low, high = rng.uniform(0.15, 0.35), rng.uniform(0.5, 0.7)
    return _to_levels(255.0 * (low + (high - low) * level))


def _blurred(image: Picture, other: Picture, rng: Generator) -> Picture:
    """A Gaussian blur of 3 to 6 % of the side."""
    sigma = image.shape[-1] * rng.uniform(0.03, 0.06)
    return _to_levels(gaussian_filter(image.astype(np.float32), (0, sigma, sigma)))


def _zoomed(image: Picture, other: Picture, rng: Generator) -> Picture:
    """A part of 35 to 60 % of the side blown up, so that the head leaves the frame, or the slice shrunk to as little."""
    size = image.shape[-1]
    side = int(size * rng.uniform(0.35, 0.6))
    if rng.random() < 0.5:
        top, left = ((size - side) // 2 + int(rng.integers(-side // 4, side // 4 + 1)) for _ in range(2))
        top, left = (min(max(start, 0), size - side) for start in (top, left))
        return np.concatenate([resize_slice(plane[top : top + side, left : left + side], size) for plane in image])
    small = np.concatenate([resize_slice(plane, side) for plane in image])
    made = np.zeros_like(image)
    top, left = rng.integers(size - side + 1, size=2)
    made[:, top : top + side, left : left + side] = small
    return made


def _mixed(image: Picture, other: Picture, rng: Generator) -> Picture:
    """Two slices laid over each other, 35 to 65 % of each; the second is mirrored upside down half of the time."""
    share = rng.uniform(0.35, 0.65)
    return _to_levels(share * image + (1.0 - share) * (other[:, ::-1] if rng.random() < 0.5 else other))


def _to_levels(values: NDArray[np.floating]) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


DRAWN = {"photo": _photo, "smooth_noise": _smooth_noise}
CHANGES = {
    "shuffled": _shuffled,
    "turned": _turned,
    "foreign_window": _foreign_window,
    "blurred": _blurred,
    "zoomed": _zoomed,
    "mixed": _mixed,
}
