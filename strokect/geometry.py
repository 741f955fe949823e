"""Where a DICOM slice lies in its series. Reads the elements named in `TAGS` and nothing else: no name, no date, no pixels.

Positions are in the patient's coordinates (PS3.3 C.7.6.2.1.1): x to the left, y to the back, z to the top of the head, in mm.
"""

import hashlib
import io
import math
import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

from strokect.dicom import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from strokect.errors import ImageError

TAGS = ["SeriesInstanceUID", "FrameOfReferenceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient"]
LAST = int(Tag("FrameOfReferenceUID"))  # the highest of them: reading ends behind it, far before the pixels
ENCAPSULATED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")  # JPEG family, RLE: their headers are explicit little endian
DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR
SKEW = 0.01  # how far the cosines may be from length 1 and from each other's perpendicular; files round them
# UIDs hold dates and numbers of hospitals, and a plain hash of one can be looked up. So the salt is new in every process, and
# hashes are comparable within one upload only, which one process reads.
SALT = secrets.token_bytes(32)


@dataclass(frozen=True)
class Geometry:
    """Place of one slice. What the file does not say, or not usably, is "" or None; `position_mm` and `normal` go together."""

    series: str  # salted hash of the SeriesInstanceUID
    frame: str  # salted hash of the FrameOfReferenceUID: positions are comparable within it
    position_mm: float | None  # ImagePositionPatient along the normal; larger is nearer the top of the head
    normal: tuple[float, float, float] | None  # of length 1, z ≥ 0
    instance: int | None


UNKNOWN = Geometry("", "", None, None, None)


def read_geometry(data: bytes) -> Geometry:
    """DICOM bytes → Geometry, UNKNOWN where the header cannot be read. Raises ImageError for a DICOMDIR, which is no slice."""
    try:
        dataset, sop_class = _read_header(data)
        if sop_class == DIRECTORY:
            raise ImageError("dicomdir", "a DICOMDIR: a table of contents, not a slice")
        if dataset is None:
            return UNKNOWN
        position, normal = _place(dataset)
        series, frame = (_hash(_text(dataset, name)) for name in ("SeriesInstanceUID", "FrameOfReferenceUID"))
        return Geometry(series, frame, position, normal, _instance(dataset))
    except ImageError:
        raise
    except Exception:  # hostile files raise anything; decoding the same bytes says what is wrong with them
        return UNKNOWN


def tilt_degrees(normal: tuple[float, float, float]) -> float:
    """Angle between a slice's normal and the body's long axis; 0 for an axial slice, the gantry's tilt for a tilted one."""
    return math.degrees(math.acos(min(abs(normal[2]), 1.0)))


def _read_header(data: bytes) -> tuple[Dataset | None, str]:
    """Elements of TAGS and the SOP class; None where the transfer syntax is not one whose header is plain little endian."""
    stream = io.BytesIO(data)
    stream.seek(132)
    wanted: list[BaseTag | int] = [Tag("TransferSyntaxUID"), Tag("MediaStorageSOPClassUID")]
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2, specific_tags=wanted)
    syntax, sop_class = _text(meta, "TransferSyntaxUID"), _text(meta, "MediaStorageSOPClassUID")
    if syntax not in (IMPLICIT_LITTLE, EXPLICIT_LITTLE) and not syntax.startswith(ENCAPSULATED):
        return None, sop_class
    tags: list[BaseTag | int] = [Tag(name) for name in TAGS]
    implicit = syntax == IMPLICIT_LITTLE
    return read_dataset(stream, implicit, True, stop_when=lambda tag, vr, length: tag > LAST, specific_tags=tags), sop_class


def _place(dataset: Dataset) -> tuple[float | None, tuple[float, float, float] | None]:
    corner, cosines = _numbers(dataset, "ImagePositionPatient", 3), _numbers(dataset, "ImageOrientationPatient", 6)
    if corner is None or cosines is None:
        return None, None
    row, column = cosines[:3], cosines[3:]
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if np.abs(lengths - 1).max() > SKEW or abs(row @ column) > SKEW:
        return None, None
    normal = np.cross(row, column)
    # Up, whichever way the picture is turned or mirrored: a normal that points down would number the slices from the top.
    normal *= (-1 if normal[2] < 0 else 1) / np.linalg.norm(normal)
    return float(corner @ normal), (float(normal[0]), float(normal[1]), float(normal[2]))


def _numbers(dataset: Dataset, name: str, count: int) -> NDArray[np.float64] | None:
    try:
        values = np.array([float(value) for value in _text(dataset, name).split("\\")], np.float64)
    except ValueError:
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() and np.abs(values).max() < 1e6 else None


def _instance(dataset: Dataset) -> int | None:
    try:
        return int(_text(dataset, "InstanceNumber"))
    except ValueError:
        return None


def _text(dataset: Dataset, name: str) -> str:
    """An element's own bytes as text: pydicom's conversions warn, and quote, where a value is odd."""
    value = dataset.get_item(name).value if name in dataset else None
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), key=SALT, digest_size=16).hexdigest() if text else ""
