"""Compressed DICOM: bit for bit what was stored, and nothing that a codestream claims is believed before it is checked."""

import io
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fakes import THREE, dicom_bytes, slice_hu
from jpeg_lossless import constant, encode, header
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import JPEGLSLosslessEncoder, RLELosslessEncoder

from strokect import dicom_pixels
from strokect.decoding import DecodePool
from strokect.dicom import decode_dicom, render_dicom
from strokect.dicom_pixels import RLE, Form, decompress
from strokect.errors import ImageError
from strokect.identity import read_identity
from strokect.series import arrange, read_series
from strokect.slices import load_slice

PROCESS_14, SV1, JPEG_LS, JPEG_2000 = (f"1.2.840.10008.1.2.4.{end}" for end in (57, 70, 80, 90))
REAL = Path(os.environ.get("STROKECT_REALDATA", Path(__file__).parents[2] / "shared" / "data")) / "dicom/series_jpeg_lossless"


def with_pydicom(encoder: object) -> Callable[[np.ndarray, int], bytes]:
    def make(words: np.ndarray, bits: int) -> bytes:
        return encoder.encode(  # type: ignore[attr-defined, no-any-return]
            words.tobytes(),
            rows=words.shape[0],
            columns=words.shape[1],
            samples_per_pixel=1,
            bits_allocated=16,
            bits_stored=bits,
            number_of_frames=1,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
        )

    return make


def jpeg_2000(words: np.ndarray, bits: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(words).save(stream, "JPEG2000", no_jp2=True, irreversible=False)
    return stream.getvalue()


ENCODERS: dict[str, Callable[[np.ndarray, int], bytes]] = {
    PROCESS_14: lambda words, bits: encode(words, bits, predictor=7),
    SV1: encode,
    JPEG_LS: with_pydicom(JPEGLSLosslessEncoder),
    JPEG_2000: jpeg_2000,
    RLE: with_pydicom(RLELosslessEncoder),
}


def compressed(stored: np.ndarray, syntax: str, frame: bytes | None = None, **elements: object) -> bytes:
    """A compressed slice as DICOM bytes; its codestream holds all 16 bits unless `frame` is another."""
    made = ENCODERS[syntax](stored.view(np.uint16), 16) if frame is None else frame
    return dicom_bytes(stored, syntax, PixelData=encapsulate([made]), **elements)


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_dicom(data)
    assert "Nobody" not in str(caught.value) and len(str(caught.value)) <= 400  # what a decoder may say
    return caught.value


def noise(dtype: str, low: int, high: int) -> np.ndarray:
    values = np.random.default_rng(0).integers(low, high, (40, 48)).astype(dtype)
    values[:4] = (np.arange(48) - 24 if low < 0 else np.arange(48)).astype(dtype)
    return values


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize(
    ("stored", "bits"),
    [
        (noise("int16", -32768, 32768), 16),
        (noise("uint16", 0, 65536), 16),
        (noise("uint16", 0, 4096), 12),
        (noise("int16", -1024, 3072), 16),
    ],
)
def test_every_lossless_compression_gives_back_the_stored_words(syntax: str, stored: np.ndarray, bits: int) -> None:
    words = stored.view(np.uint16)
    form = Form(40, 48, 16, stored.dtype.kind == "i")
    assert decompress(encapsulate([ENCODERS[syntax](words, bits)]), syntax, form) == words.tobytes()
    elements = {"PixelPaddingValue": int(stored[0, 0]), "BitsStored": bits, "HighBit": bits - 1}
    plain = render_dicom(dicom_bytes(stored, **elements), THREE)
    np.testing.assert_array_equal(render_dicom(compressed(stored, syntax, **elements), THREE), plain)


@pytest.mark.parametrize("syntax", [PROCESS_14, SV1])
def test_signed_values_of_twelve_bits(syntax: str) -> None:
    stored = noise("int16", -1024, 1024)
    frame = encode(stored.view(np.uint16) & 0xFFF, 12, 1 if syntax == SV1 else 2)
    data = compressed(stored, syntax, frame, BitsStored=12, HighBit=11, RescaleIntercept=0)
    np.testing.assert_array_equal(decode_dicom(data), decode_dicom(dicom_bytes(stored, RescaleIntercept=0)))


def test_padding_outside_the_stored_bits() -> None:
    stored = noise("uint16", 1000, 1200)
    stored[:5] = 65536 - 2000
    elements = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 65536 - 2000}
    grey = decode_dicom(compressed(stored, SV1, **elements))
    assert (grey[:5] == 0).all()
    np.testing.assert_array_equal(grey, decode_dicom(dicom_bytes(stored, **elements)))


