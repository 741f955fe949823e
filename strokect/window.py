"""A slice as a grey picture for people, in the window that they ask for. What the models see is their own affair."""

import io
from collections.abc import Mapping

from PIL import Image

from strokect.dicom import decode_dicom
from strokect.errors import ImageError
from strokect.hounsfield import BRAIN, check_window
from strokect.images import decode_picture
from strokect.slices import is_dicom


def window_of(query: Mapping[str, str]) -> tuple[float, float]:
    """Level and width in HU as a query gives them, else the brain window. Raises ImageError `bad_window`."""
    try:
        level, width = float(query.get("level", BRAIN.level_hu)), float(query.get("width", BRAIN.width_hu))
    except ValueError:
        raise ImageError("bad_window", "the window's level and width must be numbers, in HU") from None
    check_window(level, width)
    return level, width


def view_png(data: bytes, level_hu: float, width_hu: float) -> bytes:
    """Bytes of a DICOM slice → 8-bit grey PNG in this window; PNG and JPEG, whose window is baked in, keep their grey levels.

    The picture is always encoded anew: what else a file carries (names, dates, a thumbnail) is not passed on. Raises ImageError
    for bytes that are no picture this project can read, and of a DICOM slice for a window outside LEVELS_HU × WIDTHS_HU.
    """
    grey = decode_dicom(data, level_hu, width_hu) if is_dicom(data) else decode_picture(data).grey
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG", compress_level=1)  # sent once and dropped: speed is worth more than size
    return stream.getvalue()
