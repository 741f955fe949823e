"""Candidates for near-duplicates: slices that look alike once each head is brought to the middle, to one size and one brightness.

The index. A slice becomes a signature of its low spatial frequencies in the frame of its own head, so that resampling, a crop
around the head and a brightness change leave it as it is, and a small rotation nearly so; a mirrored slice has the same signature
with other signs. Whether a candidate is the same slice is then `registration`'s to say, which looks at the brain itself.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from strokect.head_frames import IMAGES, head_frames, uncut_frames
from strokect.npy_rows import forget_pages
from strokect.registration import Floats, compare, flipped

COARSE, FINE = 32, 64  # pixels of a side, of the two steps of the comparison
FREQUENCIES = 12  # cycles ÷ 2 per frame and direction; 3° of rotation hardly change these
NEAREST = 4  # candidates of each slice; the slice that another was made of is among them, 99 times in 100
LEAST_COSINE = 0.45  # of signatures: the least of altered copies of phantom and CT-ICH is above it, but for heads cut in half
BLOCK = 1024  # rows compared at once: four blocks of 4 MB
PAIRS = 64  # registered at once
FLIPS = np.array([(1, 1), (-1, 1), (1, -1), (-1, -1)])  # signs of what is odd from left to right, and from front to back


@dataclass(frozen=True)
class Candidates:
    """Pairs (P, 2) int64, i < j, and the row of FLIPS (P,) in which the two are most alike."""

    pairs: NDArray[np.int64]
    flips: NDArray[np.int64]


def altered_copies(images: NDArray[np.uint8], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N, S, S) uint8 → (P, 2) int64, i < j, ascending: pairs of different `groups` (N,) that show the same slice.

    Found where one was re-encoded, resized, mirrored, turned by a few degrees, cropped, brightened, or several of these. Pairs of
    one group are not looked at. Memory: 1.5 kB a slice and blocks of fixed size; `images` may be memory-mapped.
    """
    if len(images) < 2:
        return np.empty((0, 2), np.int64)
    small = head_frames(images, COARSE)
    cut, wider = uncut_frames(images, COARSE)  # a head that a crop has cut is looked for in the frame of the whole one, too
    owner = np.concatenate([np.arange(len(images)), cut])
    found = find_candidates(signatures(np.concatenate([small, wider])), groups, owner)
    order = range(0, len(found.pairs), PAIRS)

    def check(start: int) -> NDArray[np.bool_]:
        rows, flips = found.pairs[start : start + PAIRS], found.flips[start : start + PAIRS]
        return _same(images, small, rows, flips)

    with ThreadPoolExecutor() as pool:  # numpy releases the lock
        same = list(pool.map(check, order))
    pairs = found.pairs[np.concatenate(same)] if same else found.pairs
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def same_slice(images: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,) whether the pictures of each pair are equal, or show one slice as they lie, unmirrored."""
    same = [np.empty(0, np.bool_)]
    for start in range(0, len(pairs), PAIRS):
        rows = pairs[start : start + PAIRS]
        pictures = [np.stack([images[i] for i in rows[:, side]]) for side in (0, 1)]
        forget_pages(images)
        frames = np.concatenate([head_frames(part, COARSE) for part in pictures])
        own = np.stack([np.arange(len(rows)), np.arange(len(rows)) + len(rows)], axis=1)
        alike = _same(np.concatenate(pictures), frames, own, np.zeros(len(rows), np.int64))
        same.append(alike | (pictures[0] == pictures[1]).all(axis=(1, 2)))
    return np.concatenate(same)


def signatures(small: NDArray[np.uint8]) -> Floats:
    """(N, n, n) head frames → (N, D) float32 of length 1, whose dot product is the likeness.

    Low DCT-II coefficients, divided by their spread over the cohort: what all heads share says nothing. Only the mean of the
    coefficients that mirroring leaves alone is taken away, so that a mirrored slice keeps its signature but for signs.
    """
    kept, row, column = _frequencies()
    parts = []
    for start in range(0, len(small), IMAGES):
        spectrum = dctn(small[start : start + IMAGES].astype(np.float32), axes=(1, 2), norm="ortho")
        parts.append(_unit(spectrum[:, row[kept], column[kept]] * np.hypot(row, column)[kept]))
    values = np.concatenate(parts)
    even = (row[kept] % 2 == 0) & (column[kept] % 2 == 0)
    values -= np.where(even, values.mean(axis=0), 0)
    return _unit(values / (np.sqrt(np.square(values).mean(axis=0)) + 1e-9))


def find_candidates(signature: Floats, groups: NDArray[np.int64], owner: NDArray[np.int64] | None = None) -> Candidates:
    """Signatures (N, D), groups (N,) → the NEAREST of each row in other groups, over all FLIPS, if above LEAST_COSINE.

    `owner` (N,): the row that each signature stands for, where a slice has several; `groups` and the pairs are those of owners.
    Every pair is compared, in blocks: one matrix product in four parts gives all four flips. Time grows with N².
    """
    kept, row, column = _frequencies()
    odd = [
        (column[kept] % 2 == c) & (row[kept] % 2 == r) for r in (0, 1) for c in (0, 1)
    ]  # neither, left-right, front-back, both
    parts = [np.ascontiguousarray(signature[:, part]) for part in odd]
    count = len(signature)
    owner = np.arange(count) if owner is None else owner
    groups = groups[owner]
    best = np.full((count, NEAREST), LEAST_COSINE, np.float32)  # ascending
    whom, how = np.full((count, NEAREST), -1), np.zeros((count, NEAREST), np.int64)

    def look(corner: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, NDArray[np.int8]]:
        """The pairs of one block that may be among the nearest; `best` only grows, so an old one lets through too many."""
        top, left = corner
        alike, flip = _best_flip([part[top : top + BLOCK] @ part[left : left + BLOCK].T for part in parts])
        a, b = np.nonzero((alike > best[top : top + BLOCK, :1]) | (alike > best[left : left + BLOCK, 0]))
        usable = (a + top < b + left) & (groups[a + top] != groups[b + left])
        a, b = a[usable], b[usable]
        return a + top, b + left, alike[a, b], flip[a, b]

    with ThreadPoolExecutor() as pool:
        for i, j, alike, flip in pool.map(look, _blocks(count)):
            _keep_best(i, j, alike, flip, best, whom, how)
            _keep_best(j, i, alike, flip, best, whom, how)
    rows, slots = np.nonzero(whom >= 0)
    pairs = np.sort(owner[np.stack([rows, whom[rows, slots]], axis=1)], axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    return Candidates(pairs.astype(np.int64), how[rows, slots][first])


def _same(
    images: NDArray[np.uint8], small: NDArray[np.uint8], pairs: NDArray[np.int64], flips: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(P,) whether each pair shows one slice: coarsely on `small`, and where that does not deny it, on finer frames."""
    one, other = small[pairs[:, 0]], flipped(small[pairs[:, 1]], FLIPS[flips])
    coarse = compare(one, other)
    same = coarse.is_same("maybe")
    rows = np.flatnonzero(same)
    if rows.size:
        fine = [head_frames(np.stack([images[i] for i in pairs[rows, side]]), FINE) for side in (0, 1)]
        forget_pages(images)
        same[rows] = compare(fine[0], flipped(fine[1], FLIPS[flips[rows]]), coarse.motion[rows]).is_same("same")
    return same


