"""Damaged and hostile files, thousands of them: what comes out is a picture or an error of ours, never anything else."""

import io
import random
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fakes import dicom_bytes, encode, grey_slice
from PIL import Image
from pydicom.uid import ImplicitVRLittleEndian

from strokect.decoding import DecodePool
from strokect.errors import ImageError
from strokect.series import Member, read_series
from strokect.slices import decode

SIDE, MAX_SLICES = 40, 6
PLACE = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "SeriesInstanceUID": "1.2.3"}
# Numbers that decoders multiply and allocate by, as they are stored in files.
NASTY = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff\xff", b"\0", b"\xff"]
Members = list[Member]


def _seeds() -> list[bytes]:
    """Small good files of every kind."""
    grey = grey_slice(SIDE)
    stored = (grey.astype(np.int16) + 1000).copy()
    pictures = [
        encode(grey),
        encode(np.dstack([grey] * 3)),
        encode(np.dstack([grey] * 4), "PNG"),
        encode(grey, "JPEG"),
        encode(np.dstack([grey] * 3), "JPEG", progressive=True),
        _with_exif(grey),
    ]
    dicoms = [
        dicom_bytes(stored, PixelPaddingValue=0, **PLACE),
        dicom_bytes(stored, syntax=ImplicitVRLittleEndian, InstanceNumber=3, **PLACE),
    ]
    zips = [
        _zipped(("a/b.dcm", dicoms[0]), ("../../etc/passwd", dicoms[1]), ("c.png", pictures[0])),
        _zipped(("inner.zip", _zipped(("x", b"y")))),
        _zipped(*((str(n), b"") for n in range(MAX_SLICES + 2))),
        _zipped(("bomb", bytes(17 * 2**20))),
    ]
    return [*pictures, *dicoms, *zips]


def _with_exif(grey: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    return encode(grey, "JPEG", exif=exif)


def _zipped(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """`count` files: good ones with bytes changed, cut out, repeated, or exchanged with those of another."""
    draw = random.Random(seed)
    seeds = _seeds()
    for _ in range(count):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.choice([1, 1, 2, 4, 16])):
            if not data:
                break
            # Headers are where a byte matters most, and of a zip the end.
            at = draw.choice(
                [draw.randrange(len(data)), draw.randrange(min(len(data), 400)), -draw.randrange(min(len(data), 100)) - 1]
            )
            at %= len(data)
            match draw.randrange(6):
                case 0:
                    data[at] ^= 1 << draw.randrange(8)
                case 1:
                    nasty = draw.choice(NASTY)
                    data[at : at + len(nasty)] = nasty
                case 2:
                    del data[at : at + draw.choice([1, 4, 100, 10**9])]
                case 3:
                    data[at:at] = data[at : at + draw.choice([1, 8, 200])] * draw.choice([1, 2, 20])
                case 4:
                    other = draw.choice(seeds)
                    data[at:] = other[draw.randrange(len(other)) :]
                case 5:
                    data[at : at + 8] = draw.randbytes(8)
        yield bytes(data)


def outcome(data: bytes, picture: Callable[[bytes], object], members: Callable[[list[bytes]], Members]) -> str:
    """What became of a file taken as a picture and as a series; only errors of ours are caught."""
    try:
        picture(data)
        word = "picture"
    except ImageError as error:
        word = error.code
    try:
        found = members([data])
        assert all((member.picture is None) == (member.error is not None) for member in found)
        return f"{word} {len(found)}"
    except ImageError as error:
        return f"{word} {error.code}"


def test_a_zip_member_without_a_name_is_a_file() -> None:
    """Python's own `ZipInfo.is_dir` raises IndexError for it."""
    data = bytearray(_zipped(("q", encode(grey_slice(SIDE)))))
    entry, end = data.rfind(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")
    data[entry + 28] = 0  # bytes of its name
    data[end + 12] -= 1  # bytes of the list
    del data[end - 1]
    (member,) = read_series([bytes(data)], MAX_SLICES)
    assert member.error is None or member.error[0] == "damaged_member"


def test_damaged_files_raise_image_errors_and_nothing_else() -> None:
    found = {outcome(data, decode, lambda files: read_series(files, MAX_SLICES)) for data in mutations(400, seed=0)}
    assert len(found) > 12  # the mutations reach many branches, and some leave the picture whole
    assert "picture 1" in found


@pytest.mark.slow
def test_five_thousand_damaged_files_cost_no_decoder() -> None:
    pool = DecodePool(1, 10, 256)
    try:
        for data in mutations(5000, seed=1):
            outcome(data, pool.picture, lambda files: pool.members(files, float("inf"), MAX_SLICES))
        assert not pool.losses
    finally:
        pool.close()
