"""Views: the fixed transformations of a slice whose scores are averaged (test-time augmentation)."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.uint8]

# Vertical flips are left out on purpose: no head is scanned that way up.
VIEWS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda image: image,
    "mirror": lambda image: image[..., ::-1],
    "shift_left": lambda image: _shift(image, -1),
    "shift_right": lambda image: _shift(image, 1),
}


def _shift(image: Array, direction: int) -> Array:
    """Move the slice sideways by 1/32 of its width; what leaves one border does not come back at the other."""
    step = max(1, image.shape[-1] // 32)
    moved = np.zeros_like(image)
    if direction < 0:
        moved[..., :-step] = image[..., step:]
    else:
        moved[..., step:] = image[..., :-step]
    return moved


def make_views(image: Array, names: Sequence[str]) -> list[Array]:
    """(C, S, S) uint8 → one contiguous (C, S, S) uint8 per name in `names`."""
    return [np.ascontiguousarray(VIEWS[name](image)) for name in names]
