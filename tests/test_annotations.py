"""Ink over the brain: drawn lines of known length and contrast are measured, blurred or thick structures are not."""

import itertools

import numpy as np
import pytest
from fakes import encode
from PIL import Image, ImageDraw
from scipy import ndimage

from strokect.annotations import FINE_PX, MOST, find_parts, measure_strokes, step_height
from strokect.images import Picture
from strokect.phantom import make_cohort, window
from strokect.pixel_checks import CHECKS, measure
from strokect.slices import decode

SIDE = 512
GRAIN = 3.0  # mean difference of neighbours in `tissue`, about
INSIDE = np.hypot(*np.indices((SIDE, SIDE)) - SIDE / 2) < 200


def tissue(side: int = SIDE) -> np.ndarray:
    """(side, side) uint8: brain with the scanner's grain, which is blurred as all it sees."""
    grain = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((side, side)), 1.2)
    return np.clip(125 + 6 * grain / grain.std(), 0, 255).astype(np.uint8)


def with_line(level: int, wide: int, turned: bool = False, blur: float = 0, length: int = 100) -> np.ndarray:
    """Tissue with a straight line, level or at 37°."""
    ink = Image.new("L", (SIDE, SIDE), 0)
    end = (206 + 0.8 * length, 256 + 0.6 * length) if turned else (206 + length - 1, 256)
    ImageDraw.Draw(ink).line([(206, 256), end], fill=255, width=wide)
    share = ndimage.gaussian_filter(np.asarray(ink) / 255.0, blur)
    return np.rint(tissue() * (1 - share) + level * share).astype(np.uint8)


@pytest.mark.parametrize("wide", [1, 2, 3, 4])
@pytest.mark.parametrize("turned", [False, True])
def test_a_line_counts_by_length_and_contrast(wide: int, turned: bool) -> None:
    long = 80 if turned else 100  # the longer side of its box, pixels
    for level in (255, 180):
        found = measure_strokes(with_line(level, wide, turned), INSIDE, GRAIN)
        assert found["bright_strokes"] == pytest.approx(100 * long / SIDE * (level - 125) / 255, rel=0.3)
        assert found["dark_strokes"] == 0
    found = measure_strokes(with_line(0, wide, turned), INSIDE, GRAIN)
    assert found["dark_strokes"] == pytest.approx(100 * long / SIDE * 125 / 255, rel=0.3)


def test_twice_the_line_is_twice_the_ink() -> None:
    short, long = (measure_strokes(with_line(255, 2, length=n), INSIDE, GRAIN)["bright_strokes"] for n in (60, 120))
    assert long == pytest.approx(2 * short, rel=0.1)


def test_what_no_pen_draws_does_not_count() -> None:
    nothing = {"bright_strokes": 0.0, "dark_strokes": 0.0}
    assert measure_strokes(tissue(), INSIDE, GRAIN) == nothing
    assert measure_strokes(with_line(255, 24), INSIDE, GRAIN) == nothing  # thick, as bone
    assert measure_strokes(with_line(0, 24), INSIDE, GRAIN) == nothing  # a ventricle full of air
    assert measure_strokes(with_line(150, 3), INSIDE, GRAIN) == nothing  # fainter than any pen
    assert measure_strokes(with_line(180, 3, blur=1.2), INSIDE, GRAIN) == nothing  # a dense falx
    assert measure_strokes(with_line(45, 3), INSIDE, GRAIN) == nothing  # the fluid in a furrow
    for level, blur in itertools.product((255, 0), (1.2, 2.0)):  # sutures, vessels, fat: as strong, but blurred by the scanner
        assert measure_strokes(with_line(level, 2, blur=blur), INSIDE, GRAIN) == nothing
    for bone, gap in itertools.product((255, 0), (0, 4)):  # or air
        beside = with_line(255, 2)
        beside[258 + gap : 300] = bone
        assert measure_strokes(beside, INSIDE, GRAIN) == nothing
    assert measure_strokes(with_line(255, 2), INSIDE & (np.arange(SIDE) > 320), GRAIN) == nothing  # outside the head
    assert measure_strokes(with_line(255, 2), np.zeros_like(INSIDE), GRAIN) == nothing


@pytest.mark.parametrize("rim", [4, 6])
def test_outlined_ink_counts_as_plain_ink_does(rim: int) -> None:
    """Viewers draw white text with a black rim, so that it can be read on bone too: the rim must not pass for air."""
    outlined = np.where(with_line(255, rim) == 255, 0, tissue())
    outlined = np.where(with_line(255, 2) == 255, 255, outlined).astype(np.uint8)
    found, plain = (measure_strokes(picture, INSIDE, GRAIN) for picture in (outlined, with_line(255, 2)))
    assert found["bright_strokes"] >= plain["bright_strokes"] > 5
    assert found["dark_strokes"] > 5


