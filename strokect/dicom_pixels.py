"""Compressed pixels of a DICOM slice → the bytes that an uncompressed file would hold. Lossless kinds only.

RLE needs no package; for the JPEG family GDCM decodes, from the optional package python-gdcm. What a file declares is held
against the header of its codestream before a decoder sees it: a decoder believes its codestream, and a few bytes of one can stand
for gigabytes of pixels (ISO/IEC 10918-1 B.2.2 for JPEG, 14495-1 C.2.2 for JPEG-LS, 15444-1 A.5.1 for JPEG 2000).
"""

import importlib.util
import struct
from dataclasses import dataclass

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import UID, UID_dictionary

from strokect.errors import ImageError

RLE = "1.2.840.10008.1.2.5"
START_OF_FRAME = {  # transfer syntax → the marker that a codestream of its kind has
    "1.2.840.10008.1.2.4.57": 0xFFC3,  # JPEG Lossless, process 14
    "1.2.840.10008.1.2.4.70": 0xFFC3,  # the same with first-order prediction
    "1.2.840.10008.1.2.4.80": 0xFFF7,  # JPEG-LS
    "1.2.840.10008.1.2.4.90": 0xFF51,  # JPEG 2000
}
LOSSY = tuple(f"1.2.840.10008.1.2.4.{end}" for end in ("50", "51", "81", "91", "203"))  # these may lose detail
FRAMES = {0xFFC0 + n for n in range(16)} - {0xFFC4, 0xFFC8, 0xFFCC} | {0xFFF7}  # markers that start a frame of a JPEG
END_OF_HEADER = (0xFFDA, 0xFFD9)  # scan, end
ITEM, LAST = 0xE000FFFE, 0xE0DDFFFE  # tags of an item and of the end of the items, as little endian reads them
MAX_FRAGMENTS = 4096  # of one frame; each costs a step, however small it is
MAX_TILES = 1024  # of a JPEG 2000 codestream; each costs the decoder kilobytes, however small it is
MISMATCH = "compressed_pixels", "the compressed pixels are damaged, or not those that the DICOM file declares"


@dataclass(frozen=True)
class Form:
    """What a DICOM file says about its pixels, of which there is one sample each."""

    rows: int
    columns: int
    allocated: int  # bits: 8 or 16
    signed: bool

    @property
    def bytes(self) -> int:
        """Of the picture without compression."""
        return self.rows * self.columns * self.allocated // 8


def check_syntax(syntax: str) -> None:
    """Raise ImageError `unsupported_transfer_syntax` unless `decompress` can read this one."""
    if syntax == RLE or (syntax in START_OF_FRAME and has_gdcm()):
        return
    # The name comes from pydicom's dictionary, so text from the file is never echoed.
    name = UID_dictionary.get(syntax, ("an unknown transfer syntax",))[0]
    reason = "only uncompressed little endian and lossless compression are read"
    if syntax in START_OF_FRAME:
        reason = "that takes the optional package python-gdcm (extra dicom-compressed): `pip install python-gdcm`"
    elif syntax in LOSSY:
        reason = "that compression may have lost what matters: use the original"
    convert = "; or convert the file to uncompressed (for example `dcmdjpeg` or `gdcmconv --raw`)" if syntax not in LOSSY else ""
    raise ImageError("unsupported_transfer_syntax", f"stored as {name}; {reason}{convert}")


def has_gdcm() -> bool:
    """Whether the optional package is installed."""
    return importlib.util.find_spec("gdcm") is not None


