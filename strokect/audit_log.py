"""The audit log: one JSON line per answer, chained by hashes so that a change is seen. No patient data: fields are an allow-list.

    python -m strokect.audit_log FILE …                    # verifies; exit code 1 and the first bad line if it was tampered with
    python -m strokect.audit_log FILE --head HASH --key    # HASH: remembered from before; --key: the key is in STROKECT_AUDIT_KEY
    python -m strokect.audit_log - --mixed < stdout.log    # captured standard output, with other lines and several processes

Changed, removed, inserted and reordered lines break the chain. A tail that was cut off does not: what is left is a good chain. So
write down the head that the check prints, elsewhere, and give it to the next check. Without a key, whoever can write the file can
write a new chain from any line on, too; only a remembered head finds that forgery.

Lines reach the operating system before the answer goes out: they survive a killed process, not a power cut, and do not say that
the client got the answer. To rotate, move the file away; the next line begins a new file with a start record whose `previous` is
the head of the old one. Check both in order. A process that starts while there is no file begins a new chain: check what is older
by itself.
"""

import argparse
import errno
import fcntl
import logging
import math
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from strokect.audit_chain import START_OF_CHAIN, Record, canonical, read_record, seal, verify, wrap
from strokect.errors import AuditLogError, run_stage
from strokect.monitoring import DECISIONS, ROUTES
from strokect.settings import read_settings

logger = logging.getLogger("bentoml.strokect")

WAIT_S = 2.0  # for whoever holds the file; answers behind it must not wait for ever
RETRY_S = 0.005
TAIL = 65_536  # bytes; a line has less than a thousand
BEGINNING = b'{"time":"'  # of every line
VERIFY = "python -m strokect.audit_log"


