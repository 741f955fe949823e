"""How the service ends and what it keeps: a worker that cannot become ready takes the server down, a shutdown is never endless.

`bentoml serve` starts a failed worker again for ever and then exits with 0; and it waits for requests in flight without a limit.
"""

import ctypes
import logging
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

logger = logging.getLogger("bentoml.strokect")

EXIT_CODE = 3  # of the server and its worker when the worker gave up
GRACE_S = 8.0  # for requests in flight after SIGTERM; Cloud Run kills after 10 s
# From the worker to `bentoml serve`. A real-time signal: nothing else uses it. Its default would end a process as well, but not
# the one with the process id 1, which the server is in a container.
GAVE_UP = signal.SIGRTMIN + 1


def without_traces() -> None:
    """Switch BentoML's OpenTelemetry off, unless the environment says otherwise; before BentoML makes the application.

    Its spans of every request go nowhere and stay in memory: 5 kB a request, on BentoML 1.4.39 with a service of one line.
    """
    os.environ.setdefault("OTEL_SDK_DISABLED", "true")


def return_memory() -> None:
    """Give freed memory back to the system, after a large upload; does nothing where the C library is not glibc.

    glibc keeps what lies between smaller things still in use: twelve uploads of 30 MB at once left 50 to 150 MB for good. A low
    M_MMAP_THRESHOLD would prevent that, too, but then every array of a slice comes from the system: twice the latency.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def listen_for_workers() -> None:
    """In the process that supervises the worker (and, without effect, in the worker): end when a worker says that it gave up."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(GAVE_UP, lambda *_: os._exit(EXIT_CODE))


def give_up_after(seconds: float, reason: str) -> None:
    """End worker and server with EXIT_CODE in `seconds`: long enough to be seen not ready, too short to loop for ever."""
    timer = threading.Timer(seconds, _give_up, [reason])
    timer.daemon = True
    timer.start()


def _give_up(reason: str) -> None:
    logger.error("giving up: %s", reason)
    parent = os.getppid()
    if _catches(parent, GAVE_UP):
        os.kill(parent, GAVE_UP)
    os._exit(EXIT_CODE)


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal (Linux): not every parent is a server of ours."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return bool(masks and masks[0] >> (number - 1) & 1)


def end_within_grace() -> None:
    """From now on a SIGTERM ends this process after GRACE_S at the latest, whatever is still in flight."""
    before: Any = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: FrameType | None) -> None:
        timer = threading.Timer(GRACE_S, os._exit, [0])
        timer.daemon = True
        timer.start()
        if callable(before):
            before(number, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handle)
