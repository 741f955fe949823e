"""The overlay: the map lies where it belongs on slices of any shape, colours are ordered, and no text covers the slice."""

import io
import re

import numpy as np
import pytest
from conftest import ROOT
from matplotlib import colormaps
from PIL import Image

from strokect.errors import NoResultError
from strokect.head_crop import Square, whole
from strokect.overlay import ANCHORS, BACKGROUND, HEADING, LONGER_SIDE, TEXT_WIDTH, blend, colour_table, draw_overlay, spread
from strokect.slices import resize_slice

TARGET = "intracranial haemorrhage on this slice"
SHAPES = [(64, 64), (64, 96), (96, 64), (50, 200), (200, 50), (37, 61), (33, 660)]


def pixels(png: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(png))).astype(int)


def draw(grey: np.ndarray, activation: np.ndarray, title: str = TARGET) -> np.ndarray:
    return pixels(draw_overlay(grey, activation.astype(np.float32), whole(*grey.shape), title=title))


def where_the_slice_is(height: int, width: int, title: str = TARGET) -> tuple[slice, slice]:
    """Rows and columns of the canvas that a white slice changes: they must be one full rectangle."""
    nothing = np.zeros((7, 7))
    black, white = (draw(np.full((height, width), level, np.uint8), nothing, title) for level in (0, 255))
    changed = (black != white).any(axis=-1)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    place = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    assert (black[place] == 0).all() and (white[place] == 255).all() and changed.sum() == changed[place].size
    return place


def drawn(grey: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """What stands in the place of the slice, (rows, columns, 3)."""
    return draw(grey, activation)[where_the_slice_is(*grey.shape)]


def hot(rows: int, columns: int, row: int, column: int) -> np.ndarray:
    activation = np.zeros((rows, columns))
    activation[row, column] = 0.8
    return activation


def centre(picture: np.ndarray) -> np.ndarray:
    """Centre of the colour on a black slice, (y, x) as shares of the slice's height and width."""
    weight = picture.sum(axis=-1).astype(float)
    places = [(np.arange(n) + 0.5) / n for n in weight.shape]
    return np.array([(weight.sum(axis=1 - axis) * place).sum() for axis, place in enumerate(places)]) / weight.sum()


@pytest.mark.parametrize(("row", "column"), [(1, 1), (1, 5), (4, 2)])
def test_a_hot_cell_lands_on_its_place_and_on_no_other(row: int, column: int) -> None:
    black = np.zeros((64, 64), np.uint8)
    picture = drawn(black, hot(7, 7, row, column))
    assert centre(picture) == pytest.approx([(row + 0.5) / 7, (column + 0.5) / 7], abs=0.005)
    far = np.abs(np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n * 7 for n in picture.shape[:2]], indexing="ij")))
    outside = (np.abs(far[0] - row - 0.5) > 1) | (np.abs(far[1] - column - 0.5) > 1)
    assert (picture[outside] == 0).all()  # bilinear: it fades out at the centres of the neighbours


def test_borders_that_made_the_slice_square_are_cut_off_again() -> None:
    wide, tall = np.zeros((64, 128), np.uint8), np.zeros((128, 64), np.uint8)
    # The square is 128 × 128 and a cell 16 × 16: row 3 has its centre at 56, which is row 24 of the slice's 64.
    assert centre(drawn(wide, hot(8, 8, 3, 6))) == pytest.approx([24 / 64, 6.5 / 8], abs=0.005)
    assert centre(drawn(tall, hot(8, 8, 6, 3))) == pytest.approx([6.5 / 8, 24 / 64], abs=0.005)
    assert (drawn(wide, hot(8, 8, 0, 3)) == 0).all()  # a cell on the border is not squeezed into the slice


