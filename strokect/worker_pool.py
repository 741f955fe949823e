"""Processes that are started before they are needed, can be killed at any time, and are replaced then.

No thread of this module: a process is started by whoever has lost one, and gets ready while others are used.
"""

import contextlib
import logging
import math
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from strokect.decode_messages import receive
from strokect.errors import DeadlineError, StrokectError

logger = logging.getLogger("bentoml.strokect")  # BentoML shows INFO of its own loggers only

MAX_FAILED_STARTS = 3
START_S = 30.0  # until a worker must be ready; its imports take one on an idle machine
ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "1",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_ARENA_MAX"), "1"),
    # What a large picture took goes back to the system (glibc's own thresholds would grow with it), and the arrays of a CT slice,
    # 1 MiB each, need not be fetched from there each time, which takes ten times as long as decoding.
    "MALLOC_MMAP_THRESHOLD_": str(2**22),
    "MALLOC_TRIM_THRESHOLD_": str(2**24),
}


class LostWorkerError(Exception):
    """The worker in use is gone: it `died`, or was killed for being late."""

    def __init__(self, died: bool):
        super().__init__("died" if died else "late")
        self.died = died


class Worker:
    """One process, which speaks on its standard input as `strokect.decode_worker` does."""

    def __init__(self, command: list[str]):
        """Start `python -m *command LIFELINE`. Raises OSError when the system has no room for another process."""
        self.ready = False
        self.started = time.monotonic()
        self.channel, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        path = dict.fromkeys([str(Path(__file__).parents[1]), *filter(None, sys.path)])
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", *command, str(lifeline)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a library's warning may quote the file
                pass_fds=(lifeline,),
                env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(path)},
                cwd="/",
                start_new_session=True,  # Ctrl-C in a terminal is for the service, which first finishes its answers
            )
        except OSError:
            self.channel.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline)

    def is_ready(self) -> bool:
        """Whether `await_ready` has nothing to wait for."""
        return self.ready or self._has_news(0)

    def await_ready(self, deadline: float) -> None:
        """Return when it can be used.

        Raises TimeoutError at `deadline` (time.monotonic) or after START_S, EOFError, OSError or ValueError if it is gone.
        """
        if self.ready:
            if self._has_news(0):  # and nobody has asked it anything
                raise EOFError
            return
        if not self._has_news(min(deadline, self.started + START_S) - time.monotonic()):
            raise TimeoutError
        receive(self.channel, time.monotonic() + START_S, limit=0)
        self.ready = True

    def kill(self) -> None:
        """End it now and leave nothing. For once only."""
        self.process.kill()
        self.process.wait()
        self.channel.close()
        os.close(self._lifeline)

    def _has_news(self, wait_s: float) -> bool:
        """Whether something can be read within `wait_s`: a message, or that the process is gone."""
        poll = select.poll()  # select.select fails above descriptor 1023
        poll.register(self.channel, select.POLLIN)
        return bool(poll.poll(1000 * max(wait_s, 0.0)))


class WorkerPool:
    """Workers for any number of threads."""

    def __init__(self, workers: int, command: list[str]):
        self.losses: Counter[str] = Counter()  # workers by why they were lost
        self._command = command
        self._changed = threading.Condition()
        self._closed = False
        self._workers: set[Worker] = set()
        self._free: list[Worker | None] = []  # None: one that could not be started and has yet to be
        for _ in range(workers):
            self._give_back(self._start())

    def wait_ready(self, deadline: float = math.inf) -> None:
        """Return when a worker is ready. Raises StrokectError if none can start, DeadlineError at `deadline` (time.monotonic)."""
        with self.borrow(deadline):
            pass

    @contextlib.contextmanager
    def borrow(self, deadline: float) -> Iterator[Worker]:
        """A worker that is ready. Given back if the block ends well; else it may be half-way, so it is killed and replaced.

        TimeoutError in the block becomes DeadlineError if it is later than `deadline`, else LostWorkerError. So does everything
        that is no StrokectError: the worker is gone or makes no sense.
        """
        worker = self._take(deadline)
        try:
            yield worker
        except TimeoutError:
            over = time.monotonic() >= deadline
            self._replace(worker, "deadline" if over else "timeout")
            raise (_too_late() if over else LostWorkerError(died=False)) from None
        except Exception as error:
            ours = isinstance(error, StrokectError)
            self._replace(worker, "stopped" if ours else "died")
            if ours:
                raise
            raise LostWorkerError(died=True) from None
        except BaseException:  # the thread itself is to end
            self._replace(worker, "stopped")
            raise
        self._give_back(worker)

    def close(self) -> None:
        """End all workers. Threads that use or want one get an error."""
        with self._changed:
            self._closed = True
            free, self._free = self._free, []
            for worker in self._workers:
                worker.process.kill()  # whoever uses it sees that and does the rest
            self._changed.notify_all()
        for unused in filter(None, free):
            self._end(unused)
        with self._changed:
            self._changed.wait_for(lambda: not self._workers, START_S)

    def _take(self, deadline: float) -> Worker:
        failed = 0
        while failed < MAX_FAILED_STARTS:
            worker = self._choose(deadline)
            try:
                worker.await_ready(deadline)
                return worker
            except TimeoutError:
                if time.monotonic() >= deadline:
                    self._give_back(worker)  # it goes on starting
                    raise _too_late() from None
            except (EOFError, OSError, ValueError):
                pass
            failed += not worker.ready
            self._replace(worker, "died" if worker.ready else "start")
        raise StrokectError("the processes that decode uploads do not start")

    def _choose(self, deadline: float) -> Worker:
        with self._changed:
            left = None if deadline == math.inf else deadline - time.monotonic()
            if not self._changed.wait_for(lambda: self._free or self._closed, left):
                raise _too_late()
            if self._closed:
                raise StrokectError("the processes that decode uploads have been shut down")
            worker = max(self._free, key=lambda free: free is not None and free.is_ready())
            self._free.remove(worker)
        worker = worker or self._start()
        if worker is None:
            self._give_back(None)
            raise StrokectError("no process to decode uploads can be started")
        return worker

    def _start(self) -> Worker | None:
        try:
            worker = Worker(self._command)
        except OSError as error:  # no memory, too many processes or descriptors
            logger.error("a decoder cannot be started: %s", error.strerror)
            return None
        with self._changed:
            if not self._closed:
                self._workers.add(worker)
                return worker
        worker.kill()
        return None

    def _give_back(self, worker: Worker | None) -> None:
        with self._changed:
            if not self._closed:
                self._free.append(worker)
                self._changed.notify()
                return
        if worker:
            self._end(worker)

    def _replace(self, worker: Worker, why: str) -> None:
        self._end(worker)
        with self._changed:
            if self._closed:
                return
            self.losses[why] += 1
        logger.warning("a decoder was lost: %s (%d since the start)", why, self.losses[why])
        self._give_back(self._start())

    def _end(self, worker: Worker) -> None:
        worker.kill()
        with self._changed:
            self._workers.discard(worker)
            self._changed.notify_all()


def _too_late() -> DeadlineError:
    return DeadlineError("the time allowed for this request is over")
