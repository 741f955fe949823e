"""Evaluation outliers: every category is there, is what it says, and comes out the same for the same seed."""

import io

import numpy as np
import pytest
from PIL import Image

from strokect.errors import DataError
from strokect.outliers import evaluation_outliers, phantom_pictures
from strokect.phantom import make_cohort, window
from strokect.slices import decode


@pytest.fixture(scope="module")
def heads() -> list[np.ndarray]:
    return [window(piece.hu) for piece in make_cohort(patients=2, slices=4, size=96, seed=1)]


@pytest.fixture(scope="module")
def outliers(heads: list[np.ndarray]) -> dict[str, list[bytes]]:
    return evaluation_outliers(heads, np.random.default_rng(7), 12)


def grey(data: bytes) -> np.ndarray:
    return decode(data).grey


def changes(data: bytes, heads: list[np.ndarray]) -> np.ndarray:
    """(H, W) signed difference to the slice that the picture was made from."""
    return min((grey(data).astype(int) - head for head in heads), key=lambda difference: np.abs(difference).sum())


def ink_level(data: bytes, heads: list[np.ndarray]) -> str:
    """Of what was drawn: the sign of the strongest change."""
    changed = changes(data, heads)
    return "black" if -changed.min() > changed.max() else "light"


def test_n_of_every_category_and_all_can_be_decoded(outliers: dict[str, list[bytes]]) -> None:
    assert len(outliers) == 13
    for name, pictures in outliers.items():
        assert len(pictures) == 12, name
        for data in pictures:
            decode(data)


def test_the_same_seed_gives_the_same_bytes(heads: list[np.ndarray], outliers: dict[str, list[bytes]]) -> None:
    assert evaluation_outliers(heads, np.random.default_rng(7), 12) == outliers
    assert evaluation_outliers(heads, np.random.default_rng(8), 12) != outliers


def test_there_is_nothing_to_make_outliers_of() -> None:
    with pytest.raises(DataError):
        evaluation_outliers([], np.random.default_rng(0), 3)


def test_colour_is_where_it_belongs(outliers: dict[str, list[bytes]]) -> None:
    for name, pictures in outliers.items():
        coloured = [decode(data).chroma > 16 for data in pictures]
        assert all(coloured) if name in ("colour_photo", "overlay") else not any(coloured), name


def test_each_slice_based_category_is_what_it_says(heads: list[np.ndarray], outliers: dict[str, list[bytes]]) -> None:
    for data in outliers["blank"]:
        assert np.ptp(grey(data)) <= 1
    for data in outliers["inverted"]:
        assert min(np.abs(255 - grey(data).astype(int) - head).mean() for head in heads) < 3
    for data in outliers["bone_window"]:
        pixels = grey(data)
        assert 50 < np.median(pixels[36:60, 36:60]) < 110 and (pixels == 255).mean() < 0.02
    for data in outliers["burned_in_text"]:
        changed = min(((np.abs(grey(data).astype(int) - head) > 30).mean() for head in heads), key=float)
        assert 0.001 < changed < 0.15
    assert {ink_level(data, heads) for data in outliers["burned_in_text"]} == {"black", "light"}
    for name in ("white_contour", "caliper_line"):
        assert {ink_level(data, heads) for data in outliers[name]} == {"light"}, name
        for data in outliers[name]:
            changed = changes(data, heads)
            rows, columns = np.nonzero(np.abs(changed) > 40)
            length = max(np.ptp(rows), np.ptp(columns)) + 1
            assert length >= 5 and 0.0005 < len(rows) / changed.size < 0.06, name  # of 96 pixels
    for data in outliers["cropped_half"]:
        pixels = grey(data)
        sides = (pixels[:, :40], pixels[:, -40:], pixels[:40], pixels[-40:])
        assert max(pixels.shape) > 1.6 * min(pixels.shape) or any(side.max() < 30 for side in sides)
    for data in outliers["extreme_jpeg"]:
        assert Image.open(io.BytesIO(data)).quantization[0][0] >= 100 and len(data) < 1500
    for data in outliers["screenshot_with_borders"]:
        pixels = grey(data)
        assert min(pixels.shape) > 100 and np.median(np.concatenate([pixels[0], pixels[:, 0]])) > 40


def test_phantom_pictures_are_heads_in_the_brain_window() -> None:
    pictures = phantom_pictures(np.random.default_rng(3), 8, size=96)
    assert len(pictures) == 8 and pictures == phantom_pictures(np.random.default_rng(3), 8, size=96)
    for data in pictures:
        assert grey(data).shape == (96, 96) and grey(data)[0, 0] < 8 and (grey(data) == 255).mean() > 0.02
