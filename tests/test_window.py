"""Slices as grey pictures in the window that a person asks for: grey levels worked out by hand."""

import io
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from fakes import dicom_bytes, encode, grey_slice
from PIL import Image

from strokect.dicom import decode_dicom
from strokect.errors import ImageError
from strokect.window import view_png

STORED = np.repeat(np.array([24, 924, 1024, 1064, 1324, 2524], np.int16), 12)[None].repeat(
    40, 0
)  # −1000, −100, 0, 40, 300, 1500 HU


def view(data: bytes, level: float, width: float) -> np.ndarray:
    picture = Image.open(io.BytesIO(view_png(data, level, width)))
    assert (picture.format, picture.mode, picture.info) == ("PNG", "L", {})
    return np.array(picture)


def levels(data: bytes, level: float, width: float) -> list[int]:
    """Grey levels of the six steps of STORED."""
    return [int(value) for value in view(data, level, width)[5, 6::12]]


@pytest.mark.parametrize(
    ("level", "width", "expected"),
    [
        (40, 120, [0, 0, 42, 128, 255, 255]),  # brain: (0 + 20) · 255 / 120 = 42.5, rounded to even
        (60, 280, [0, 0, 73, 109, 255, 255]),  # subdural: 80 · 255 / 280 = 72.86, 120 · 255 / 280 = 109.3
        (500, 2000, [0, 51, 64, 69, 102, 255]),  # bone: (−100 + 500) · 255 / 2000 = 51 … 800 · 255 / 2000 = 102
        (-600, 1500, [60, 212, 230, 236, 255, 255]),  # lung: 350 · 0.17 = 59.5 to even, 1250 · 0.17 = 212.5 to even
        (40, 1, [0, 0, 0, 128, 255, 255]),
    ],
)
def test_each_window_by_hand(level: float, width: float, expected: list[int]) -> None:
    assert levels(dicom_bytes(STORED), level, width) == expected


def test_the_brain_window_is_what_the_models_see() -> None:
    data = dicom_bytes(np.random.default_rng(0).integers(900, 1200, (64, 80), np.int16))
    assert (view(data, 40, 120) == decode_dicom(data)).all()


def test_monochrome1_is_inverted_after_the_window_and_padding_stays_black() -> None:
    stored = STORED.copy()
    stored[:4] = 1064
    stored[20:] = -2000
    data = dicom_bytes(stored, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=-2000)
    assert levels(data, 500, 2000) == [255 - value for value in (0, 51, 64, 69, 102, 255)]
    assert (view(data, 500, 2000)[:4] == 255 - 69).all() and (view(data, 500, 2000)[20:] == 0).all()


def test_padding_is_found_in_stored_values_before_they_are_rescaled() -> None:
    stored = STORED.copy()
    stored[20:] = 1064  # would be 40 HU
    assert (view(dicom_bytes(stored, PixelPaddingValue=1064), 40, 120)[20:] == 0).all()


def test_the_file_s_own_windows_do_not_matter() -> None:
    data = dicom_bytes(STORED, WindowCenter=[40, 600], WindowWidth=[80, 2800], WindowCenterWidthExplanation=["BRAIN", "BONE"])
    assert levels(data, 500, 2000) == levels(dicom_bytes(STORED), 500, 2000)


@pytest.mark.parametrize(
    "elements", [{"RescaleSlope": [1, 2]}, {"RescaleIntercept": [-1024, 0]}, {"PixelPaddingValue": [-2000, -1000]}]
)
def test_several_values_where_one_belongs_are_refused(elements: dict[str, list[int]]) -> None:
    with pytest.raises(ImageError):
        view_png(dicom_bytes(STORED, **elements), 40, 120)


@pytest.mark.parametrize(
    ("level", "width"),
    [(-1101, 100), (3101, 100), (40, 0), (40, 0.5), (40, -120), (40, 4201), (np.nan, 120), (40, np.nan), (np.inf, 120)],
)
def test_windows_that_show_nothing_are_refused(level: float, width: float) -> None:
    with pytest.raises(ImageError) as caught:
        view_png(dicom_bytes(STORED), level, width)
    assert caught.value.code == "bad_window" and "HU" in str(caught.value)


@pytest.mark.parametrize(("level", "width"), [(-1100, 1), (3100, 4200)])
def test_the_widest_bounds_are_accepted(level: float, width: float) -> None:
    assert view(dicom_bytes(STORED), level, width).shape == STORED.shape


def test_pictures_keep_their_grey_levels_and_lose_what_else_they_carry() -> None:
    grey = grey_slice()
    exif = Image.Exif()
    exif[0x010E] = "Erika Mustermann"
    jpeg = encode(grey, "JPEG", exif=exif)
    assert b"Mustermann" in jpeg and b"Mustermann" not in view_png(jpeg, 40, 120)
    assert (view(encode(grey), 9999, 0) == grey).all()  # the window is baked in, so none is applied


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ImageError):
        view_png(b"garbage", 40, 120)


def test_pydicom_does_not_quote_the_file() -> None:
    """A name where the character set belongs: pydicom would warn about it and log it, word for word."""
    data = dicom_bytes(STORED)
    place = data.index(b"\x08\x00\x60\x00CS")
    planted = data[:place] + b"\x08\x00\x05\x00CS\x10\x00Mustermann^Erika" + data[place:]
    code = (
        "import logging, sys; logging.basicConfig(level=0); from strokect.window import view_png; "
        "print(len(view_png(sys.stdin.buffer.read(), 40, 120)))"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], cwd=ROOT, input=planted, capture_output=True, check=True)
    assert int(done.stdout) > 0 and b"Mustermann" not in done.stderr
