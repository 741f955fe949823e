"""Leaks planted into a tree of `<class>/<patient>_<slice>` pictures: altered copies, drawings, frames, names, a patient twice."""

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from strokect.morphology import find_head, shrink

BRAIN = 0.6  # of the head that is soft tissue, where readers outline lesions; less at the skull base and in the face
SMALL_PX = (128, 256, 384)  # sides of pictures in which lines are looked for in another way than in large ones
Grey = NDArray[np.uint8]
Rng = np.random.Generator


@dataclass(frozen=True)
class Item:
    """One picture of the tree: its path, patient and label (1: in the folder `stroke`)."""

    path: Path
    patient: str
    label: int


def reencode(grey: Grey, rng: Rng) -> Grey:
    """Through JPEG of quality 40 … 90."""
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=int(rng.integers(40, 91)))
    return np.asarray(Image.open(stream))


def mirror(grey: Grey, rng: Rng) -> Grey:
    """Left to right, or upside down."""
    return grey[:, ::-1] if rng.integers(2) else grey[::-1]


def rotate(grey: Grey, rng: Rng) -> Grey:
    """By 3° to either side."""
    return np.asarray(Image.fromarray(grey).rotate(3 * rng.choice((-1, 1)), Image.Resampling.BICUBIC))


def crop(grey: Grey, rng: Rng) -> Grey:
    """2 … 10 % off each side, each on its own."""
    height, width = grey.shape
    left, right, top, bottom = rng.uniform(0.02, 0.10, 4)
    return grey[round(top * height) : round((1 - bottom) * height), round(left * width) : round((1 - right) * width)]


def brighten(grey: Grey, rng: Rng) -> Grey:
    """Contrast × 0.8 … 1.2 and, but for air, up to 12 grey levels more or less."""
    changed = grey * rng.uniform(0.8, 1.2) + rng.uniform(-12, 12) * (grey > 8)
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def resize(grey: Grey, rng: Rng) -> Grey:
    """To 0.5 … 1.5 of the size."""
    scale = rng.uniform(0.5, 1.5)
    size = round(grey.shape[1] * scale), round(grey.shape[0] * scale)
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))


def all_at_once(grey: Grey, rng: Rng) -> Grey:
    """Mirrored, turned, cropped, brightened and re-encoded."""
    for change in (mirror, rotate, crop, brighten, reencode):
        grey = np.ascontiguousarray(change(grey, rng))
    return grey


ALTERED: dict[str, Callable[[Grey, Rng], Grey]] = {
    "re-encoded copy": reencode,
    "mirrored copy": mirror,
    "copy turned by 3°": rotate,
    "cropped copy": crop,
    "brightened copy": brighten,
    "resized copy": resize,
    "copy with all of these": all_at_once,
}


def contour(path: Path, rng: Rng, colour: bool, white_px: int = 0) -> Image.Image:
    """The picture with an ellipse drawn about a place in the brain: light grey to white, or in a colour.

    `white_px`: pure white instead, on a copy of the picture with so many pixels a side.
    """
    grey = read(path)
    if white_px:
        grey = np.asarray(Image.fromarray(grey).resize((white_px, white_px), Image.Resampling.BICUBIC))
    head = np.asarray(Image.fromarray(find_head(shrink(grey))).resize(grey.shape[::-1], Image.Resampling.NEAREST))
    rows, columns = np.nonzero(head & (grey > 80) & (grey < 190))
    y, x = np.median(rows) + rng.normal(0, 0.2 * np.std(rows)), np.median(columns) + rng.normal(0, 0.3 * np.std(columns))
    side = min(grey.shape)
    a, b = rng.uniform(0.05, 0.1, 2) * side
    picture = Image.fromarray(grey).convert("RGB")
    level = 255 if white_px else int(rng.integers(190, 256))
    ink = tuple(int(v) for v in rng.permutation([255, 40, 40])) if colour else (level, level, level)
    ImageDraw.Draw(picture).ellipse((x - a, y - b, x + a, y + b), outline=ink, width=max(1, round(0.004 * side)))
    return picture if colour else picture.convert("L")


