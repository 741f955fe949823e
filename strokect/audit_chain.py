"""The hash chain of the audit log: each record holds the hash of the one before it, so none can be changed unseen.

hash = SHA-256 over the record's canonical JSON without `hash`, or HMAC-SHA-256 under a key. Without a key, whoever can write the
file can also compute a new chain from any line on; with one, only who holds the key can.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

HASH = re.compile(rb'"hash\\?":')  # in a record, also inside a text
AUDIT = "audit"  # key of the record's line in a log line
START_OF_CHAIN = "0" * 64  # `previous` of the first record of all
Record = dict[str, Any]


def canonical(record: Record) -> bytes:
    """The bytes that are hashed and written: keys as they stand, no spaces, ASCII. NaN is refused: it is no JSON."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")


def hash_of(record: Record, key: str | None) -> str:
    """Hash in hex of a record, without its own `hash`."""
    content = canonical({name: value for name, value in record.items() if name != "hash"})
    return hmac.new(key.encode(), content, "sha256").hexdigest() if key else hashlib.sha256(content).hexdigest()


def seal(record: Record, seq: int, previous: str, key: str | None) -> Record:
    """The record with its place in the chain and its hash."""
    placed = {**record, "seq": seq, "previous": previous}
    return {**placed, "hash": hash_of(placed, key)}


def read_record(line: bytes, key: str | None) -> Record | None:
    """The record of one line without its line end; None unless it is what `seal` made under this key."""
    try:
        record = json.loads(line)
        placed = isinstance(record, dict) and isinstance(record.get("seq"), int) and isinstance(record.get("previous"), str)
        if not placed or canonical(record) != line:
            return None
    except (ValueError, RecursionError):
        return None
    # As bytes: of texts compare_digest takes ASCII only, and whoever forges a record need not keep to it.
    said = str(record.get("hash")).encode("ascii", "backslashreplace")
    return record if hmac.compare_digest(said, hash_of(record, key).encode()) else None


def wrap(line: str, time: str) -> str:
    """A record's line inside a log line, for standard output.

    As a text: log collectors take JSON apart and give it back with other keys first, and the hash is over the bytes.
    """
    shown = {"time": time, "level": "INFO", "severity": "INFO", "logger": "strokect.audit", "message": "audit line"}
    return json.dumps({**shown, AUDIT: line})


def unwrap(line: bytes) -> bytes | None:
    """The record's line in what `wrap` made or a collector made of that; None for any other log line, torn ones as they are."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return line if HASH.search(line) else None
    if not isinstance(content, dict):
        return None
    if isinstance(content.get(AUDIT), str):
        return str(content[AUDIT]).encode()
    return line if "hash" in content and "previous" in content else None


@dataclass
class Report:
    """What the check of a log found, up to the first break. `problem` is "" if there is none."""

    records: int = 0
    after: str = ""  # hash that the first record follows; START_OF_CHAIN unless an older file comes before
    heads: dict[str, int] = field(default_factory=dict)  # hash of each chain's last record → its seq
    problem: str = ""


def verify(lines: Iterable[tuple[str, bytes]], key: str | None = None, head: str = "", mixed: bool = False) -> Report:
    """Check lines, each with a text that says where it is ("audit.jsonl, line 3").

    `head` is a hash remembered from before: its record must still be there. Only so is it noticed that the tail is gone. With
    `mixed` other lines may stand between and several chains side by side: standard output of one or more processes.
    """
    report, remembered = Report(), not head
    for place, line in lines:
        content = line.removesuffix(b"\n")
        if mixed:
            found = unwrap(content)
            if found is None:
                continue
            content = found
        record = read_record(content, key)
        if record is None:
            report.problem = (
                f"{place}: the hash does not match the content, or it is no record (changed, torn, under another key)"
            )
            return report
        before = report.heads.pop(record["previous"], None)
        if before is None:
            first = record["seq"] == 0 if record["previous"] == START_OF_CHAIN else not report.records
            if record.get("event") != "start" or not first or (report.records and not mixed):
                report.problem = f"{place}: does not follow the record before it (removed, inserted or out of order)"
                return report
            report.after = report.after or record["previous"]
        elif record["seq"] != before + 1:
            report.problem = f"{place}: number {record['seq']} after number {before}"
            return report
        report.heads[record["hash"]] = record["seq"]
        report.records += 1
        remembered = remembered or record["hash"] == head
    if not remembered:
        report.problem = f"no record has the hash {head}: the end of the log was cut off, or the log was written anew"
    return report
