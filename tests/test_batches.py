"""Where the slices wait must not change the batches; the memory map is read only where it is asked for."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_distributed import train_params

from strokect.batches import Feed, Mapped, Resident, Rows, Streamed, fits, open_feed
from strokect.network import FoldNet
from strokect.training import Task, Trainer

CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path: Path) -> NDArray[np.uint8]:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), np.uint8))
    mapped: NDArray[np.uint8] = np.load(tmp_path / "images.npy", mmap_mode="r")
    return mapped


def test_rows_are_those_of_the_array_read_when_asked_for(images: NDArray[np.uint8]) -> None:
    numbers = np.array([7, 3, 29, 0])
    rows = Rows(images, numbers)
    assert len(rows) == 4 and rows.shape == (4, 1, 8, 8)
    np.testing.assert_array_equal(rows, images[numbers])
    np.testing.assert_array_equal(rows[1:3], images[[3, 29]])
    np.testing.assert_array_equal(rows[np.array([2, 2])], images[[29, 29]])
    np.testing.assert_array_equal(Rows(rows, np.array([3, 0]))[:], images[[0, 7]])
    assert isinstance(rows.array, np.memmap)


@pytest.mark.parametrize("size", [1, 4, 20, 64])
def test_every_feed_gives_the_same_batches(images: NDArray[np.uint8], size: int) -> None:
    rows = Rows(images, np.arange(29, 9, -1))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    expected = [images[29 - chunk.numpy()] for chunk in order.split(size)]
    for feed in (Resident(rows, CPU), Mapped(rows), Streamed(rows, CPU)):
        got = list(feed.batches(order, size))
        assert [batch.dtype for batch in got] == [torch.uint8] * len(expected)
        for batch, wanted in zip(got, expected, strict=True):
            np.testing.assert_array_equal(batch, wanted)


class Slow(torch.nn.Module):
    """A backbone of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 3)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_a_run_is_the_same_bit_by_bit_whichever_way_the_slices_come(images: NDArray[np.uint8], tmp_path: Path) -> None:
    rows = Rows(images, np.arange(30))
    task = Task(rows, np.arange(30) % 2, np.ones(30, np.float32), rows, np.arange(30) % 2, "fake@0")
    runs = []
    feeds: list[Feed | None] = [None, Resident(rows, CPU), Streamed(rows, CPU)]
    for k, feed in enumerate(feeds):
        torch.manual_seed(0)
        net = FoldNet(Slow(), 4, (0.5,) * 3, (0.5,) * 3, 0.2)
        loop = Trainer(net, task, train_params(), seed=0, mine_epoch=1, resume=tmp_path / f"{k}.pt", feed=feed)
        runs.append([[row["loss"], row["held_out_log_loss"]] for row in loop.run().history])
    assert runs[0] == runs[1] == runs[2]


def test_the_next_batch_is_read_while_this_one_is_used_and_no_further(images: NDArray[np.uint8]) -> None:
    read = threading.Semaphore(0)

    class Counted(Rows):
        count = 0

        def __getitem__(self, which: object) -> NDArray[np.uint8]:
            Counted.count += 1
            read.release()
            return super().__getitem__(which)

    batches = Streamed(Counted(images, np.arange(30)), CPU).batches(torch.arange(30), 5)
    next(batches)
    for _ in range(2):
        assert read.acquire(timeout=10)  # the first, and the second without being asked for
    assert not read.acquire(timeout=0.2)
    batches.close()  # type: ignore[attr-defined]
    assert Counted.count == 2


def test_an_error_of_the_reading_thread_is_not_lost(images: NDArray[np.uint8]) -> None:
    with pytest.raises(IndexError):
        list(Streamed(images, CPU).batches(torch.tensor([0, 99]), 1))


def test_what_fits_leaves_the_reserve() -> None:
    assert fits(500, 1000, reserve=0.5) and not fits(501, 1000, reserve=0.5)
    assert fits(1, 10**9) and not fits(1, 0)


def test_slices_that_do_not_fit_are_streamed_which_is_said(images: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(open_feed(images, CPU, "fake@0"), Mapped)
    assert isinstance(open_feed(images, CPU, "fake@0", free_bytes=10**6), Resident)
    assert capsys.readouterr().out == ""
    assert isinstance(open_feed(images, CPU, "fake@0", free_bytes=3000, tell=False), Streamed)
    assert capsys.readouterr().out == ""
    assert isinstance(open_feed(images, CPU, "fake@0", free_bytes=3000), Streamed)
    line = capsys.readouterr().out
    assert line.startswith("fake@0: 30 slices are 0.00 GB") and "pinned memory" in line and line.count("\n") == 1


def test_on_a_gpu_free_memory_is_measured_and_buffers_are_pinned(
    images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fake GPU: what is asked of torch, not that a GPU does it."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 10**12))
    cuda = torch.device("cuda")
    feed = open_feed(images, cuda, "fake@0", tell=False)
    assert isinstance(feed, Streamed)
    asked: list[object] = []
    empty = torch.empty

    def fake(*args: object, pin_memory: bool, **kwargs: object) -> torch.Tensor:
        asked.append(pin_memory)
        return empty(*args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "empty", fake)
    feed._read(torch.tensor([1, 2]))
    assert asked == [True]


@pytest.mark.gpu
def test_a_gpu_gets_the_same_batches_either_way(images: NDArray[np.uint8]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cuda, order = torch.device("cuda"), torch.randperm(30)
    assert isinstance(open_feed(images, cuda, "fake@0"), Resident)
    both = zip(Resident(images, cuda).batches(order, 4), Streamed(images, cuda).batches(order, 4), strict=True)
    assert all(torch.equal(resident, streamed) for resident, streamed in both)
