"""A decoder that does what its input says, run as the worker of a pool: `python -m decoder_stand_in …`."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from strokect.decode_messages import Header
from strokect.decode_worker import main
from strokect.hounsfield import BRAIN_ONLY, Windows
from strokect.images import Picture

if TYPE_CHECKING:
    from strokect.series import Member

SECRET = "Mustermann^Erika"


def decode(data: bytes, windows: Windows = BRAIN_ONLY) -> Picture:
    """b"WORD ARGUMENT": behave that way; anything else is a picture of its length in rows."""
    word, _, argument = data.decode().partition(" ")
    match word:
        case "sleep":
            time.sleep(float(argument))
        case "spin":
            while True:
                pass
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "die_once":  # an empty file may be made where nothing may be written
            if not Path(argument).exists():
                Path(argument).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "take":
            np.ones(int(argument) * 2**20, np.uint8)
        case "write":
            Path(argument).write_text(SECRET)
        case "raise":
            raise ValueError(SECRET)
        case "shout":
            os.write(1, SECRET.encode())
            os.write(2, SECRET.encode())
        case "lie":
            return Picture(np.zeros((4, 4), np.uint8), 999)
    return Picture(np.zeros((len(data), 2), np.uint8), 0)


def view(data: bytes, level_hu: float, width_hu: float) -> bytes:
    """What was asked for."""
    return b"%g %g " % (level_hu, width_hu) + data


def read_identity(data: bytes) -> dict[str, bytes]:
    """b"KEYWORD VALUE": so much as an element's value."""
    keyword, _, value = data.partition(b" ")
    return {keyword.decode(): value}


def read_members(files: Sequence[bytes], request: Header) -> Iterator["Member"]:
    """Each file is a member."""
    for number, data in enumerate(files):
        if number >= request["start"]:
            # As `series.Member`, whose module takes longer to import than most tests here wait.
            yield SimpleNamespace(number=number, sha256="", picture=decode(data), geometry=None, error=None)  # type: ignore[misc]


if __name__ == "__main__":
    main(decode, view, read_identity, read_members)
