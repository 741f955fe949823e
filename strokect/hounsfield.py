"""Hounsfield units → grey levels: the windows that the models see, and the brain window that people and pixel checks see."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import ImageError, ReleaseError

LEVELS_HU, WIDTHS_HU = (-1100.0, 3100.0), (1.0, 4200.0)  # about what a CT scanner measures: −1024 to 3071 HU
COUNTS = (1, 3)  # windows that a model may have: the backbones have three channels, and one is repeated


@dataclass(frozen=True)
class Window:
    """Grey 0 at level − width/2 and below, 255 at level + width/2 and above."""

    level_hu: float
    width_hu: float


Windows = tuple[Window, ...]
BRAIN = Window(40.0, 120.0)  # that of the pixel checks' limits, of the page and of pictures without Hounsfield units
BRAIN_ONLY: Windows = (BRAIN,)


def check_window(level_hu: float, width_hu: float) -> None:
    """Raise ImageError unless level and width are numbers within LEVELS_HU and WIDTHS_HU."""
    for name, value, (low, high) in (("level", level_hu, LEVELS_HU), ("width", width_hu, WIDTHS_HU)):
        if not (math.isfinite(value) and low <= value <= high):
            raise ImageError("bad_window", f"the window's {name} must be from {low:g} to {high:g} HU")


def apply_window(hu: NDArray[np.floating[Any]], level_hu: float, width_hu: float) -> NDArray[np.uint8]:
    """Hounsfield units of any shape → grey levels: level − width/2 and below is 0, level + width/2 and above is 255."""
    scaled = (hu - (level_hu - width_hu / 2)) * (255.0 / width_hu)
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)


def rendered(windows: Windows) -> Windows:
    """What to make of a slice with Hounsfield units for models that see `windows`: the brain window first, then theirs."""
    return windows if windows == BRAIN_ONLY else (BRAIN, *windows)


def windows_to_json(windows: Iterable[Window]) -> list[list[float]]:
    """[[level, width], …] in HU, as sidecars and decoders have it; `windows_from_json` is its inverse."""
    return [list(astuple(window)) for window in windows]


def windows_from_json(value: Sequence[Sequence[float]]) -> Windows:
    """Inverse of `windows_to_json`. Raises ImageError, TypeError or ValueError for anything else."""
    windows = tuple(Window(float(level), float(width)) for level, width in value)
    if len(windows) not in COUNTS:
        raise ValueError(f"{len(windows)} windows")
    for window in windows:
        check_window(window.level_hu, window.width_hu)
    return windows


def windows_of(sidecar: Mapping[str, Any], where: str = "model.json") -> Windows:
    """The windows that a model sees, in the order of its channels. A sidecar without any is of the time when all saw the brain's.

    Raises ReleaseError, naming `where`, for windows that are none or do not fit `channels`.
    """
    listed = sidecar.get("windows")
    try:
        windows = BRAIN_ONLY if listed is None else windows_from_json(listed)
    except (ImageError, TypeError, ValueError):
        raise ReleaseError(f"{where}: windows {listed!r} are not [level, width] pairs in HU, one or three of them") from None
    if len(windows) != sidecar["channels"]:
        raise ReleaseError(f"{where}: {sidecar['channels']} channels, but {len(windows)} windows")
    return windows


def in_words(windows: Iterable[Window]) -> str:
    """Level/width of each window, e.g. "40/80, 80/200, 40/40"."""
    return ", ".join(f"{window.level_hu:g}/{window.width_hu:g}" for window in windows)
