"""Rows of one shape in a .npy file that is longer than memory: appended, read and gathered through maps of a few rows.

A map of the whole file would do, but every page once touched counts as this process's memory until the kernel wants it back.
"""

import errno
import io
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import DataError

HEADER_BYTES = 128  # numpy pads the header so that the number of rows can grow in place
BLOCK_BYTES = 2**23  # mapped at once
BLOCK_ROWS = 64  # and no more than so many rows

Shape = tuple[int, ...]


def create(path: Path, row_shape: Shape) -> None:
    """A uint8 file of no rows yet."""
    path.write_bytes(_header(0, row_shape))


def row_shape(path: Path) -> Shape:
    """Shape of one row. Raises ValueError for what `create` did not make."""
    with open(path, "rb") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError(f"{path}: not a .npy file of version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if fortran or dtype != np.uint8 or len(shape) < 2 or stream.tell() != HEADER_BYTES:
            raise ValueError(f"{path}: {dtype} {shape} was not written by this project")
    return tuple(int(side) for side in shape[1:])


def whole_rows(path: Path) -> int:
    """How many rows the file holds, whatever its header says: a killed process leaves the header behind."""
    return max(path.stat().st_size - HEADER_BYTES, 0) // _row_bytes(row_shape(path))


def holds(path: Path, rows: int) -> bool:
    """Whether the file is what `np.save` would have written of so many rows, as far as its header and size say."""
    shape = row_shape(path)
    with open(path, "rb") as stream:
        header = stream.read(HEADER_BYTES)
    return header == _header(rows, shape) and path.stat().st_size == HEADER_BYTES + rows * _row_bytes(shape)


def set_length(path: Path, rows: int) -> None:
    """Cut the file after `rows` rows and say so in its header: it is then what `np.save` would have written."""
    shape = row_shape(path)
    os.truncate(path, HEADER_BYTES + rows * _row_bytes(shape))
    with open(path, "r+b") as stream:
        stream.write(_header(rows, shape))


def block_rows(row_shape: Shape) -> int:
    """Rows to map at once."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // _row_bytes(row_shape)))


def map_rows(path: Path, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
    """Rows start..stop of the file, mapped for reading. Nothing is read before it is looked at."""
    shape = row_shape(path)
    stop = whole_rows(path) if stop is None else stop
    if stop == start:
        return np.empty((0, *shape), np.uint8)
    offset = HEADER_BYTES + start * _row_bytes(shape)
    return np.memmap(path, np.uint8, mode="r", offset=offset, shape=(stop - start, *shape))


def blocks(images: NDArray[np.uint8], rows: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(first row, block of at most `rows` rows) of an array of any kind; pages of a map are given back behind each block."""
    for start in range(0, len(images), rows):
        yield start, images[start : start + rows]
        forget_pages(images)


def forget_pages(images: NDArray[Any]) -> None:
    """Let go of the pages of a file that an array mapped for reading, or a view of one, has touched; others are left alone.

    What is read again comes from the kernel's own copy of the file, which is not this process's memory.
    """
    base: Any = images
    while isinstance(base, np.ndarray) and not base.flags.writeable:
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # a map that may be written to would lose its changes
        base.madvise(mmap.MADV_DONTNEED)


def write_rows(path: Path, start: int, rows: Sequence[NDArray[np.uint8]]) -> None:
    """Put `rows` at row `start`; the file grows as needed. Raises DataError when the disk is full."""
    shape = row_shape(path)
    for row in rows:
        if row.shape != shape or row.dtype != np.uint8:
            raise ValueError(f"{path}: a row of {row.dtype} {row.shape} beside rows of uint8 {shape}")
    offset, length = HEADER_BYTES + start * _row_bytes(shape), len(rows) * _row_bytes(shape)
    _reserve(path, offset, length)
    block = np.memmap(path, np.uint8, mode="r+", offset=offset, shape=(len(rows), *shape))
    for place, row in zip(block, rows, strict=True):
        place[:] = row


def gather(parts: Iterable[tuple[Path, int]], target: Path) -> None:
    """Write row `number` of `path` for each (path, number) of `parts` into the new file `target`, in this order."""
    wanted = list(parts)
    shape = row_shape(wanted[0][0])
    create(target, shape)
    step = block_rows(shape)
    for start in range(0, len(wanted), step):
        block = wanted[start : start + step]
        maps = {path: map_rows(path) for path, _ in block}  # anew for each block: pages of a closed map count no more
        write_rows(target, start, [maps[path][number] for path, number in block])
    set_length(target, len(wanted))


def _header(rows: int, shape: Shape) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)})
    if stream.tell() != HEADER_BYTES:
        raise ValueError(f"a .npy header of {stream.tell()} bytes for {rows} rows of {shape}")
    return stream.getvalue()


def _row_bytes(shape: Shape) -> int:
    return int(np.prod(shape))


def _reserve(path: Path, offset: int, length: int) -> None:
    # Writing through a map into a hole of the file kills the process (SIGBUS) when the disk is full.
    with open(path, "r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), offset, length)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                room = f"no room for {length / 1e6:.0f} MB more ({error.strerror})"
                raise DataError(f"{path}: {room}; make room and run again") from None
            os.truncate(path, max(path.stat().st_size, offset + length))  # a file system that cannot promise room
