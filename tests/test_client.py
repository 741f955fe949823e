"""The example client: against the real service, and against a service that is busy, wants a token or speaks nonsense."""

import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fakes import encode, fake_release, grey_slice
from serving import Server, serve

from strokect.predictor import Predictor

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "examples" / "client.py"
NAME = "Erika_Mustermann_1964"  # a patient's name in a file name must stay on the client's machine


def run(url: str, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "STROKECT_TOKEN": token}
    command = [sys.executable, str(CLIENT), "--url", url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)


class Stub:
    """A service that gives the answers it is told to, in turn, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                """Keep the request, give the next answer."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.requests.append((self.path, dict(self.headers), body))
                status, headers, content = stub.answers.pop(0)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                """Stay quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def say(self, status: int, content: object, **headers: str) -> None:
        """Queue an answer."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.answers.append((status, {name.replace("_", "-"): value for name, value in headers.items()}, body))


@pytest.fixture
def stub() -> Iterator[Stub]:
    running = Stub()
    yield running
    running.server.shutdown()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("client")
    with serve(
        [sys.executable, "-m", "bentoml", "serve", "service:StrokeCT"], ROOT, folder, STROKECT_RELEASE=str(fake_release(folder))
    ) as running:
        yield running


@pytest.fixture
def slice_png(tmp_path: Path) -> Path:
    path = tmp_path / f"{NAME}.png"
    path.write_bytes(encode(grey_slice()))
    return path


def error(code: str) -> dict[str, dict[str, str]]:
    return {"error": {"code": code, "message": "a message", "request_id": "abc"}}


def test_it_is_short_and_needs_requests_only() -> None:
    assert len(CLIENT.read_text().splitlines()) <= 100
    code = f"import sys; sys.path.insert(0, {str(CLIENT.parent)!r}); import client; print('strokect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "False"


def test_it_prints_what_the_service_says(server: Server, slice_png: Path, tmp_path: Path) -> None:
    done = run(server.url, str(slice_png))
    expected = Predictor(fake_release(tmp_path)).predict(slice_png.read_bytes())
    assert done.returncode == 0 and json.loads(done.stdout)["probability"] == expected.probability


def test_input_that_the_service_refuses_is_status_3(server: Server, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no picture")
    done = run(server.url, str(tmp_path / "text.txt"))
    assert done.returncode == 3 and "415 unknown_format" in done.stderr and done.stdout == ""


def test_a_busy_service_is_asked_again_after_the_wait_it_names(stub: Stub, slice_png: Path) -> None:
    stub.say(429, error("busy"), Retry_After="0")
    stub.say(429, error("busy"), Retry_After="0")
    stub.say(200, {"decision": "normal"})
    done = run(stub.url, str(slice_png))
    assert (done.returncode, json.loads(done.stdout)) == (0, {"decision": "normal"})
    assert [slice_png.read_bytes() in body for _, _, body in stub.requests] == [True, True, True]


def test_it_waits_as_long_as_it_is_told_but_not_for_ever(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    monkeypatch.syspath_prepend(CLIENT.parent)
    import client

    waits: list[float] = []
    monkeypatch.setattr(client.time, "sleep", waits.append)
    for wait in ("7", "Wed, 21 Oct 2026 07:28:00 GMT", "86400"):
        stub.say(429, error("busy"), Retry_After=wait)
    stub.say(429, error("busy"))
    stub.say(429, error("busy"), Retry_After="2")
    stub.say(429, error("busy"), Retry_After="2")
    with pytest.raises(client.ServiceError, match=r"^429 busy: a message \(request abc\)$"):
        client.post(stub.url, "predict", "image", b"x")
    assert waits == [7.0, 1.0, 60.0, 1.0, 2.0] and stub.answers == []


def test_exit_status_tells_why(stub: Stub, slice_png: Path) -> None:
    for status, expected in ((401, 4), (503, 5), (504, 5), (500, 6), (413, 3), (307, 6)):
        stub.say(status, error("x"), **({"Location": f"{stub.url}/elsewhere"} if status == 307 else {}))
        assert run(stub.url, str(slice_png)).returncode == expected, status
    assert {path for path, _, _ in stub.requests} == {"/predict"}  # a redirect would carry the picture elsewhere
    stub.say(502, b"<html>a proxy</html>")
    assert run(stub.url, str(slice_png)).returncode == 6
    assert run("http://127.0.0.1:9", str(slice_png)).returncode == 6
    assert run(stub.url, str(slice_png.with_name("missing.png"))).returncode == 2
    assert run(stub.url, str(slice_png.parent), "--explain", "map.png").returncode == 2


def test_the_token_goes_into_the_header_and_nowhere_else(stub: Stub, slice_png: Path) -> None:
    stub.say(200, {"decision": "normal"})
    stub.say(401, error("unauthorized"))
    for given in ("sixteen-letters-x", "router:sixteen-letters-x"):
        done = run(stub.url, str(slice_png), token=given)
        assert stub.requests[-1][1]["Authorization"] == "Bearer sixteen-letters-x"
        assert "sixteen" not in done.stdout + done.stderr
    assert done.returncode == 4


def test_a_folder_goes_as_one_zip_without_file_names(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    for name, data in (("b.dcm", b"second"), ("a.dcm", b"first"), ("notes.txt", b"left out")):
        (tmp_path / NAME / name).write_bytes(data)
    left_out = [{"number": 2, "code": "unknown_format", "message": "…"}]
    stub.say(200, {"decision": "refer", "slices": [{"number": 1}, {"number": 0}], "left_out": left_out})
    done = run(stub.url, str(tmp_path / NAME))
    path, _, body = stub.requests[0]
    archive = zipfile.ZipFile(io.BytesIO(body[body.index(b"PK") :]))
    assert path == "/predict_series" and [archive.read(str(i)) for i in range(3)] == [b"first", b"second", b"left out"]
    assert NAME.encode() not in body and b"dcm" not in body and b'name="series"' in body
    answer = json.loads(done.stdout)
    assert [entry["file"] for entry in [*answer["slices"], *answer["left_out"]]] == ["b.dcm", "a.dcm", "notes.txt"]


def test_a_zip_is_a_series_and_a_slice_has_its_map_saved(stub: Stub, slice_png: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.writestr("a", b"x")
    stub.say(200, {"decision": "normal", "slices": [], "left_out": []})
    assert run(stub.url, str(tmp_path / "scan.zip")).returncode == 0
    for decision in ("stroke", "reject"):
        stub.say(200, {"decision": decision})
        if decision == "stroke":
            stub.say(200, b"\x89PNG the map")
        assert run(stub.url, str(slice_png), "--explain", str(tmp_path / f"{decision}.map")).returncode == 0
    assert (tmp_path / "stroke.map").read_bytes() == b"\x89PNG the map" and not (tmp_path / "reject.map").exists()
    assert [path for path, _, _ in stub.requests] == ["/predict_series", "/predict", "/explain", "/predict"]
    assert NAME.encode() not in stub.requests[1][2]
