"""What decoders and service say to each other: a JSON header and raw bytes a message, never a pickle.

The service believes nothing that a decoder says: a file may have taken it over. What makes no sense raises ValueError, or what
Python raises for it.
"""

import json
import math
import re
import socket
import struct
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import ImageError
from strokect.hounsfield import COUNTS
from strokect.images import Picture

if TYPE_CHECKING:
    from strokect.series import Member

LENGTHS = struct.Struct("<IQ")  # bytes of the header, and of what comes behind it
MAX_HEADER = 2**20
ERROR_CODE = re.compile(r"[a-z0-9_]{1,40}")
MAX_MESSAGE = 400  # characters
UNREADABLE = "unreadable_image", "not a readable picture (damaged or truncated)"

Header = dict[str, Any]


def send(channel: socket.socket, header: Header, *parts: Any, until: float = math.inf) -> None:
    """Send `header` and the bytes of `parts`. Raises TimeoutError at `until` (time.monotonic), OSError when nobody reads."""
    views = [memoryview(part).cast("B") for part in parts]
    text = json.dumps(header).encode()
    views.insert(0, memoryview(LENGTHS.pack(len(text), sum(map(len, views))) + text))
    for view in views:
        _wait_until(channel, until)
        channel.sendall(view)


def receive(channel: socket.socket, until: float = math.inf, limit: int = sys.maxsize) -> tuple[Header, bytearray]:
    """(header, bytes behind it) of one message.

    Raises TimeoutError at `until` (time.monotonic), EOFError when the other side is gone, ValueError for a message that is
    malformed or has more than `limit` bytes.
    """
    length, size = LENGTHS.unpack(_receive_exactly(channel, LENGTHS.size, until))
    if length > MAX_HEADER or size > limit:
        raise ValueError("a message of impossible size")
    header = json.loads(_receive_exactly(channel, length, until))
    if not isinstance(header, dict):
        raise ValueError("a message without a header")
    return header, _receive_exactly(channel, size, until)


def describe_picture(picture: Picture) -> tuple[Header, *tuple[NDArray[np.uint8], ...]]:
    """The message of a picture; `parse_picture` is its inverse."""
    windows = () if picture.windows is None else (picture.windows,)
    count = sum(map(len, windows))
    return {"shape": picture.grey.shape, "chroma": picture.chroma, "windows": count}, picture.grey, *windows


def parse_picture(header: Header, data: bytearray) -> Picture:
    """Inverse of `describe_picture`. The arrays are `data`, not copies."""
    (height, width), chroma, count = header["shape"], header["chroma"], header["windows"]
    numbers = all(isinstance(n, int) for n in (height, width, chroma, count))
    if not (numbers and min(height, width) > 0 and 0 <= chroma <= 255 and count in (0, *COUNTS)):
        raise ValueError("no picture")
    planes = np.frombuffer(data, np.uint8).reshape(1 + count, height, width)
    return Picture(planes[0], chroma, planes[1:] if count else None)


def describe_member(member: "Member") -> tuple[Any, ...]:
    """The message of a member of a series; `parse_member` is its inverse."""
    geometry = None if member.geometry is None else asdict(member.geometry)
    known = {"number": member.number, "sha256": member.sha256, "geometry": geometry, "failed": member.error}
    if member.picture is None:
        return (known,)
    header, *pixels = describe_picture(member.picture)
    return header | known, *pixels


def parse_member(header: Header, data: bytearray) -> "Member":
    """Inverse of `describe_member`."""
    from strokect.geometry import Geometry  # here: both need pydicom, which a service of single pictures need not load
    from strokect.series import Member

    error = None if header["failed"] is None else parse_error(header["failed"])
    picture = None if error else parse_picture(header, data)
    geometry = header["geometry"]
    if geometry is not None:
        normal = geometry["normal"]
        geometry = Geometry(**geometry | {"normal": None if normal is None else tuple(map(float, normal))})
    return Member(header["number"], str(header["sha256"]), picture, geometry, (error.code, str(error)) if error else None)


def describe_identity(identity: Mapping[str, bytes]) -> Header:
    """The message of what `identity.read_identity` found, a character a byte; `parse_identity` is its inverse."""
    return {"identity": {name: value.decode("latin-1") for name, value in identity.items()}}


def parse_identity(header: Header) -> dict[str, bytes]:
    """Inverse of `describe_identity`."""
    from strokect.identity import KEYWORDS, MAX_BYTES  # here: as above

    identity = {name: value.encode("latin-1") for name, value in header["identity"].items()}
    if not set(identity) <= set(KEYWORDS) or any(len(value) > MAX_BYTES for value in identity.values()):
        raise ValueError("no identity of a slice")
    return identity


def parse_error(value: Any) -> ImageError:
    """[code, message] → ImageError. A client sees both."""
    code, message = value
    if not (isinstance(code, str) and isinstance(message, str) and ERROR_CODE.fullmatch(code) and len(message) <= MAX_MESSAGE):
        raise ValueError("no error of ours")
    return ImageError(code, message)


def _receive_exactly(channel: socket.socket, size: int, until: float) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        _wait_until(channel, until)
        count = channel.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


def _wait_until(channel: socket.socket, until: float) -> None:
    """Let the next call on `channel` wait until then and no longer."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    channel.settimeout(None if left == math.inf else left)
