"""Where a DICOM slice lies, and in which series. Reads the elements named in `TAGS` and nothing else: no name, date or pixels.

Positions are in the patient's coordinates (PS3.3 C.7.6.2.1.1): x to the left, y to the back, z to the top of the head, in mm.
"""

import hashlib
import io
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag

from strokect.dicom import EXPLICIT_LITTLE, IMPLICIT_LITTLE, element_numbers, element_text, slice_normal
from strokect.errors import ImageError

TAGS = [
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),  # kept as salted hashes only
    *("InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness"),
]
LAST = int(Tag("FrameOfReferenceUID"))  # the highest of them: reading ends behind it, far before the pixels
ENCAPSULATED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")  # JPEG family, RLE: their headers are explicit little endian
DIRECTORY = "1.2.840.10008.1.3.10"  # the SOP class of a DICOMDIR
GAP = 1.6  # a step this many times the smallest lacks a slice; one missing slice doubles it, and files round
ALIKE = 1.2  # steps of one thickness differ by less
SAME_TILT_DEG = 2.0  # within it, slices are parallel and their positions comparable
SAME_POSITION_MM = 0.05
MIN_STEPS = 3  # of each thickness, where it changes: fewer are rather missing slices
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
    thickness_mm: float | None = None
    study: str = ""  # salted hash of the StudyInstanceUID
    patient: str = ""  # salted hash of the PatientID


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
        patient, study, series, frame = (_hash(element_text(dataset, name)) for name in TAGS[:4])
        return Geometry(series, frame, position, normal, instance_number(dataset), _thickness(dataset), study, patient)
    except ImageError:
        raise
    except Exception:  # hostile files raise anything; decoding the same bytes says what is wrong with them
        return UNKNOWN


def has_gap(positions: Sequence[float], thicknesses: Sequence[float | None]) -> bool:
    """Whether a slice seems to be missing between those at `positions` (n,) in mm, lowest first, of `thicknesses` (n,) in mm.

    Steps must be alike, or change once: finer at the skull base than above it, MIN_STEPS or more of each. Where all thicknesses
    are known, steps must have grown as they did. Not to be seen: a missing first or last slice, for nothing says where the head
    ends; and every other slice missing from some height on, where a thickness is not known, for it looks like such a change.
    """
    steps = np.diff(positions)
    if not len(steps):
        return False
    if None not in thicknesses:
        pairs = np.lib.stride_tricks.sliding_window_view(np.array(thicknesses, np.float64), 2)  # (n − 1, 2)
        # Between two thicknesses the step may be that of either.
        if (steps / pairs.max(axis=1)).max() > GAP * (steps / pairs.min(axis=1)).min():
            return True
    if steps.max() <= GAP * steps.min():
        return False
    first = int((steps > np.sqrt(steps.min() * steps.max())).argmax())
    below, above = steps[:first], steps[first + 1 :]  # `first` itself leads from one thickness to the other
    if min(len(below), len(above) + 1) < MIN_STEPS:
        return True
    return bool(below.max() > GAP * below.min() or max(above.max(), steps[first]) > ALIKE * above.min())


def has_number_gap(judged: Iterable[int | None], present: Iterable[int | None]) -> bool:
    """Whether an instance number is missing between the lowest and the highest of those `judged`, which all need one.

    `present` are all numbers of the series, those of slices that were left out among them. Only where at least half of the
    numbers follow each other: some archives thin a series out, or count in steps.
    """
    kept = list(judged)
    known = [number for number in kept if number is not None]
    if not known or len(known) < len(kept):
        return False
    low, high = min(known), max(known)
    numbers = sorted({number for number in present if number is not None and low <= number <= high})
    steps = [after - before for before, after in pairwise(numbers)]
    return bool(steps) and max(steps) > 1 and 2 * steps.count(1) >= len(steps)


def _read_header(data: bytes) -> tuple[Dataset | None, str]:
    """Elements of TAGS and the SOP class; None where the transfer syntax is not one whose header is plain little endian."""
    stream = io.BytesIO(data)
    stream.seek(132)
    wanted: list[BaseTag | int] = [Tag("TransferSyntaxUID"), Tag("MediaStorageSOPClassUID")]
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2, specific_tags=wanted)
    syntax, sop_class = element_text(meta, "TransferSyntaxUID"), element_text(meta, "MediaStorageSOPClassUID")
    if syntax not in (IMPLICIT_LITTLE, EXPLICIT_LITTLE) and not syntax.startswith(ENCAPSULATED):
        return None, sop_class
    tags: list[BaseTag | int] = [Tag(name) for name in TAGS]
    implicit = syntax == IMPLICIT_LITTLE
    return read_dataset(stream, implicit, True, stop_when=lambda tag, vr, length: tag > LAST, specific_tags=tags), sop_class


def _place(dataset: Dataset) -> tuple[float | None, tuple[float, float, float] | None]:
    corner, normal = element_numbers(dataset, "ImagePositionPatient", 3), slice_normal(dataset)
    if corner is None or normal is None:
        return None, None
    return float(corner @ normal), (float(normal[0]), float(normal[1]), float(normal[2]))


def instance_number(dataset: Dataset) -> int | None:
    """InstanceNumber; None where it is absent or no number."""
    try:
        return int(element_text(dataset, "InstanceNumber"))
    except ValueError:
        return None


def _thickness(dataset: Dataset) -> float | None:
    numbers = element_numbers(dataset, "SliceThickness", 1)
    return float(numbers[0]) if numbers is not None and numbers[0] > 0 else None


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="replace"), key=SALT, digest_size=16).hexdigest() if text else ""
