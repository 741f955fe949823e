"""Arrays longer than memory are gone through in blocks whose pages do not stay."""

import sys
from pathlib import Path

import numpy as np
import pytest

from strokect.npy_rows import blocks, forget_pages


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """32 MB: 2,000 rows of 1 × 128 × 128 pixels."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (2000, 1, 128, 128), np.uint8))
    return tmp_path / "x.npy"


def mapped_mb() -> float:
    """Pages of mapped files that are resident in this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssFile:")).split()[1]) / 1000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_blocks_hold_what_the_array_does_and_leave_no_pages_behind(saved: Path) -> None:
    images, whole = np.load(saved, mmap_mode="r"), np.load(saved)
    before, most = mapped_mb(), 0.0
    for start, block in blocks(images[:, 0], 300):
        assert np.array_equal(block, whole[start : start + 300, 0])
        most = max(most, mapped_mb() - before)
    assert 0 < most < 12  # 300 rows are 5 MB
    assert mapped_mb() - before < 1
    assert images.sum() and mapped_mb() - before > 30  # what is read in any other way stays until someone lets go
    forget_pages(images)
    assert mapped_mb() - before < 1 and np.array_equal(images, whole)


def test_blocks_of_arrays_in_memory_end_with_the_rest() -> None:
    images = np.arange(10, dtype=np.uint8)[:, None, None]
    assert [(start, block.ravel().tolist()) for start, block in blocks(images, 4)] == [
        (0, [0, 1, 2, 3]),
        (4, [4, 5, 6, 7]),
        (8, [8, 9]),
    ]


@pytest.mark.parametrize("mode", ["c", "r+"])
def test_what_was_written_into_a_map_is_not_lost(mode: str, saved: Path) -> None:
    images = np.load(saved, mmap_mode=mode)  # type: ignore[arg-type]
    images[:] = 7
    forget_pages(images)
    forget_pages(images[:, 0])
    assert (images == 7).all()
    view = images[:, 0]
    view.flags.writeable = False  # a closed view of an open map
    forget_pages(view)
    assert (images == 7).all()
