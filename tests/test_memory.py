"""Memory of service and decoder together: for no upload of at most 10 MB more than 300 MB above what they have when idle."""

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from fakes import REFERENCE, bombs, dicom_bytes, encode, fake_release, grey_slice
from jpeg_lossless import constant
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from strokect.images import MAX_PIXELS

UPLOAD_BYTES, BOUND_MB, MEMORY_MB = 10_000_000, 300, 256
JUDGED = "stroke", "normal", "refer", "reject"
SIDE = int(MAX_PIXELS**0.5)
SMALL = np.zeros((64, 64), np.int16)

# Runs in a process of its own, whose heap has no room left over. Prints the peak in MB above idle, and what the answer was.
# The peak of decoding is that of both processes added up, which is more than they have at any one time.
PROBE = """
import json, sys
from pathlib import Path
import highdicom
from strokect.decoding import DecodePool
from strokect.errors import ImageError
from strokect.explanation import check_format, explain
from strokect.http import Exchange
from strokect.predictor import Predictor

def status(pid, key):
    path = Path(f"/proc/{pid}/status")  # the worker may have been killed
    return next(int(line.split()[1]) / 1024 for line in path.open() if line.startswith(key)) if path.exists() else 0

def forget(pid):
    Path(f"/proc/{pid}/clear_refs").write_text("5")

pool, predictor = DecodePool(1, 30, int(sys.argv[2])), Predictor(sys.argv[1])
usual = Path(sys.argv[4]).read_bytes()
predictor.predict(usual, picture=pool.picture(usual))
(worker,) = pool._workers
both = ("self", worker.process.pid)
idle = sum(status(pid, "VmRSS") for pid in both)
for pid in both:
    forget(pid)
data = Path(sys.argv[3]).read_bytes()
judging, kind = idle, sys.argv[5]
try:
    if kind not in ("series", "picture"):
        wanted = check_format(Exchange("/explain", query={"format": kind}, uploads=(data,)), pool.identity)
    found = pool.members([data], float("inf"), 400) if kind == "series" else pool.picture(data)
    decoding = sum(status(pid, "VmHWM") for pid in both)
    forget("self")
    if kind == "series":
        answer = predictor.predict_series(found).decision
    elif kind != "picture":
        prediction, activation = predictor.explain(data, found, float("inf"))
        answer = prediction.decision
        explain(wanted, found, prediction.model_copy(update={"decision": "normal"}), activation, "none", float("inf"))
    else:
        answer = predictor.predict(data, picture=found).decision
    judging = status("self", "VmHWM") + status(worker.process.pid, "VmRSS")
except ImageError as error:
    answer, decoding = error.code, sum(status(pid, "VmHWM") for pid in both)
print(json.dumps([round(decoding - idle), round(judging - idle), answer]))
pool.close()
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_release(tmp_path_factory.mktemp("release"))


def saved(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def zipped(*members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, member in enumerate(members):
            archive.writestr(str(number), member)
    return stream.getvalue()


def mid_grey(height: int, width: int) -> Image.Image:
    """What the pixel checks need most for: it is brain all over."""
    return Image.new("L", (width, height), 120)


def palette() -> Image.Image:
    picture = mid_grey(SIDE, SIDE).convert("P")
    picture.info["transparency"] = bytes([255] * 256)
    return picture


def grain(mode: str) -> Image.Image:
    """Smooth noise in all channels, so that a JPEG has coefficients to store."""
    small = np.random.default_rng(0).integers(60, 180, (SIDE // 16, SIDE // 16, len(mode)), np.uint8)
    return Image.fromarray(small, mode).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def deflated_dicom() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join([*(packer.compress(bytes(2**20)) for _ in range(600)), packer.flush()])
    syntax = DeflatedExplicitVRLittleEndian.encode()
    return bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax + packed


def eight_bit_dicom(**elements: str) -> bytes:
    bits = {"RescaleIntercept": -80, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelPaddingValue": 3}
    return dicom_bytes(np.full((SIDE, SIDE), 120, np.uint8), **bits, **elements)


def jpeg_lossless_dicom(side: int) -> bytes:
    """SIDE² pixels are declared, and `side` in the codestream."""
    words = np.broadcast_to(np.uint16(0), (SIDE, SIDE))
    frame = constant(side, side, 16) if side == SIDE else constant(side, side, 16)[:100_000]
    return dicom_bytes(words, JPEGLosslessSV1, RescaleIntercept=-32768 + 40, PixelData=encapsulate([frame]))


def rle_dicom() -> bytes:
    """Runs of the longest kind: 64 bytes of pixels for one of the file."""
    runs = [bytes([257 - 128, value]) * (SIDE * SIDE // 128) for value in (4, 40)]  # high bytes, low bytes
    frame = struct.pack("<16I", 2, 64, 64 + len(runs[0]), *[0] * 13) + b"".join(runs)
    return dicom_bytes(np.broadcast_to(np.uint16(0), (SIDE, SIDE)), RLELossless, PixelData=encapsulate([frame]))


UPLOADS: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "png_of_169_megapixels": (lambda: saved(Image.new("1", (13_000, 13_000))), ("too_many_pixels",)),
    "png_l": (lambda: saved(mid_grey(SIDE, SIDE)), JUDGED),
    "png_l_as_long_as_can_be": (lambda: saved(mid_grey(690, 13_600)), JUDGED),
    "png_1_bit": (lambda: saved(Image.new("1", (SIDE, SIDE), 1)), JUDGED),
    "png_palette": (lambda: saved(palette()), JUDGED),
    "png_rgba": (lambda: saved(mid_grey(SIDE, SIDE).convert("RGBA")), JUDGED),
    "jpeg_progressive_rgb": (lambda: saved(grain("RGB"), "JPEG", progressive=True, quality=60, subsampling=0), JUDGED),
    "jpeg_progressive_cmyk": (lambda: saved(grain("CMYK"), "JPEG", progressive=True, quality=60), JUDGED),
    "dicom_16_bit": (lambda: dicom_bytes(np.full((2230, 2230), 1064, np.int16), PixelPaddingValue=3), JUDGED),
    "dicom_8_bit": (eight_bit_dicom, JUDGED),
    "dicom_of_4_gigapixels": (lambda: dicom_bytes(SMALL, Rows=65_535, Columns=65_535), ("too_many_pixels",)),
    "dicom_jpeg_lossless": (lambda: jpeg_lossless_dicom(SIDE), JUDGED),
    "dicom_jpeg_lossless_of_4_gigapixels": (lambda: jpeg_lossless_dicom(65_535), ("compressed_pixels",)),
    "dicom_rle": (rle_dicom, JUDGED),
    "dicom_deflated": (deflated_dicom, ("unsupported_transfer_syntax",)),
    "zip_of_zeros": (lambda: zipped(*[bytes(16 * 2**20)] * 20), ("too_large_series",)),
    "zip_of_large_pictures": (lambda: zipped(*[saved(mid_grey(1024, 1024 - n)) for n in range(127)]), JUDGED),
    "zip_of_too_many_pixels": (lambda: zipped(*[saved(mid_grey(1024, 1024 - n % 9)) for n in range(400)]), ("too_large_series",)),
}
# What is explained as well, and in which form.
EXPLAINED = {
    "explained_png": "png",
    "explained_rgb_jpeg": "json",
    "explained_dicom": "dicom",
    "explained_dicom_8_bit": "dicom",
    "reported_dicom": "dicom-sr",
    **{f"reported_{name}": "dicom-sr" for name in bombs()},
    "explained_sequence": "dicom",
}
REFUSED = ("not_identified", "unreadable_dicom", "unreadable_image", "decode_timeout")
UPLOADS |= {
    "explained_png": (lambda: saved(mid_grey(SIDE, SIDE)), JUDGED),
    "explained_rgb_jpeg": (lambda: saved(grain("RGB"), "JPEG", quality=60), JUDGED),
    "explained_dicom": (lambda: dicom_bytes(np.full((2230, 2230), 1064, np.int16), **REFERENCE), JUDGED),
    "explained_dicom_8_bit": (lambda: eight_bit_dicom(**REFERENCE), JUDGED),
    "reported_dicom": (lambda: dicom_bytes(np.full((2230, 2230), 1064, np.int16), **REFERENCE), JUDGED),
    **{f"reported_{name}": (partial(bombs().__getitem__, name), REFUSED) for name in bombs()},
    "explained_sequence": (lambda: bombs()["sequence"], REFUSED),
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", UPLOADS)
def test_no_upload_takes_more_than_the_bound(
    name: str, release: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    make, expected = UPLOADS[name]
    upload, usual = tmp_path / "upload", tmp_path / "usual"
    upload.write_bytes(make())
    usual.write_bytes(encode(grey_slice(512)))
    assert upload.stat().st_size <= UPLOAD_BYTES
    kind = "series" if name.startswith("zip") else "picture"
    command = [sys.executable, "-c", PROBE, str(release), str(MEMORY_MB), str(upload), str(usual), EXPLAINED.get(name, kind)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    decoding, judging, answer = json.loads(done.stdout)
    record_property("bytes and MB", (upload.stat().st_size, decoding, judging))
    assert answer in expected
    assert max(decoding, judging) <= BOUND_MB