def tissue_share(grey: Grey) -> float:
    """How much of the head is brain or other soft tissue, 0 … 1."""
    small = shrink(grey)
    head = find_head(small)
    return float(np.mean((small[head] > 90) & (small[head] < 190))) if head.any() else 0.0


def frame(path: Path, rng: Rng) -> Image.Image:
    """The picture with an even grey frame of 0.6 … 1.5 % of its side."""
    grey = np.array(read(path))
    width, level = max(2, round(rng.uniform(0.006, 0.015) * min(grey.shape))), int(rng.integers(60, 256))
    grey[:width], grey[-width:], grey[:, :width], grey[:, -width:] = level, level, level, level
    return Image.fromarray(grey)


def read(path: Path) -> Grey:
    """A grey picture file as (H, W) uint8."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L"))


def plant(items: Sequence[Item], root: Path, count: int, rng: Rng) -> dict[str, list[str]]:
    """Plant `count` leaks of each kind that concerns slices; returns kind → files planted (below `root`).

    Copies are filed under another patient in the class of their original; contours and frames replace what was there. Frames are
    put around positive slices only. Nothing is made of slices that are nearly black.
    """
    order = [items[i] for i in rng.permutation(len(items)) if read(items[i].path).mean() > 8]
    planted: dict[str, list[str]] = {}
    patients = sorted({item.patient for item in items})
    taken = iter(order)
    for kind in ("copy", *ALTERED):
        planted[kind] = []
        for number in range(count):
            item = next(taken)
            other = str(rng.choice([name for name in patients if name != item.patient]))
            target = item.path.with_name(f"{other}_{kind.replace(' ', '').replace('°', '')}{number:02}")
            planted[kind].append(_copy(item, target, ALTERED.get(kind), rng).relative_to(root).as_posix())
    planted["aug_ file"] = [
        _copy(item, item.path.with_name(f"{item.patient}_aug_{number:02}"), rotate, rng).relative_to(root).as_posix()
        for number, item in zip(range(count), taken, strict=False)
    ]
    for kind, colour, least in (
        ("grey contour", False, BRAIN),
        ("grey contour anywhere", False, 0.0),
        ("coloured contour", True, 0.0),
    ):
        fit = (item for item in taken if tissue_share(read(item.path)) >= least)
        planted[kind] = [
            _replace(item.path, contour(item.path, rng, colour), root) for _, item in zip(range(count), fit, strict=False)
        ]
    soft = (item for item in taken if tissue_share(read(item.path)) >= BRAIN)
    planted["white contour in a small picture"] = [
        _replace(item.path, contour(item.path, rng, False, int(rng.choice(SMALL_PX))), root)
        for _, item in zip(range(count), soft, strict=False)
    ]
    framed = [item for item in taken if item.label][:count]
    planted["frame around one class"] = [_replace(item.path, frame(item.path, rng), root) for item in framed]
    return planted


def plant_two_classes(items: Sequence[Item], root: Path, count: int, rng: Rng) -> list[str]:
    """Move one slice of `count` patients into the folder of the other class; returns where the slices are now."""
    moved = []
    for patient in rng.choice(sorted({item.patient for item in items}), count, replace=False):
        own = [item for item in items if item.patient == patient]
        item = own[int(rng.integers(len(own)))]
        target = root / ("normal" if item.label else "stroke") / item.path.name
        shutil.move(item.path, target)
        moved.append(target.relative_to(root).as_posix())
    return moved


def _copy(item: Item, target: Path, change: Callable[[Grey, Rng], Grey] | None, rng: Rng) -> Path:
    """Write a copy of `item` to `target` and its suffix: byte for byte, or altered and as lossless as that allows."""
    if change is None:
        return Path(shutil.copy(item.path, target.with_suffix(item.path.suffix)))
    path = target.with_suffix(".png")
    Image.fromarray(np.ascontiguousarray(change(read(item.path), rng))).save(path)
    return path


def _replace(path: Path, picture: Image.Image, root: Path) -> str:
    picture.save(path, **({"quality": 90} if path.suffix == ".jpg" else {}))
    return path.relative_to(root).as_posix()
