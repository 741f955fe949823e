"""What the `dicom` reader must know of a file before its pixels: what it is, whose, and where it lies.

Reads the elements of TAGS up to the last of them, of a deflated file from a bounded start. Ids and UIDs are held in memory to
group slices and to find their labels; the reader lets only keyed hashes of them out.
"""

import io
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID_dictionary
from pydicom.valuerep import TEXT_VR_DELIMS

from strokect.dicom import IMPLICIT_LITTLE, MAX_TILT_DEG, element_numbers, element_text, slice_normal, tilt_degrees
from strokect.errors import ImageError
from strokect.geometry import DIRECTORY, instance_number
from strokect.tables import OLDEST_AGE, nfc

TAGS = [
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "AccessionNumber", "Modality"),
    *("PatientID", "PatientSex", "PatientAge"),
    *("SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"),
    "NumberOfFrames",
]
LAST = max(int(Tag(name)) for name in TAGS)
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
HEADER_BYTES = 2**20  # inflated at most: the elements before the pixels take some kilobytes
AGE = re.compile(r"(\d{3})([DWMY])")
DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
GENDERS = {"M": "Male", "F": "Female", "O": "Other"}


@dataclass(frozen=True)
class Header:
    """One DICOM file. What it does not say, or not usably, is "" or None; `corner` and `normal` go together."""

    file: str  # posix path below the raw folder
    instance_uid: str
    series_uid: str
    frame_uid: str
    patient_id: str  # as its SpecificCharacterSet and `nfc` have it
    accession: str  # likewise
    instance: int | None
    corner: NDArray[np.float64] | None  # (3,) ImagePositionPatient in mm
    normal: NDArray[np.float64] | None  # (3,) of length 1, z ≥ 0
    age_years: float | None
    gender: str | None
    no_slice: str  # why the file is none of the slices looked for; "" where it may be one


def read_header(path: Path, file: str) -> Header:
    """The header of a DICOM file. Raises ImageError where it cannot be read, `not_dicom` for a file of another kind."""
    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                raise ImageError("not_dicom", "no DICOM file by its content")
            dataset, sop_class, complete = _elements(stream)
        no_slice = _why_no_slice(dataset, sop_class, slice_normal(dataset))
        if not (complete or no_slice):
            raise ImageError("unreadable_dicom", "the DICOM file ends within its header")
        corner, normal = element_numbers(dataset, "ImagePositionPatient", 3), slice_normal(dataset)
        placed = corner is not None and normal is not None
        return Header(
            file=file,
            instance_uid=element_text(dataset, "SOPInstanceUID"),
            series_uid=element_text(dataset, "SeriesInstanceUID"),
            frame_uid=element_text(dataset, "FrameOfReferenceUID"),
            patient_id=_coded_text(dataset, "PatientID"),
            accession=_coded_text(dataset, "AccessionNumber"),
            instance=instance_number(dataset),
            corner=corner if placed else None,
            normal=normal if placed else None,
            age_years=_age(element_text(dataset, "PatientAge")),
            gender=GENDERS.get(element_text(dataset, "PatientSex")),
            no_slice=no_slice,
        )
    except ImageError:
        raise
    except OSError as error:
        raise ImageError("unreadable_file", f"cannot be opened ({type(error).__name__})") from None
    except Exception:  # hostile files raise anything, RecursionError included
        raise ImageError("unreadable_dicom", "not a readable DICOM file (damaged, truncated or malformed)") from None


def _elements(stream: BinaryIO) -> tuple[Dataset, str, bool]:
    """The elements of TAGS, the SOP class, and whether the file goes on behind them; from the stream behind its mark."""
    wanted: list[BaseTag | int] = [Tag("TransferSyntaxUID"), Tag("MediaStorageSOPClassUID")]
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag.group != 2, specific_tags=wanted)
    syntax = element_text(meta, "TransferSyntaxUID")
    if UID_dictionary.get(syntax, ("", ""))[1] != "Transfer Syntax":
        raise ImageError("unsupported_transfer_syntax", "stored in an unknown transfer syntax, or in none that the file names")
    if syntax == DEFLATED:
        stream = io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(HEADER_BYTES), HEADER_BYTES))
    behind: list[int] = []

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        behind.extend([tag] if tag > LAST else [])
        return tag > LAST

    tags: list[BaseTag | int] = [Tag(name) for name in TAGS]
    dataset = read_dataset(stream, syntax == IMPLICIT_LITTLE, syntax != BIG_ENDIAN, stop_when=stop, specific_tags=tags)
    sop_class = element_text(dataset, "SOPClassUID") or element_text(meta, "MediaStorageSOPClassUID")
    return dataset, sop_class, bool(behind)


def _why_no_slice(dataset: Dataset, sop_class: str, normal: NDArray[np.float64] | None) -> str:
    modality = element_text(dataset, "Modality")
    kinds = [kind.strip() for kind in element_text(dataset, "ImageType").split("\\")]
    frames = element_text(dataset, "NumberOfFrames") or "1"
    if not modality and sop_class != DIRECTORY:
        raise ImageError("unreadable_dicom", "the DICOM header names no modality (damaged or truncated)")
    reasons = [
        (sop_class == DIRECTORY, "a DICOMDIR: a table of contents"),
        (modality == "MR", "MR, not CT"),
        (modality != "CT", "neither CT nor MR"),
        (frames != "1", "a multi-frame object"),
        ("LOCALIZER" in kinds, "a localiser (scout view)"),
        (kinds[0] == "DERIVED", "derived: computed from other slices"),
        (kinds[1:2] == ["SECONDARY"], "a secondary capture"),
        (sop_class not in ("", CT_IMAGE), "CT, but not a CT image object"),
        (normal is not None and tilt_degrees(normal) > MAX_TILT_DEG, "not an axial slice"),
    ]
    return next((reason for holds, reason in reasons if holds), "")


def _coded_text(dataset: Dataset, name: str) -> str:
    """An element of letters that SpecificCharacterSet (PS3.5 6.1.2) says how to read, as `nfc` has it.

    What cannot be read in it is taken as Latin-1, of which each byte is a letter: replacement characters would make one of two.
    """
    plain = element_text(dataset, name)
    encodings = convert_encodings(element_text(dataset, "SpecificCharacterSet").split("\\"))
    text = decode_bytes(plain.encode("latin-1"), encodings, TEXT_VR_DELIMS)
    return nfc(plain if "\ufffd" in text else text.strip())


def _age(text: str) -> float | None:
    match = AGE.fullmatch(text)
    return min(round(int(match[1]) * DAYS[match[2]] / DAYS["Y"], 2), OLDEST_AGE) if match else None
