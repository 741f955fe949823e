"""PNG and JPEG bytes → a picture of grey levels; what cannot be one (16 bits, transparent, absurd size) is refused."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from strokect.errors import ImageError

# A head CT slice has 0.26 M, a 4K screen 8.3 M. Checked before anything is decoded. The bound on the service's memory depends on
# it: the pixel checks take 20 bytes for each.
MAX_PIXELS = 3072 * 3072
MAX_ASPECT = 20.0  # of what is decoded at all; what the models may see is in `slices` and `pixel_checks`
STRIP_PX = 2**20  # what needs several times the memory of a picture is done in strips of so many pixels
GREY_TOLERANCE = 16  # JPEG chroma rounding moves the channels of a grey picture apart by a few levels
FORMATS = ("PNG", "JPEG")
SIXTEEN_BIT = (
    "more than 8 bits per channel: the grey scale of such a picture is unknown; export it with the brain window "
    "(level 40, width 120) as 8-bit PNG, or use the DICOM file"
)
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


@dataclass(frozen=True)
class Picture:
    """A decoded file. `grey` is (H, W) uint8 at the file's own resolution, in the brain window 40/120.

    `chroma` is the largest difference between the colour channels of any pixel, 0..255, and 0 for files without colour; above
    GREY_TOLERANCE the picture is in colour, and `grey` its luma. `windows` (C, H, W) uint8 are those that the models see; None
    where they see `grey`. Pixel checks and people look at `grey` in any case.
    """

    grey: NDArray[np.uint8]
    chroma: int
    windows: NDArray[np.uint8] | None = None

    @property
    def planes(self) -> NDArray[np.uint8]:
        """(C, H, W) uint8: what the models see."""
        return self.grey[None] if self.windows is None else self.windows


def decode_picture(data: bytes) -> Picture:
    """PNG or JPEG bytes → Picture. Raises ImageError for 16-bit and transparent pictures and for absurd sizes."""
    if not data:
        raise ImageError("empty_file", "the file is empty")
    if not data.startswith(SIGNATURES):
        raise ImageError("unknown_format", "neither PNG nor JPEG nor DICOM")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            check_geometry(*picture.size)
            _check_bit_depth(data)
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
    except ImageError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):  # Pillow's own cap, which it checks first
        raise ImageError("too_many_pixels", f"far more than the {MAX_PIXELS:,} pixels that are accepted") from None
    except Exception:  # Pillow raises many types on hostile input; its text may echo file content, so it is dropped
        raise ImageError("unreadable_image", "not a readable PNG or JPEG picture (damaged or truncated)") from None
    return _to_grey(picture)


def check_geometry(width: int, height: int) -> None:
    """Raise ImageError for a size that nobody should decode; callers check before they do."""
    if width * height > MAX_PIXELS:
        raise ImageError("too_many_pixels", f"{width}×{height} pixels; at most {MAX_PIXELS:,} are accepted")
    if min(width, height) < 32:
        raise ImageError("too_small", f"{width}×{height} pixels; at least 32 on each side are needed")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError("extreme_aspect_ratio", f"{width}×{height} pixels; at most {MAX_ASPECT:g}:1 is decoded")


def _check_bit_depth(data: bytes) -> None:
    """Refuse a PNG of 16 bits per channel by its header: Pillow would keep the high byte of RGB and not say so."""
    if data.startswith(SIGNATURES[0]) and data[24] > 8:
        raise ImageError("sixteen_bit", SIXTEEN_BIT)


def _to_grey(picture: Image.Image) -> Picture:
    if picture.mode in ("L", "1"):
        return Picture(np.array(picture if picture.mode == "L" else picture.convert("L")), 0)
    if picture.mode.startswith("I") or picture.mode == "F":
        raise ImageError("sixteen_bit", SIXTEEN_BIT)
    width, height = picture.size
    grey, chroma = np.empty((height, width), np.uint8), 0
    rows = max(1, STRIP_PX // width)
    for top in range(0, height, rows):
        strip = _without_alpha(picture.crop((0, top, width, min(top + rows, height))))
        rgb = np.asarray(strip)
        chroma = max(chroma, int((rgb.max(axis=-1) - rgb.min(axis=-1)).max()))
        grey[top : top + rows] = np.asarray(strip.convert("L"))
    return Picture(grey, chroma)


def _without_alpha(picture: Image.Image) -> Image.Image:
    """A colour picture in RGB. Raises ImageError if any pixel is transparent."""
    if picture.mode in ("LA", "RGBA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        if np.asarray(picture)[..., 3].min() < 255:
            raise ImageError("transparent", "the picture has transparent pixels; export it without an alpha channel")
    return picture.convert("RGB")
