"""One CT slice in DICOM → the grey levels of one window or several.

Order of operations: padding → rescale to HU → window → MONOCHROME1 inversion. Only the elements named in `TAGS` are read, so a
patient's name is never parsed, and pydicom's own messages, which quote file content, are dropped. Compressed pixels:
`strokect.dicom_pixels`.
"""

import io
import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

from strokect.dicom_pixels import Form, check_syntax, decompress
from strokect.errors import ImageError
from strokect.hounsfield import BRAIN, Window, apply_window, check_window
from strokect.images import MAX_PIXELS, STRIP_PX, check_geometry

# pydicom warns about odd values by quoting them, by `warnings` and in its own log; a quoted value would be a leak.
pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", category=UserWarning, module=r"(pydicom|strokect)\b")

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE)  # uncompressed
HOUNSFIELD_TYPES = ("", "HU", "US")  # US = unspecified, which some CT scanners write
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "PALETTE COLOR", "YBR_", "HSV", "ARGB", "CMYK")  # how the colour photometric interpretations begin
MAX_TILT_DEG = 31.0  # gantries tilt by up to 30°, and files round
SKEW = 0.01  # how far the cosines may be from length 1 and from each other's perpendicular; files round them
TAGS = [
    *("Modality", "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelData"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ImageOrientationPatient"),
]


def decode_dicom(data: bytes, level_hu: float = BRAIN.level_hu, width_hu: float = BRAIN.width_hu) -> NDArray[np.uint8]:
    """DICOM bytes → (H, W) uint8 in a window, by default the brain window. Raises as `render_dicom`."""
    return render_dicom(data, (Window(level_hu, width_hu),))[0]


def render_dicom(data: bytes, windows: Sequence[Window]) -> NDArray[np.uint8]:
    """DICOM bytes → (C, H, W) uint8, one picture for each of C windows. Padding is black, as air is.

    Raises ImageError for anything but one CT slice in Hounsfield units, and for a window that shows nothing.
    """
    for window in windows:
        check_window(window.level_hu, window.width_hu)
    try:
        dataset = read_elements(data, TAGS)
        _check_slice(dataset)
        stored, padded = _stored_values(dataset, transfer_syntax(data))
        slope, intercept = _rescale(dataset)
        grey = np.empty((len(windows), *stored.shape), np.uint8)
        rows = max(1, STRIP_PX // stored.shape[1])
        for strip in (slice(top, top + rows) for top in range(0, len(stored), rows)):
            hu = stored[strip].astype(np.float32) * slope + intercept
            for plane, window in zip(grey, windows, strict=True):
                plane[strip] = apply_window(hu, window.level_hu, window.width_hu)
        if element_text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
            np.subtract(255, grey, out=grey)
    except ImageError:
        raise
    except Exception:  # hostile files raise anything, RecursionError included
        raise ImageError("unreadable_dicom", "not a readable DICOM file (damaged, truncated or malformed)") from None
    grey[:, padded] = 0
    return grey


def read_elements(data: bytes, names: Sequence[str]) -> Dataset:
    """The elements of these names. Never inflates: `dcmread` would decompress a deflated file before anything can be checked.

    Raises ImageError for a transfer syntax whose pixels could not be read, and whatever pydicom raises for a malformed file.
    """
    syntax, stream = _open(data)
    if syntax not in NATIVE:
        check_syntax(syntax)
    return read_dataset(stream, syntax == IMPLICIT_LITTLE, True, specific_tags=[Tag(name) for name in names])


def transfer_syntax(data: bytes) -> str:
    """The UID of how the file's pixels are stored, "" where it does not say."""
    return _open(data)[0]


def _open(data: bytes) -> tuple[str, io.BytesIO]:
    """(transfer syntax, the file read up to the end of its meta information)."""
    stream = io.BytesIO(data)
    stream.seek(132)
    wanted: list[BaseTag | int] = [Tag("TransferSyntaxUID")]
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2, specific_tags=wanted)
    return str(meta.get("TransferSyntaxUID", "")), stream


def element_text(dataset: Dataset, name: str) -> str:
    """An element's own bytes as text, "" where it is absent: pydicom's conversions warn, and quote, where a value is odd."""
    value = dataset.get_item(name).value if name in dataset else None
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else ""


def element_numbers(dataset: Dataset, name: str, count: int) -> NDArray[np.float64] | None:
    """(count,) numbers of a decimal string; None where it is absent, odd or absurd."""
    try:
        values = np.array([float(value) for value in element_text(dataset, name).split("\\")], np.float64)
    except ValueError:
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() and np.abs(values).max() < 1e6 else None


def slice_normal(dataset: Dataset) -> NDArray[np.float64] | None:
    """Normal (3,) of a slice, of length 1 and z ≥ 0, by its ImageOrientationPatient; None where that is absent or unusable."""
    cosines = element_numbers(dataset, "ImageOrientationPatient", 6)
    if cosines is None:
        return None
    row, column = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > SKEW or abs(row @ column) > SKEW:
        return None
    normal = np.cross(row, column)
    # Up, whichever way the picture is turned or mirrored: a normal that points down would number the slices from the top.
    return np.asarray(normal * (-1 if normal[2] < 0 else 1) / np.linalg.norm(normal))


def tilt_degrees(normal: Sequence[float] | NDArray[np.float64]) -> float:
    """Angle between a slice's normal and the body's long axis; 0 for an axial slice, the gantry's tilt for a tilted one."""
    return math.degrees(math.acos(min(abs(float(normal[2])), 1.0)))


def _check_slice(dataset: Dataset) -> None:
    if dataset.get("Modality") != "CT":
        raise ImageError("wrong_modality", "the DICOM file is not a CT image (Modality is not CT)")
    if "LOCALIZER" in (dataset.get("ImageType") or []):
        raise ImageError("localiser", "the DICOM file is a localiser (scout view), not an axial slice")
    normal = slice_normal(dataset)
    if normal is not None and tilt_degrees(normal) > MAX_TILT_DEG:
        raise ImageError("not_axial", "not an axial slice: the DICOM file's orientation is more than 30° off")
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if rows * columns * frames > MAX_PIXELS:
        raise ImageError("too_many_pixels", f"{rows}×{columns}×{frames} pixels; at most {MAX_PIXELS:,} are accepted")
    if frames != 1:
        raise ImageError("multi_frame", "the DICOM file holds several frames; send one slice at a time")
    check_geometry(columns, rows)
    photometric = element_text(dataset, "PhotometricInterpretation")
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or photometric.startswith(COLOUR):
        raise ImageError("colour", "a colour picture in DICOM: CT slices are grey")
    if photometric not in GREY:
        raise ImageError("unsupported_pixel_format", "the DICOM file does not say which of its values are bright")
    if "PixelData" not in dataset:
        raise ImageError("missing_pixel_data", "the DICOM file holds no pixel data")


def _stored_values(dataset: Dataset, syntax: str) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
    """Stored values (H, W) before rescaling, and where they are padding."""
    allocated, signed = int(dataset.BitsAllocated), int(dataset.PixelRepresentation) == 1
    stored_bits = int(dataset.get("BitsStored") or allocated)
    high_bit = int(dataset.get("HighBit") if dataset.get("HighBit") is not None else stored_bits - 1)
    if allocated not in (8, 16) or not 1 <= stored_bits <= high_bit + 1 <= allocated:
        raise ImageError("unsupported_pixel_format", "only 8- and 16-bit DICOM pixels are read")
    shape = (int(dataset.Rows), int(dataset.Columns))
    form = Form(*shape, allocated, signed)
    data, expected = dataset.PixelData, form.bytes
    if syntax not in NATIVE:
        data = decompress(data, syntax, form)
    if not expected <= len(data) <= expected + 1:  # DICOM pads to an even length
        raise ImageError("truncated_pixel_data", f"{len(data):,} bytes of pixel data where {expected:,} belong")
    words = np.frombuffer(data, f"<u{allocated // 8}", count=shape[0] * shape[1]).reshape(shape)
    # Up to the top and down again: drops what old scanners kept in the unused bits and extends the sign.
    shifted = (words << (allocated - 1 - high_bit)).view(f"<{'i' if signed else 'u'}{allocated // 8}")
    values = shifted >> (allocated - stored_bits)
    return values, _padding(dataset, words, values, allocated, signed)


def _padding(
    dataset: Dataset, words: NDArray[np.unsignedinteger[Any]], values: NDArray[np.integer[Any]], allocated: int, signed: bool
) -> NDArray[np.bool_]:
    value = _padding_number(dataset.get("PixelPaddingValue"), allocated, signed)
    if value is None:
        return np.zeros(words.shape, np.bool_)
    limit = _padding_number(dataset.get("PixelPaddingRangeLimit"), allocated, signed)
    low, high = sorted((value, value if limit is None else limit))
    # A padding of −2000 in 12-bit unsigned pixels only shows in the whole word.
    return np.asarray((words == value % (1 << allocated)) | ((values >= low) & (values <= high)))


def _padding_number(value: object, allocated: int, signed: bool) -> int | None:
    """A padding element as a number with the sign of the pixels; its VR is US or SS, and in implicit VR nobody says which."""
    if value is None or value == b"" or value == "":
        return None
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)  # type: ignore[call-overload]
    number %= 1 << allocated
    return number - (1 << allocated) if signed and number >> (allocated - 1) else number


def _rescale(dataset: Dataset) -> tuple[np.float32, np.float32]:
    """Slope and intercept to Hounsfield units."""
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None or str(dataset.get("RescaleType") or "").strip() not in HOUNSFIELD_TYPES:
        raise ImageError("not_hounsfield", "the DICOM file does not say how its values become Hounsfield units")
    numbers = np.float32(slope), np.float32(intercept)
    if not np.isfinite(numbers).all() or numbers[0] == 0:
        raise ImageError("not_hounsfield", "the DICOM file's rescale slope or intercept is unusable")
    return numbers