def _matches(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _codes(value: Any) -> bool:
    code = _matches(r"[a-z][a-z0-9_]{0,39}")
    return isinstance(value, list) and len(value) <= 40 and all(map(code, value))


# Everything that is written about an answer, and what it must look like. Nothing else fits in, so no name and no date can.
FIELDS: dict[str, Callable[[Any], bool]] = {
    "request_id": _matches(r"[0-9a-f]{32}"),
    "token_id": _matches(r"[A-Za-z0-9._-]{0,32}"),  # "" where no token is asked for
    "route": lambda value: value in ROUTES,
    "input_sha256": _matches(r"[0-9a-f]{64}"),
    "model_version": _matches(r"[0-9a-f]{12}"),
    "decision": lambda value: value in DECISIONS,
    "reasons": _codes,  # of the policy
    "latency_ms": lambda value: isinstance(value, (int, float)) and math.isfinite(value) and value >= 0,
}


class AuditLog:
    """Appends records. Threads and processes may share a file; on standard output every process has a chain of its own.

    Begins with a start record, which carries the model version and says if a crash had left a torn line.
    """

    def __init__(self, path: Path | None, model_version: str | None = None, key: str | None = None):
        """Begin or continue the file `path`; None is standard output. Raises AuditLogError if its last line is not genuine."""
        self._path, self._key = path, key
        self._lock = threading.Lock()
        self._head, self._seq = START_OF_CHAIN, -1
        self._file = -1  # descriptor
        self._last, self._offset = b"", -1  # our last line and where in the file it stands; -1: not in this file
        self._torn = 0  # bytes, not yet said
        # Two processes on one standard output may start in the same millisecond; their chains must differ from the start.
        self._beginning = {"event": "start", "model_version": model_version, "process": secrets.token_hex(8)}
        self._append(self._beginning)

    def write(self, record: Record) -> None:
        """Append the line of one answer: exactly the keys of FIELDS. Raises AuditLogError; then the answer must not go out."""
        if record.keys() != FIELDS.keys():
            raise AuditLogError(f"audit log: a record has exactly the fields {', '.join(FIELDS)}")
        for name, allowed in FIELDS.items():
            if not allowed(record[name]):  # the value is not shown: it may be just what must not be written
                raise AuditLogError(f"audit log: {name} has a value that is not allowed")
        self._append({"event": "answer", **{name: record[name] for name in FIELDS}})

    def _append(self, record: Record) -> None:
        deadline = time.monotonic() + WAIT_S  # counted from here: threads that wait for one another do not add their waits up
        try:
            with self._lock:
                if self._path is None:
                    self._put(record)
                    return
                try:
                    self._lock_file(self._path, deadline)
                    # Moved away or emptied since our last line: the new file says what it follows.
                    if self._seq >= 0 and record["event"] != "start" and os.fstat(self._file).st_size == 0:
                        self._put(self._beginning)
                    self._put(record)
                finally:
                    if self._file >= 0:
                        fcntl.flock(self._file, fcntl.LOCK_UN)
        except OSError as error:
            raise AuditLogError(f"audit log: it cannot be written ({error.strerror})") from None

    def _put(self, record: Record) -> None:
        """Write the record as the next of the chain: all of its line or nothing."""
        said = {"torn_bytes": self._torn} if self._torn else {}
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        sealed = seal({"time": now, **record, **said}, self._seq + 1, self._head, self._key)
        line = canonical(sealed) + b"\n"
        if self._path is None:
            sys.stdout.write(wrap(line.decode("ascii").removesuffix("\n"), now) + "\n")
            sys.stdout.flush()
        else:
            end = os.fstat(self._file).st_size
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._offset = end  # only now: until then our last line is the one before
        self._head, self._seq, self._last, self._torn = sealed["hash"], sealed["seq"], line, 0

    def _lock_file(self, path: Path, deadline: float) -> None:
        """Open and lock the file that has the name now, with the head of the chain after what other processes wrote."""
        while True:
            if self._file < 0:
                self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._take_turn(deadline)
            self._catch_up(path)
            try:
                if os.path.samestat(os.fstat(self._file), path.stat()):
                    return
            except FileNotFoundError:
                pass  # moved away, like a file of another identity
            os.close(self._file)
            self._file = self._offset = -1

    def _take_turn(self, deadline: float) -> None:
        """Lock the open file, or give up at `deadline` (monotonic): flock itself would wait for a stuck process for ever."""
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise AuditLogError(f"audit log: another process holds the file, for {WAIT_S:g} s or more") from None
                time.sleep(RETRY_S)

    def _catch_up(self, path: Path) -> None:
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, TAIL, max(0, size - TAIL))
        complete, _, torn = tail.rpartition(b"\n")
        last = complete.rpartition(b"\n")[2]
        if self._offset >= 0 and os.pread(self._file, len(self._last), self._offset) != self._last:
            # Cut or replaced behind our back. Going on from our own head leaves a break for the check to find.
            logger.error("audit log: the last line is not where it was written; check the file with `%s`", VERIFY)
        elif last and last != self._last.removesuffix(b"\n"):
            record = read_record(last, self._key)
            if record is None:
                raise AuditLogError(
                    f"audit log: the last line of {path} is not genuine or was written under another key: look at it with "
                    f"`{VERIFY}`, then move the file away and a new one will be begun"
                )
            self._head, self._seq = record["hash"], record["seq"]
        if torn:
            self._set_aside(torn, path, size)

    def _set_aside(self, torn: bytes, path: Path, size: int) -> None:
        """Move the half line that a crash left at the end of the file, of `size` bytes, to a file of its own."""
        if torn[: len(BEGINNING)] != BEGINNING[: len(torn)]:
            raise AuditLogError(f"audit log: {path} ends in what no audit log can hold; name another file")
        aside = path.with_name(f"{path.name}.torn-{size - len(torn)}")
        aside.write_bytes(torn)
        os.ftruncate(self._file, size - len(torn))
        self._torn += len(torn)
        logger.warning("audit log: a crash left %d bytes of a line; they are in %s now", len(torn), aside.name)


def _lines(files: list[str]) -> Iterator[tuple[str, bytes]]:
    for name in files:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as stream:
            for number, line in enumerate(stream, 1):
                yield f"{name}, line {number}", line


def main() -> None:
    """Verify the files given, oldest first."""
    parser = argparse.ArgumentParser(prog=VERIFY, description="Verify the hash chain of an audit log.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="oldest first; - is standard input")
    parser.add_argument("--head", default="", metavar="HASH", help="remembered from an earlier check: must still be there")
    parser.add_argument("--key", action="store_true", help="the hashes are made with the key in STROKECT_AUDIT_KEY")
    parser.add_argument("--mixed", action="store_true", help="captured standard output: other lines, several processes")
    arguments = parser.parse_args()
    key = read_settings().audit_key if arguments.key else None
    if arguments.key and key is None:
        raise AuditLogError("STROKECT_AUDIT_KEY is not set")
    try:
        report = verify(_lines(arguments.files), key, arguments.head, arguments.mixed)
    except OSError as error:
        raise AuditLogError(f"{error.filename}: {error.strerror}") from None
    print(f"{report.records} good records")
    if report.problem:
        raise AuditLogError(report.problem)
    if report.records == 0:
        raise AuditLogError("there is no record in it")
    if report.after != START_OF_CHAIN:
        print(f"the first one follows {report.after}, which is in an older file: give that first to check both")
    for head, seq in report.heads.items():
        print(f"head {head} (number {seq}): keep it elsewhere and give it to the next check")


if __name__ == "__main__":
    run_stage(main)
