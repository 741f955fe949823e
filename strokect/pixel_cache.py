"""What `prepare` has decoded before, so that a later run reads only what changed and a killed one goes on.

DVC deletes the outputs of a stage before it runs, so this lies elsewhere: `.strokect/prepare/<source>-<key>/` with two packs.
`done` holds the rows of the last complete run. Its files are never written to: data/prepared gets hard links of them. DVC
replaces those by copies when the stage is over, so from then on `done` takes as much room again as data/prepared, which the stage
prints; the packs of other keys are deleted. `added` takes what a run decodes, row after row; a kill costs the last few.

When is a row still good? As git does for its index, a file counts as unchanged while size, mtime, ctime and inode are what they
were: ctime moves with every write and cannot be set back, so a file replaced by another of equal size and date is noticed. Where
any of them differs (`dvc checkout` makes new links, a copy has new dates), and where the file was younger than the clock
of a file system is exact, the SHA-256 of its bytes decides. What the cache itself says is checked too: each line of the index has
a checksum over itself and over its pixels.
"""

import json
import shutil
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strokect import npy_rows
from strokect.files import sha256_file, write_text

IMAGES, MASKS, INDEX = "images.npy", "masks.npy", "index.jsonl"
RACY_NS = 2 * 10**9  # file systems keep times to 2 s (FAT) or better

Stamp = tuple[int, int, int, int]  # size, mtime_ns, ctime_ns, inode
Plane = NDArray[np.uint8]


def lasting(seen: Stamp | None, at_ns: int) -> Stamp | None:
    """`seen` at a time of the system clock, if a later change is bound to show in it."""
    return seen if seen and at_ns - seen[2] > RACY_NS else None


