"""The audit log: whoever changes it is found out, a crash loses nothing that was written, and no patient data fits in."""

import errno
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from strokect.audit_chain import START_OF_CHAIN, Report, verify
from strokect.audit_log import FIELDS, AuditLog
from strokect.errors import AuditLogError

VERSION = "0123456789ab"
KEY = "a key of at least thirty-two characters"
ANSWER: dict[str, Any] = {
    "request_id": "a" * 32,
    "token_id": "pacs",
    "route": "/predict",
    "input_sha256": "b" * 64,
    "model_version": VERSION,
    "decision": "reject",
    "reasons": ["colour", "no_skull_ring"],
    "latency_ms": 12.5,
}


def answer(number: int) -> dict[str, Any]:
    return {**ANSWER, "request_id": f"{number:032x}"}


def write_log(path: Path, answers: int = 6, key: str | None = None) -> list[bytes]:
    log = AuditLog(path, VERSION, key)
    for number in range(answers):
        log.write(answer(number))
    return path.read_bytes().splitlines(keepends=True)


def check(*lines: bytes, **options: Any) -> Report:
    return verify(((f"line {number}", line) for number, line in enumerate(lines, 1)), **options)


def run(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "strokect.audit_log", *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, check=False, env=environment)


def test_a_line_holds_what_it_should_and_its_hash_is_that_of_its_content(tmp_path: Path) -> None:
    start, first, *_ = (json.loads(line) for line in write_log(tmp_path / "log"))
    assert (start["event"], start["model_version"], start["seq"], start["previous"]) == ("start", VERSION, 0, "0" * 64)
    assert list(first) == ["time", "event", *ANSWER, "seq", "previous", "hash"]
    assert first["time"].endswith("+00:00") and {k: first[k] for k in ANSWER} == answer(0)
    assert first["previous"] == start["hash"]
    content = json.dumps({k: v for k, v in first.items() if k != "hash"}, separators=(",", ":"))
    assert first["hash"] == hashlib.sha256(content.encode()).hexdigest()


def test_an_untouched_log_is_good(tmp_path: Path) -> None:
    lines = write_log(tmp_path / "log")
    report = check(*lines)
    assert (report.problem, report.records, report.after) == ("", 7, START_OF_CHAIN)
    assert report.heads == {json.loads(lines[-1])["hash"]: 6}


TAMPERED = {
    "changed": lambda lines: [*lines[:3], lines[3].replace(b'"reject"', b'"normal"'), *lines[4:]],
    "changed by white space": lambda lines: [*lines[:3], lines[3].replace(b'{"time"', b'{ "time"'), *lines[4:]],
    "a field twice": lambda lines: [
        *lines[:3],
        lines[3].replace(b'"latency_ms":12.5', b'"latency_ms":1.0,"latency_ms":12.5'),
        *lines[4:],
    ],
    "removed": lambda lines: [*lines[:3], *lines[4:]],
    "inserted": lambda lines: [*lines[:3], b'{"time":"2026"}\n', *lines[3:]],
    "a copy inserted": lambda lines: [*lines[:4], lines[3], *lines[4:]],
    "reordered": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "empty line": lambda lines: [*lines[:3], b"\n", *lines[3:]],
    "no JSON": lambda lines: [*lines[:3], b"\xff\n", *lines[3:]],
}


@pytest.mark.parametrize("how", TAMPERED)
@pytest.mark.parametrize("key", [None, KEY])
def test_tampering_is_found_at_its_line(tmp_path: Path, how: str, key: str | None) -> None:
    report = check(*TAMPERED[how](write_log(tmp_path / "log", key=key)), key=key)
    assert report.problem.startswith("line 5" if how == "a copy inserted" else "line 4") and report.records in (3, 4)


def forged(**fields: Any) -> bytes:
    """A record that is what its own hash says, whatever its fields are."""
    content = json.dumps({"time": "2026", "event": "answer", **fields}, separators=(",", ":"))
    return f'{content[:-1]},"hash":"{hashlib.sha256(content.encode()).hexdigest()}"}}\n'.encode()


