"""The pixel checks: each descriptor on drawings whose value is known, limits, and what is flagged and what is not."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fakes import encode, grey_slice
from scipy import ndimage

from strokect.dicom import apply_window
from strokect.errors import DataError, ReleaseError
from strokect.images import Picture
from strokect.morphology import dilate, erode, find_head, reach
from strokect.outliers import FROM_SLICE, evaluation_outliers
from strokect.phantom import make_cohort, window
from strokect.pixel_checks import (
    CHECKS,
    REASONS,
    Limit,
    find_flags,
    fit_limits,
    limits_from_json,
    limits_to_json,
    measure,
)
from strokect.slices import decode

Limits = dict[str, Limit]


def columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def drawn_head(size: int = 128, radius: float = 40, x: float = 0, y: float = 0) -> np.ndarray:
    """(size, size) uint8: a disc of brain in a ring of bone 4 pixels thick, `x` and `y` pixels off the middle."""
    axis = np.arange(size) - (size - 1) / 2
    distance = np.hypot(axis - x, axis[:, None] - y)
    grain = np.random.default_rng(0).integers(-12, 13, (size, size))
    return np.where(distance < radius - 4, 125 + grain, np.where(distance < radius, 255, 0)).astype(np.uint8)


def described(pixels: np.ndarray) -> dict[str, float]:
    return measure(Picture(pixels, 0))


@pytest.fixture(scope="module")
def heads() -> list[np.ndarray]:
    return [window(piece.hu) for piece in make_cohort(patients=20, slices=6, size=96, seed=5)]


@pytest.fixture(scope="module")
def limits(heads: list[np.ndarray]) -> Limits:
    return fit_limits(columns([described(head) for head in heads]), alpha=0.0)


def test_shape_of_a_drawn_head() -> None:
    found = described(drawn_head(radius=40, x=16, y=-12))
    assert found["head_area"] == pytest.approx(np.pi * 40**2 / 128**2, rel=0.02)
    assert found["head_offset"] == pytest.approx(20 / 128, abs=0.005)
    assert found["bone_share"] == pytest.approx(1 - (36 / 40) ** 2, abs=0.02)
    assert found["skull_ring"] == 1 and found["frame_bright"] == 0 and found["air_share"] == 0
    assert found["straight_edge"] < 0.3
    assert found["brain_level"] == pytest.approx(125, abs=1)
    assert found["brain_spread"] == pytest.approx(12.5, abs=1.5)  # between the quartiles of a uniform −12..12
    assert found["fine_noise"] == pytest.approx(25 / 3, rel=0.05)  # mean distance of two uniform numbers
    assert found["blockiness"] == pytest.approx(1, abs=0.1)


def test_shape_does_not_depend_on_the_resolution() -> None:
    small, large = described(drawn_head(128, 40, 5)), described(drawn_head(128, 40, 5).repeat(4, 0).repeat(4, 1))
    for name in ("head_area", "head_offset", "straight_edge", "skull_ring", "bone_share", "brain_level"):
        assert large[name] == pytest.approx(small[name], abs=1e-9), name


def test_a_ring_is_counted_by_direction() -> None:
    head = drawn_head()
    head[:, :64] = np.minimum(head[:, :64], 125)  # no bone on the left
    assert described(head)["skull_ring"] == pytest.approx(0.5, abs=0.02)


def test_a_cut_head_has_a_straight_edge() -> None:
    for turns, painted in itertools.product(range(4), (True, False)):
        head = drawn_head()
        half = np.where(np.arange(128) < 64, head, 0).astype(np.uint8) if painted else head[:, :64]
        assert described(np.rot90(half, turns).copy())["straight_edge"] > 0.9


def test_headrest_and_holes_do_not_change_the_head() -> None:
    plain = drawn_head()
    head = plain.copy()
    head[120:123, 10:118] = 200  # a headrest
    head[60:66, 60:66] = 0  # a sinus
    assert np.array_equal(find_head(head), find_head(plain))
    assert described(head)["air_share"] == pytest.approx(36 / (np.pi * 40**2), rel=0.05)


def test_strokes_are_thin_white_and_over_the_brain() -> None:
    head = drawn_head(512, 160)
    assert described(head)["strokes"] == 0

    def with_bars(left: int, wide: int, level: int) -> float:
        marked = head.copy()
        for number in range(6):
            marked[250:262, left + 12 * number : left + 12 * number + wide] = level
        return described(marked)["strokes"]

    assert with_bars(220, 2, 255) == 6  # bars that a row of pixels meets
    assert with_bars(220, 8, 255) == 0  # a calcification is thicker
    assert with_bars(220, 2, 175) == 0  # blood is darker
    assert with_bars(20, 2, 255) == 0  # beside the head


def test_blocks_show_in_strong_compression_only(heads: list[np.ndarray]) -> None:
    guard = CHECKS["blockiness"].high
    assert guard is not None
    for head in heads[2::20]:
        large = head.repeat(5, 0).repeat(5, 1)
        large = np.clip(
            ndimage.gaussian_filter(large.astype(float), 2) + np.random.default_rng(0).normal(0, 4, large.shape), 0, 255
        )
        ratio = {q: measure(decode(encode(large.astype(np.uint8), "JPEG", quality=q)))["blockiness"] for q in (3, 60, 75, 95)}
        assert ratio[3] > guard > ratio[60] and ratio[75] < guard and ratio[95] < guard


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_erosion_and_dilation_against_scipy(size: int) -> None:
    values = np.random.default_rng(size).integers(0, 256, (23, 31)).astype(np.uint8)
    assert np.array_equal(erode(values, size), ndimage.minimum_filter(values, size, mode="nearest"))
    assert np.array_equal(dilate(values, size), ndimage.maximum_filter(values, size, mode="nearest"))


def test_reach_against_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask, seed = rng.random((24, 17)) < 0.6, rng.random((24, 17)) < 0.02
        parts, _count = ndimage.label(mask)
        assert np.array_equal(reach(seed, mask), np.isin(parts, np.setdiff1d(parts[seed], [0])))


def test_a_smaller_alpha_never_gives_tighter_limits() -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.normal(100, 200, 500) for name in CHECKS}  # wide, so that the guards do not hide the quantiles
    fitted = [fit_limits(values, alpha) for alpha in (0.2, 0.05, 0.01, 0.001, 0.0)]
    for tighter, wider in itertools.pairwise(fitted):
        for name in CHECKS:
            low, high = (tighter[name].low, wider[name].low), (tighter[name].high, wider[name].high)
            assert low[0] is None or low[1] <= low[0]
            assert high[0] is None or high[1] >= high[0]
    assert fitted[0] != fitted[-1]


def test_alpha_is_the_share_outside_and_guards_hold() -> None:
    wide = {name: np.random.default_rng(0).normal(100, 300, 1000) for name in CHECKS}
    for name, limit in fit_limits(wide, 0.1).items():
        if not CHECKS[name].fixed:
            assert (~limit.holds(wide[name])).mean() == pytest.approx(0.1, abs=0.002), name
    narrow = {name: np.full(50, 0.3) for name in CHECKS}
    for name, limit in fit_limits(narrow, 0.1).items():
        check = CHECKS[name]
        assert limit.low == (check.low if check.fixed or check.low is None else min(check.low, 0.3))
        assert limit.high == (check.high if check.fixed or check.high is None else max(check.high, 0.3))


def test_limits_of_an_unknown_descriptor_are_not_made_up() -> None:
    with pytest.raises(DataError, match="skull_ring"):
        fit_limits({name: np.ones(5) for name in CHECKS if name != "skull_ring"}, 0.01)


def test_every_code_has_a_reason() -> None:
    assert {check.code for check in CHECKS.values()} == set(REASONS)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_not_a_number_is_flagged(limits: Limits, heads: list[np.ndarray], name: str, value: float | None) -> None:
    good = described(heads[3])
    assert find_flags(good, limits) == []
    broken = {key: number for key, number in good.items() if key != name} | ({} if value is None else {name: value})
    assert find_flags(broken, limits) == [CHECKS[name].code]


def test_limits_travel_as_json(limits: Limits) -> None:
    text = json.dumps(limits_to_json(limits), allow_nan=False)
    assert limits_from_json(json.loads(text)) == limits


def drop(value: dict) -> object:
    return {name: entry for name, entry in value.items() if name != "chroma"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: None,
        lambda value: [],
        drop,
        lambda value: value | {"charm": {"low": None, "high": 1.0}},
        lambda value: value | {"chroma": None},
        lambda value: value | {"chroma": {"high": 16.0}},
        lambda value: value | {"chroma": {"low": None, "high": None}},  # a check nobody can fail
        lambda value: value | {"chroma": {"low": 0.0, "high": 16.0}},
        lambda value: value | {"chroma": {"low": None, "high": math.inf}},
        lambda value: value | {"chroma": {"low": None, "high": math.nan}},
        lambda value: value | {"chroma": {"low": None, "high": True}},
        lambda value: value | {"chroma": {"low": None, "high": "16"}},
    ],
)
def test_malformed_limits_are_refused(limits: Limits, damage: Callable[[dict], object]) -> None:
    with pytest.raises(ReleaseError, match="pixel checks"):
        limits_from_json(damage(limits_to_json(limits)))


def test_slices_of_other_synthetic_patients_pass(limits: Limits) -> None:
    others = [window(piece.hu) for piece in make_cohort(patients=20, slices=6, size=96, seed=6)]
    rejected = np.mean([bool(find_flags(described(head), limits)) for head in others])
    assert rejected <= 0.1  # the limits are the extremes of 120 slices, so a few of others lie outside


EXPECTED = {
    "colour_photo": "colour",
    "grey_photo": "frame",
    "blank": "blank",
    "noise": "no_skull_ring",
    "inverted": "inverted",
    "bone_window": "window",
    "overlay": "colour",
    "cropped_half": "cropped",
    "extreme_jpeg": "jpeg_artefacts",
    "screenshot_with_borders": "frame",
}
INK = ("burned_in_text", "white_contour", "caliper_line")


def test_outliers_are_flagged_for_the_right_reason(limits: Limits, heads: list[np.ndarray]) -> None:
    outliers = evaluation_outliers(heads, np.random.default_rng(0), 20)
    assert set(outliers) == {*EXPECTED, *INK}
    for category, expected in EXPECTED.items():
        found = [find_flags(measure(decode(data)), limits) for data in outliers[category]]
        assert sum(bool(codes) for codes in found) >= 18, (category, found)
        assert sum(expected in codes for codes in found) >= 14, (category, found)


def test_ink_is_flagged_at_a_scanner_s_resolution(heads: list[np.ndarray]) -> None:
    """Phantoms at 576 px with a scanner's blur and grain: ink cannot be told from them in pictures of 96 px."""
    rng = np.random.default_rng(0)
    guards = {name: Limit(check.low, check.high) for name, check in CHECKS.items() if check.code == "annotation"}
    large = []
    for head in heads[:60:3]:
        grain = ndimage.gaussian_filter(rng.standard_normal((576, 576)), 1.2)
        sharp = ndimage.zoom(head.astype(float), 6, order=1)
        large.append(np.clip(ndimage.gaussian_filter(sharp, 2) + 5 * grain / grain.std(), 0, 255).astype(np.uint8))
    assert [find_flags(described(head), guards) for head in large] == [[]] * 20
    for category in INK:
        found = [find_flags(measure(decode(FROM_SLICE[category](head, rng))), guards) for head in large]
        assert found.count(["annotation"]) >= 19, (category, found)


