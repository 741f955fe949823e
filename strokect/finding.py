"""What a check of the audit is given and what it answers, and how its message counts things."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.manifest import has_patients
from strokect.params import SplitParams

MAX_NAMED = 20  # patients or reasons spelled out in a message

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """What one check found. `files` are all files concerned, sorted; `pairs` those to be looked at side by side.

    `message` goes into metrics and logs and names no patient and no file; `details` may, and is only shown on the local page.
    """

    check: str
    severity: Severity
    message: str
    files: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    details: str = ""


@dataclass(frozen=True)
class Evidence:
    """What the checks look at. `same` holds groups of rows with identical prepared pixels or file bytes."""

    manifest: pd.DataFrame  # file, patient, label, sha256, slice, pixels (a hash); patient as text
    same: tuple[pd.DataFrame, ...]
    linked: NDArray[np.int64]  # (P, 2) rows of near-duplicates, without those of one group of `same`
    torn: NDArray[np.int64]  # (Q, 2) those of `linked` in one patient that show one slice and have two labels
    blank: pd.DataFrame  # rows that show nothing; alike without being copies, so they are in no group of `same`
    cohort: dict[str, Any]
    facts: pd.DataFrame | None  # of the files, see `file_facts`; row-aligned with the manifest
    split: SplitParams | None  # who is to be held out; None: nobody asks whether the cohort carries it

    @property
    def has_patients(self) -> bool:
        """`manifest.has_patients` of the cohort."""
        return has_patients(self.cohort)

    @property
    def owner(self) -> str:
        """What a value of the column `patient` is, in a message."""
        return "patient" if self.has_patients else "look-alike group"


Check = Callable[[Evidence], Finding | None]


def finding(check: str, severity: Severity, message: str, groups: list[pd.DataFrame], details: str = "") -> Finding | None:
    """A finding on the files of groups of rows, each group's first two side by side; None where there is no group."""
    if not groups:
        return None
    pairs = tuple((str(group["file"].iloc[0]), str(group["file"].iloc[1])) for group in groups if len(group) > 1)
    return Finding(
        check, severity, message, tuple(sorted({str(file) for group in groups for file in group["file"]})), pairs, details
    )


def files_in(groups: list[pd.DataFrame]) -> str:
    """`12 files`."""
    return count(sum(map(len, groups)), "file")


def count(number: int, noun: str) -> str:
    """`1 file`, `2,500 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first(names: Iterable[str], separator: str = ", ") -> str:
    """The first MAX_NAMED names, and how many more."""
    listed = list(names)
    more = f"{separator}and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return separator.join(listed[:MAX_NAMED]) + more
