"""The hash chain of the audit log: each record holds the hash of the one before it, so none can be changed unseen.

hash = SHA-256 over the record's canonical JSON without `hash`, or HMAC-SHA-256 under a key. Without a key, whoever can write the
file can also compute a new chain from any line on; with one, only who holds the key can.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

START_OF_CHAIN = "0" * 64  # `previous` of the first record of all
Record = dict[str, Any]


def canonical(record: Record) -> bytes:
    """The bytes that are hashed and written: keys as they stand, no spaces, ASCII. NaN is refused: it is no JSON."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")


def hash_of(record: Record, key: str | None) -> str:
    """Hash in hex of a record, without its own `hash`."""
    content = canonical({name: value for name, value in record.items() if name != "hash"})
    return hmac.new(key.encode(), content, "sha256").hexdigest() if key else hashlib.sha256(content).hexdigest()


def seal(record: Record, seq: int, previous: str, key: str | None) -> bytes:
    """A record → its line: with its place in the chain and its hash."""
    placed = {**record, "seq": seq, "previous": previous}
    return canonical({**placed, "hash": hash_of(placed, key)}) + b"\n"


def read_record(line: bytes, key: str | None) -> Record | None:
    """The record of one line without its line end; None unless it is what `seal` wrote under this key."""
    try:
        record = json.loads(line)
        genuine = isinstance(record, dict) and canonical(record) == line and isinstance(record.get("seq"), int)
    except ValueError:
        return None
    return record if genuine and hmac.compare_digest(str(record.get("hash")), hash_of(record, key)) else None


@dataclass
class Report:
    """What the check of a chain found. `problem` is "" if nothing; `head` is the hash of the last good record."""

    records: int = 0
    chains: int = 0
    head: str = START_OF_CHAIN
    problem: str = ""


def verify(lines: Iterable[bytes], key: str | None = None, head: str = "", mixed: bool = False) -> Report:
    """Check lines (with or without their line ends) up to the first break.

    `head` is a hash remembered from before: it must still be in the chain. Only so is it noticed that the tail is gone. With
    `mixed` other lines may stand between (a captured standard output), and every start of a process may begin a new chain.
    """
    report, seq, remembered = Report(), -1, not head
    for number, line in enumerate(lines, 1):
        if mixed and b'"hash":"' not in line:
            continue
        record = read_record(line.rstrip(b"\n"), key)
        if record is None:
            report.problem = f"line {number}: the hash does not match the content (changed, torn, or another key)"
            return report
        begins = record["previous"] == START_OF_CHAIN and record["seq"] == 0 and record.get("event") == "start"
        if begins and (mixed or not report.records):
            report.chains += 1
        elif (report.records or mixed) and (record["previous"], record["seq"]) != (report.head, seq + 1):
            report.problem = f"line {number}: does not follow the record before it (removed, inserted or out of order)"
            return report
        report.records, report.head, seq = report.records + 1, record["hash"], record["seq"]
        remembered = remembered or record["hash"] == head
    if not remembered:
        report.problem = f"no record has the hash {head}: the end of the log was cut off, or the log was written anew"
    return report
