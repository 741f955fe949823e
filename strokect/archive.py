"""What an upload of several slices is made of: files and zip archives of files, opened under caps. No name in it is ever a path.

A zip is hostile until shown otherwise: what it declares is not believed, sizes are counted while inflating.
"""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from strokect.errors import ImageError
from strokect.files import sha256_bytes
from strokect.slices import is_dicom

MAX_MEMBER_BYTES = 16 * 2**20  # an uncompressed slice has 0.5 MiB, of 1024 × 1024 pixels 2 MiB
MAX_SERIES_BYTES = 256 * 2**20  # inflated, all files together
MAX_DIRECTORY_BYTES = 2**20  # of a zip's list of files, which is parsed as a whole: some 15,000 entries
CHUNK = 2**20
SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")  # of a zip, and of an empty one
END, END_ZIP64, END_BYTES = b"PK\x05\x06", b"PK\x06\x07", 22  # the record that ends a zip
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA would let the file choose how much memory is taken
ENCRYPTED = 0x2041  # flag bits: encrypted, strongly encrypted, encrypted list of files
# What lies beside the slices on a hospital's disc: PDF, programs, old Office files and thumbnails, what macOS adds, a logo.
SIDE_FILES = (b"%PDF", b"MZ", b"\x7fELF", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\0\0\0\x01Bud1", b"GIF8")
CONTROL = bytes(set(range(32)) - set(b"\t\n\f\r\x1a")) + b"\x7f"  # what no text holds, and every DICOM file does


@dataclass(frozen=True)
class Unreadable:
    """A file of an upload whose bytes could not be had. `sha256` stands for it in the hash of the upload."""

    code: str
    message: str
    sha256: str


def is_zip(data: bytes) -> bool:
    """Whether the bytes begin as a zip does. A DICOM file may begin with anything, so its own mark comes first."""
    return data.startswith(SIGNATURES) and not is_dicom(data)


def is_side_file(data: bytes) -> bool:
    """Whether the bytes are surely no slice, not even a damaged one: a text in any 8-bit code (XML, HTML, …), or SIDE_FILES."""
    return data.startswith(SIDE_FILES) or len(data.translate(None, CONTROL)) == len(data)


def unpack(files: Sequence[bytes], max_slices: int, max_bytes: int = MAX_SERIES_BYTES) -> Iterator[bytes | Unreadable]:
    """Every file of an upload in order: parts as sent, those of a zip in the order of its list, folders not counted.

    A member that is damaged, encrypted, too large or itself a zip is yielded as Unreadable. Raises ImageError for the whole when
    it has more than `max_slices` files or more than `max_bytes` inflated bytes, or when a zip's list of files cannot be read.
    """
    budget = _Budget(max_slices, max_bytes)
    for data in files:
        if is_zip(data):
            yield from _unpack_zip(data, budget)
            continue
        budget.count()
        if len(data) > MAX_MEMBER_BYTES:
            yield _too_large(sha256_bytes(data))
        else:
            budget.take(len(data))
            yield data


class _Budget:
    """What is left of an upload's caps."""

    def __init__(self, slices: int, size: int):
        self.slices, self.hidden, self.size = slices, slices, size
        self.too_many = ImageError("too_many_slices", f"more than {slices} files in one series")
        self.too_large = ImageError("too_large_series", f"more than {size // 2**20} MiB of slices in one series")

    def count(self, hidden: bool = False) -> None:
        """One more file; those that a system hides do not count as slices."""
        self.slices -= not hidden
        self.hidden -= hidden
        if min(self.slices, self.hidden) < 0:
            raise self.too_many

    def take(self, size: int) -> None:
        """So many more bytes."""
        self.size -= size
        if self.size < 0:
            raise self.too_large


def _unpack_zip(data: bytes, budget: _Budget) -> Iterator[bytes | Unreadable]:
    archive, own = _open(data), sha256_bytes(data)
    for number, info in enumerate(info for info in archive.infolist() if not info.filename.endswith("/")):
        sha256 = sha256_bytes(f"{own} {number}".encode())
        hidden = _is_resource_fork(info.filename)
        budget.count(hidden)
        if hidden:
            yield Unreadable("no_slice", "a file that macOS adds to an archive", sha256)
        else:
            yield _inflate(archive, info, sha256, budget)


def _open(data: bytes) -> zipfile.ZipFile:
    """The archive, once its list of files is known to be small."""
    end = data.rfind(END, max(0, len(data) - END_BYTES - 0xFFFF))
    if end < 0 or len(data) < end + END_BYTES or data[end - 20 : end - 16] == END_ZIP64:
        raise ImageError("unreadable_zip", "not a readable zip (damaged, truncated, or in the format for more than 4 GiB)")
    if int.from_bytes(data[end + 12 : end + 16], "little") > MAX_DIRECTORY_BYTES:
        raise ImageError("too_many_slices", "the zip lists too many files")
    try:
        # Cut behind the record that was just looked at, without its comment, so that zipfile finds this one and no other.
        return zipfile.ZipFile(io.BytesIO(data[: end + END_BYTES - 2] + b"\0\0"))
    except Exception:  # zipfile raises many types on hostile input, and its text may quote names
        raise ImageError("unreadable_zip", "not a readable zip (damaged or truncated)") from None


def _is_resource_fork(name: str) -> bool:
    """The one use of a member's name: macOS packs a shadow of every file. It is not kept."""
    return name.startswith("__MACOSX/") or name.rsplit("/", 1)[-1].startswith("._")


def _inflate(archive: zipfile.ZipFile, info: zipfile.ZipInfo, sha256: str, budget: _Budget) -> bytes | Unreadable:
    if info.flag_bits & ENCRYPTED:
        return Unreadable("encrypted", "encrypted; send the archive without a password", sha256)
    if info.compress_type not in METHODS:
        return Unreadable("unsupported_compression", "compressed by a method other than deflate", sha256)
    chunks: list[bytes] = []
    size = 0
    try:
        with archive.open(info) as stream:
            while chunk := stream.read(CHUNK):
                budget.take(len(chunk))
                size += len(chunk)
                if size > MAX_MEMBER_BYTES:
                    return _too_large(sha256)
                chunks.append(chunk)
    except ImageError:
        raise
    except Exception:  # a wrong checksum, a broken stream, a header elsewhere than the list says
        return Unreadable("damaged_member", "damaged in the archive (its checksum or its compressed data are wrong)", sha256)
    data = b"".join(chunks)
    return Unreadable("nested_zip", "a zip inside a zip; send the inner one", sha256) if is_zip(data) else data


def _too_large(sha256: str) -> Unreadable:
    return Unreadable("too_large_member", f"larger than {MAX_MEMBER_BYTES // 2**20} MiB", sha256)
