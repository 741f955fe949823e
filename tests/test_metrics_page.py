"""docs/metrics.md names every key of the metrics files, and no other."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT

from strokect.abstention import DECISIONS
from strokect.files import read_json

# Of int8 and of a student, of runs that promise nothing, and of patients scored by a sequence head.
OPTIONAL = {"variant", "guarantees[].reason", "LEVEL.before_calibration"}
CLASSES = ("normal", "stroke")


def keys(value: Any, path: str = "") -> Iterator[str]:
    """Dotted paths; figures and empty lists are leaves, names of levels, classes and decisions are put into capitals."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for entry in value:
            yield from keys(entry, f"{path}[]")
    elif isinstance(value, dict) and set(value) != {"value", "ci95"}:
        for key, inner in value.items():
            name = key
            if path == "" and key in ("slice", "patient"):
                name = "LEVEL"
            elif path in ("LEVEL.per_class", "policy.counts") and key in CLASSES:
                name = "CLASS"
            elif path == "policy.counts.CLASS" and key in DECISIONS:
                name = "DECISION"
            yield from keys(inner, f"{path}.{name}" if path else name)
    else:
        yield path


def documented() -> set[str]:
    """The keys of the table's first column; one that begins with a dot belongs to the one before it."""
    found, parent = set(), ""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for cell in re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE):
        for key in re.findall(r"`([^`]+)`", cell):
            if not key.startswith("."):
                parent = key.rpartition(".")[0]
            found.add(f"{parent}{key}" if key.startswith(".") else key)
    return found


def test_every_key_is_documented_and_every_documented_key_is_there(pipeline: Path) -> None:
    there = {key for name in ("oof", "evaluate") for key in keys(read_json(pipeline / f"metrics/{name}.json"))}
    # The tiny phantom has too few patients for some entries of the list, and enough for others: both kinds must be there.
    assert {"guarantees[].threshold", "guarantees[].needs_positive_patients"} & there
    said = documented() - OPTIONAL
    assert there - said == set()
    assert said - there <= {"guarantees[].threshold", "guarantees[].specificity", "guarantees[].needs_positive_patients"}
