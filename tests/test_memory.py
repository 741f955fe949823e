"""Memory of service and decoder together: for no upload of at most 10 MB more than 300 MB above what they have when idle."""

import io
import json
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from fakes import dicom_bytes, encode, fake_release, grey_slice
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from strokect.images import MAX_PIXELS

UPLOAD_BYTES, BOUND_MB = 10_000_000, 300
SIDE = int(MAX_PIXELS**0.5)

# Runs in a process of its own, whose heap has no room left over. Prints the peak in MB above idle, and what the answer was.
# The peak of decoding is that of both processes added up, which is more than they have at any one time.
PROBE = """
import json, sys
from pathlib import Path
from strokect.decoding import DecodePool
from strokect.errors import ImageError
from strokect.predictor import Predictor

def status(pid, key):
    return next(int(line.split()[1]) / 1024 for line in Path(f"/proc/{pid}/status").open() if line.startswith(key))

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
answer, judging = "", 0
try:
    found = pool.members([data], float("inf"), 400) if sys.argv[5] == "series" else pool.picture(data)
    decoding = sum(status(pid, "VmHWM") for pid in both)
    forget("self")
    if sys.argv[5] == "series":
        answer = predictor.predict_series(found).decision
    else:
        answer = predictor.predict(data, picture=found).decision
    judging = status("self", "VmHWM") + status(worker.process.pid, "VmRSS")
except ImageError as error:
    answer, decoding = error.code, sum(status(pid, "VmHWM") for pid in both)
print(json.dumps([round(decoding - idle), round(judging - idle), answer, dict(pool.losses)]))
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
    plain = dicom_bytes(np.zeros((32, 32), np.int16), DeflatedExplicitVRLittleEndian)
    start = plain.index(b"\x08\x00\x60\x00")  # where the data set begins
    return plain[:start] + zlib.compress(bytes(600_000_000), 9)[2:-4]


def eight_bit_dicom() -> bytes:
    return dicom_bytes(np.full((SIDE, SIDE), 120, np.uint8), BitsAllocated=8, BitsStored=8, HighBit=7, PixelPaddingValue=3)


UPLOADS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png_of_169_megapixels": (lambda: saved(Image.new("1", (13_000, 13_000))), "too_many_pixels"),
    "png_l": (lambda: saved(mid_grey(SIDE, SIDE)), "reject"),
    "png_l_as_long_as_can_be": (lambda: saved(mid_grey(690, 13_600)), "reject"),
    "png_1_bit": (lambda: saved(Image.new("1", (SIDE, SIDE), 1)), "reject"),
    "png_palette": (lambda: saved(palette()), "reject"),
    "png_rgba": (lambda: saved(mid_grey(SIDE, SIDE).convert("RGBA")), "reject"),
    "jpeg_progressive_rgb": (lambda: saved(grain("RGB"), "JPEG", progressive=True, quality=60, subsampling=0), "reject"),
    "jpeg_progressive_cmyk": (lambda: saved(grain("CMYK"), "JPEG", progressive=True, quality=60), "reject"),
    "dicom_16_bit": (lambda: dicom_bytes(np.full((2230, 2230), 1064, np.int16), PixelPaddingValue=3), "reject"),
    "dicom_8_bit": (eight_bit_dicom, "reject"),
    "dicom_that_declares_much": (lambda: dicom_bytes(grey_slice().astype(np.int16), Rows=65_535, Columns=65_535), "too_many_pixels"),
    "dicom_deflated": (deflated_dicom, "unsupported_transfer_syntax"),
    "zip_of_zeros": (lambda: zipped(*[bytes(16 * 2**20)] * 300), "too_large_series"),
    "zip_of_large_pictures": (lambda: zipped(*[saved(mid_grey(1024, 1024 - n)) for n in range(127)]), "reject"),
    "zip_of_too_many_pixels": (lambda: zipped(*[saved(mid_grey(1024, 1024 - n % 9)) for n in range(400)]), "too_large_series"),
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", UPLOADS)
def test_no_upload_takes_more_than_the_bound(name: str, release: Path, tmp_path: Path) -> None:
    make, expected = UPLOADS[name]
    upload, usual = tmp_path / "upload", tmp_path / "usual"
    upload.write_bytes(make())
    usual.write_bytes(encode(grey_slice(512)))
    assert upload.stat().st_size <= UPLOAD_BYTES
    kind = "series" if name.startswith("zip") else "picture"
    command = [sys.executable, "-c", PROBE, str(release), "200", str(upload), str(usual), kind]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    decoding, judging, answer, losses = json.loads(done.stdout)
    print(f"{name}: {upload.stat().st_size:,} bytes, decoding {decoding} MB, judging {judging} MB, {answer}, {losses}")
    assert (answer, losses) == (expected, {})
    assert max(decoding, judging) <= BOUND_MB