NO_RECORD = {
    "without previous": forged(seq=3),
    "previous is no text": forged(seq=3, previous=["x"]),
    "without number": forged(previous="0" * 64),
    "hash in other letters": b'{"seq":3,"previous":"0","hash":"\\u00e9"}\n',
    "deeply nested": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("line", NO_RECORD.values(), ids=NO_RECORD)
def test_a_line_that_is_no_record_of_a_chain_is_a_finding_at_its_line(tmp_path: Path, line: bytes, mixed: bool) -> None:
    lines = write_log(tmp_path / "log")[:3]
    shown = json.dumps({"audit": line.decode().strip()}).encode() if mixed else line
    report = check(*lines, shown, mixed=mixed)
    assert report.problem.startswith("line 4: ") and "no record" in report.problem and report.records == 3


def test_a_cut_off_beginning_is_found(tmp_path: Path) -> None:
    assert check(*write_log(tmp_path / "log")[1:]).problem.startswith("line 1: does not follow")


def test_another_log_spliced_in_is_found(tmp_path: Path) -> None:
    ours, theirs = write_log(tmp_path / "a"), write_log(tmp_path / "b")
    assert check(*ours[:3], *theirs[3:]).problem.startswith("line 4")
    assert check(*ours, *theirs).problem.startswith("line 8")  # a whole second log is no continuation either


def test_a_cut_off_tail_is_found_by_a_remembered_head_only(tmp_path: Path) -> None:
    lines = write_log(tmp_path / "log")
    heads = [json.loads(line)["hash"] for line in lines]
    assert check(*lines[:-2]).problem == ""
    assert heads[-1] in check(*lines[:-2], head=heads[-1]).problem
    assert check(*lines, head=heads[3]).problem == ""  # remembered some time ago, the log has grown since


def test_with_a_key_nobody_else_can_write_a_chain(tmp_path: Path) -> None:
    lines = write_log(tmp_path / "log", key=KEY)
    record = json.loads(lines[2])
    content = json.dumps({k: v for k, v in record.items() if k != "hash"}, separators=(",", ":"))
    assert record["hash"] == hmac.new(KEY.encode(), content.encode(), "sha256").hexdigest()
    assert check(*lines, key=KEY).problem == ""
    assert check(*lines).problem.startswith("line 1") and check(*lines, key=KEY + "!").problem.startswith("line 1")
    assert check(*write_log(tmp_path / "forged"), key=KEY).problem.startswith("line 1")


def test_a_restart_continues_the_chain(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    lines = write_log(tmp_path / "log")
    assert [json.loads(line)["event"] for line in lines].count("start") == 2 and len(lines) == 14
    assert check(*lines).problem == ""


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_a_torn_line_is_set_aside_and_said_so(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    lines = write_log(path)
    path.write_bytes(b"".join(lines)[:-cut])
    log = AuditLog(path, VERSION)
    log.write(answer(99))
    torn = len(lines[-1]) - cut
    after = path.read_bytes().splitlines(keepends=True)
    assert check(*after).problem == "" and after[:6] == lines[:6]
    assert json.loads(after[6])["event"] == "start" and json.loads(after[6])["torn_bytes"] == torn
    assert "torn_bytes" not in json.loads(after[7])
    (aside,) = tmp_path.glob("log.torn-*")
    assert aside.read_bytes() == lines[-1][:-cut] and f"a crash left {torn} bytes" in caplog.text


def test_a_torn_first_line_is_set_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(write_log(path)[0][:40])
    assert check(*write_log(path)).problem == ""


@pytest.mark.parametrize("content", [b"notes of the ward\n", b"notes of the ward", b"\x00" * 100_000])
def test_a_file_that_is_no_audit_log_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(AuditLogError, match="audit log: "):
        AuditLog(path, VERSION)
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("key", [None, "another key of at least thirty-two characters"])
def test_a_last_line_that_is_not_genuine_stops_the_start(tmp_path: Path, key: str | None) -> None:
    path = tmp_path / "log"
    lines = write_log(path, key=None if key else KEY)
    with pytest.raises(AuditLogError, match=r"not genuine or was written under another key.*move the file away"):
        AuditLog(path, VERSION, key)
    assert path.read_bytes() == b"".join(lines)


def test_a_file_moved_away_is_followed_by_one_that_continues_it(tmp_path: Path) -> None:
    path, old = tmp_path / "log", tmp_path / "log.1"
    log = AuditLog(path, VERSION)
    log.write(answer(0))
    path.rename(old)
    log.write(answer(1))
    before, after = (p.read_bytes().splitlines(keepends=True) for p in (old, path))
    assert [json.loads(line)["event"] for line in after] == ["start", "answer"]
    assert json.loads(after[0])["previous"] == json.loads(before[-1])["hash"]
    assert check(*before, *after).problem == ""
    assert check(*after).after == json.loads(before[-1])["hash"]  # alone it says what it follows
    assert check(*before[:-1], *after).problem.startswith("line 2")


def test_a_tail_cut_off_while_the_service_runs_leaves_a_break(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    log = AuditLog(path, VERSION)
    for number in range(4):
        log.write(answer(number))
    lines = path.read_bytes().splitlines(keepends=True)
    with path.open("r+b") as stream:
        stream.truncate(len(b"".join(lines[:-2])))
    log.write(answer(9))
    assert check(*path.read_bytes().splitlines(keepends=True)).problem.startswith("line 4")
    assert "not where it was written" in caplog.text


def test_chains_that_begin_in_the_same_moment_differ(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(200):
        AuditLog(None, VERSION)
    assert len(check(*capsys.readouterr().out.encode().splitlines(), mixed=True).heads) == 200


def _write_many(path: Path, rotate: bool, started: Barrier) -> None:
    log = AuditLog(path, VERSION)
    started.wait()  # one that starts without a file would begin a new chain
    for number in range(60):
        log.write(answer(number))
        if rotate and number == 30:
            path.rename(path.with_suffix(".1"))


@pytest.mark.parametrize("rotate", [False, True])
def test_processes_share_one_chain(tmp_path: Path, rotate: bool) -> None:
    path = tmp_path / "log"
    context = get_context("fork")
    started = context.Barrier(3)
    processes = [context.Process(target=_write_many, args=(path, rotate and i == 0, started)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    files = [p for p in (path.with_suffix(".1"), path) if p.exists()]
    lines = b"".join(p.read_bytes() for p in files).splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert check(*lines).problem == "" and events.count("answer") == 180 and len(files) == 1 + rotate


def test_threads_share_one_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log", VERSION)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns within a write, not between two
    try:
        _write_from_threads(log)
    finally:
        sys.setswitchinterval(interval)
    report = check(*(tmp_path / "log").read_bytes().splitlines())
    assert (report.problem, report.records) == ("", 401)


def _write_from_threads(log: AuditLog) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: log.write(answer(number)), range(400)))


def test_a_full_disk_is_an_error_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    log = AuditLog(path, VERSION)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr("strokect.audit_log.os.write", lambda file, line: write(file, line[:50]))
        with pytest.raises(AuditLogError, match="cannot be written"):
            log.write(answer(0))
    log.write(answer(1))
    lines = path.read_bytes().splitlines()
    assert check(*lines).problem == "" and [json.loads(line)["seq"] for line in lines] == [0, 1]


def test_a_write_that_fails_once_does_not_break_the_chain_of_a_shared_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    ours, theirs = AuditLog(path, VERSION), AuditLog(path, VERSION)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("strokect.audit_log.os.write", full)
        with pytest.raises(AuditLogError, match="No space left"):
            ours.write(answer(0))
    theirs.write(answer(1))
    ours.write(answer(2))
    lines = path.read_bytes().splitlines()
    assert (check(*lines).problem, len(lines), caplog.text) == ("", 4, "")


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_file_that_another_process_holds_is_an_error_soon_and_usable_again_after(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = AuditLog(path, VERSION)
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder, ThreadPoolExecutor(6) as pool:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        refused = [future.exception(30) for future in [pool.submit(log.write, answer(number)) for number in range(6)]]
        took = time.monotonic() - began
        holder.communicate()
    assert all(isinstance(error, AuditLogError) for error in refused)
    assert 1.5 < took < 5  # one wait for all of them, not one after the other
    log.write(answer(9))
    lines = path.read_bytes().splitlines()
    assert check(*lines).problem == "" and [json.loads(line)["event"] for line in lines] == ["start", "answer"]


def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    AuditLog(tmp_path / "log", VERSION)
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0


def test_standard_output_is_a_chain_of_each_process_among_other_lines(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = AuditLog(None, VERSION), AuditLog(None, VERSION)
    sys.stdout.write('{"level": "INFO", "message": "a log line with \\"hash\\":\\"x\\" in it"}\n')
    for number in range(3):
        one.write(answer(number))
        two.write(answer(number))
    lines = capsys.readouterr().out.encode().splitlines(keepends=True)
    report = check(*lines, mixed=True)
    assert (report.problem, report.records, len(report.heads)) == ("", 8, 2)
    assert check(*lines).problem.startswith("line 1")
    assert check(*lines[:4], *lines[5:], mixed=True).problem.startswith("line 6")  # one answer of two removed


def test_what_a_log_collector_makes_of_standard_output_is_still_good(capsys: pytest.CaptureFixture[str]) -> None:
    log = AuditLog(None, VERSION, KEY)
    for number in range(3):
        log.write(answer(number))
    written = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all({"time", "level", "severity", "logger", "message"} <= line.keys() for line in written)
    taken_apart = [json.dumps(line, sort_keys=True, indent=None).encode() for line in written]
    texts = [line["audit"].encode() for line in written]
    for lines in (taken_apart, texts):
        assert (check(*lines, key=KEY, mixed=True).problem, check(*lines, key=KEY, mixed=True).records) == ("", 4)
        assert check(*lines[:2], lines[2].replace(b"predict", b"explain"), *lines[3:], key=KEY, mixed=True).problem
        assert check(*lines[:2], lines[2][:-9], *lines[3:], key=KEY, mixed=True).problem.startswith("line 3: the hash")


PLANTED = "Erika Mustermann"


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": PLANTED},
        {"request_id": ""},
        {"token_id": PLANTED},
        {"route": f"/predict/{PLANTED}"},
        {"route": "/erika"},
        {"input_sha256": PLANTED},
        {"input_sha256": "1.2.840.113619.2.55.3.1"},
        {"model_version": PLANTED},
        {"decision": PLANTED},
        {"reasons": [PLANTED]},
        {"reasons": ["1964-08-12"]},
        {"reasons": PLANTED},
        {"reasons": [["colour"]]},
        {"latency_ms": PLANTED},
        {"latency_ms": float("nan")},
        {"input_sha256": None},
        {"decision": None},
        {"patient_name": PLANTED},
    ],
)
def test_no_patient_data_fits_in(tmp_path: Path, changes: dict[str, Any]) -> None:
    log = AuditLog(tmp_path / "log", VERSION)
    with pytest.raises(AuditLogError) as caught:
        log.write({**ANSWER, **changes})
    text = (tmp_path / "log").read_text() + str(caught.value)
    assert not any(part in text for part in ("Mustermann", "erika", "1964", "113619", "patient_name"))
    assert (tmp_path / "log").read_text().count("\n") == 1


def test_a_record_without_a_field_is_refused(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log", VERSION)
    for name in FIELDS:
        with pytest.raises(AuditLogError, match="exactly the fields"):
            log.write({key: value for key, value in ANSWER.items() if key != name})


def test_the_verifier_says_what_it_found(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = write_log(path, key=KEY)
    head = json.loads(lines[-1])["hash"]
    done = run(str(path), "--key", STROKECT_AUDIT_KEY=KEY)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [
        "7 good records",
        f"head {head} (number 6): keep it elsewhere and give it to the next check",
    ]
    path.write_bytes(b"".join([*lines[:4], *lines[5:]]))
    done = run(str(path), "--key", STROKECT_AUDIT_KEY=KEY)
    assert (done.returncode, done.stdout) == (1, b"4 good records\n") and b"line 5: does not follow" in done.stderr


def test_the_verifier_fails_where_there_is_nothing_to_verify(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert run(str(path)).returncode == 1
    path.write_bytes(b"")
    assert run(str(path)).returncode == 1 and run("-", "--mixed", stdin=b"only a log line\n").returncode == 1
    lines = write_log(path)
    done = run(str(path), "--key")
    assert done.returncode == 1 and b"STROKECT_AUDIT_KEY is not set" in done.stderr
    assert run(str(path), "--head", "f" * 64).returncode == 1 and run(str(path)).returncode == 0
    assert run("-", "--mixed", stdin=b"log line\n" + b"".join(lines)).returncode == 0
