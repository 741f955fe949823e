"""DICOM decoding on generated files: the order of operations, and everything that is refused before its pixels are touched."""

import math
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from fakes import dicom_bytes
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from strokect.dicom import apply_window, decode_dicom
from strokect.errors import ImageError
from strokect.slices import COLOUR, is_dicom

REAL = Path(os.environ.get("STROKECT_REALDATA", Path(__file__).parents[2] / "shared" / "data")) / "dicom"


def stored_from_hu(hu: float, dtype: str = "int16", slope: float = 1, intercept: float = -1024) -> np.ndarray:
    return np.full((40, 40), round((hu - intercept) / slope), dtype)


def tilted(degrees: float) -> list[float]:
    return [1, 0, 0, 0, round(math.cos(math.radians(degrees)), 6), round(-math.sin(math.radians(degrees)), 6)]


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_dicom(data)
    assert "Nobody" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(("hu", "grey"), [(-1000, 0), (-20, 0), (40, 128), (100, 255), (2000, 255), (10, 64)])
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_window(hu: float, grey: int, dtype: str, syntax: str | None) -> None:
    data = dicom_bytes(stored_from_hu(hu, dtype), **({"syntax": syntax} if syntax else {}))
    assert is_dicom(data)
    assert (decode_dicom(data) == grey).all()


def test_signed_values_below_zero_and_a_slope() -> None:
    stored = stored_from_hu(40, slope=0.5, intercept=100)
    assert stored[0, 0] < 0
    assert (decode_dicom(dicom_bytes(stored, RescaleSlope="0.500000", RescaleIntercept="100")) == 128).all()


def test_a_slice_of_many_strips_is_windowed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strokect.dicom.STRIP_PX", 40 * 7)
    stored = np.arange(40 * 40, dtype=np.int16).reshape(40, 40)
    expected = apply_window(stored.astype(np.float32) * np.float32(0.5) - 300, 40, 120)
    assert np.array_equal(decode_dicom(dicom_bytes(stored, RescaleSlope=0.5, RescaleIntercept=-300)), expected)


def test_monochrome1_is_inverted_after_the_window() -> None:
    assert (decode_dicom(dicom_bytes(stored_from_hu(10), PhotometricInterpretation="MONOCHROME1")) == 255 - 64).all()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", ImplicitVRLittleEndian])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_even_where_the_scale_would_make_it_bright(syntax: str, photometric: str) -> None:
    stored = stored_from_hu(40)
    stored[:5] = 3000
    grey = decode_dicom(dicom_bytes(stored, syntax=syntax, PixelPaddingValue=3000, PhotometricInterpretation=photometric))
    assert (grey[:5] == 0).all() and (abs(grey[5:].astype(int) - 127) <= 1).all()


def test_negative_padding_in_signed_pixels_and_a_padding_range() -> None:
    stored = stored_from_hu(40)
    stored[:5], stored[5:10] = -2000, -1990
    grey = decode_dicom(dicom_bytes(stored, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1985, RescaleSlope=-1))
    assert (grey[:10] == 0).all()


def test_padding_outside_the_stored_bits() -> None:
    """−2000 in 12-bit unsigned pixels fills the whole word; masked to 12 bits it would read as 1072 HU."""
    stored = stored_from_hu(40, "uint16")
    stored[:5] = 65536 - 2000
    grey = decode_dicom(dicom_bytes(stored, BitsStored=12, HighBit=11, PixelPaddingValue=65536 - 2000))
    assert (grey[:5] == 0).all() and (grey[5:] == 128).all()


def test_unused_bits_are_dropped_and_the_sign_extended() -> None:
    unsigned = stored_from_hu(40, "uint16") | 0xF000  # overlay bits of old scanners
    assert (decode_dicom(dicom_bytes(unsigned, BitsStored=12, HighBit=11)) == 128).all()
    assert (decode_dicom(dicom_bytes(unsigned, BitsStored=12, HighBit=None)) == 128).all()
    signed = np.full((40, 40), -60 & 0xFFF, np.int16)
    assert (decode_dicom(dicom_bytes(signed, BitsStored=12, HighBit=11, RescaleIntercept=100)) == 128).all()


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, "1.2.3.4.5"])
def test_other_transfer_syntaxes_are_refused_by_name(syntax: str) -> None:
    error = refusal(_with_syntax(syntax))
    assert error.code == "unsupported_transfer_syntax" and ("uncompressed" in str(error)) == (syntax != JPEGBaseline8Bit)
    assert ("JPEG Baseline (Process 1)" in str(error)) == (syntax == JPEGBaseline8Bit)
    assert "1.2.3.4.5" not in str(error)


def _with_syntax(syntax: str, body: bytes = b"") -> bytes:
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(value)) + value + body


