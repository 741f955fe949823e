"""A service as a process of its own: started, waited for, its memory read, stopped."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

READY_WITHIN_S, STOPPED_WITHIN_S = 120.0, 15.0


@dataclass(frozen=True)
class Running:
    """A service that is ready."""

    url: str
    pid: int  # of the first process
    start_s: float  # from the start of the process to the first 200 of /readyz


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Sequence[str], folder: Path, log: Path, port: int, environment: Mapping[str, str]) -> Iterator[Running]:
    """Run `command` in `folder` with nothing of our environment but PATH and HOME until the block ends."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    begin = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env={**kept, **environment}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, process, log)
        yield Running(url, process.pid, round(time.perf_counter() - begin, 3))
    finally:
        process.terminate()
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a group of our own: start_new_session
            process.wait()


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when /readyz answers 200; raise RuntimeError with the log when it never does."""
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except requests.RequestException:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"the service did not become ready:\n{log.read_text()[-4000:]}")


def family(pid: int) -> set[int]:
    """A process and all its descendants (Linux). BentoML's workers have sessions and groups of their own."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # gone in the meantime
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, new = {pid}, [pid]
    while new:
        new = [child for each in new for child in children.get(each, [])]
        found.update(new)
    return found


def memory_mb(pid: int) -> float:
    """Memory of a process and all its descendants in MB, pages that several share counted once (PSS; Linux)."""
    total = 0
    for each in family(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total * 1024 / 1e6, 1)


@contextmanager
def watch_memory(pid: int, every_s: float = 0.5) -> Iterator[list[float]]:
    """The list fills with what `memory_mb` says, until the block ends."""
    seen = [memory_mb(pid)]
    with repeating(lambda: seen.append(memory_mb(pid)), every_s):
        yield seen


@contextmanager
def repeating(action: Callable[[], object], every_s: float) -> Iterator[None]:
    """Call `action` in a thread, `every_s` after each other, until the block ends."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(every_s):
            action()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