def test_eight_bits_in_eight_and_in_sixteen() -> None:
    small = noise("uint16", 0, 256)
    np.testing.assert_array_equal(
        decode_dicom(compressed(small, SV1, encode(small, 8), RescaleIntercept=-100)),
        decode_dicom(dicom_bytes(small, RescaleIntercept=-100)),
    )
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleIntercept": -100}
    data = compressed(small, SV1, encode(small, 8), **eight)
    np.testing.assert_array_equal(decode_dicom(data), decode_dicom(dicom_bytes(small, RescaleIntercept=-100)))


@pytest.mark.parametrize("name", ["MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"])
def test_files_that_others_compressed(name: str) -> None:
    def read(file: str) -> pydicom.Dataset:
        return pydicom.dcmread(str(get_testdata_file(file, download=False)))

    made, plain = read(f"{name}.dcm"), read("MR_small.dcm")
    form = Form(plain.Rows, plain.Columns, 16, bool(plain.PixelRepresentation))
    assert decompress(made.PixelData, made.file_meta.TransferSyntaxUID, form) == plain.PixelData


def test_a_frame_in_many_fragments_with_an_offset_table() -> None:
    stored = noise("int16", -1024, 3072)
    frame = encode(stored.view(np.uint16), 16)
    value = encapsulate([frame], fragments_per_frame=7, has_bot=True)
    np.testing.assert_array_equal(
        decode_dicom(dicom_bytes(stored, SV1, PixelData=value)), decode_dicom(dicom_bytes(stored, PixelPaddingValue=None))
    )


def claimed(rows: int, columns: int, bits: int = 16, samples: int = 1, start: int = 0xFFC3) -> bytes:
    return header(rows, columns, bits, 1, start, samples) + bytes(2000) + b"\xff\xd9"


def size_of_2000(columns: int = 48, rows: int = 40, tile: int = 48, offset: int = 0, samples: int = 1, step: int = 1) -> bytes:
    sizes = struct.pack(">8IH", columns, rows, offset, 0, tile, tile, 0, 0, samples)
    return b"\xff\x4f\xff\x51" + struct.pack(">HH", 41, 0) + sizes + bytes([15, step, 1]) + bytes(4000)


LIES = {
    "four billion pixels": (SV1, claimed(65535, 65535)),
    "other rows": (SV1, claimed(41, 48)),
    "rows to follow": (SV1, claimed(0, 48)),
    "three samples": (SV1, claimed(40, 48, samples=3)),
    "one bit": (SV1, claimed(40, 48, bits=1)),
    "more bits than allocated": (SV1, claimed(40, 48, bits=24)),
    "lossy JPEG called lossless": (SV1, claimed(40, 48, start=0xFFC0)),
    "arithmetic JPEG called lossless": (PROCESS_14, claimed(40, 48, start=0xFFCB)),
    "JPEG called JPEG-LS": (JPEG_LS, claimed(40, 48)),
    "JPEG-LS of four billion pixels": (JPEG_LS, claimed(65535, 65535, start=0xFFF7)),
    "no frame before the scan": (SV1, b"\xff\xd8\xff\xda\x00\x08" + bytes(100)),
    "only markers": (SV1, b"\xff\xd8" + b"\xff\xfe\x00\x02" * 500),
    "a marker of no length": (SV1, b"\xff\xd8" + b"\xff\xfe\x00\x00" * 500),
    "padding and nothing else": (SV1, b"\xff\xd8" + b"\xff" * 1000),
    "no JPEG": (SV1, b"\x89PNG" * 100),
    "JPEG 2000 of 4 billion squared": (JPEG_2000, size_of_2000(2**32 - 1, 2**32 - 1)),
    "a million tiles": (JPEG_2000, size_of_2000(tile=1)),
    "tiles of no size": (JPEG_2000, size_of_2000(tile=0)),
    "a grid with an offset": (JPEG_2000, size_of_2000(offset=3)),
    "subsampled": (JPEG_2000, size_of_2000(step=2)),
    "JPEG 2000 of many samples": (JPEG_2000, size_of_2000(samples=9)),
    "boxes around JPEG 2000": (JPEG_2000, b"\x00\x00\x00\x0cjP  " + bytes(100)),
}