@pytest.mark.parametrize("share", [1.0, 0.8])
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_a_map_made_of_what_the_models_see_lies_on_what_they_saw(height: int, width: int, share: float) -> None:
    """The oracle is the preprocessing itself: a bright blot, cut out and resized as for the models, is its own map."""
    side = round(share * max(height, width))
    square = whole(height, width) if share == 1 else Square((width - side) // 2 + 2, (height - side) // 2 - 1, side)
    rng = np.random.default_rng(height)
    for _ in range(3):
        y, x = (round(rng.uniform(0.25, 0.75) * n) for n in (height, width))
        slice_ = np.zeros((height, width), np.uint8)
        reach = max(height, width) // 10 + 2
        slice_[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach] = 255
        strength = spread(resize_slice(slice_, 32, square)[0].astype(np.float32), height, width, square, (width, height))
        found, there = (centre(picture[..., None]) for picture in (strength, slice_))
        assert np.abs(found - there).max() * max(height, width) <= max(height, width) / 32


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 90), (90, 40)])
def test_a_mirrored_slice_gives_the_mirrored_picture(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    grey, activation = rng.integers(0, 256, (height, width), np.uint8), rng.normal(size=(5, 7))
    picture, mirrored = drawn(grey, activation), drawn(grey[:, ::-1], activation[:, ::-1])
    assert np.abs(picture - mirrored[:, ::-1]).max() <= 1 and np.abs(picture - mirrored).max() > 50


def test_what_speaks_against_the_target_is_not_drawn() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    plain = drawn(grey, np.zeros((7, 7)))
    assert (plain[..., 0] == plain[..., 1]).all() and (plain[..., 0] == plain[..., 2]).all()
    assert (drawn(grey, -np.ones((7, 7))) == plain).all()
    both = hot(7, 7, 1, 1) - hot(7, 7, 5, 5)
    assert (drawn(grey, both) == drawn(grey, hot(7, 7, 1, 1))).all()


def test_colours_are_viridis_and_get_lighter() -> None:
    table = colour_table()
    assert table.shape == (256, 3) and table.dtype == np.uint8
    viridis = np.rint(255 * colormaps["viridis"](np.arange(256))[:, :3])
    assert np.abs(table - viridis).max() <= 18 and np.abs(table - viridis).mean() < 2
    linear = np.where(table / 255 <= 0.04045, table / 255 / 12.92, ((table / 255 + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16  # CIE L*, 0 … 100
    assert np.diff(lightness).min() > -0.05  # a step down of the rounding to 8 bits, as the original has them
    assert (lightness[8:] - lightness[:-8]).min() > 1.5 and lightness[-1] - lightness[0] > 70


def test_more_attention_shows_more_on_brain() -> None:
    ramp = blend(np.full(256, 110, np.uint8), np.linspace(0, 1, 256, dtype=np.float32)).astype(int)
    assert (ramp[0] == 110).all()
    saturation = ramp.max(axis=-1) - ramp.min(axis=-1)
    assert saturation[255] > saturation[170] > saturation[85] > saturation[0] == 0


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_text_stands_in_margins_only(height: int, width: int) -> None:
    title = "a target that takes many more words than would ever fit into one line above a slice of a head " * 2
    rows, columns = where_the_slice_is(height, width, title)
    assert max(rows.stop - rows.start, columns.stop - columns.start) == LONGER_SIDE[0]
    assert (rows.stop - rows.start) / (columns.stop - columns.start) == pytest.approx(height / width, rel=0.02)
    canvas = draw(np.zeros((height, width), np.uint8), hot(7, 7, 3, 3), title)
    assert canvas.shape[1] >= TEXT_WIDTH
    frame = np.concatenate([canvas[:8].reshape(-1, 3), canvas[-8:].reshape(-1, 3)])
    sides = np.concatenate([canvas[:, :8].reshape(-1, 3), canvas[:, -8:].reshape(-1, 3)])
    assert (frame == BACKGROUND).all() and (sides == BACKGROUND).all()  # no line is cut off
    around = np.concatenate([canvas[rows.start - 4 : rows.start], canvas[rows.stop : rows.stop + 4]])
    assert (around == BACKGROUND).all()


def changed_rows(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.flatnonzero((first != second).any(axis=(1, 2)))


def test_target_scale_and_cells_are_written_beside_the_slice() -> None:
    grey = np.zeros((64, 64), np.uint8)
    rows, _ = where_the_slice_is(64, 64)
    one = draw(grey, hot(7, 7, 3, 3))
    assert changed_rows(one, draw(grey, hot(7, 7, 3, 3), title="some other target")).max() < rows.start
    doubled = changed_rows(one, draw(grey, 2 * hot(7, 7, 3, 3)))  # same picture, other numbers on the scale
    assert len(doubled) and doubled.min() >= rows.stop
    below = {n: draw(grey, np.ones((n, n)))[rows.stop :] for n in (7, 8)}  # a flat map: the same picture from any number of cells
    assert len(changed_rows(below[7], below[8]))
    nothing = draw(grey, np.zeros((7, 7)))
    assert nothing.shape == one.shape and changed_rows(nothing, one).max() >= rows.stop


def test_letters_that_the_font_lacks_are_replaced() -> None:
    grey, activation = np.zeros((64, 64), np.uint8), np.zeros((7, 7))
    assert (draw(grey, activation, "Schädel, 2 × 2\n≥ 1") == draw(grey, activation, "Schadel, 2 x 2 >= 1")).all()
    assert (draw(grey, activation, "中") == draw(grey, activation, "?")).all()


def test_a_word_without_spaces_is_cut_and_an_empty_title_is_no_error() -> None:
    grey, activation = np.zeros((64, 64), np.uint8), np.zeros((7, 7))
    long = draw(grey, activation, "x" * 300)
    assert (long[:, -8:] == BACKGROUND).all() and long.shape[0] > draw(grey, activation, "x").shape[0]
    assert draw(grey, activation, "").shape == draw(grey, activation, "x").shape and HEADING.strip()


def test_same_arguments_same_bytes_and_no_metadata() -> None:
    rng = np.random.default_rng(0)
    grey, activation = rng.integers(0, 256, (64, 80), np.uint8), rng.normal(size=(7, 7)).astype(np.float32)
    square = whole(64, 80)
    png = draw_overlay(grey, activation, square, title=TARGET)
    assert png == draw_overlay(grey.copy(), activation.copy(), square, title=TARGET)
    chunks, place = [], 8
    while place < len(png):
        chunks.append(png[place + 4 : place + 8])
        place += 12 + int.from_bytes(png[place : place + 4], "big")
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}


def test_a_big_slice_is_not_drawn_at_its_full_size() -> None:
    canvas = draw(np.zeros((4000, 3000), np.uint8), hot(7, 7, 3, 3))
    assert canvas.shape[0] < LONGER_SIDE[1] + 300 and canvas.shape[1] < LONGER_SIDE[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_no_explanation(value: float) -> None:
    with pytest.raises(NoResultError):
        draw(np.zeros((64, 64), np.uint8), np.full((7, 7), value))


def test_the_page_draws_the_map_in_the_same_colours() -> None:
    script = (ROOT / "page" / "colours.js").read_text(encoding="utf-8")
    assert tuple(re.findall(r'"([0-9a-f]{6})"', script)) == ANCHORS
