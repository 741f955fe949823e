"""Admission control: how many requests compute, how many may wait, and who is told to come back.

BentoML's own limits count pages and probes, answer without `Retry-After`, and free a slot while the work of a timed-out request
goes on. Here a slot is free when its work has ended, whichever thread that happens in and whether or not the client still waits.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from strokect.http import HttpError

RETRY_AFTER_S = 1  # at least; more where what is ahead is known to take longer
SMOOTHING = 0.2  # of the running mean of how long a request computes


@dataclass(eq=False)
class Slot:
    """The right of one request to compute. Given back once: by the guard if no work was begun, else by the work's end."""

    admission: "Admission"
    begun: float | None = None  # time.monotonic
    ended: bool = False

    @contextmanager
    def work(self) -> Iterator[None]:
        """Around the computation, in the thread that does it."""
        with self.admission.lock:
            if self.ended:
                raise HttpError(503, "shutting_down", "the request was given up before its work began")
            self.begun = time.monotonic()
        try:
            yield
        finally:
            self.admission.free(self)

    def leave(self) -> None:
        """The guard is done with the request: the slot is free unless work has begun."""
        with self.admission.lock:
            if self.begun is None:
                self.admission.free(self)


@dataclass(eq=False)
class Admission:
    """`computing` requests at once, `queue` more waiting; one object per process, entered from its event loop."""

    computing: int
    queue: int
    tell: Callable[[int, int], None] = lambda queued, computing: None  # at every change
    lock: threading.RLock = field(default_factory=threading.RLock)
    busy: int = 0
    mean_s: float = 0.0  # running mean of how long a request computes
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    async def enter(self, deadline: float) -> Slot:
        """Wait for a slot until `deadline` (time.monotonic). HttpError 429 where the queue is full, 504 when time is up."""
        with self.lock:
            if self.busy < self.computing and not self.waiting:
                self.busy += 1
                self._tell()
                return Slot(self)
            if len(self.waiting) >= self.queue:
                raise HttpError(429, headers={"Retry-After": str(self._retry_after())})
            turn = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            self._tell()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await turn
        except BaseException as error:
            with self.lock:
                handed_over = turn not in self.waiting  # in this very moment
                if not handed_over:
                    self.waiting.remove(turn)
                    self._tell()
            if handed_over:
                self.free(Slot(self))
            if isinstance(error, TimeoutError):
                raise HttpError(504) from None
            raise
        return Slot(self)

    def free(self, slot: Slot) -> None:
        """Give a slot back, from any thread; the longest waiting request takes it over."""
        with self.lock:
            if slot.ended:
                return
            slot.ended = True
            if slot.begun is not None:
                took = time.monotonic() - slot.begun
                self.mean_s = took if self.mean_s == 0 else (1 - SMOOTHING) * self.mean_s + SMOOTHING * took
            while self.waiting:
                turn = self.waiting.popleft()
                if not turn.get_loop().is_closed():
                    turn.get_loop().call_soon_threadsafe(_hand_over, turn)
                    break
            else:
                self.busy -= 1
            self._tell()

    def full(self) -> bool:
        """Whether a request that came now would be told to come back; asked before its body is read."""
        with self.lock:
            return self.busy >= self.computing and len(self.waiting) >= self.queue

    def busy_error(self) -> HttpError:
        """The 429 for a request that is not let in."""
        with self.lock:
            return HttpError(429, headers={"Retry-After": str(self._retry_after())})

    def _tell(self) -> None:
        self.tell(len(self.waiting), self.busy)

    def _retry_after(self) -> int:
        ahead = (len(self.waiting) + 1) / self.computing
        return max(RETRY_AFTER_S, math.ceil(ahead * self.mean_s))


def _hand_over(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_result(None)