def decompress(value: bytes, syntax: str, form: Form) -> bytes:
    """The PixelData element of a single-frame file in a syntax that `check_syntax` passes → form.bytes bytes, little endian.

    Raises ImageError for a codestream of another size, kind or depth, and whatever a decoder raises for a damaged one.
    """
    frame = _join_fragments(value, 2 * form.bytes + 2**16)
    bits = form.allocated if syntax == RLE else _check_codestream(frame, START_OF_FRAME[syntax], form)
    if syntax != RLE:
        _silence_gdcm()
    decoded, _ = get_decoder(UID(syntax)).as_buffer(
        encapsulate([frame], has_bot=False),  # what has been checked, and nothing else that the element held
        index=0,
        decoding_plugin="pydicom" if syntax == RLE else "gdcm",
        number_of_frames=1,
        rows=form.rows,
        columns=form.columns,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=form.allocated,
        bits_stored=bits,
        pixel_representation=int(form.signed),
        pixel_keyword="PixelData",
    )
    words = bytes(decoded)
    if len(words) * 2 == form.bytes and form.allocated == 16:  # a codestream of 8 bits or fewer
        words = np.frombuffer(words, np.uint8).astype("<u2").tobytes()
    if len(words) != form.bytes:
        raise ImageError(*MISMATCH)
    return words


def _join_fragments(value: bytes, limit: int) -> bytes:
    """The fragments of the one frame, put together (PS3.5 A.4). Raises ImageError above `limit` bytes."""
    pieces: list[bytes] = []
    at = 0
    while at < len(value):
        tag, length = struct.unpack_from("<II", value, at)
        if tag == LAST:
            break
        if tag != ITEM or length > len(value) - at - 8 or len(pieces) > MAX_FRAGMENTS:
            raise ImageError(*MISMATCH)
        pieces.append(value[at + 8 : at + 8 + length])
        at += 8 + length
    frame = b"".join(pieces[1:])  # the first is the offset table
    if not 0 < len(frame) <= limit:
        raise ImageError(*MISMATCH)
    return frame


def _check_codestream(frame: bytes, start: int, form: Form) -> int:
    """The bits of a sample, once the header of the codestream says what `form` does; raises ImageError where it does not."""
    try:
        bits, rows, columns, samples = _size_of_jpeg2000(frame) if start == 0xFF51 else _size_of_jpeg(frame, start)
    except (struct.error, IndexError):
        raise ImageError(*MISMATCH) from None
    if (rows, columns, samples) != (form.rows, form.columns, 1) or not 2 <= bits <= form.allocated:
        raise ImageError(*MISMATCH)
    return bits


def _size_of_jpeg(frame: bytes, start: int) -> tuple[int, int, int, int]:
    """(bits, rows, columns, samples) by the frame header of a JPEG or JPEG-LS that begins with the marker `start`."""
    if frame[:2] != b"\xff\xd8":
        raise ImageError(*MISMATCH)
    at = 2
    while True:
        if frame[at] == 0xFF and frame[at + 1] == 0xFF:  # a marker may be padded
            at += 1
            continue
        marker, length = struct.unpack_from(">HH", frame, at)
        if marker == start:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
            return bits, rows, columns, samples
        if marker >> 8 != 0xFF or marker in FRAMES or marker in END_OF_HEADER or length < 2:
            raise ImageError(*MISMATCH)
        at += 2 + length


def _size_of_jpeg2000(frame: bytes) -> tuple[int, int, int, int]:
    """(bits, rows, columns, samples) by the image and tile size marker, which comes first."""
    begin, marker, _, _, *sizes, samples, depth, step_x, step_y = struct.unpack_from(">HHHH8IHBBB", frame)
    columns, rows, *offset, tile_columns, tile_rows, tile_x, tile_y = sizes
    if (begin, marker) != (0xFF4F, 0xFF51) or any((*offset, tile_x, tile_y)) or (step_x, step_y) != (1, 1):
        raise ImageError(*MISMATCH)
    if not tile_columns or not tile_rows or -(-columns // tile_columns) * -(-rows // tile_rows) > MAX_TILES:
        raise ImageError(*MISMATCH)
    return (depth & 0x7F) + 1, rows, columns, samples


def _silence_gdcm() -> None:
    """GDCM writes to standard error what it finds odd in a file."""
    import gdcm

    gdcm.Trace.DebugOff()
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
