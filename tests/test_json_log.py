"""The log: one JSON object a line from every process of a real server, and nothing that an exception or a library may quote."""

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import ROOT
from fakes import encode, fake_release, grey_slice
from serving import serve

from strokect import json_log
from strokect.errors import ImageError
from strokect.json_log import JsonFormatter

COMMAND = [sys.executable, "-m", "bentoml", "serve", "service:StrokeCT"]
QUOTED = "Mustermann^Erika 1964-08-12"


@contextmanager
def captured(name: str) -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with a JSON handler of its own, and what it wrote."""
    logger, stream = logging.getLogger(name), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    # DVC, when another test has called it in this process, has set asyncio's logger to CRITICAL.
    before = logger.propagate, logger.disabled, logger.level
    logger.propagate, logger.disabled = False, False
    logger.setLevel(logging.WARNING)
    try:
        yield logger, stream
    finally:
        logger.removeHandler(handler)
        logger.propagate, logger.disabled = before[:2]
        logger.setLevel(before[2])


def only_line(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    parsed = json.loads(line)
    assert isinstance(parsed, dict)
    return parsed


def test_a_record_is_one_line_with_its_fields() -> None:
    with captured("bentoml.strokect") as (logger, stream):
        logger.warning("took %d s\nin two lines – %s", 3, "“quoted”")
    line = only_line(stream)
    assert list(line) == ["time", "level", "severity", "logger", "message"]
    assert (line["level"], line["logger"]) == ("WARNING", "bentoml.strokect")
    assert line["message"] == "took 3 s\nin two lines – “quoted”"
    stamp = datetime.fromisoformat(line["time"])
    assert stamp.utcoffset() is not None and abs(stamp.timestamp() - time.time()) < 60


def test_the_request_in_progress_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_log, "request_id", lambda: "f" * 32)
    with captured("bentoml.strokect") as (logger, stream):
        logger.info("x")
        logger.warning("x")
    assert only_line(stream)["request_id"] == "f" * 32


def _fail() -> None:
    try:
        try:
            raise KeyError(QUOTED)
        except KeyError as error:
            raise ValueError(QUOTED) from error
    except ValueError:
        raise ImageError("too_small", "16×16 pixels; at least 32 on each side are needed")  # noqa: B904


def test_an_exception_is_its_type_and_place_and_its_text_only_where_it_is_ours() -> None:
    with captured("bentoml.strokect") as (logger, stream):
        try:
            _fail()
        except ImageError:
            logger.exception("request failed")
    line = only_line(stream)
    assert [entry["type"] for entry in line["exceptions"]] == ["ImageError", "ValueError", "KeyError"]
    assert [entry.get("message") for entry in line["exceptions"]] == [
        "16×16 pixels; at least 32 on each side are needed",
        None,
        None,
    ]
    first = _fail.__code__.co_firstlineno
    assert line["exceptions"][2]["frames"] == [f"tests/{Path(__file__).name}:{first + 3}"]
    assert "Mustermann" not in stream.getvalue() and str(ROOT) not in stream.getvalue()


def test_a_cause_that_was_hidden_stays_hidden() -> None:
    try:
        try:
            raise KeyError(QUOTED)
        except KeyError:
            raise ValueError from None
    except ValueError as error:
        assert [entry["type"] for entry in json_log.describe(error)] == ["ValueError"]


def test_exceptions_that_point_at_each_other_end() -> None:
    one, two = ValueError(), KeyError()
    one.__context__, two.__context__ = two, one
    assert [entry["type"] for entry in json_log.describe(one)] == ["ValueError", "KeyError"]


@pytest.mark.parametrize("name", ["pydantic", "PIL.PngImagePlugin", "asyncio", "bentomlish"])
def test_what_a_library_says_is_withheld(name: str) -> None:
    with captured(name) as (logger, stream):
        logger.warning("Expected explicit VR, but found %s", QUOTED)
    line = only_line(stream)
    assert "Mustermann" not in stream.getvalue() and line["message"].startswith(f"(warning of {name}:")


def test_installing_changes_the_handlers_of_the_server_and_those_only() -> None:
    code = """
import json, logging, warnings
from bentoml._internal.log import configure_server_logging
configure_server_logging()
kept = logging.StreamHandler.__new__(type("Other", (logging.StreamHandler,), {})); kept.__init__()
logging.getLogger("kept").addHandler(kept)
from strokect import json_log
json_log.install(); json_log.install()
assert kept.formatter is None
logging.getLogger("bentoml.strokect").info("one")
logging.getLogger("uvicorn.error").warning("two")
logging.getLogger("circus").warning("three")
logging.getLogger("anything").warning("four")
warnings.warn("Invalid value for VR UI: 'Mustermann'")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["message"] for line in lines[:3]] == ["one", "two", "three"]  # each once
    assert lines[3]["message"].startswith("(warning of anything:") and len(lines) == 5
    assert lines[4]["message"] == "UserWarning at <string>:14, text withheld"
    assert "Mustermann" not in done.stdout + done.stderr


def test_warnings_do_not_print_their_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(warnings, "showwarning", json_log._log_warning)
    with captured("bentoml.strokect") as (_, stream):
        warnings.showwarning(UserWarning(QUOTED), UserWarning, "/srv/app/pydicom/valuerep.py", 290)
    assert only_line(stream)["message"] == "UserWarning at pydicom/valuerep.py:290, text withheld"
    assert "Mustermann" not in stream.getvalue() + "".join(capsys.readouterr())


def test_a_real_server_writes_nothing_but_json(tmp_path: Path) -> None:
    png = encode(grey_slice())
    with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(fake_release(tmp_path))) as server:
        answer = requests.post(f"{server.url}/predict", files={"image": (f"{QUOTED}.png", png)}, timeout=30).json()
        requests.get(f"{server.url}/{QUOTED}", timeout=30)
        requests.post(f"{server.url}/predict", files={"image": (f"{QUOTED}.png", png[:99])}, timeout=30)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:  # uvicorn's own complaint
            raw.sendall(b"GARBAGE\r\n\r\n")
            raw.recv(100)
        worker = _worker(server.log)
        os.kill(worker, signal.SIGKILL)  # the supervisor starts another
        deadline = time.monotonic() + 60
        while server.log.read_text().count("initialized") < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines if "event" not in line)
    messages = [line.get("message", "") for line in lines]
    assert sum("Starting production HTTP BentoServer" in message for message in messages) == 1  # of the supervisor
    assert sum("initialized" in message for message in messages) == 2  # of two workers
    assert sum("Invalid HTTP request" in message for message in messages) == 1  # of uvicorn, once
    assert answer["request_id"] in [line.get("request_id") for line in lines] and "Mustermann" not in text


def _worker(log: Path) -> int:
    """The process that serves: the one with this log as its standard output."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            if b"_bentoml_impl.worker" in command and (folder / "fd" / "1").resolve() == log.resolve():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("no worker found")


def test_text_where_a_person_reads_it(tmp_path: Path) -> None:
    with serve(COMMAND, ROOT, tmp_path, STROKECT_RELEASE=str(fake_release(tmp_path)), STROKECT_LOG="text") as server:
        requests.get(f"{server.url}/model", timeout=30)
    assert "[INFO] [entry_service:strokect:1]" in server.log.read_text()
