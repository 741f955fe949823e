"""From the bytes of one slice to the array the models see. Training and service both call `load_slice`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from strokect.errors import ImageError
from strokect.head_crop import Crop, Square, seen_square, whole
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


def load_slice(data: bytes, size: int, windows: Windows = BRAIN_ONLY, crop: Crop = "none") -> LoadedSlice:
    """Decode PNG, JPEG or DICOM bytes and make of them what the models see, (C, size, size) uint8, C = len(windows).

    Raises ImageError when the bytes are no picture this project can learn from.
    """
    picture = decode(data, windows)
    height, width = picture.grey.shape
    check_aspect(width, height)
    if picture.chroma > GREY_TOLERANCE:  # one drawn-on contour is enough: it may be the answer
        raise ImageError("colour", f"{COLOUR}: CT slices are grey; drawn-on contours or photographs cannot be judged")
    return LoadedSlice(model_input(picture, size, crop), width, height)


def check_aspect(width: int, height: int) -> None:
    """Raise ImageError for a shape that no slice has."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("extreme_aspect_ratio", f"{width}×{height} pixels; a slice is at most {MAX_ASPECT:g}:1")


def is_dicom(data: bytes) -> bool:
    """Whether the bytes carry DICOM's mark: DICM after a 128-byte preamble."""
    return data[128:132] == b"DICM"


def model_input(picture: Picture, size: int, crop: Crop) -> NDArray[np.uint8]:
    """What the models see of a picture, (C, size, size) uint8, a window each. Training and service both go through it."""
    square = seen_square(picture.grey, crop)
    return np.concatenate([resize_slice(plane, size, square) for plane in picture.planes])


def resize_slice(pixels: NDArray[np.uint8], size: int, square: Square | None = None) -> NDArray[np.uint8]:
    """(H, W) uint8 → (1, size, size) uint8: `square` of it, or all with black borders that make it square; then antialiased
    bilinear resampling.
    """
    pixels = (square or whole(*pixels.shape)).cut(pixels)
    if len(pixels) != size:
        pixels = np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
    return pixels[None]