def stamp(path: Path) -> Stamp | None:
    """What must not change for a file to be the same, without reading it; None if there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(frozen=True)
class Entry:
    """One line of an index: what a row holds."""

    file: str
    stamp: Stamp | None  # of the file before it was read; None where that proves nothing
    sha256: str  # of the file's bytes
    width: int
    height: int
    crc32: int = 0

    def sealed(self, image: Plane, mask: Plane | None) -> "Entry":
        """The same with the checksum of what a later run takes over unseen: these fields and the pixels."""
        said = json.dumps([self.file, self.sha256, self.width, self.height])
        crc = zlib.crc32(np.ascontiguousarray(image).data, zlib.crc32(said.encode()))
        return replace(self, crc32=crc if mask is None else zlib.crc32(np.ascontiguousarray(mask).data, crc))


@dataclass(frozen=True)
class Found:
    """Where the pixels of a raw file are."""

    pack: "Pack"
    row: int
    entry: Entry


class Pack:
    """A folder with images.npy, masks.npy (where the source has masks) and index.jsonl, whose line i is about row i."""

    def __init__(self, folder: Path):
        """Opens what is there; rows and lines that a killed process left without each other are dropped."""
        self.folder = folder
        self.entries: list[Entry] = []
        self._waiting: list[tuple[Entry, Plane, Plane | None]] = []
        try:
            lines = (folder / INDEX).read_text(encoding="utf-8").splitlines()
            whole = min(npy_rows.whole_rows(path) for path in self.arrays())
        except (OSError, ValueError):
            return
        for line in lines[:whole]:
            try:
                given = json.loads(line)
                self.entries.append(Entry(**{**given, "stamp": given["stamp"] and tuple(given["stamp"])}))
            except (ValueError, TypeError, KeyError):
                break  # cut short by a kill, or damaged: what follows has lost its place

    def arrays(self) -> list[Path]:
        """images.npy, and masks.npy if there is one."""
        masks = self.folder / MASKS
        return [self.folder / IMAGES, *([masks] if masks.exists() else [])]

    def append(self, entry: Entry, image: Plane, mask: Plane | None) -> "Found":
        """Add image (C, S, S) and mask (S, S), and say where they will be. Written some rows at a time."""
        found = Found(self, len(self.entries) + len(self._waiting), entry.sealed(image, mask))
        self._waiting.append((found.entry, image, mask))
        if len(self._waiting) >= npy_rows.block_rows(image.shape):
            self.flush()
        return found

    def flush(self) -> None:
        """Write what waits: pixels first, so that a line of the index never speaks of a row that is not there."""
        if not self._waiting:
            return
        entries, images, masks = zip(*self._waiting, strict=True)
        if not self.entries:
            self._start(images[0], masks[0])
        if any((mask is None) != (masks[0] is None) for mask in masks):
            raise ValueError("some slices of this source have masks and some have none")
        for path, rows in zip(self.arrays(), (images, masks), strict=False):
            npy_rows.write_rows(path, len(self.entries), rows)
        with open(self.folder / INDEX, "a", encoding="utf-8") as stream:
            stream.writelines(_line(entry) for entry in entries)
        self.entries += entries
        self._waiting = []

    def _start(self, image: Plane, mask: Plane | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        npy_rows.create(self.folder / IMAGES, image.shape)
        if mask is not None:
            npy_rows.create(self.folder / MASKS, mask.shape)

    def resume(self) -> None:
        """Make the index end with the last whole row, so that more can be appended."""
        if self.entries:
            write_text(self.folder / INDEX, "".join(map(_line, self.entries)))

    def damaged(self, rows: Sequence[int]) -> set[int]:
        """Those of `rows` whose pixels or line are not what was written."""
        bad = set()
        step = npy_rows.block_rows(npy_rows.row_shape(self.folder / IMAGES)) if rows else 1
        for start in range(0, len(rows), step):
            maps = [npy_rows.map_rows(path) for path in self.arrays()]
            for row in rows[start : start + step]:
                planes = [each[row] for each in maps]
                if self.entries[row] != self.entries[row].sealed(planes[0], planes[1] if planes[1:] else None):
                    bad.add(row)
        return bad


class PixelCache:
    """The packs of one key. One process at a time: the caller holds a lock."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("gathered", "old"):  # of a process that was killed
            shutil.rmtree(folder / name, ignore_errors=True)
        self.done, self.added = Pack(folder / "done"), Pack(folder / "added")

    def look_up(self, files: Mapping[str, Path]) -> tuple[dict[str, Found], int]:
        """Which files (name → path) can be taken over as they are, their stamps renewed; and how many rows were damaged.

        From here on `added` takes new rows.
        """
        known = {entry.file: Found(pack, i, entry) for pack in (self.done, self.added) for i, entry in enumerate(pack.entries)}
        good = _unchanged({name: (found, files[name]) for name, found in known.items() if name in files})
        damaged = 0
        for pack in (self.done, self.added):
            here = {found.row: name for name, found in good.items() if found.pack is pack}
            for row in pack.damaged(sorted(here)):
                del good[here[row]]
                damaged += 1
        if any(found.pack is self.added for found in good.values()):
            self.added.resume()
        else:
            self.added.entries = []  # the first row that is appended starts it anew
        return good, damaged

    def complete(self, order: Sequence[Found]) -> Pack:
        """Make `done` the pack of exactly these rows in this order, drop `added`, and return it."""
        self.added.flush()
        pack = order[0].pack
        in_order = [(found.pack, found.row) for found in order] == [(pack, row) for row in range(len(pack.entries))]
        if not in_order or (pack is self.done and not all(npy_rows.holds(path, len(order)) for path in pack.arrays())):
            pack = self._gathered(order)
        if pack is not self.done:
            for path in pack.arrays():
                npy_rows.set_length(path, len(order))
        write_text(pack.folder / INDEX, "".join(_line(found.entry) for found in order))
        if pack is not self.done:
            if self.done.folder.exists():
                self.done.folder.replace(self.folder / "old")
            pack.folder.replace(self.done.folder)
        for name in ("old", "added"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.done = Pack(self.done.folder)
        return self.done

    def _gathered(self, order: Sequence[Found]) -> Pack:
        folder = self.folder / "gathered"
        folder.mkdir()
        for path in order[0].pack.arrays():
            npy_rows.gather([(found.pack.folder / path.name, found.row) for found in order], folder / path.name)
        return Pack(folder)


def _unchanged(known: Mapping[str, tuple[Found, Path]]) -> dict[str, Found]:
    """Those whose file is what it was when it was read; only what the stamp leaves open is read."""

    def compare(name: str) -> tuple[str, Found | None]:
        found, path = known[name]
        at_ns, now = time.time_ns(), stamp(path)
        try:
            same = now is not None and sha256_file(path) == found.entry.sha256
        except OSError:  # the decoder will say what is wrong
            same = False
        return name, replace(found, entry=replace(found.entry, stamp=lasting(now, at_ns))) if same else None

    good, open_ = {}, []
    for name, (found, path) in known.items():
        now = stamp(path)
        if now and now == found.entry.stamp:
            good[name] = found
        elif now and (found.entry.stamp is None or now[0] == found.entry.stamp[0]):  # another size is another content
            open_.append(name)
    with ThreadPoolExecutor() as pool:
        good.update({name: found for name, found in pool.map(compare, open_) if found})
    return good


def _line(entry: Entry) -> str:
    return json.dumps(vars(entry)) + "\n"
