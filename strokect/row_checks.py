"""What must hold of the rows that a reader hands over, whichever reader it is."""

from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from strokect.errors import DataError
from strokect.manifest import COLUMNS
from strokect.sources import Row

OLDEST_POSSIBLE = 130  # years
GENDERS = (None, "", "Male", "Female", "Other")


def check_rows(rows: Sequence[Row], root: Path) -> None:
    """Raise DataError, with the row's file, for the first row that no manifest could hold or that contradicts another."""
    files: set[str] = set()
    places: dict[tuple[str, int], str] = {}
    for row in rows:
        other = places.setdefault((row.patient, row.slice), row.file)
        own = [name for name in row.extra if name in COLUMNS]
        age, gender = row.extra.get("age_years"), row.extra.get("gender")
        faults = (
            (row.file in files, "this file is in the cohort twice"),
            (bool(own), f"the reader gives {', '.join(own)} as a further column; that name is taken"),
            (not row.patient.strip(), "the patient is empty"),
            (row.label not in (0, 1), f"the label is {row.label!r}; it must be 0 or 1"),
            (row.slice < 0, f"the slice is {row.slice}; it must be a number from 0"),
            (other != row.file, f"the patient and slice of {other} once more"),
            (not _is_age(age), f"age_years is {age!r}; it must be years from 0 to {OLDEST_POSSIBLE}, or None"),
            (gender not in GENDERS, f"gender is {gender!r}; it must be Male, Female, Other or None"),
        )
        fault = next((said for holds, said in faults if holds), "")
        if fault:
            raise DataError(f"{root / row.file}: {fault}")
        files.add(row.file)


def _is_age(age: Any) -> bool:
    return age is None or (isinstance(age, Real) and 0 <= float(age) <= OLDEST_POSSIBLE)
