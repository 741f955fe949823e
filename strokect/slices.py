"""From the bytes of one slice to the array the models see. Training and service both call `load_slice`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from strokect.errors import ImageError
from strokect.hounsfield import BRAIN_ONLY, Windows, apply_window, in_words, rendered
from strokect.images import GREY_TOLERANCE, Picture, decode_picture

MAX_ASPECT = 2.0  # of a slice that is trained on
COLOUR = "a colour picture"  # how the reason begins; the audit counts drawn-on contours by it


@dataclass(frozen=True)
class LoadedSlice:
    """One slice ready for the models. `pixels` is (C, S, S) uint8, a window each; width and height are those of the file."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


def decode(data: bytes, windows: Windows = BRAIN_ONLY) -> Picture:
    """PNG, JPEG or DICOM bytes → Picture at the file's own resolution; DICOM slices come in the brain window and in `windows`.

    Colour pictures and odd shapes pass: whether they are judged is the caller's decision. Raises ImageError for bytes that are no
    picture this project can read, and for a PNG or JPEG where the windows are others than the one that it has baked in.
    """
    if is_dicom(data):
        from strokect.dicom import render_dicom  # here: pictures must not need pydicom

        return _picture(render_dicom(data, rendered(windows)))
    picture = decode_picture(data)
    if windows != BRAIN_ONLY:
        raise ImageError(
            "needs_hounsfield",
            f"a PNG or JPEG picture has one window baked in and no Hounsfield units; the windows {in_words(windows)} are made of "
            "Hounsfield units: use the DICOM file",
        )
    return picture


def picture_of_hu(hu: NDArray[np.floating[Any]], windows: Windows = BRAIN_ONLY) -> Picture:
    """Hounsfield units (H, W) → what `decode` makes of a DICOM slice that holds them."""
    return _picture(np.stack([apply_window(hu, window.level_hu, window.width_hu) for window in rendered(windows)]))


def _picture(made: NDArray[np.uint8]) -> Picture:
    """What `rendered` asks for (1 or 1 + C, H, W) → Picture."""
    return Picture(made[0], 0, made[1:] if len(made) > 1 else None)


def load_slice(data: bytes, size: int, windows: Windows = BRAIN_ONLY) -> LoadedSlice:
    """Decode PNG, JPEG or DICOM bytes, pad to square, resize to (C, size, size) uint8, C = len(windows).

    Raises ImageError when the bytes are no picture this project can learn from.
    """
    picture = decode(data, windows)
    height, width = picture.grey.shape
    check_aspect(width, height)
    if picture.chroma > GREY_TOLERANCE:  # one drawn-on contour is enough: it may be the answer
        raise ImageError("colour", f"{COLOUR}: CT slices are grey; drawn-on contours or photographs cannot be judged")
    return LoadedSlice(resize_planes(picture.planes, size), width, height)


def check_aspect(width: int, height: int) -> None:
    """Raise ImageError for a shape that no slice has."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("extreme_aspect_ratio", f"{width}×{height} pixels; a slice is at most {MAX_ASPECT:g}:1")


def is_dicom(data: bytes) -> bool:
    """Whether the bytes carry DICOM's mark: DICM after a 128-byte preamble."""
    return data[128:132] == b"DICM"


def resize_planes(planes: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(C, H, W) uint8 → (C, size, size) uint8: `resize_slice` of each window. Training and service both go through it."""
    return np.concatenate([resize_slice(plane, size) for plane in planes])


def resize_slice(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(H, W) uint8 → (1, size, size) uint8: black borders make it square, then antialiased bilinear resampling."""
    height, width = pixels.shape
    side = max(height, width)
    if height != width:
        square = np.zeros((side, side), np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = pixels
        pixels = square
    if side != size:
        pixels = np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return pixels[None]