@pytest.mark.parametrize("name", LIES)
def test_what_a_codestream_claims_is_checked_before_it_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_pixels, "get_decoder", lambda uid: pytest.fail("a decoder was asked"))
    syntax, frame = LIES[name]
    start = time.perf_counter()
    assert refusal(compressed(noise("int16", -1024, 3072), syntax, frame)).code == "compressed_pixels"
    assert time.perf_counter() - start < 1


def test_what_the_header_declares_is_checked_before_the_codestream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strokect.dicom.decompress", lambda *args: pytest.fail("too late"))
    frame, stored = claimed(31623, 31623), noise("int16", 0, 9)
    assert refusal(compressed(stored, SV1, frame, Rows=31623, Columns=31623)).code == "too_many_pixels"
    assert refusal(compressed(stored, SV1, frame, NumberOfFrames=2)).code == "multi_frame"
    assert refusal(compressed(stored, SV1, frame, Modality="MR")).code == "wrong_modality"
    assert refusal(compressed(stored, SV1, frame, SamplesPerPixel=3)).code == "colour"
    assert refusal(compressed(stored, SV1, frame, BitsAllocated=32)).code == "unsupported_pixel_format"


def test_fragments_that_make_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_pixels, "get_decoder", lambda uid: pytest.fail("a decoder was asked"))
    stored = noise("int16", 0, 9)
    item = struct.Struct("<II")
    frame = encode(stored.view(np.uint16), 16)
    too_long = item.pack(0xE000FFFE, 0) + item.pack(0xE000FFFE, len(frame) + 2) + frame
    too_many = item.pack(0xE000FFFE, 0) * 10_000
    too_large = encapsulate([bytes(2 * stored.nbytes + 2**16 + 2)])
    only_a_table = item.pack(0xE000FFFE, 0)
    for value in (too_long, too_many, too_large, only_a_table):
        assert refusal(dicom_bytes(stored, SV1, PixelData=value)).code == "compressed_pixels"
    for value in (frame, item.pack(0xE0DDFFFE, 0), b"\x01", b""):
        with pytest.raises((ImageError, struct.error)):
            decompress(value, SV1, Form(40, 48, 16, True))
    plain = dicom_bytes(stored).replace(b"1.2.840.10008.1.2.1", RLE.encode())  # words where items belong
    assert refusal(plain).code == "compressed_pixels"


