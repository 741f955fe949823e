"""The square of a picture that the models see: all of it, or the head. `prepare`, service and overlay all ask `seen_square`.

A head fills half to four fifths of the side of a picture; cut out, more of the pixels that the models see are brain. Each slice
has its own square, also in a series: near the top of the head a slice is enlarged more than in the middle, by MAX_ZOOM at most.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from strokect.errors import ReleaseError
from strokect.morphology import Mask, find_head, shrink

Crop = Literal["none", "head"]
MARGIN = 0.05  # of the head's longer side, on each side of it: a skull that touches the border looks cut off
MIN_HEAD = 0.025  # of the picture: what is smaller is no head, and nothing is cut; the pixel checks begin to object there, too
MAX_ZOOM = 2.0  # the square is never smaller than the picture's longer side divided by it


@dataclass(frozen=True)
class Square:
    """In pixels of a picture. It may reach beyond the picture, where it is black."""

    left: int
    top: int
    side: int

    def cut(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W) → (side, side); a view of `plane` where the square lies inside it."""
        top, left = max(self.top, 0), max(self.left, 0)
        inside = plane[top : self.top + self.side, left : self.left + self.side]
        if inside.shape == (self.side, self.side):
            return inside
        made = np.zeros((self.side, self.side), plane.dtype)
        top, left = top - self.top, left - self.left
        made[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return made


def whole(height: int, width: int) -> Square:
    """The smallest square around the whole picture, with the picture in its middle."""
    side = max(height, width)
    return Square(-((side - width) // 2), -((side - height) // 2), side)


def seen_square(grey: NDArray[np.uint8], crop: Crop) -> Square:
    """What the models see of a picture (H, W) in the brain window. Without a head in it: all of it."""
    height, width = grey.shape
    if crop == "none":
        return whole(height, width)
    head = find_head(shrink(grey))
    if head.mean() < MIN_HEAD:
        return whole(height, width)
    (top, bottom), (left, right) = _ends(head, height), _ends(head.T, width)
    longest = max(height, width)
    side = (1 + 2 * MARGIN) * max(bottom - top, right - left)
    side = round(min(max(side, longest / MAX_ZOOM), longest))
    return Square(round((left + right - side) / 2), round((top + bottom - side) / 2), side)


def _ends(head: Mask, length: int) -> tuple[float, float]:
    """Where the first row (h, w) of a head begins and its last one ends, in pixels of a picture `length` high."""
    rows = np.flatnonzero(head.any(axis=1))
    return float(rows[0] * length / len(head)), float((rows[-1] + 1) * length / len(head))


def crop_to_json(crop: Crop) -> dict[str, str]:
    """The entry of a sidecar. Models that see all of a picture have none, like those made before there was a choice."""
    return {} if crop == "none" else {"crop": crop}


def crop_of(sidecar: Mapping[str, Any], where: str = "model.json") -> Crop:
    """Inverse of `crop_to_json`. Raises ReleaseError, naming `where`, for a crop that this version cannot make."""
    crop: Crop = sidecar.get("crop", "none")
    if crop not in get_args(Crop):
        raise ReleaseError(f"{where}: crop {crop!r}; this version knows {', '.join(get_args(Crop))}")
    return crop
