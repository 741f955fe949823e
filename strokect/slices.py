"""From the bytes of one slice to the array the models see. Training and service both call `load_slice`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from strokect.errors import ImageError
from strokect.images import GREY_TOLERANCE, Picture, decode_picture

MAX_ASPECT = 2.0  # of a slice that is trained on


@dataclass(frozen=True)
class LoadedSlice:
    """One slice ready for the models. `pixels` is (1, S, S) uint8; width and height are those of the file."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


def decode(data: bytes) -> Picture:
    """PNG, JPEG or DICOM bytes → Picture at the file's own resolution; DICOM slices come in the brain window.

    Colour pictures and odd shapes pass: whether they are judged is the caller's decision. Raises ImageError for bytes that are no
    picture this project can read.
    """
    if is_dicom(data):
        from strokect.dicom import decode_dicom  # here: pictures must not need pydicom

        return Picture(decode_dicom(data), 0)
    return decode_picture(data)


def load_slice(data: bytes, size: int) -> LoadedSlice:
    """Decode PNG, JPEG or DICOM bytes, pad to square, resize to (1, size, size) uint8.

    Raises ImageError when the bytes are no picture this project can learn from.
    """
    picture = decode(data)
    height, width = picture.grey.shape
    check_aspect(width, height)
    if picture.chroma > GREY_TOLERANCE:  # one drawn-on contour is enough: it may be the answer
        raise ImageError("colour", "a colour picture: CT slices are grey; drawn-on contours or photographs cannot be judged")
    return LoadedSlice(resize_slice(picture.grey, size), width, height)


def check_aspect(width: int, height: int) -> None:
    """Raise ImageError for a shape that no slice has."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("extreme_aspect_ratio", f"{width}×{height} pixels; a slice is at most {MAX_ASPECT:g}:1")


def is_dicom(data: bytes) -> bool:
    """Whether the bytes carry DICOM's mark: DICM after a 128-byte preamble."""
    return data[128:132] == b"DICM"


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
