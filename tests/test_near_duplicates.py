"""Altered copies of a slice are found in another patient's stack; other patients' slices are not taken for them."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.plants import ALTERED
from strokect import duplicates, near_duplicates
from strokect.duplicates import linked_rows
from strokect.head_frames import head_frames
from strokect.near_duplicates import (
    FLIPS,
    LEAST_COSINE,
    NEAREST,
    altered_copies,
    find_candidates,
    same_slice,
    signatures,
)
from strokect.phantom import make_cohort, window
from strokect.slices import resize_slice

PATIENTS, SLICES, SIZE = 10, 4, 96


@pytest.fixture(scope="module")
def drawn() -> list[NDArray[np.uint8]]:
    """Slices as a file might have them."""
    pieces = make_cohort(patients=PATIENTS, slices=SLICES, size=SIZE, seed=3)
    return [np.asarray(Image.fromarray(window(p.hu)).resize((256, 256), Image.Resampling.BICUBIC)) for p in pieces]


def prepared(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.concatenate([resize_slice(np.ascontiguousarray(picture), SIZE) for picture in pictures])


GROUPS = np.repeat(np.arange(PATIENTS), SLICES)


def test_no_pair_in_an_untouched_cohort(drawn: list[NDArray[np.uint8]]) -> None:
    assert altered_copies(prepared(drawn), GROUPS).shape == (0, 2)


@pytest.mark.parametrize("kind", ALTERED)
def test_an_altered_copy_under_another_patient_is_found(drawn: list[NDArray[np.uint8]], kind: str) -> None:
    rng = np.random.default_rng(0)
    originals = [1, 6, 11, 22, 35]
    copies = [ALTERED[kind](drawn[i], rng) for i in originals]
    images = prepared(drawn + copies)
    groups = np.r_[GROUPS, (GROUPS[originals] + 1) % PATIENTS]
    expected = [[i, len(drawn) + k] for k, i in enumerate(originals)]
    assert altered_copies(images, groups).tolist() == expected
    assert altered_copies(images, np.r_[GROUPS, GROUPS[originals]]).shape == (0, 2)  # one patient's own: not looked for
    assert {tuple(pair) for pair in expected} <= {tuple(pair) for pair in linked_rows(images, groups.astype(str)).tolist()}


def test_the_index_finds_the_nearest_that_a_comparison_of_all_pairs_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    small = rng.integers(0, 256, (60, 32, 32)).astype(np.uint8)
    small[20:40] = small[:20] // 2 + small[20:40] // 2  # some are alike, so that cosines pass the limit
    small[40:] = small[20:40, :, ::-1]
    groups = rng.integers(0, 12, 60)
    flips = [small, small[:, :, ::-1], small[:, ::-1], small[:, ::-1, ::-1]]
    every = [signatures(np.concatenate([small, flip]))[60:] for flip in flips]
    base = signatures(np.concatenate([small, small]))[:60]
    monkeypatch.setattr(near_duplicates, "BLOCK", 7)
    found = find_candidates(base, groups)

    # The oracle knows signs of coefficients only through real flips of the pictures, each with its cohort's own scale.
    alike = np.stack([base @ signature.T for signature in every])
    best = np.where(groups[:, None] != groups[None], alike.max(axis=0), -1)
    expected = set()
    for i in range(60):
        for j in np.argsort(-best[i])[:NEAREST]:
            if best[i, j] > LEAST_COSINE:
                expected.add((min(i, int(j)), max(i, int(j))))
    assert expected
    assert {tuple(pair) for pair in found.pairs.tolist()} == expected
    for (i, j), flip in zip(found.pairs, found.flips, strict=True):
        assert alike[flip, i, j] == pytest.approx(best[i, j], abs=1e-4)


def test_a_head_is_framed_alike_wherever_it_lies_and_however_large() -> None:
    y, x = np.mgrid[:96, :96]
    one = np.where(np.hypot((x - 48) / 30, (y - 48) / 38) < 1, 150, 0).astype(np.uint8)
    other = np.where(np.hypot((x - 40) / 22.5, (y - 55) / 28.5) < 1, 120, 0).astype(np.uint8)
    frames = head_frames(np.stack([one, other]), 32).astype(float) / np.array([150, 120])[:, None, None]
    assert np.abs(frames[0] - frames[1]).mean() < 0.02


def test_mirroring_changes_signs_of_a_signature_and_nothing_else(drawn: list[NDArray[np.uint8]]) -> None:
    small = head_frames(prepared(drawn), 32)
    both = signatures(np.concatenate([small, small[:, :, ::-1]]))
    np.testing.assert_allclose(np.abs(both[: len(small)]), np.abs(both[len(small) :]), atol=1e-5)
    assert FLIPS[0].tolist() == [1, 1]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_and_blank_cohorts_have_no_pairs(count: int) -> None:
    assert altered_copies(np.zeros((count, 48, 48), np.uint8), np.arange(count)).shape == (0, 2)


def test_a_close_hash_of_two_patients_needs_one_brain(drawn: list[NDArray[np.uint8]], monkeypatch: pytest.MonkeyPatch) -> None:
    images = prepared([*drawn[:8], drawn[1]])
    patients = np.array(list("aaaabbbbc"))
    close = np.array([[0, 1], [1, 5], [1, 8], [2, 6]])
    monkeypatch.setattr(duplicates, "near_duplicate_pairs", lambda hashes: close)
    assert linked_rows(images, patients).tolist() == [[0, 1], [1, 8]]
    assert linked_rows(images).tolist() == close.tolist()  # whose they are is not known: rather one tie too many


def test_equal_pictures_are_the_same_whatever_they_show() -> None:
    dark = np.random.default_rng(0).integers(0, 20, (2, 48, 48)).astype(np.uint8)
    assert same_slice(dark[[0, 0, 1]], np.array([[0, 1], [0, 2]])).tolist() == [True, False]
    assert same_slice(dark, np.empty((0, 2), np.int64)).shape == (0,)
