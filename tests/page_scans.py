"""Files to drop on the page, made of the phantom: nobody's pictures. Each carries the answer that tests/page_server.py gives."""

import io
import zipfile
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from strokect.phantom import PhantomSlice, make_patient, window
from tests.fakes import dicom_bytes
from tests.page_server import note

SEED = 5


@cache
def patient(number: int = 0, slices: int = 10, size: int = 96) -> list[PhantomSlice]:
    """One phantom patient, lowest slice first."""
    return make_patient(number, seed=SEED, slices=slices, size=size)


def png(hu: np.ndarray, **answer: Any) -> bytes:
    """A slice in the brain window as PNG with its answer in a text chunk."""
    text = PngInfo()
    text.add_text("Comment", note(**answer))
    return _saved(window(hu), "PNG", pnginfo=text)


def jpeg(hu: np.ndarray, **answer: Any) -> bytes:
    """The same as JPEG with the answer in a comment."""
    return _saved(window(hu), "JPEG", quality=92, comment=note(**answer).encode())


def photo(**answer: Any) -> bytes:
    """A colour picture."""
    y, x = np.mgrid[0:255:160j, 0:255:160j]
    text = PngInfo()
    text.add_text("Comment", note(**answer))
    return _saved(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8), "PNG", pnginfo=text)


def dicom(hu: np.ndarray, instance: int = 1, **answer: Any) -> bytes:
    """A slice in Hounsfield units as DICOM with the answer among its comments."""
    stored = np.clip(np.rint(hu) + 1024, 0, 4095).astype(np.int16)
    return dicom_bytes(stored, InstanceNumber=instance, ImageComments=note(**answer), PatientName="Phantom^Planted")


def series(number: int = 0, slices: int = 10, size: int = 96) -> dict[str, bytes]:
    """One patient as DICOM files by name; the highest probabilities where most of the lesion is. Names run top to bottom."""
    parts = patient(number, slices, size)
    area = np.array([np.count_nonzero(part.mask) for part in parts]) / size**2
    files = {}
    for part, share in zip(parts, area, strict=True):
        ripple = 0.02 * np.sin(3.0 * part.slice)
        answer: dict[str, Any] = {"probability": round(float(0.08 + ripple + 0.88 * share / max(area.max(), 1e-9)), 3)}
        if share:
            rows, columns = np.nonzero(part.mask)
            answer["at"] = [round(float(columns.mean()) / size, 3), round(float(rows.mean()) / size, 3)]
        files[f"IM{slices - part.slice:04d}.dcm"] = dicom(part.hu, part.slice + 1, **answer)
    return files


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of files in a folder, which has an entry of its own."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("Planted^Name/", b"")
        for name, data in files.items():
            archive.writestr(f"Planted^Name/{name}", data)
    return stream.getvalue()


def _saved(pixels: np.ndarray, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()