def _frequencies() -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Which coefficients of the FREQUENCIES × FREQUENCIES corner a signature has, and the row and column of each."""
    row, column = np.mgrid[:FREQUENCIES, :FREQUENCIES]
    radius = np.hypot(row, column)
    return (radius > 0) & (radius < FREQUENCIES), row, column


def _unit(values: Floats) -> Floats:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9), np.float32)


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    for top in range(0, count, BLOCK):
        for left in range(top, count, BLOCK):
            yield top, left


def _best_flip(parts: list[Floats]) -> tuple[Floats, NDArray[np.int8]]:
    """Products of the four parts of signatures → the best of the four flips, and which it is."""
    neither, across, along, both = parts
    best, flip = neither + across + along + both, np.zeros(neither.shape, np.int8)
    for number, (x, y) in enumerate(FLIPS[1:], start=1):
        other = neither + x * across + y * along + x * y * both
        flip[other > best] = number
        np.maximum(best, other, out=best)
    return best, flip


def _keep_best(
    rows: NDArray[np.int64],
    others: NDArray[np.int64],
    alike: Floats,
    flips: NDArray[np.int8],
    best: Floats,
    whom: NDArray[np.int64],
    how: NDArray[np.int64],
) -> None:
    """Merge new pairs into the NEAREST of each row: `best` ascending, `whom` and `how` beside it."""
    order = np.lexsort((-alike, rows))
    rows, others, alike, flips = rows[order], others[order], alike[order], flips[order]
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]]) if len(rows) else np.zeros(0, np.int64)
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    for place in range(NEAREST):
        now = np.flatnonzero(rank == place)
        now = now[alike[now] > best[rows[now], 0]]
        row = rows[now]
        best[row, 0], whom[row, 0], how[row, 0] = alike[now], others[now], flips[now]
        again = np.argsort(best[row], axis=1, kind="stable")
        for table in (best, whom, how):
            table[row] = np.take_along_axis(table[row], again, axis=1)
