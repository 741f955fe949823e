"""Hounsfield units → a CT slice in DICOM: what a pipeline of synthetic slices can send to a model that needs Hounsfield units."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from strokect.errors import ImageError
from strokect.files import sha256_bytes
from strokect.hounsfield import BRAIN
from strokect.images import GREY_TOLERANCE, decode_picture

AIR_HU, BONE_HU = -1000.0, 1000.0  # what black and white of the brain window may stand for


def ct_slice(hu: NDArray[np.floating[Any]], **elements: Any) -> bytes:
    """Hounsfield units (H, W) → an uncompressed CT slice of nobody, the same file for the same values.

    Values are rounded and stored with 12 bits from −1024 on, as scanners do. `elements` adds others by keyword.
    """
    stored = np.clip(np.rint(hu) + 1024, 0, 4095).astype("<u2").tobytes()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.Modality = CTImageStorage, "CT"
    made.SOPInstanceUID = generate_uid(entropy_srcs=["strokect", sha256_bytes(stored)])
    made.RescaleSlope, made.RescaleIntercept, made.RescaleType = 1, -1024, "HU"
    made.Rows, made.Columns = hu.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.PixelData = stored
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def as_ct_slice(data: bytes) -> bytes:
    """A PNG or JPEG of grey levels → the CT slice that looks like it in the brain window; any other file as it is.

    Within the window the levels are the Hounsfield units that they would be; black becomes air and white bone.
    """
    try:
        picture = decode_picture(data)
    except ImageError:
        return data
    if picture.chroma > GREY_TOLERANCE:
        return data
    hu = BRAIN.level_hu - BRAIN.width_hu / 2 + picture.grey * (BRAIN.width_hu / 255.0)
    return ct_slice(np.where(picture.grey == 0, AIR_HU, np.where(picture.grey == 255, BONE_HU, hu)))
