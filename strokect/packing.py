"""From the rows of a source to packed arrays: decoded in parallel, taken over where an earlier run did, never held in memory."""

import ast
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

from strokect.ahead import map_ahead
from strokect.errors import DataError, ImageError
from strokect.files import sha256_file
from strokect.params import DataParams
from strokect.pixel_cache import Entry, Pack, PixelCache, Stamp, lasting, stamp
from strokect.sources import Pixels, Row, Source

MAX_LISTED = 50  # files named in an error
AHEAD = 64  # slices decoded before they are needed
PIXEL_PACKAGES = ("numpy", "pillow", "pydicom", "python-gdcm", "nibabel")
NOT_PIXELS = ("labels", "shuffle_seed", "max_unreadable")  # keys of `data` that only name and count slices


@dataclass(frozen=True)
class Packed:
    """Slices whose pixels lie in `pack`, row by row."""

    pack: Pack
    slices: list[tuple[Row, Entry]]
    unreadable: list[dict[str, str]]  # file, reason
    n_decoded: int
    n_kept: int  # taken over from an earlier run
    n_damaged: int  # of the earlier run's, decoded again
    from_files: bool  # False: drawn, there is nothing to read again


@contextmanager
def pixel_cache(root: Path, name: str, key: str) -> Iterator[PixelCache]:
    """The cache `root`/`name`-`key`, for this process alone; caches of other keys are deleted when the block succeeds.

    Raises DataError when another process has it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            raise DataError(f"{root} is in use: another `prepare` is running here; wait for it or stop it") from None
        cache = PixelCache(root / f"{name}-{key}")
        yield cache
        for other in root.glob(f"{name}-*"):
            if other != cache.folder:
                shutil.rmtree(other, ignore_errors=True)


def cache_key(params: DataParams, source: Source) -> str:
    """Changes with all that can change a pixel but the raw files: params, the code that `source.read` reaches, packages."""
    values = {key: value for key, value in asdict(params).items() if key not in NOT_PIXELS}
    reader = getattr(source.read, "func", source.read).__module__  # of a functools.partial, its function
    code = {str(path.name): sha256_file(path) for path in _code(Path(str(sys.modules[reader].__file__)))}
    return hashlib.sha256(json.dumps([values, code, _packages()], sort_keys=True).encode()).hexdigest()[:16]


def pack(source: Source, root: Path, cache: PixelCache, max_unreadable: int) -> Packed:
    """Decode what `cache` does not have and bring all slices into the order of the rows.

    What was decoded stays in the cache whatever happens. Raises DataError for more than `max_unreadable` unreadable files (all
    are counted, MAX_LISTED named) and for files that change meanwhile.
    """
    paths = {row.file: source.path(row) if source.path else root / row.file for row in source.rows}
    seen = {file: stamp(path) for file, path in paths.items()}
    found, damaged = cache.look_up(paths)
    missing, kept = [row for row in source.rows if row.file not in found], len(found)
    unreadable = [{"file": file, "reason": reason} for file, reason in source.unreadable]
    with tqdm(total=len(source.rows), initial=kept, desc="prepare", unit="slice", mininterval=1) as bar:
        try:
            for row, pixels, trusted in _decode(source, paths, seen, missing):
                bar.update()
                if isinstance(pixels, ImageError):
                    unreadable.append({"file": row.file, "reason": str(pixels)})
                    continue
                entry = Entry(row.file, trusted, pixels.sha256, pixels.width, pixels.height)
                found[row.file] = cache.added.append(entry, pixels.image, pixels.mask)
        finally:
            cache.added.flush()
    _check_unchanged(seen, paths, root, source.look_up)
    if len(unreadable) > max_unreadable:
        raise DataError(_unreadable_message(unreadable, max_unreadable, root, source.look_up))
    rows = [row for row in source.rows if row.file in found]
    if not rows:
        raise DataError(f"{root}: no slice could be read")
    complete = cache.complete([found[row.file] for row in rows])
    from_files = any(seen[row.file] for row in rows)
    return Packed(complete, list(zip(rows, complete.entries, strict=True)), unreadable, len(missing), kept, damaged, from_files)


def publish(packed: Pack, folder: Path) -> None:
    """Put images.npy (and masks.npy) of a complete pack into `folder`, as links where the file system has them."""
    for path in packed.arrays():
        try:
            os.link(path, folder / path.name)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, folder / path.name)


def _decode(
    source: Source, paths: dict[str, Path], seen: dict[str, Stamp | None], rows: Sequence[Row]
) -> Iterator[tuple[Row, Pixels | ImageError, Stamp | None]]:
    """(row, pixels or the ImageError, stamp to remember) in the order of the rows. `seen` learns the stamp before the read.

    Threads help because Pillow and numpy release the lock where the time goes, and need nothing of a reader but `read`.
    """

    def read(row: Row) -> tuple[Row, Pixels | ImageError, Stamp | None]:
        at_ns, now = time.time_ns(), stamp(paths[row.file])
        seen[row.file] = now
        try:
            return row, source.read(row), lasting(now, at_ns)
        except ImageError as error:
            return row, error, None

    return map_ahead(read, rows, AHEAD)


def _check_unchanged(seen: dict[str, Stamp | None], paths: dict[str, Path], root: Path, look_up: str) -> None:
    # DVC hashes the raw data when the stage is over: what was packed must be what lies there then.
    changed = [file for file, before in seen.items() if stamp(paths[file]) != before]
    if changed:  # behind a pseudonym the path may name a patient: it is not said
        names = [str(root / file if look_up else paths[file]) for file in changed]
        raise DataError(
            f"{len(changed)} file(s) changed while they were read:\n{_listed(names)}\n{_hint(root, look_up)}"
            "Wait until the copy is complete, or stop what writes there, and run again: only these are read again"
        )


def _unreadable_message(unreadable: list[dict[str, str]], max_unreadable: int, root: Path, look_up: str) -> str:
    lines = [f"{root / item['file']}: {item['reason']}" for item in unreadable]
    return (
        f"{len(unreadable)} file(s) cannot be used and data.max_unreadable is {max_unreadable}:\n"
        f"{_listed(lines)}\n{_hint(root, look_up)}"
        "Mend or remove them, or raise data.max_unreadable in params.yaml: they are then left out and listed"
    )


def _hint(root: Path, look_up: str) -> str:
    return f"These names are pseudonyms; `{look_up} <name without {root}/>` says which file one is\n" if look_up else ""


def _listed(lines: Sequence[str]) -> str:
    more = [f"… and {len(lines) - MAX_LISTED} more"] if len(lines) > MAX_LISTED else []
    return "\n".join(f"  {line}" for line in [*lines[:MAX_LISTED], *more])


def _code(start: Path) -> list[Path]:
    """The file `start` and the files of this package that it imports, at the top or inside a function, and so on."""
    package = Path(__file__).parent
    seen: set[Path] = set()
    todo = {start.resolve()}
    while todo:
        path = todo.pop()
        seen.add(path)
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
                names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names if alias.name.split(".")[0] == package.name}
        files = {package.parent / f"{name.replace('.', '/')}.py" for name in names}
        todo |= {file for file in files if file.is_file()} - seen
    return sorted(seen)


def _packages() -> dict[str, str]:
    found = {}
    for name in PIXEL_PACKAGES:
        with suppress(PackageNotFoundError):  # an optional extra
            found[name] = version(name)
    return found
