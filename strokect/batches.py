"""Where the training slices wait for their batch: on the device, in the memory map, or half-way between.

Packed uint8 slices of a few thousand patients fit on a GPU (6,653 of 512² are 1.7 GB): they stay there, and nothing is loaded
while training. Where they do not fit, a thread reads the next batch from the memory map into pinned memory while the device is
busy with this one. On a CPU the memory map is the place, and the operating system keeps what fits. The batches are the same
bytes in every case.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Of the GPU memory that is free before training: kept for the network, its activations and the optimiser.
RESERVE = 0.5


@dataclass(frozen=True)
class Rows:
    """Some rows of a (memory-mapped) array, read when asked for: `rows[a:b]` and `rows[positions]` copy just those."""

    array: "NDArray[np.uint8] | Rows"  # (N, C, S, S)
    numbers: NDArray[np.int64]  # (n,) which rows of it

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, which: Any) -> NDArray[np.uint8]:
        return self.array[self.numbers[which]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.uint8]:
        return np.asarray(self.array[self.numbers], dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, C, S, S)."""
        return (len(self.numbers), *self.array.shape[1:])


class Feed(Protocol):
    """Batches of slices on the device, whatever way they take."""

    def batches(self, order: Tensor, size: int) -> Iterator[Tensor]:
        """The slices at the positions `order` (n,), on the CPU, as (B, C, S, S) uint8 on the device; B ≤ size."""
        ...


class Resident:
    """All slices on the device."""

    def __init__(self, images: Rows | NDArray[np.uint8], device: torch.device):
        self.images = torch.empty(images.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(images), 1024):  # in pieces: the host may not have room for a second copy
            self.images[start : start + 1024] = torch.from_numpy(np.array(images[start : start + 1024])).to(device)

    def batches(self, order: Tensor, size: int) -> Iterator[Tensor]:
        """See Feed."""
        for positions in order.to(self.images.device).split(size):  # moved once: each copy from the host is a wait
            yield self.images[positions]


class Mapped:
    """Slices read from the memory map as they are needed."""

    def __init__(self, images: Rows | NDArray[np.uint8]):
        self.images = images

    def batches(self, order: Tensor, size: int) -> Iterator[Tensor]:
        """See Feed."""
        for positions in order.split(size):
            yield torch.from_numpy(self.images[positions.numpy()])


class Streamed:
    """Slices read by a thread, one batch ahead, into pinned memory that the GPU fetches by itself."""

    def __init__(self, images: Rows | NDArray[np.uint8], device: torch.device):
        self.images, self.device = images, device

    def batches(self, order: Tensor, size: int) -> Iterator[Tensor]:
        """See Feed. An error of the reading thread is raised here."""
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[Tensor] | None = None
            for positions in order.split(size):
                following = reader.submit(self._read, positions)
                if ahead is not None:
                    yield ahead.result().to(self.device, non_blocking=True)
                ahead = following
            if ahead is not None:
                yield ahead.result().to(self.device, non_blocking=True)

    def _read(self, positions: Tensor) -> Tensor:
        # torch's allocator of pinned memory hands a buffer out again only when the copy from it is done.
        buffer = torch.empty((len(positions), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        buffer.numpy()[...] = self.images[positions.numpy()]
        return buffer


def fits(wanted_bytes: int, free_bytes: int, reserve: float = RESERVE) -> bool:
    """Whether `wanted_bytes` of slices leave the share `reserve` of the free memory untouched."""
    return wanted_bytes <= free_bytes * (1.0 - reserve)


def open_feed(
    images: Rows | NDArray[np.uint8], device: torch.device, name: str, *, free_bytes: int | None = None, tell: bool = True
) -> Feed:
    """The feed that suits the device. `free_bytes` of it are measured unless given; `tell`: say so where the slices do not fit.

    `name` is that of the task, for the line that is printed.
    """
    if free_bytes is None:
        if device.type != "cuda":
            return Mapped(images)
        free_bytes = torch.cuda.mem_get_info(device)[0]
    wanted = int(np.prod(images.shape))  # uint8: a byte each
    if fits(wanted, free_bytes):
        return Resident(images, device)
    if tell:
        print(
            f"{name}: {len(images)} slices are {wanted / 1e9:.2f} GB; {free_bytes / 1e9:.2f} GB are free on the device, "
            f"{RESERVE:.0%} kept for the network: batches come from the memory map through pinned memory",
            flush=True,
        )
    return Streamed(images, device)