def test_a_thin_skull_is_no_ink() -> None:
    axis = np.arange(512) - 255.5
    distance = np.hypot(1.15 * axis, axis[:, None])
    head = np.where(distance < 200, 35.0, -1000.0)
    head[(distance >= 184) & (distance < 190)] = 700  # 6 px of bone, 2.7 mm in a field of view of 230 mm, under 10 px of scalp
    grain = np.random.default_rng(0).normal(0, 12, head.shape)
    seen = apply_window(ndimage.gaussian_filter(head + grain, 1.0), 40, 120)
    assert described(seen)["bright_strokes"] == 0


@pytest.mark.realdata
def test_real_slices_pass_and_real_outliers_do_not(realdata: Path) -> None:
    """Limits from one half of the patients; the other half, other organs and other windows are judged by them."""
    files = sorted((realdata / "brain-stroke-ct").glob("*/*.jpg"))[::17]
    odd = np.array([int(file.name.split()[0]) % 2 == 1 for file in files])
    pictures = [decode(file.read_bytes()) for file in files]
    measured = [measure(picture) for picture in pictures]
    fitted = fit_limits(columns([row for row, other in zip(measured, odd, strict=True) if not other]), 0.005)
    assert np.mean([bool(find_flags(row, fitted)) for row in np.array(measured)[odd]]) <= 0.05
    for category, data in evaluation_outliers([picture.grey for picture in pictures[::10]], np.random.default_rng(0), 10).items():
        assert sum(bool(find_flags(measure(decode(one)), fitted)) for one in data) >= 8, category
    for folder in ("brain_mri_t1", "chest_ct"):
        found = [
            bool(find_flags(measure(decode(file.read_bytes())), fitted)) for file in sorted((realdata / "ood" / folder).iterdir())
        ]
        assert np.mean(found) >= 0.9, folder


@pytest.mark.realdata
def test_real_dicom_in_two_windows(realdata: Path) -> None:
    guards = {name: Limit(check.low, check.high) for name, check in CHECKS.items()}
    files = sorted((realdata / "dicom").glob("*.dcm"))
    assert files
    for file in files:
        dataset = pydicom.dcmread(file)
        hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        assert find_flags(described(apply_window(hu, 40, 120)), guards) == []
        for level, width in ((600, 2800), (480, 2500), (50, 400)):  # bone, bone, soft tissue
            assert "window" in find_flags(described(apply_window(hu, level, width)), guards), (file.name, level)


def test_the_fake_slice_of_the_other_tests_has_a_head() -> None:
    """`fakes.grey_slice` is what the service tests send; it must stay something that limits can be fitted to."""
    for size in (64, 96):
        assert np.isfinite(list(described(grey_slice(size)).values())).all()