@pytest.mark.parametrize("syntax", ENCODERS)
def test_damaged_pixels_are_refused_or_decoded_and_never_quoted(
    syntax: str, capfd: pytest.CaptureFixture[str], pool: "DecodePool"
) -> None:
    stored = noise("int16", -1024, 3072)
    frame = ENCODERS[syntax](stored.view(np.uint16), 16)
    rng = np.random.default_rng(1)
    codes = set()
    for cut in range(1, len(frame), max(1, len(frame) // 15)):
        codes.add(outcome(pool, compressed(stored, syntax, frame[:cut])))
    for _ in range(40):
        broken = bytearray(frame)
        for at in rng.integers(2, len(frame), 4):
            broken[at] = int(rng.integers(256))
        codes.add(outcome(pool, compressed(stored, syntax, bytes(broken))))
    assert codes <= {"", "compressed_pixels", "unreadable_dicom", "unreadable_image", "decode_timeout"} and codes - {""}
    assert pool.picture(compressed(stored, syntax)).grey.shape == (40, 48)
    assert capfd.readouterr() == ("", "")


def outcome(pool: DecodePool, data: bytes) -> str:
    try:
        assert pool.picture(data).grey.shape == (40, 48)
    except ImageError as error:
        assert "Nobody" not in str(error)
        return error.code
    return ""


def test_the_largest_slice_fits_a_decoder(pool: DecodePool) -> None:
    side = 3072
    stored = np.zeros((side, side), np.uint16)
    data = compressed(stored, SV1, constant(side, side, 16), RescaleIntercept=-32768 + 40)
    picture = pool.picture(data, windows=THREE)
    assert picture.planes.shape == (3, side, side) and (picture.grey == 128).all()


def test_a_run_length_bomb_stays_within_the_frame(pool: DecodePool) -> None:
    """Two segments of runs, 128 bytes for two: more than the picture has."""
    runs = b"\x81\x00" * 60_000
    frame = struct.pack("<16I", 2, 64, 64 + len(runs), *[0] * 13) + runs * 2
    with pytest.raises(ImageError):
        pool.picture(compressed(noise("int16", 0, 9), RLE, frame))


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdcm", None)
    stored = noise("int16", -1024, 3072)
    for syntax in (PROCESS_14, SV1, JPEG_LS, JPEG_2000):
        error = refusal(compressed(stored, syntax, b"whatever"))
        assert error.code == "unsupported_transfer_syntax"
        assert "(extra dicom-compressed): `pip install python-gdcm`" in str(error) and "dcmdjpeg" in str(error)
    assert decode_dicom(compressed(stored, RLE)).shape == (40, 48)  # needs none
    extras = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert 'dicom-compressed = ["python-gdcm"]' in extras


@pytest.mark.parametrize("end", ["50", "51", "81", "91"])
def test_lossy_compression_is_refused(end: str) -> None:
    error = refusal(dicom_bytes(noise("int16", 0, 9), f"1.2.840.10008.1.2.4.{end}", PixelData=None))
    assert error.code == "unsupported_transfer_syntax" and "use the original" in str(error)


def test_an_answer_in_dicom_can_join_a_compressed_slice() -> None:
    data = compressed(noise("int16", 0, 9), SV1, SOPInstanceUID="1.2.3", PatientID="4711")
    assert read_identity(data)["PatientID"].strip() == b"4711"


def test_training_reads_compressed_files(pool: DecodePool) -> None:
    stored = (slice_hu(64) + 1024).astype(np.int16)
    expected = load_slice(dicom_bytes(stored), 48, THREE).pixels
    np.testing.assert_array_equal(load_slice(compressed(stored, SV1), 48, THREE).pixels, expected)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real DICOM files (STROKECT_REALDATA)")
def test_a_real_series_in_jpeg_lossless(pool: DecodePool, tmp_path: Path) -> None:
    files = [path.read_bytes() for path in sorted(REAL.glob("*.dcm"))]
    assert len(files) == 10
    found = arrange(read_series(files, 20))
    assert (len(found.order), found.by) == (10, "position")
    assert [member.number for member in found.order] != list(range(10))  # their names are in another order
    for data in files:
        header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=False)
        form = Form(header.Rows, header.Columns, 16, True)
        hu = np.frombuffer(decompress(header.PixelData, SV1, form), "<i2").reshape(512, 512) - 1024.0
        padded = hu == header.PixelPaddingValue - 1024
        assert padded[0, 0] and -1100 < hu[~padded].min() <= -950 and 1000 < hu.max() < 3072
        picture = pool.picture(data)
        assert (picture.grey[padded] == 0).all() and 0.01 < (picture.grey == 255).mean() < 0.2
        np.testing.assert_array_equal(picture.grey, decode_dicom(data))


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real DICOM files (STROKECT_REALDATA)")
@pytest.mark.skipif(shutil.which("dcmdjpeg") is None, reason="needs DCMTK's dcmdjpeg")
def test_a_real_series_is_what_dcmtk_makes_of_it(tmp_path: Path) -> None:
    for path in sorted(REAL.glob("*.dcm")):
        subprocess.run(["dcmdjpeg", str(path), str(tmp_path / "plain.dcm")], check=True, timeout=60)
        plain = (tmp_path / "plain.dcm").read_bytes()
        assert pydicom.dcmread(io.BytesIO(plain)).file_meta.TransferSyntaxUID.is_compressed is False
        np.testing.assert_array_equal(render_dicom(path.read_bytes(), THREE), render_dicom(plain, THREE))