def test_a_deflated_bomb_is_not_inflated() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join([*(deflate.compress(bytes(1 << 20)) for _ in range(200)), deflate.flush()])
    start = time.perf_counter()
    assert refusal(_with_syntax(DeflatedExplicitVRLittleEndian, packed)).code == "unsupported_transfer_syntax"
    assert time.perf_counter() - start < 0.2


def test_what_the_header_declares_is_checked_before_the_pixels() -> None:
    stored = stored_from_hu(40)
    assert refusal(dicom_bytes(stored, Rows=31623, Columns=31623)).code == "too_many_pixels"
    assert refusal(dicom_bytes(stored, NumberOfFrames=30_000)).code == "too_many_pixels"
    assert refusal(dicom_bytes(stored, NumberOfFrames=2)).code == "multi_frame"
    assert refusal(dicom_bytes(stored, Rows=8, Columns=8)).code == "too_small"
    assert refusal(dicom_bytes(stored, Rows=32, Columns=700)).code == "extreme_aspect_ratio"
    assert refusal(dicom_bytes(stored, Rows=None)).code == "too_small"


@pytest.mark.parametrize(
    ("elements", "code"),
    [
        ({"Modality": "MR"}, "wrong_modality"),
        ({"Modality": None}, "wrong_modality"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"SamplesPerPixel": 3}, "colour"),
        *(({"PhotometricInterpretation": colour}, "colour") for colour in ("PALETTE COLOR", "RGB", "YBR_FULL_422")),
        *(({"PhotometricInterpretation": odd}, "unsupported_pixel_format") for odd in (None, "", "MONOCHROME3", "MONOCHROME")),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "not_axial"),  # coronal
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "not_axial"),  # sagittal
        ({"ImageOrientationPatient": tilted(35)}, "not_axial"),
        ({"PixelData": None}, "missing_pixel_data"),
        ({"PixelData": b"\0" * 1000}, "truncated_pixel_data"),
        ({"PixelData": b"\0" * 99_000}, "truncated_pixel_data"),
        ({"RescaleIntercept": None}, "not_hounsfield"),
        ({"RescaleSlope": 0}, "not_hounsfield"),
        ({"RescaleType": "mg/ml"}, "not_hounsfield"),
        ({"BitsAllocated": 32}, "unsupported_pixel_format"),
        ({"BitsStored": 12, "HighBit": 20}, "unsupported_pixel_format"),
        ({"BitsAllocated": None}, "unreadable_dicom"),
    ],
)
def test_refusals(elements: dict[str, object], code: str) -> None:
    assert refusal(dicom_bytes(stored_from_hu(40), **elements)).code == code


def test_a_coloured_picture_is_one_for_the_audit_whatever_its_format() -> None:
    """`audit` counts what was drawn on by the reason that prepare writes down."""
    with pytest.raises(ImageError) as refused:
        decode_dicom(dicom_bytes(stored_from_hu(10), SamplesPerPixel=3))
    assert COLOUR in str(refused.value)


@pytest.mark.parametrize(
    "cosines",
    [
        *(tilted(0), tilted(30), tilted(-30), [-1, 0, 0, 0, -1, 0]),
        *([0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 2], [1, 0, 0], "", None),  # unusable: nothing is known about the slice
    ],
)
def test_a_tilted_gantry_and_an_unusable_orientation_are_read(cosines: object) -> None:
    assert (decode_dicom(dicom_bytes(stored_from_hu(40), ImageOrientationPatient=cosines)) == 128).all()


def test_an_orientation_of_letters_is_read_as_none() -> None:
    data = dicom_bytes(stored_from_hu(40), ImageOrientationPatient=tilted(30))
    at = data.index(b"\x20\x00\x37\x00DS") + 8
    assert (decode_dicom(data[:at] + b"x" + data[at + 1 :]) == 128).all()


def test_every_truncation_is_refused_cleanly() -> None:
    data = dicom_bytes(stored_from_hu(40))
    for length in [*range(132, len(data) - 3200, 7), len(data) - 1000, len(data) - 2]:
        refusal(data[:length])


def test_apply_window_is_monotonic_and_covers_the_scale() -> None:
    grey = apply_window(np.arange(-100, 200, dtype=np.float32), 40, 120)
    assert grey.min() == 0 and grey.max() == 255 and (np.diff(grey.astype(int)) >= 0).all()


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real DICOM files (STROKECT_REALDATA)")
def test_real_files() -> None:
    for path in sorted(REAL.glob("*.dcm")):
        grey = decode_dicom(path.read_bytes())
        assert grey.shape == (512, 512) and grey[0, 0] == 0
        assert 0.01 < (grey == 255).mean() < 0.2, path.name  # bone
        assert 0.02 < ((grey > 60) & (grey < 200)).mean() < 0.6, path.name  # brain
