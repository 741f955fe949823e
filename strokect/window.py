"""A slice as a grey picture for people, in the window that they ask for. The models see the brain window and no other."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from strokect.dicom import WINDOW_LEVEL_HU, WINDOW_WIDTH_HU, check_window, decode_dicom
from strokect.errors import ImageError
from strokect.images import Picture, decode_picture
from strokect.slices import is_dicom


def window_of(query: Mapping[str, str]) -> tuple[float, float]:
    """Level and width in HU as a query gives them, else the brain window. Raises ImageError `bad_window`."""
    try:
        level, width = float(query.get("level", WINDOW_LEVEL_HU)), float(query.get("width", WINDOW_WIDTH_HU))
    except ValueError:
        raise ImageError("bad_window", "the window's level and width must be numbers, in HU") from None
    check_window(level, width)
    return level, width


def decode_window(data: bytes, level_hu: float, width_hu: float) -> Picture:
    """Bytes of a DICOM slice → picture in this window; PNG and JPEG, whose window is baked in, keep their grey levels.

    Raises ImageError for bytes that are no picture this project can read, and of a DICOM slice for a window outside
    LEVELS_HU × WIDTHS_HU.
    """
    return Picture(decode_dicom(data, level_hu, width_hu), 0) if is_dicom(data) else decode_picture(data)


def to_png(grey: NDArray[np.uint8]) -> bytes:
    """Grey levels (H, W) uint8 → PNG. Encoded anew, so what else the file carried (names, dates) is not passed on."""
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG", compress_level=1)  # sent once and dropped: speed is worth more than size
    return stream.getvalue()
