"""Alignment finds a known motion, and the likeness tells one slice from another patient's."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from strokect.head_frames import head_frames
from strokect.phantom import make_cohort, window
from strokect.registration import compare, flipped


@pytest.fixture(scope="module")
def heads() -> NDArray[np.uint8]:
    """(8, 64, 64): the slice in the middle of eight patients."""
    pieces = [p for p in make_cohort(patients=8, slices=5, size=96, seed=1) if p.slice == 2]
    return head_frames(np.stack([window(p.hu) for p in pieces]), 64)


def moved(frame: NDArray[np.uint8], matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.uint8]:
    """`frame` so that a point x (column, row, in half sides from the middle) of it comes from matrix · x + shift."""
    side = frame.shape[0]
    swap = matrix[::-1, ::-1]  # scipy counts rows first
    middle = np.full(2, (side - 1) / 2)
    return affine_transform(frame, swap, middle - swap @ middle + shift[::-1] * side / 2, order=1).astype(np.uint8)


def test_a_known_motion_is_found(heads: NDArray[np.uint8]) -> None:
    turn = np.deg2rad(4)
    matrix = 1.05 * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shift = np.array([0.05, -0.03])
    other = np.stack([moved(frame, matrix, shift) for frame in heads])
    found = compare(other, heads)
    expected = np.concatenate([matrix, shift[:, None]], axis=1)
    np.testing.assert_allclose(found.motion, np.broadcast_to(expected, found.motion.shape), atol=0.01)
    assert found.is_same("same").all()


def test_other_patients_are_not_the_same(heads: NDArray[np.uint8]) -> None:
    found = compare(heads, np.roll(heads, 1, axis=0))
    assert not found.is_same("same").any()
    assert found.tissue.max() < 0.7


def test_brightness_and_contrast_do_not_count(heads: NDArray[np.uint8]) -> None:
    darker = np.clip(0.85 * heads.astype(float) + 5 * (heads > 8), 0, 255).astype(np.uint8)
    assert compare(heads, darker).tissue.min() > 0.95


def test_pictures_without_tissue_are_judged_by_all_they_show() -> None:
    y, x = np.mgrid[:64, :64]
    bone = np.where(np.hypot(x - 32, y - 32) < 20, 255, 0).astype(np.uint8)
    pair = compare(np.stack([bone, np.zeros_like(bone)]), np.stack([bone, np.zeros_like(bone)]))
    assert np.isnan(pair.tissue).all()
    assert not pair.is_same("same").any()  # nothing to be seen in either: alike without being copies


def test_flipped_turns_each_frame_by_its_own_signs() -> None:
    frames = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3)
    out = flipped(frames, np.array([(1, 1), (-1, 1), (1, -1), (-1, -1)]))
    for got, expected in zip(out, (frames[0], frames[1][:, ::-1], frames[2][::-1], frames[3][::-1, ::-1]), strict=True):
        np.testing.assert_array_equal(got, expected)
