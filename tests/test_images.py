"""Decoding pictures: what is a grey CT slice, what is refused and why, and that every format ends in the same array."""

import hashlib
import io
import zlib

import numpy as np
import pytest
from fakes import dicom_bytes, encode, grey_slice
from PIL import Image

from strokect.dicom import apply_window
from strokect.errors import ImageError
from strokect.images import GREY_TOLERANCE, MAX_PIXELS
from strokect.slices import decode, load_slice


def refusal(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        load_slice(data, 32)
    return caught.value.code


def test_png_of_the_models_size_passes_unchanged() -> None:
    pixels = grey_slice(48)
    loaded = load_slice(encode(pixels), 48)
    assert loaded.pixels.shape == (1, 48, 48) and loaded.pixels.dtype == np.uint8
    assert np.array_equal(loaded.pixels[0], pixels)


def test_a_grey_jpeg_stored_as_rgb_is_grey() -> None:
    pixels = grey_slice(96)
    as_grey = load_slice(encode(pixels, "JPEG", quality=92), 64).pixels
    as_rgb = load_slice(encode(np.stack([pixels] * 3, -1), "JPEG", quality=92), 64).pixels
    assert np.abs(as_rgb.astype(int) - as_grey).max() <= 3


def test_a_wide_slice_is_padded_with_black_and_centred() -> None:
    loaded = load_slice(encode(np.full((40, 60), 200, np.uint8)), 60)
    assert (loaded.width, loaded.height) == (60, 40)
    assert (loaded.pixels[0, :10] == 0).all() and (loaded.pixels[0, 10:50] == 200).all() and (loaded.pixels[0, 50:] == 0).all()


def test_golden_array() -> None:
    """A change of this hash is a change of what every trained model sees: it must be on purpose, and models be trained anew."""
    pixels = load_slice(encode(grey_slice(100)[:, 10:90]), 64).pixels
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "323fff1d4e955919"


def test_dicom_and_its_exported_png_give_the_same_array() -> None:
    stored = np.random.default_rng(0).integers(900, 1200, (80, 80)).astype(np.int16)
    png = encode(apply_window(stored.astype(np.float32) - 1024, 40, 120))
    assert np.array_equal(load_slice(dicom_bytes(stored), 56).pixels, load_slice(png, 56).pixels)


def test_colour_is_refused() -> None:
    colour = np.stack([grey_slice(64)] * 3, -1)
    colour[20:30, 20:30] = (255, 0, 0)  # a contour that somebody drew
    assert refusal(encode(colour)) == "colour"


def test_decode_passes_colour_on_with_its_strength() -> None:
    """The service answers "reject" to a colour picture; only what is learnt from is refused here."""
    pixels = grey_slice(64)
    colour = np.stack([pixels] * 3, -1)
    assert decode(encode(pixels)).chroma == decode(encode(colour)).chroma == 0
    colour[20, 20] = (200, 60, 110)
    found = decode(encode(colour))
    assert found.chroma == 140
    assert found.grey[20, 20] == round(0.299 * 200 + 0.587 * 60 + 0.114 * 110)  # luma of ITU-R BT.601
    colour[20, 20] = pixels[20, 20]
    assert np.array_equal(decode(encode(colour)).grey, pixels)


@pytest.mark.parametrize("strength", [GREY_TOLERANCE, GREY_TOLERANCE + 1])
def test_a_trace_of_colour_is_tolerated(strength: int) -> None:
    rgb = np.full((64, 64, 3), 100, np.uint8)
    rgb[0, 0, 0] += strength
    if strength > GREY_TOLERANCE:
        assert refusal(encode(rgb)) == "colour"
    else:
        assert load_slice(encode(rgb), 32).pixels.shape == (1, 32, 32)


def test_decode_keeps_shape_and_resolution() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 700)).astype(np.uint8)
    assert np.array_equal(decode(encode(pixels)).grey, pixels)
    stored = np.full((40, 700), 1064, np.int16)  # 40 HU, the middle of the window
    found = decode(dicom_bytes(stored))
    assert (found.grey == 128).all() and found.grey.shape == (40, 700) and found.chroma == 0


@pytest.mark.parametrize(
    ("shape", "code"),
    [((32, 641), "extreme_aspect_ratio"), ((641, 32), "extreme_aspect_ratio"), ((31, 40), "too_small")],
)
def test_decode_refuses_absurd_shapes(shape: tuple[int, int], code: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(encode(np.zeros(shape, np.uint8)))
    assert caught.value.code == code


def test_sixteen_bits_are_refused() -> None:
    assert refusal(encode(grey_slice(64).astype(np.uint16) * 200)) == "sixteen_bit"


def test_sixteen_bits_in_three_channels_are_refused() -> None:
    """Pillow reads the high bytes of such a PNG: a 12-bit slice would become 16 dark grey levels."""
    side = 64
    row = b"\0" + b"".join(value.to_bytes(2, "big") * 3 for value in range(1000, 1000 + side))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * side)) + chunk(b"IEND", b"")
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    assert refusal(data) == "sixteen_bit"


def test_a_picture_of_many_strips_is_grey_and_coloured_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """One transparent or coloured pixel in the last strip counts, and strips are put together in order."""
    monkeypatch.setattr("strokect.images.STRIP_PX", 64 * 5)
    pixels = grey_slice(64)
    rgba = np.dstack([pixels] * 3 + [np.full((64, 64), 255, np.uint8)])
    assert np.array_equal(decode(encode(rgba)).grey, pixels)
    rgba[63, 63, 0] ^= 128
    assert decode(encode(rgba)).chroma == 128
    rgba[63, 63, 3] = 254
    assert refusal(encode(rgba)) == "transparent"


def test_transparency_is_refused_but_an_opaque_alpha_channel_is_not() -> None:
    rgba = np.dstack([grey_slice(64)] * 3 + [np.full((64, 64), 255, np.uint8)])
    load_slice(encode(rgba), 32)
    rgba[:10, :, 3] = 0
    assert refusal(encode(rgba)) == "transparent"


@pytest.mark.parametrize(("format", "kept"), [("PNG", 0.5), ("JPEG", 0.5), ("PNG", 0.05)])
def test_truncated_files_are_refused(format: str, kept: float) -> None:
    data = encode(grey_slice(128), format)
    assert refusal(data[: int(len(data) * kept)]) == "unreadable_image"


@pytest.mark.parametrize("pixels", [MAX_PIXELS, 100_000_000, 200_000_000])  # Pillow warns of the second and refuses the third
def test_a_bomb_is_refused_before_it_is_decoded(pixels: int) -> None:
    stream = io.BytesIO()
    Image.new("1", (8000, pixels // 8000 + 1)).save(stream, "PNG")
    assert len(stream.getvalue()) < 100_000
    assert refusal(stream.getvalue()) == "too_many_pixels"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_file"),
        (b"hello", "unknown_format"),
        (b"GIF89a" + bytes(100), "unknown_format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "unreadable_image"),
        (encode(np.zeros((16, 16), np.uint8)), "too_small"),
        (encode(np.zeros((40, 200), np.uint8)), "extreme_aspect_ratio"),
    ],
)
def test_other_refusals(data: bytes, code: str) -> None:
    assert refusal(data) == code
