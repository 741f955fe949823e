"""Decoding in processes that can be killed, for a thread cannot: a file that makes a decoder hang would keep it for good.

What a file made a decoder allocate goes with the process too; `strokect.decode_worker` says what limits it has.
"""

import math
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from strokect.decode_messages import UNREADABLE, Header, parse_error, parse_identity, parse_member, parse_picture, receive, send
from strokect.errors import ImageError
from strokect.files import sha256_bytes
from strokect.hounsfield import BRAIN_ONLY, Windows, windows_to_json
from strokect.images import MAX_PIXELS, Picture
from strokect.worker_pool import LostWorkerError, WorkerPool

if TYPE_CHECKING:
    from strokect.series import Member

Answer = TypeVar("Answer")

WORKER = "strokect.decode_worker"
MAX_ANSWER = 4 * MAX_PIXELS  # bytes: a grey picture and three windows, or a PNG of one
MAX_LOSSES = 3  # workers that one series may take; each costs the start of another


class DecodePool(WorkerPool):
    """Decoders for any number of threads; an upload occupies one of them. Client file names do not come here."""

    def __init__(self, workers: int, timeout_s: float, memory_mb: int, module: str = WORKER):
        """`timeout_s` for one file, `memory_mb` MiB for what it takes beyond what a worker has at its start."""
        super().__init__(workers, [module, str(timeout_s), str(memory_mb)])
        self.timeout_s = timeout_s

    def picture(self, data: bytes, deadline: float = math.inf, windows: Windows = BRAIN_ONLY) -> Picture:
        """What `slices.decode` makes of the bytes of one file and `windows`.

        Raises ImageError, also for a file that takes too long, too much memory or the decoder's life, and DeadlineError when the
        time of the request is over (`deadline`, time.monotonic).
        """
        return self._ask({"windows": windows_to_json(windows)}, data, deadline, parse_picture)

    def view(self, data: bytes, level_hu: float, width_hu: float, deadline: float = math.inf) -> bytes:
        """The PNG that `window.view_png` makes of the bytes of one file. Raises as `picture`."""
        return self._ask({"window": [level_hu, width_hu]}, data, deadline, lambda header, png: bytes(png))

    def identity(self, data: bytes, deadline: float = math.inf) -> dict[str, bytes]:
        """What `identity.read_identity` finds in the bytes of one file. Raises as `picture`."""
        return self._ask({"identity": True}, data, deadline, lambda header, _: parse_identity(header))

    def members(self, files: Sequence[bytes], deadline: float, max_slices: int, windows: Windows = BRAIN_ONLY) -> "list[Member]":
        """The files of a series, each read by `series.read_member` within `timeout_s`.

        One that takes too long, or the decoder's life, has an error like one that is no picture. Raises ImageError when the whole
        breaks a cap or takes more than MAX_LOSSES decoders, and DeadlineError.
        """
        files = files[: max_slices + 1]  # one too many is enough to be refused
        # One salt for all decoders that read this upload: their hashes of a UID must agree.
        salt, sizes = secrets.token_hex(32), [len(data) for data in files]
        request = {"sizes": sizes, "max_slices": max_slices, "salt": salt, "windows": windows_to_json(windows)}
        found: list[Member] = []
        losses, died_at = 0, -1
        while True:
            try:
                error = self._read_on(files, request, found, deadline)
                break
            except LostWorkerError as lost:
                losses += 1
                if losses > MAX_LOSSES:
                    raise self._verdict(lost) from None
                if lost.died and died_at != len(found):
                    died_at = len(found)  # once more, as in `_ask`
                else:
                    found.append(_lost_member(files, len(found), self._verdict(lost)))
        if error:
            raise error
        return found

    def _ask(self, request: Header, data: bytes, deadline: float, parse: Callable[[Header, bytearray], Answer]) -> Answer:
        for last in (False, True):
            try:
                with self.borrow(deadline) as worker:
                    until = self._until(deadline)
                    send(worker.channel, request, data, until=until)
                    header, body = receive(worker.channel, until, MAX_ANSWER)
                    answer = parse_error(header["error"]) if "error" in header else parse(header, body)
                break
            except LostWorkerError as lost:
                # It may also have been killed from outside, so another has a try: a good picture must not be called unreadable.
                if last or not lost.died:
                    raise self._verdict(lost) from None
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def _read_on(self, files: Sequence[bytes], request: Header, found: "list[Member]", deadline: float) -> ImageError | None:
        """Append the members that `found` lacks. Returns what is wrong with the whole."""
        from strokect.series import MAX_SERIES_PIXELS  # here: it needs pydicom, and a single picture does not

        total = sum(member.picture.grey.size for member in found if member.picture)
        with self.borrow(deadline) as worker:
            until = self._until(deadline)
            send(worker.channel, request | {"start": len(found)}, *files, until=until)
            while True:
                header, pixels = receive(worker.channel, until, MAX_ANSWER)
                if "end" in header:
                    return None
                if "error" in header:
                    return parse_error(header["error"])
                if header["number"] != len(found):
                    raise ValueError("members out of order")
                member = parse_member(header, pixels)
                total += member.picture.grey.size if member.picture else 0
                if total > MAX_SERIES_PIXELS:
                    raise ImageError("too_large_series", f"more than {MAX_SERIES_PIXELS:,} pixels in one series")
                found.append(member)
                until = self._until(deadline)

    def _until(self, deadline: float) -> float:
        return min(time.monotonic() + self.timeout_s, deadline)

    def _verdict(self, lost: LostWorkerError) -> ImageError:
        if lost.died:
            return ImageError(*UNREADABLE)
        return ImageError("decode_timeout", f"decoding took longer than {self.timeout_s:g} s")


def _lost_member(files: Sequence[bytes], number: int, error: ImageError) -> "Member":
    """Stands for the file that took a decoder, which alone had its bytes; its hash is of the upload and its place."""
    from strokect.series import Member

    upload = " ".join(sha256_bytes(data) for data in files)
    return Member(number, sha256_bytes(f"{upload} {number}".encode()), None, None, (error.code, str(error)))
