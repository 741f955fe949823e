"""Reading W&B's offline runs back: what would be sent, from the files themselves and not from what was meant to be logged."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from strokect.errors import DataError

BLOCK, HEADER = 32768, 7  # LevelDB's log format, after a header of W&B of as many bytes as each piece has


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of a .wandb file: pieces of records, each with checksum, length and kind, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, piece = path.read_bytes(), HEADER, b""
    if data[:4] != b":W&B":
        raise DataError(f"{path}: not a file of W&B")
    while at < len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        piece += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield Record.FromString(piece)
            piece = b""


def read_run(folder: Path) -> dict[str, Any]:
    """What an offline run says: its description (`run`), config, history rows, summary and artifacts."""
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"rows": rows, "summary": {}, "artifacts": [], "config": {}}
    for record in records(next(folder.glob("*.wandb"))):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
            found["config"] = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            found["summary"] |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update}
        elif kind == "artifact":
            found["artifacts"].append(record.artifact)
    return found


def describe(found: dict[str, Any]) -> dict[str, Any]:
    """A run in JSON: what it is called, what was logged how often, its last figures, its artifacts by name and hash.

    Without W&B's own keys (`_runtime` and such), without its random id, and of pictures the names only.
    """
    run, logged = found["run"], dict[str, int]()
    for row in found["rows"]:
        for name in plain(row)[0]:
            logged[name] = logged.get(name, 0) + 1
    figures = plain(found["summary"])[1]
    return {
        "name": run.display_name,
        "job": run.job_type,
        "group": run.run_group,
        "project": run.project,
        "data_sha256": found["config"]["data"]["data_sha256"],
        "logged": dict(sorted(logged.items())),
        "summary": dict(sorted(figures.items())),
        "artifacts": [describe_artifact(artifact) for artifact in found["artifacts"]],
    }


def plain(row: dict[str, Any]) -> tuple[set[str], dict[str, Any]]:
    """The names in a row, each picture's once, and the figures among them. A picture comes as `name/_type`, `name/path`, …"""
    pictures = {key.removesuffix("/_type") for key in row if key.endswith("/_type")}
    figures = {
        key: value
        for key, value in row.items()
        if not key.startswith("_") and not any(key.startswith(f"{picture}/") for picture in pictures)
    }
    return pictures | set(figures), figures


def describe_artifact(artifact: Any) -> dict[str, Any]:
    """Name, kind, metadata, and the files with their sizes and hashes (W&B's: MD5 in base 64)."""
    files = {entry.path: {"bytes": entry.size, "md5": entry.digest} for entry in artifact.manifest.contents}
    return {
        "name": artifact.name,
        "type": artifact.type,
        "metadata": json.loads(artifact.metadata),
        "files": dict(sorted(files.items())),
    }


def describe_all(folder: Path) -> list[dict[str, Any]]:
    """Every offline run below `folder` (W&B's `wandb/`), by group and name. Raises DataError where there is none."""
    runs = [describe(read_run(path)) for path in sorted(folder.glob("offline-run-*"))]
    if not runs:
        raise DataError(f"{folder}: no offline run; track one first: docs/tracking.md")
    return sorted(runs, key=lambda run: (run["group"], run["name"]))
