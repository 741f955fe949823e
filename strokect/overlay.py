"""The picture that explains: a slice with its class activation map over it, a scale, and what it is not.

Only what speaks for the target is drawn, max(map, 0): for this head that is Grad-CAM exactly (see `engine.activation_map`). All
text stands in a margin, never on the slice. Pillow and numpy only; same arguments, same bytes.
"""

import io
import unicodedata

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from strokect.errors import NoResultError
from strokect.head_crop import Square

# Viridis (van der Walt & Smith 2015, CC0) at 0, 1/8 … 1, linear between: within 18 of 255 levels of the original, and few enough
# for the page to carry the same ones. Ordered by lightness, so it reads in every colour vision and in grey. Cividis, its rival,
# is grey in the middle and would be lost on a grey slice.
ANCHORS = ("440154", "472d7b", "3b528b", "2c728e", "21918c", "27ad81", "5cc863", "aadc32", "fde725")
OPACITY = 0.7  # of the strongest place; weaker ones are more transparent in proportion, so that the slice stays visible
LONGER_SIDE = (768, 1536)  # pixels of the drawn slice
TEXT_WIDTH, MARGIN, BAR = 640, 20, (420, 22)  # pixels; text is not squeezed beside a slice that is narrower
TITLE_SIZE, TEXT_SIZE = 26, 19
BACKGROUND, TEXT, BRAIN = (30, 33, 40), (232, 234, 237), 110  # BRAIN: grey level of white matter, what the map mostly lies on
HEADING = "What speaks for: "  # the target alone would read like a finding
LABEL = "attention, logit contribution per cell"
DISCLAIMER = "Research software, not a medical device"
# Pillow's font has ASCII only. Of other letters the accent is dropped, and what then is left over becomes a question mark.
ASCII = str.maketrans({"×": "x", "–": "-", "—": "-", "−": "-", "≥": ">=", "≤": "<=", "ß": "ss", "æ": "ae", "ø": "o", "ı": "i"})


def colour_table() -> NDArray[np.uint8]:
    """(256, 3) uint8 RGB: the colour of 0 … 1 in 256 steps, linear between ANCHORS."""
    anchors = np.array([tuple(bytes.fromhex(anchor)) for anchor in ANCHORS], np.float64)
    places = np.linspace(0, len(ANCHORS) - 1, 256)
    channels = [np.interp(places, np.arange(len(ANCHORS)), channel) for channel in anchors.T]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def draw_overlay(grey: NDArray[np.uint8], activation: NDArray[np.float32], square: Square, *, title: str) -> bytes:
    """Slice (H, W) uint8 and class activation map (h, w) of the `square` that was seen → PNG. `title` is the target in words.

    The PNG carries no metadata. Raises NoResultError when the map is not finite: that must not look like an explanation.
    """
    if not np.isfinite(activation).all():
        raise NoResultError("the class activation map is not finite")
    height, width = grey.shape
    scale = np.clip(max(height, width), *LONGER_SIDE) / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    strongest = float(np.maximum(activation, 0).max())
    strength = spread(activation, height, width, square, size) / (strongest or 1.0)
    slice_ = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    rows, columns = activation.shape
    notes = [f"class activation map, {columns} x {rows} cells: not a localisation", DISCLAIMER]
    return _compose(Image.fromarray(blend(slice_, strength)), strongest, HEADING + title, notes)


