"""Near-duplicates: the hash forgives re-encoding, and the pairs are those of a brute-force comparison."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from strokect import duplicates
from strokect.duplicates import linked_rows, near_duplicate_pairs, perceptual_hash
from strokect.slices import load_slice

REAL = Path(os.environ.get("STROKECT_REALDATA", Path(__file__).parents[2] / "shared" / "data")) / "brain-stroke-ct"


def pictures(count: int, size: int = 64) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(size=(count, size, size))
    return np.clip(128 + 300 * gaussian_filter(noise, (0, 2, 2)), 0, 255).astype(np.uint8)


def distances(hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
    bits = np.unpackbits(hashes, axis=1)
    return (bits[:, None] != bits[None]).sum(axis=-1)


def brute_force(hashes: NDArray[np.uint8], max_distance: int) -> list[list[int]]:
    close = distances(hashes)
    return [[i, j] for i in range(len(hashes)) for j in range(i + 1, len(hashes)) if close[i, j] <= max_distance]


def test_hash_has_256_bits_and_no_state_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(7)
    whole = perceptual_hash(images)
    assert whole.shape == (7, 32) and whole.dtype == np.uint8
    monkeypatch.setattr(duplicates, "HASH_BLOCK", 3)
    np.testing.assert_array_equal(perceptual_hash(images), whole)


def test_hash_forgives_jpeg_and_resampling_but_tells_pictures_apart() -> None:
    images = pictures(6)
    again = []
    for image in images:
        stream = io.BytesIO()
        Image.fromarray(image).resize((80, 80)).save(stream, "JPEG", quality=75)
        again.append(np.array(Image.open(stream).resize((64, 64))))
    close = distances(np.concatenate([perceptual_hash(images), perceptual_hash(np.array(again))]))
    assert np.diag(close, 6).max() <= 16
    assert close[:6, :6][~np.eye(6, dtype=bool)].min() > 60


def test_flat_pictures_hash_alike() -> None:
    flat = np.full((3, 32, 32), np.array([0, 100, 255])[:, None, None], np.uint8)
    np.testing.assert_array_equal(perceptual_hash(flat), np.zeros((3, 32), np.uint8))


@pytest.mark.parametrize("shape", [(2, 16, 16), (2, 1, 64, 64), (64, 64)])
def test_hash_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        perceptual_hash(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("block", [1, 7, 64, 2048])
@pytest.mark.parametrize("max_distance", [0, 16, 40, 256])
def test_pairs_match_brute_force(block: int, max_distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    bits = np.repeat(rng.integers(0, 2, (10, 256), np.uint8), 3, axis=0)
    bits ^= (rng.random(bits.shape) < rng.choice([0.0, 0.03, 0.06], (30, 1))).astype(np.uint8)
    hashes = np.packbits(bits, axis=1)
    monkeypatch.setattr(duplicates, "PAIR_BLOCK", block)
    pairs = near_duplicate_pairs(hashes, max_distance)
    assert pairs.dtype == np.int64 and pairs.shape[1] == 2
    assert pairs.tolist() == brute_force(hashes, max_distance)


@pytest.mark.parametrize("count", [0, 1])
def test_no_pairs_among_fewer_than_two(count: int) -> None:
    assert near_duplicate_pairs(np.zeros((count, 32), np.uint8)).shape == (0, 2)


@pytest.mark.realdata
@pytest.mark.slow
def test_near_duplicates_never_cross_patients_of_ct_ich() -> None:
    if not REAL.is_dir():
        pytest.skip("the CT-ICH slices are not on this machine")
    files = sorted(REAL.glob("*/*.jpg"))
    images = np.stack([load_slice(file.read_bytes(), 128).pixels[0] for file in files])
    patients = np.array([file.stem.split()[0] for file in files])
    hashes = perceptual_hash(images)
    pairs = near_duplicate_pairs(hashes)
    assert (patients[pairs[:, 0]] == patients[pairs[:, 1]]).all()
    assert (len(pairs), len(np.unique(pairs))) == (166, 220)  # 8.8 % of 2,501 slices
    wider = near_duplicate_pairs(hashes, 18)
    assert (patients[wider[:, 0]] == patients[wider[:, 1]]).all()


def test_blank_slices_tie_nobody_together() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (6, 32, 32)).astype(np.uint8)
    images[1] = 0
    images[3] = 0
    images[5] = images[2]
    assert linked_rows(images).tolist() == [[2, 5]]
