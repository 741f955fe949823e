"""Start `bentoml serve` as its own process and wait until it answers."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests


@dataclass(frozen=True)
class Server:
    """A running service: its address, where its log goes, and the process that supervises its worker."""

    url: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    def workers(self) -> list[int]:
        """Process ids of what the supervisor started."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]


@contextmanager
def serve(command: Sequence[str], folder: Path, scratch: Path, **environment: str) -> Iterator[Server]:
    """Run `command` (a `bentoml serve …`) in `folder`; the server answers /livez when the block begins and is gone after it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / "serve.log"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BENTOML_", "STROKECT_", "PYTHON"))}
    home = {"BENTOML_HOME": str(scratch / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    with path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env={**inherited, **home, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", port, path, process)
    try:
        _wait(server, process)
        yield server
    finally:
        process.terminate()  # nothing, where a test has ended it
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a group of our own: start_new_session
            process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{server.url}/livez", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    raise RuntimeError(f"the service did not start:\n{server.log.read_text()}")