def spread(
    activation: NDArray[np.float32], height: int, width: int, square: Square, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Map (h, w) → what of it lies on an H × W slice and speaks for the target: float32 of `size` (columns, rows).

    The map covers the `square` that the models saw of the slice: what of that lies beyond the slice is cut off, and what of the
    slice lies beyond it is 0. Bilinear between the centres of the cells.
    """
    rows, columns = activation.shape
    positive = Image.fromarray(np.ascontiguousarray(np.maximum(activation, 0), np.float32))
    made = np.zeros(size[::-1], np.float32)
    left, right, first_column, last_column = _overlap(square.left, square.side, width, columns, size[0])
    top, bottom, first_row, last_row = _overlap(square.top, square.side, height, rows, size[1])
    drawn = last_column - first_column, last_row - first_row
    if min(drawn) > 0:
        part = positive.resize(drawn, Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        made[first_row:last_row, first_column:last_column] = np.asarray(part)
    return made


def _overlap(start: int, side: int, length: int, cells: int, drawn: int) -> tuple[float, float, int, int]:
    """`cells` cover `side` pixels from `start` on, the slice covers 0 … `length`. What both cover: from and to in cells, and in
    pixels where the slice is drawn with `drawn` of them.
    """
    first, last = max(start, 0), min(start + side, length)
    scale = drawn / length
    return (first - start) / side * cells, (last - start) / side * cells, round(first * scale), round(last * scale)


def blend(grey: NDArray[np.uint8], strength: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey levels (…) and strengths 0 … 1 of the same shape → (…, 3) uint8; unchanged grey where the strength is 0."""
    strength = np.clip(strength, 0, 1)[..., None]
    colour = colour_table()[np.rint(strength[..., 0] * 255).astype(np.uint8)]
    opacity = np.float32(OPACITY) * strength
    return np.rint(grey[..., None] * (1 - opacity) + colour * opacity).astype(np.uint8)


def _compose(picture: Image.Image, strongest: float, title: str, notes: list[str]) -> bytes:
    """Title, picture, scale and notes under one another on a canvas that is at least as wide as text needs."""
    title_font, font = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(TEXT_SIZE)
    inner = max(picture.width, TEXT_WIDTH)
    titles = _wrap(title, title_font, inner)
    lines = [line for note in notes for line in _wrap(note, font, inner)]
    title_step, step = round(1.35 * TITLE_SIZE), round(1.4 * TEXT_SIZE)
    top = MARGIN + title_step * len(titles) + MARGIN // 2
    scale = top + picture.height + MARGIN
    below = scale + _scale(strongest, font, step).height + MARGIN // 2
    canvas = Image.new("RGB", (inner + 2 * MARGIN, below + step * len(lines) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(titles):
        draw.text((MARGIN, MARGIN + number * title_step), line, TEXT, title_font)
    canvas.paste(picture, ((canvas.width - picture.width) // 2, top))
    canvas.paste(_scale(strongest, font, step), (MARGIN, scale))
    for number, line in enumerate(lines):
        draw.text((MARGIN, below + number * step), line, TEXT, font)
    stream = io.BytesIO()
    canvas.save(stream, "PNG")
    return stream.getvalue()


def _scale(strongest: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, step: int) -> Image.Image:
    """The scale bar with its numbers. Drawn on the grey of brain: its colours are those that are seen there."""
    width, height = BAR
    box = Image.new("RGB", (TEXT_WIDTH, 2 * step + height + 6), BACKGROUND)
    draw = ImageDraw.Draw(box)
    draw.text((0, 0), LABEL, TEXT, font)
    if strongest == 0:
        draw.text((0, step), "no cell speaks for it", TEXT, font)
        return box
    ramp = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width))
    box.paste(Image.fromarray(blend(np.full((height, width), BRAIN, np.uint8), ramp)), (0, step))
    for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        draw.text((round(share * width), step + height + 6), f"{share * strongest:.3g}", TEXT, font, anchor=anchor)
    return box


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Text as lines no wider than `width` pixels, in characters that the font has; a word that is too long is cut."""
    plain = unicodedata.normalize("NFKD", text.translate(ASCII))
    plain = "".join(c if c.isascii() else "?" for c in plain if not unicodedata.combining(c))
    lines: list[str] = [""]
    for word in plain.split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") > width:
            lines.append("")
        for character in f" {word}" if lines[-1] else word:
            if font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
