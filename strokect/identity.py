"""Who and what a DICOM slice is: read in a decoder, carried as plain bytes, put together again beside the models.

A file may hide anything where a name belongs: a million items of a sequence cost pydicom a minute and gigabytes. So what leaves
the decoder is a short text for each element that an answer in DICOM needs (see `strokect.dicom_out`), in the file's own encoding,
and the service parses nothing else of the file.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pydicom.valuerep import VR

from strokect.dicom import read_elements
from strokect.errors import ImageError
from strokect.slices import is_dicom

REFERENCE = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# What a slice may be: CT, Enhanced CT, its legacy conversion, Secondary Capture. highdicom takes known classes only.
IMAGE_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "2.1", "2.2", "7"))
# Must be in every object, empty if unknown (type 2), then what is carried on where the source has it.
IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
MORE_IDENTITY = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "StudyDescription"),
    *("PatientIdentityRemoved", "DeidentificationMethod"),
)
KEYWORDS = (*REFERENCE, *IDENTITY, *MORE_IDENTITY, "SpecificCharacterSet", "InstanceNumber", "ImageOrientationPatient")
SHORT_TEXT = (VR.PN, VR.LO, VR.SH, VR.DA, VR.TM, VR.UI, VR.CS, VR.AS, VR.DS, VR.IS)
MAX_BYTES = 1024  # of one element; a name has at most 3 × 64 characters in several bytes each
UNREADABLE = "unreadable_dicom", "not a readable DICOM file (damaged, truncated or malformed)"


@dataclass(frozen=True)
class Source:
    """The slice that an answer in DICOM joins: hash of its file, and the elements of KEYWORDS that it has."""

    input_sha256: str
    elements: Dataset


def read_identity(data: bytes) -> dict[str, bytes]:
    """DICOM bytes → keyword of KEYWORDS → the element's own bytes, at most MAX_BYTES; for a decoder.

    Raises ImageError for what is no uncompressed DICOM file, and for one with anything but a short text in such an element: an
    object filed without half of the patient's identity would be worse than none.
    """
    if not is_dicom(data):
        raise not_dicom()
    try:
        dataset = read_elements(data, KEYWORDS)
        return {name: _short_text(dataset.get_item(name)) for name in KEYWORDS if name in dataset}
    except ImageError:
        raise
    except Exception:  # pydicom raises anything on a malformed file, and its text may echo file content
        raise ImageError(*UNREADABLE) from None


def not_dicom() -> ImageError:
    """The error for another kind of file."""
    return ImageError("not_dicom", "an answer in DICOM needs a DICOM slice: it joins the slice's study")


def source_of(identity: Mapping[str, bytes], input_sha256: str) -> Source:
    """What `read_identity` found in the file with this hash, parsed. Raises ImageError when it does not identify the slice."""
    stream = io.BytesIO()
    for tag, value in sorted((Tag(name), value) for name, value in identity.items()):
        stream.write(struct.pack("<HH2sH", tag.group, tag.element, dictionary_VR(tag).encode(), len(value)) + value)
    stream.seek(0)
    try:
        elements = read_dataset(stream, False, True)
        list(elements)  # parses every element, here and not where its value could get into a traceback
    except Exception:  # as above
        raise ImageError(*UNREADABLE) from None
    uids = [elements.get(name) for name in REFERENCE]
    if uids[0] not in IMAGE_CLASSES or not all(isinstance(uid, UID) and uid.is_valid for uid in uids):
        problem = (
            "nothing can refer to it: by its SOP class it is no CT image, or its own, its series' or its study's UID is missing"
        )
        raise ImageError("not_identified", problem)
    return Source(input_sha256, elements)


def _short_text(element: object) -> bytes:
    """The raw value of an element. Raises ImageError unless it is a short text, ValueError where its VR does not exist."""
    # Implicit VR does not say what an element is; there the dictionary does. A sequence of undefined length is not raw any more.
    if isinstance(element, RawDataElement) and (element.VR is None or VR(element.VR) in SHORT_TEXT):
        value = element.value or b""
        if len(value) <= MAX_BYTES:
            return value
    raise ImageError("not_identified", "what should say whose slice it is, or which, is no short text")
