"""Pictures that are no brain-window head slice, made to measure what the out-of-distribution gate lets through.

For evaluation only: no threshold may be chosen on them, and the service does not carry this module. Phantoms, brain MRI and
chest CT are outliers too, but come from elsewhere.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from strokect.errors import DataError

Grey = NDArray[np.uint8]

COLOUR_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png", "retina.jpg")
GREY_PHOTOS = ("camera.png", "coins.png", "moon.png", "page.png", "text.png", "brick.png", "grass.png", "gravel.png", "cell.png")
SIDES_PX = (96, 256, 512, 650)  # of pictures that are not made from a slice
BLANK_LEVELS = (0, 12, 64, 128, 200, 255)
PEN_COLOURS = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (255, 0, 255))
FRAME_LEVELS = (48, 96, 160, 212, 255)
NOTES = ("12.4 mm", "Mean: 62.3 HU", "AREA 3.1 cm2", "L  4/32", "SD 5.7 Min 31 Max 88", "ID 0048213", "?haem")
BARS = ("PATIENT 0048213   CT HEAD 5.0 mm", "W 120  L 40   Im 14/32   120 kV", "File  View  Tools  Window  Help")


def evaluation_outliers(slices: Sequence[Grey], rng: np.random.Generator, n: int) -> dict[str, list[bytes]]:
    """{category: n picture files (PNG or JPEG)}; the same `slices` and state of `rng` give the same bytes.

    `slices` are (H, W) uint8 brain-window slices at native resolution; each category made from slices goes through them in a
    shuffled order, repeating when n is larger. Photographs are those in scikit-image's wheel; nothing is downloaded.
    """
    if not slices:
        raise DataError("outliers are made from slices: at least one is needed")
    made = {name: [make(rng) for _ in range(n)] for name, make in WITHOUT_SLICE.items()}
    for name, change in FROM_SLICE.items():
        order = rng.permutation(len(slices))
        made[name] = [change(slices[order[i % len(order)]], rng) for i in range(n)]
    return made


def phantom_pictures(rng: np.random.Generator, n: int, size: int = 256) -> list[bytes]:
    """n slices (size × size PNG) of synthetic heads of all levels: to a model of real slices a drawing, not a patient."""
    from strokect import phantom

    patients = -(-n // 6)
    cohort = phantom.make_cohort(patients=patients, slices=6, size=size, seed=int(rng.integers(2**31)))
    pictures = [_encode(Image.fromarray(phantom.window(piece.hu)), "PNG") for piece in cohort]
    return [pictures[i] for i in rng.permutation(len(pictures))[:n]]


def _colour_photo(rng: np.random.Generator) -> bytes:
    return _png_or_jpeg(_crop(_photo(rng, COLOUR_PHOTOS).convert("RGB"), rng), rng)


def _grey_photo(rng: np.random.Generator) -> bytes:
    return _png_or_jpeg(_crop(_photo(rng, COLOUR_PHOTOS + GREY_PHOTOS).convert("L"), rng), rng)


def _blank(rng: np.random.Generator) -> bytes:
    side = int(rng.choice(SIDES_PX))
    return _png_or_jpeg(Image.new("L", (side, side), int(rng.choice(BLANK_LEVELS))), rng)


def _noise(rng: np.random.Generator) -> bytes:
    """Uniform, gaussian, or salt and pepper on black or on mid-grey; every pixel on its own."""
    side, kind = int(rng.choice(SIDES_PX)), rng.integers(3)
    if kind == 0:
        pixels = rng.integers(0, 256, (side, side))
    elif kind == 1:
        pixels = np.clip(rng.normal(rng.uniform(60, 190), rng.uniform(20, 60), (side, side)), 0, 255)
    else:
        salted = rng.random((side, side)) < rng.uniform(0.05, 0.5)
        pixels = np.where(salted, 255 * rng.integers(0, 2, (side, side)), rng.choice((0, 128)))
    return _encode(Image.fromarray(pixels.astype(np.uint8)), "PNG")


def _inverted(grey: Grey, rng: np.random.Generator) -> bytes:
    return _png_or_jpeg(Image.fromarray(255 - grey), rng)


def _bone_window(grey: Grey, rng: np.random.Generator) -> bytes:
    """A bone window simulated from 8 bits: only −20 to 100 HU are left in a brain-window picture.

    Soft tissue keeps its HU and so loses nearly all of its contrast, as in a real bone window. What was white is given bone's HU
    anew: dense where the bone is thick, trabecular where a smooth noise field says so. What was black stays air: fat, which a
    real bone window shows as dark grey, is gone. Real DICOM slices windowed anew are the better check where there are any.
    """
    from scipy.ndimage import gaussian_filter

    pixel = grey.shape[0] / 650  # in units of the textures' pixels, which were judged on 650 × 650 slices
    bone = (grey >= 250).astype(np.float32)
    texture = gaussian_filter(rng.standard_normal(grey.shape, np.float32), 2.0 * pixel)
    thick = gaussian_filter(bone, 3.0 * pixel)
    hu = grey * (120.0 / 255.0) - 20.0
    hu = np.where(bone > 0, 150.0 + 1100.0 * thick + 300.0 * texture / max(float(texture.std()), 1e-6), hu)
    hu = np.where(grey <= 4, -1000.0, hu)  # a JPEG's black is not quite 0
    level, width = rng.uniform(400, 700), rng.uniform(2000, 3000)
    window = np.clip((hu - (level - width / 2)) * (255.0 / width), 0, 255)
    return _png_or_jpeg(Image.fromarray(np.rint(window).astype(np.uint8)), rng)


def _overlay(grey: Grey, rng: np.random.Generator) -> bytes:
    """A closed coloured contour, as somebody draws it around a finding."""
    picture = Image.fromarray(grey).convert("RGB")
    colour = PEN_COLOURS[rng.integers(len(PEN_COLOURS))]
    points = [(z.real, z.imag) for z in _contour(grey, rng)]
    ImageDraw.Draw(picture).line(points, fill=colour, width=max(1, min(picture.size) // 250))
    return _png_or_jpeg(picture, rng)


def _white_contour(grey: Grey, rng: np.random.Generator) -> bytes:
    return _png_or_jpeg(_inked(grey, [_contour(grey, rng)], rng), rng)


def _caliper_line(grey: Grey, rng: np.random.Generator) -> bytes:
    """A measuring line, 8 to 30 % of the picture long, with a tick at each end; some are dashed."""
    side, middle = min(grey.shape), complex(*_place_in_head(grey, rng))
    direction = np.exp(1j * rng.uniform(0, np.pi)) * side
    along, tick = direction * rng.uniform(0.04, 0.15), 1j * direction * rng.uniform(0.008, 0.02)
    dashes = np.linspace(-1, 1, 2 * int(rng.choice((1, 1, 9)))).reshape(-1, 2)
    ends = [np.array([middle + end - tick, middle + end + tick]) for end in (-along, along)]
    return _png_or_jpeg(_inked(grey, [*(middle + along * dashes), *ends], rng), rng)


def _contour(grey: Grey, rng: np.random.Generator) -> NDArray[np.complex128]:
    """(48,) points x + iy of a closed line: an ellipse, or one drawn by a free hand."""
    angles = np.linspace(0, 2 * np.pi, 48)
    width, height = rng.uniform(0.05, 0.12, 2) * min(grey.shape)
    wobble = np.repeat(rng.uniform(0.8, 1.2, 24), 2) if rng.random() < 0.5 else np.ones(48)
    wobble[-1] = wobble[0]
    return complex(*_place_in_head(grey, rng)) + wobble * (width * np.cos(angles) + 1j * height * np.sin(angles))


def _inked(grey: Grey, lines: Sequence[NDArray[np.complex128]], rng: np.random.Generator) -> Image.Image:
    """The slice with white or light grey lines, 1 to 4 pixels of 512 wide, their edges smoothed or not."""
    smooth = int(rng.choice((1, 4)))
    width = max(1, round(int(rng.integers(1, 5)) * min(grey.shape) / 512)) * smooth
    ink = Image.new("L", (grey.shape[1] * smooth, grey.shape[0] * smooth), 0)
    for line in lines:
        ImageDraw.Draw(ink).line([(z.real, z.imag) for z in line * smooth], fill=255, width=width)
    picture = Image.fromarray(grey)
    picture.paste(int(rng.choice((230, 255, 255))), mask=ink.resize(picture.size, Image.Resampling.BOX))
    return picture


def _burned_in_text(grey: Grey, rng: np.random.Generator) -> bytes:
    """One to three lines of white, grey or black text over the brain, 2.5 to 4.5 % of the picture high (13 to 23 px of 512)."""
    picture = Image.fromarray(grey)
    font = ImageFont.load_default(max(9, round(grey.shape[0] * rng.uniform(0.025, 0.045))))
    lines = rng.choice(NOTES, int(rng.integers(1, 4)), replace=False)
    x, y = _place_in_head(grey, rng)
    level = int(rng.choice((0, 180, 210, 255)))
    ImageDraw.Draw(picture).multiline_text((x, y), "\n".join(lines), fill=level, font=font, anchor="mm")
    return _png_or_jpeg(picture, rng)


def _cropped_half(grey: Grey, rng: np.random.Generator) -> bytes:
    """Left, right, top or bottom half: cut off, or painted black."""
    turns = int(rng.integers(4))
    turned = np.rot90(grey, turns)
    cut = round(turned.shape[1] * rng.uniform(0.45, 0.55))
    if rng.random() < 0.5:
        kept = turned[:, :cut]
    else:
        kept = turned.copy()
        kept[:, cut:] = 0
    return _png_or_jpeg(Image.fromarray(np.ascontiguousarray(np.rot90(kept, -turns))), rng)


def _extreme_jpeg(grey: Grey, rng: np.random.Generator) -> bytes:
    return _encode(Image.fromarray(grey), "JPEG", quality=int(rng.integers(1, 6)))


def _screenshot_with_borders(grey: Grey, rng: np.random.Generator) -> bytes:
    """The slice inside the window of a viewer: a grey or white frame and bars of text."""
    height, width = grey.shape
    level = int(rng.choice(FRAME_LEVELS))
    left, top, right, bottom = (round(height * share) for share in rng.uniform(0.06, 0.3, 4))
    window = Image.new("L", (width + left + right, height + top + bottom), level)
    window.paste(Image.fromarray(grey), (left, top))
    pen, font = ImageDraw.Draw(window), ImageFont.load_default(max(9, round(0.028 * height)))
    ink = 0 if level > 110 else 255
    for y, text in ((2, BARS[2]), (top // 2, BARS[0]), (top + height + bottom // 3, BARS[1])):
        pen.text((4, y), text, fill=ink, font=font)
    return _png_or_jpeg(window, rng)


def _place_in_head(grey: Grey, rng: np.random.Generator) -> tuple[float, float]:
    """A point (x, y) over the brain: of 20 random ones in the middle of the head, that with the most soft tissue around it.

    White ink on bone could not be seen. Slices below the skull have no brain; there it lands on what is nearest to one.
    """
    rows, columns = np.nonzero(grey > 24)
    if not len(rows):
        return grey.shape[1] / 2, grey.shape[0] / 2
    reach = max(4, grey.shape[0] // 20)
    places = [
        (int(x), int(y)) for x, y in zip(*(np.quantile(at, rng.uniform(0.25, 0.75, 20)) for at in (columns, rows)), strict=True)
    ]

    def soft(place: tuple[int, int]) -> float:
        x, y = place
        around = grey[max(0, y - reach) : y + reach, max(0, x - 2 * reach) : x + 2 * reach]  # text is wider than high
        return float(((around > 60) & (around < 200)).mean())

    return max(places, key=soft)


def _photo(rng: np.random.Generator, names: tuple[str, ...]) -> Image.Image:
    import skimage

    return Image.open(Path(skimage.__file__).parent / "data" / names[rng.integers(len(names))])


def _crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random part, at least 60 % of the shorter side, at most 1.4 : 1."""
    side = min(picture.size) * rng.uniform(0.6, 1.0)
    width, height = (
        min(round(side * stretch), whole) for stretch, whole in zip(rng.uniform(1, 1.4, 2), picture.size, strict=True)
    )
    left, top = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _png_or_jpeg(picture: Image.Image, rng: np.random.Generator) -> bytes:
    return _encode(picture, "PNG") if rng.random() < 0.5 else _encode(picture, "JPEG", quality=int(rng.integers(80, 96)))


def _encode(picture: Image.Image, format: str, quality: int = 90) -> bytes:
    stream = io.BytesIO()
    if format == "PNG":
        picture.save(stream, "PNG", compress_level=1)
    else:
        picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


WITHOUT_SLICE: dict[str, Callable[[np.random.Generator], bytes]] = {
    "colour_photo": _colour_photo,
    "grey_photo": _grey_photo,
    "blank": _blank,
    "noise": _noise,
}
FROM_SLICE: dict[str, Callable[[Grey, np.random.Generator], bytes]] = {
    "inverted": _inverted,
    "bone_window": _bone_window,
    "overlay": _overlay,
    "burned_in_text": _burned_in_text,
    "white_contour": _white_contour,
    "caliper_line": _caliper_line,
    "cropped_half": _cropped_half,
    "extreme_jpeg": _extreme_jpeg,
    "screenshot_with_borders": _screenshot_with_borders,
}
