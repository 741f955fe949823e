"""What a file says apart from the slice in it: size, encoding, a frame around the picture, text beside the head, drawn lines.

None of it belongs to the patient. Where it differs between the classes, a model can read the label off it.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import find_objects, label

from strokect.errors import ImageError
from strokect.files import sha256_bytes
from strokect.images import FORMATS, Picture
from strokect.morphology import DARK, Grey, Mask, dilate, find_head, shrink
from strokect.overlays import is_drawn_on
from strokect.pixel_checks import GUARDS, find_flags, measure

COLUMNS = ["file_kb", "encoding", "frame_px", "frame_level", "letters", "drawn", "unlike"]
# Codes of `pixel_checks` that tell another thing from a head CT. The others tell how a picture was cut out, framed or written on.
TELLING = {"no_skull_ring", "bone_share", "air_in_head", "window", "background"}
EVEN = 12, 0.9  # grey levels around its median that this share of a frame's pixels is within
MAX_FRAME = 0.06  # of the shorter side
LETTER = 0.008, 0.05  # least and largest height and width, as shares of the shorter side
LETTER_LEVEL = 40, 200  # grey levels: a mark is all that is brighter than the one about something brighter than the other
ASIDE_PX = 15  # of the small copy: skin and hair about the head come in bits, too


def gather_facts(files: Sequence[Path], pictures: Sequence[Callable[[], Picture]]) -> pd.DataFrame:
    """One row of COLUMNS for each file and the picture in it (both row-aligned with the manifest).

    file_kb: size of the file, NaN where rows have no file of their own. encoding: format and, of JPEG, a short hash of its
    quantisation tables. frame_px: width of an even frame that is not black, frame_level: grey level of the outermost pixels.
    letters: how many marks of a letter's size lie beside the head. drawn: whether something is drawn on the slice. unlike: the
    codes in TELLING, separated by commas, by which it is no head CT slice in the brain window, "" where it is one.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(_facts, files, pictures))
    return pd.DataFrame(rows, columns=COLUMNS)


def _facts(file: Path, picture: Callable[[], Picture]) -> tuple[float, str, int, float, int, bool, str]:
    size, encoding = _header(file)
    try:
        seen = picture()
    except ImageError:  # gone or changed since `prepare`, which could read it: that stage says so
        return size, encoding, 0, 0.0, 0, False, ""
    frame_px, frame_level = find_frame(seen.grey)
    measured = measure(seen)
    unlike = ",".join(flag for flag in find_flags(measured, GUARDS) if flag in TELLING)
    return size, encoding, frame_px, frame_level, count_letters(seen.grey), is_drawn_on(seen.grey, measured), unlike


def _header(file: Path) -> tuple[float, str]:
    if not file.is_file():
        return float("nan"), ""
    size = file.stat().st_size / 1000
    try:
        with Image.open(file, formats=FORMATS) as picture:
            tables = getattr(picture, "quantization", None)
            name = f"{picture.format} {picture.mode}"
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return size, _other_format(file)
    if not tables:
        return size, name
    text = str([list(tables[key]) for key in sorted(tables)])
    return size, f"{name}, quantisation {sha256_bytes(text.encode())[:8]}"


def _other_format(file: Path) -> str:
    """By content or by a known ending. Never the ending itself: what stands behind the last dot may be a name or a UID."""
    with file.open("rb") as stream:
        if stream.read(132)[128:] == b"DICM":
            return "DICOM"
    return "NIfTI" if file.name.lower().endswith((".nii", ".nii.gz")) else "other"


def find_frame(grey: Grey) -> tuple[int, float]:
    """(H, W) → width in pixels and grey level of the frame around a picture; (0, level of the outermost pixels) without one."""
    most = max(1, round(MAX_FRAME * min(grey.shape)))
    slack, share = EVEN
    outermost = 0.0
    for width in range(most):
        inner = grey[width : grey.shape[0] - width, width : grey.shape[1] - width]
        ring = np.concatenate([inner[0], inner[-1], inner[1:-1, 0], inner[1:-1, -1]]).astype(np.int16)
        level = float(np.median(ring))
        outermost = outermost if width else level
        if level <= DARK or abs(level - outermost) > slack or np.mean(np.abs(ring - level) <= slack) < share:
            return width, outermost
    return most, outermost


def count_letters(grey: Grey) -> int:
    """(H, W) → how many bright marks of a letter's size lie beside the head."""
    side = min(grey.shape)
    small = shrink(grey)
    head: Mask = dilate(find_head(small), ASIDE_PX)
    beside = ~np.asarray(Image.fromarray(head).resize(grey.shape[::-1], Image.Resampling.NEAREST))
    parts, found = label((grey > LETTER_LEVEL[0]) & beside, np.ones((3, 3)))  # a noisy headrest holds together at a low level
    bright = np.zeros(found + 1, np.bool_)
    bright[parts[(grey > LETTER_LEVEL[1]) & beside]] = True
    low, high = max(2, LETTER[0] * side), LETTER[1] * side
    extents = ((y.stop - y.start, x.stop - x.start) for y, x in find_objects(parts))
    return sum(low <= height <= high and width <= high for (height, width), lit in zip(extents, bright[1:], strict=True) if lit)
