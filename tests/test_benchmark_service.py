"""The load benchmark: it measures a running service, tells refusals from answers, and its stand-in release can be served."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fakes import encode, fake_export, fake_release, grey_slice

from benchmarks import service
from benchmarks.running import Running, family, free_port, memory_mb, running
from benchmarks.stand_in import stand_in_release
from strokect.predictor import Predictor


class Slow(BaseHTTPRequestHandler):
    """Answers one picture at a time after 50 ms, refuses what comes meanwhile, and fails where it is told to."""

    protocol_version = "HTTP/1.1"
    status = 200
    room = threading.Semaphore(1)

    def do_POST(self) -> None:
        """Judge or refuse."""
        self.rfile.read(int(self.headers["Content-Length"]))
        if not Slow.room.acquire(blocking=False):
            self.answer(429, {"Retry-After": "0"})
            return
        time.sleep(0.05)
        Slow.room.release()
        self.answer(Slow.status)

    def do_GET(self) -> None:
        """Probes."""
        self.answer(200)

    def answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        """An answer without a body."""
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""


@pytest.fixture
def slow() -> Iterator[Running]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as sleeper:
        yield Running(f"http://127.0.0.1:{server.server_port}", sleeper.pid, 0.0)
        sleeper.kill()
    server.shutdown()


def test_latency_is_that_of_answers_and_refusals_are_counted_apart(slow: Running) -> None:
    alone, crowd = service.load(slow, [b"x"], 1, 10), service.load(slow, [b"x"], 4, 40)
    assert (alone["requests"], alone["answered"], alone["share_refused"], alone["refusal_ms"]) == (10, 10, 0, None)
    assert 50 <= alone["latency_ms"]["p50"] <= alone["latency_ms"]["p99"] <= alone["latency_ms"]["max"] < 1000
    assert 5 < alone["answers_per_s"] < 20
    assert 0 < crowd["share_refused"] < 1 and crowd["answered"] == round(40 * (1 - crowd["share_refused"]))
    assert crowd["latency_ms"]["p50"] >= 50 > crowd["refusal_ms"]["p50"] and crowd["livez_ms"]["p50"] < 50


def test_an_error_ends_the_benchmark(slow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "status", 500)
    with pytest.raises(RuntimeError, match=r"2 clients: the service answered \[500\]"):
        service.load(slow, [b"x"], 2, 4)


def test_it_measures_a_running_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "pictures", lambda: [encode(grey_slice(64, seed)) for seed in range(3)])
    result = service.measure(fake_release(tmp_path), [1, 2], 8, tmp_path)
    assert list(result["clients"]) == ["1", "2"] and result["models"] == ["0", "1"] and result["ready_s"] > 0
    for row in result["clients"].values():
        assert row["requests"] == 8 and row["answered"] + round(8 * row["share_refused"]) == 8
        assert 100 < row["peak_mb"] <= result["peak_mb"] < 5000


def test_a_stand_in_release_labels_every_picture(tmp_path: Path) -> None:
    for fold in range(2):
        fake_export(tmp_path / "exports" / str(fold), fold)
    predictor = Predictor(stand_in_release(tmp_path / "exports", ("identity", "mirror"), tmp_path / "release"))
    assert predictor.release.operating_point.views == ("identity", "mirror") and len(predictor.release.models) == 2
    assert predictor.predict(encode(grey_slice())).decision in ("stroke", "normal")


def test_memory_counts_every_process_once_and_shared_pages_once() -> None:
    code = r"""
import os, time
kept = b"x" * 60_000_000
if not os.fork():
    os.setsid()  # as BentoML's workers do
more = b"y" * 20_000_000
os.write(1, b"there\n")
time.sleep(30)
"""
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and [process.stdout.readline() for _ in range(2)] == ["there\n", "there\n"]
        assert 100 < memory_mb(process.pid) < 150  # 60 shared, twice 20, two interpreters
        for pid in family(process.pid):
            os.kill(pid, signal.SIGKILL)


def test_a_service_that_dies_is_reported_with_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('a reason')"]
    with (
        pytest.raises(RuntimeError, match="a reason"),
        running(command, tmp_path, tmp_path / "log", free_port(), {}),
    ):
        pass
