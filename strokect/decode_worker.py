"""One decoding process: takes uploads from its channel, answers with pixels, and is killed by `strokect.decoding` if it does not.

Decoders of hostile files hang, swell and crash. So they run here, under limits that the kernel keeps, beside nothing worth
stealing: no descriptor but the channel, no environment, and no name that a client gave a file.
"""

import fcntl
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from strokect.decode_messages import UNREADABLE, Header, describe_identity, describe_member, describe_picture, receive, send
from strokect.errors import ImageError
from strokect.hounsfield import Windows, windows_from_json
from strokect.images import Picture

if TYPE_CHECKING:
    from strokect.series import Member

Decode = Callable[[bytes, Windows], Picture]
View = Callable[[bytes, float, float], bytes]
ReadIdentity = Callable[[bytes], Mapping[str, bytes]]
ReadMembers = Callable[[Sequence[bytes], Header], Iterator["Member"]]

MAX_FILES = 16  # open at once; libraries import some of their modules late
CPU_MARGIN_S = 2  # the parent, which kills by the clock, comes first unless it is gone


def main(decode: Decode, view: View, read_identity: ReadIdentity, read_members: ReadMembers) -> None:
    """Serve `python -m MODULE TIMEOUT_S MEMORY_MB LIFELINE` until the parent closes the channel, which is standard input."""
    timeout_s, memory_mb, lifeline = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    # At the end of the service circus signals the worker's children, too, but requests in flight still need their decoder, which
    # ends with its channel.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_with_parent(lifeline)
    _limit(memory_mb)
    channel = socket.socket(fileno=0)
    send(channel, {"ready": True})
    while True:
        try:
            request, data = receive(channel)
        except EOFError:
            return
        _limit_cpu(timeout_s)
        try:
            if "sizes" in request:
                for member in read_members(_split(data, request["sizes"]), request):
                    send(channel, *describe_member(member))
                    _limit_cpu(timeout_s)  # each has its own
                send(channel, {"end": True})
            elif "window" in request:
                send(channel, {}, view(bytes(data), *request["window"]))
            elif "identity" in request:
                send(channel, describe_identity(read_identity(bytes(data))))
            else:
                send(channel, *describe_picture(decode(bytes(data), windows_from_json(request["windows"]))))
        except ImageError as error:
            send(channel, {"error": [error.code, str(error)]})
        except Exception:  # MemoryError above all; the text of a library may quote the file
            send(channel, {"error": UNREADABLE})


def _split(data: bytearray, sizes: Sequence[int]) -> list[bytes]:
    files, start = [], 0
    for size in sizes:
        files.append(bytes(memoryview(data)[start : start + size]))
        start += size
    return files


def _end_with_parent(lifeline: int) -> None:
    """Have the kernel end this process when the parent, the only one at the other end of `lifeline`, is gone.

    That the channel is closed would only be noticed between two files. PR_SET_PDEATHSIG is no remedy: it fires when the thread
    ends that started this process.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # which ends the process
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _limit(memory_mb: int) -> None:
    """No core dump, which would hold a patient's picture, no file written, few open, `memory_mb` MiB above what is used now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    statm = Path("/proc/self/statm")
    if statm.exists():  # Linux; elsewhere the limit does nothing
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory_mb * 2**20,) * 2)


def _limit_cpu(timeout_s: float) -> None:
    """So many seconds of computing from now on: what is left when the parent is gone or stopped."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(usage.ru_utime + usage.ru_stime + timeout_s) + CPU_MARGIN_S
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _read_members(files: Sequence[bytes], request: Header) -> Iterator["Member"]:
    """The members of a series from number `start` on."""
    strokect.geometry.SALT = bytes.fromhex(request["salt"])
    windows = windows_from_json(request["windows"])
    for number, data in enumerate(unpack(files, request["max_slices"])):
        if number >= request["start"]:
            yield read_member(number, data, windows)


if __name__ == "__main__":
    # pydicom would load it to fetch test files of its own: a third of a worker's start.
    sys.modules["requests"] = None  # type: ignore[assignment]
    import strokect.geometry
    from strokect.archive import unpack
    from strokect.identity import read_identity
    from strokect.series import read_member
    from strokect.slices import decode
    from strokect.window import view_png

    main(decode, view_png, read_identity, _read_members)