def test_small_pictures_are_not_measured() -> None:
    small = np.asarray(Image.fromarray(with_line(255, 4)).resize((FINE_PX - 1, FINE_PX - 1)))
    assert set(measure_strokes(small, np.ones_like(small, bool), GRAIN).values()) == {0.0}
    for size in (96, 256):
        for piece in make_cohort(patients=4, slices=3, size=size, seed=1):
            found = measure(Picture(window(piece.hu), 0))
            assert found["bright_strokes"] == found["dark_strokes"] == 0


def test_noise_is_too_much_to_follow() -> None:
    noise = np.random.default_rng(0).integers(90, 160, (SIDE, SIDE)).astype(np.uint8)
    assert measure_strokes(noise, INSIDE, GRAIN)["bright_strokes"] == 100.0
    assert 0 < MOST < 0.2


def test_the_grain_of_a_noisy_scanner_is_no_ink() -> None:
    grain = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((SIDE, SIDE)), 1.0)
    noisy = np.clip(125 + 18 * grain / grain.std(), 0, 255).astype(np.uint8)  # 8 HU
    differences = float(np.abs(np.diff(noisy.astype(int), axis=0)).mean())
    quiet, told = measure_strokes(noisy, INSIDE, GRAIN), measure_strokes(noisy, INSIDE, differences)
    assert quiet["bright_strokes"] > CHECKS["bright_strokes"].high > told["bright_strokes"]  # type: ignore[operator]
    drawn = np.where(with_line(255, 2) == 255, 255, noisy).astype(np.uint8)
    assert measure_strokes(drawn, INSIDE, differences)["bright_strokes"] > 5  # white is ink all the same
    assert measure_strokes(with_line(255, 2), INSIDE, np.nan) == measure_strokes(with_line(255, 2), INSIDE, 0.0)


@pytest.mark.parametrize("quality", [None, 75, 95])
@pytest.mark.parametrize("level", [255, 190, 0])
def test_text_contours_and_calipers_are_flagged_as_png_and_jpeg(level: int, quality: int | None) -> None:
    rows, columns = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    distance = np.hypot(rows, columns)
    head = np.where(distance < 180, tissue(), np.where(distance < 200, 255, 0)).astype(np.uint8)
    limits = {name: CHECKS[name].high for name in ("strokes", "bright_strokes", "dark_strokes")}

    def flagged(picture: Image.Image) -> bool:
        data = encode(np.asarray(picture)) if quality is None else encode(np.asarray(picture), "JPEG", quality=quality)
        found = measure(decode(data))
        return any(found[name] > limit for name, limit in limits.items() if limit is not None)

    assert not flagged(Image.fromarray(head))
    for kind in ("text", "contour", "caliper"):
        picture = Image.fromarray(head)
        pen = ImageDraw.Draw(picture)
        if kind == "text":
            pen.text((180, 240), "Mean 61.2 HU", fill=level, font_size=18)
        elif kind == "contour":
            pen.ellipse((200, 220, 290, 280), outline=level, width=2)
        else:
            pen.line([(200, 200), (290, 300)], fill=level, width=2)
        assert flagged(picture), kind


def test_step_height_on_a_profile() -> None:
    def height(*row: int) -> list[int]:
        return step_height(np.tile(np.array(row, np.uint8), (9, 1)), 3)[4].tolist()

    assert height(100, 100, 180, 250, 170, 100, 100) == [0, 0, 80, 80, 70, 0, 0]  # from 170 on it falls by 70 only
    assert height(100, 160, 160, 160, 160, 160, 100) == [0, 0, 0, 60, 0, 0, 0]  # both edges are 3 pixels off the middle only
    assert height(100, 160, 160, 160, 160, 160, 160, 100) == [0] * 8
    assert height(100, 100, 160, 160, 160, 160) == [0] * 6  # one edge is no stroke


def test_parts_against_scipy() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.3, 0.45, 0.6, 1.0):
        mask = rng.random((23, 31)) < share
        numbers, count = ndimage.label(mask, np.ones((3, 3)))
        rows, columns, part = find_parts(mask)
        assert np.array_equal(np.stack([rows, columns]), np.stack(np.nonzero(mask)))
        pairs = set(zip(numbers[mask].tolist(), part.tolist(), strict=True))
        assert len(pairs) == count == len(set(part.tolist()))
