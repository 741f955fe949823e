"""Near-duplicate slices: by a 256-bit perceptual hash of the low spatial frequencies, and by what survives alteration."""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from strokect.near_duplicates import altered_copies, same_slice
from strokect.npy_rows import blocks

HASH_SIDE = 16  # 16 × 16 coefficients, 256 bits
MAX_DISTANCE = 16  # re-encoding (JPEG 40), resampling and noise move a CT-ICH slice by ≤ 6 bits, brightness × 1.1 by ≤ 14
HASH_BLOCK = 256  # images transformed at once: 33 MB of float64 at 128 px
MIN_SPREAD = 2.0  # grey levels of standard deviation; below it a picture shows nothing
PAIR_BLOCK = 2048  # rows compared at once: 16 MB per block of distances


def perceptual_hash(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, S, S) uint8, S > 16 → (N, 32) uint8, 256 packed bits per image.

    The pHash construction (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"): the
    two-dimensional DCT-II, a 16 × 16 block of its low frequencies, one bit per coefficient above the block's median.
    """
    if images.ndim != 3 or min(images.shape[1:]) <= HASH_SIDE:
        raise ValueError(f"images must be (N, S, S) with S > {HASH_SIDE}, not {images.shape}")
    hashes = np.empty((len(images), HASH_SIDE * HASH_SIDE // 8), np.uint8)
    # Frequency 0 (the mean and the profiles along each axis) is left out: it says "a head in the middle", which all slices
    # share. With it, two different patients of CT-ICH come within 16 bits; without it the closest pair is at 20.
    low = slice(1, HASH_SIDE + 1)
    for start, block in blocks(images, HASH_BLOCK):
        spectrum = dctn(block.astype(np.float64), axes=(1, 2), norm="ortho")[:, low, low].reshape(len(block), -1)  # (B, 256)
        # Rounding makes what is zero in exact arithmetic (flat or symmetric pictures) zero on every machine.
        spectrum = np.round(spectrum, 6)
        bits = spectrum > np.median(spectrum, axis=1, keepdims=True)
        hashes[start : start + HASH_BLOCK] = np.packbits(bits, axis=1)
    return hashes


def near_duplicate_pairs(hashes: NDArray[np.uint8], max_distance: int = MAX_DISTANCE) -> NDArray[np.int64]:
    """(N, B) uint8 packed bits → (P, 2) int64, every i < j whose Hamming distance is ≤ max_distance, in ascending order.

    With bits as ±1, distance = (bits − dot product) / 2, so a block of distances is one exact float32 matrix product.
    Memory: the unpacked hashes (1 kB each) and one block of distances; time grows with N².
    """
    bits = 8 * hashes.shape[1]
    signs = np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1  # (N, bits)
    found = [np.empty((0, 2), np.int64)]
    for top in range(0, len(signs), PAIR_BLOCK):
        for left in range(top, len(signs), PAIR_BLOCK):
            agreement = signs[top : top + PAIR_BLOCK] @ signs[left : left + PAIR_BLOCK].T
            pairs = np.argwhere(agreement >= bits - 2 * max_distance) + np.array([top, left])
            found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def is_blank(images: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(N,) whether each image of (N, S, S) shows (almost) nothing: such pictures are alike without being copies."""
    return np.concatenate([block.reshape(len(block), -1).std(axis=1) < MIN_SPREAD for _, block in blocks(images, HASH_BLOCK)])


def linked_rows(images: NDArray[np.uint8], patients: NDArray[np.str_] | None = None) -> NDArray[np.int64]:
    """Near-duplicate pairs (P, 2), i < j, ascending, among images (N, S, S) that show something.

    Those whose hashes are close, and those where one is an altered copy of the other (`near_duplicates`). Where `patients` (N,)
    are known, two things are different between them: a close hash must be confirmed by what the brain shows, for two heads on one
    headrest may have it; and only there altered copies, which take longer to find, decide anything.
    Blank pictures all hash alike; counting them would tie every patient who has one to every other.
    """
    textured = np.flatnonzero(~is_blank(images))
    groups = np.arange(len(images)) if patients is None else np.unique(patients, return_inverse=True)[1]
    by_hash = textured[near_duplicate_pairs(perceptual_hash(images)[textured])]
    if patients is not None:
        across = groups[by_hash[:, 0]] != groups[by_hash[:, 1]]
        by_hash = np.concatenate([by_hash[~across], by_hash[across][same_slice(images, by_hash[across])]])
    return np.unique(np.concatenate([by_hash, altered_copies(images, groups)]), axis=0)


def one_slice(images: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,) whether both of a pair that `linked_rows` found show one slice, as told by the brain.

    The others are thin neighbours, whose hashes are close: of such pairs within patients of CT-ICH none is one slice
    (`near_duplicates_across_classes` finds nothing there: docs/results/audit.md).
    """
    if not len(pairs):
        return np.zeros(0, np.bool_)
    hashes = np.stack([perceptual_hash(np.stack([images[i] for i in pairs[:, side]])) for side in (0, 1)])
    close = np.unpackbits(hashes[0] ^ hashes[1], axis=1).sum(axis=1) <= MAX_DISTANCE
    same = ~close  # found by `altered_copies`, which has compared the brains
    same[close] = same_slice(images, pairs[close])
    return same
