"""Slice labels for the Kaggle "Brain Stroke CT Image Dataset", which is PhysioNet CT-ICH re-packed.

The re-packing numbered every slice *and* every haemorrhage mask of a patient in one sequence and then dropped the
masks, so a number missing after `58 (12).jpg` says that slice 12 had a mask. These gaps place the radiologists' table
(hemorrhage_diagnosis.csv of CT-ICH; Hssayeni et al. 2020, Data 5(1):14) on the files: for some patients its rows start
at another slice and have to be rotated. The label is always that of the placed table, because a gap cannot show a
positive last slice. The folder a file lies in says little about the slice: it holds for a patient, and not for all.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strokect.errors import DataError
from strokect.tables import OLDEST_AGE, read_table

FOLDERS = {"Normal": 0, "Stroke": 1}
TABLE = "hemorrhage_diagnosis.csv"
DEMOGRAPHICS = "patient_demographics.csv"
SUBTYPES = ("Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural")
FILE_NAME = re.compile(r"([1-9]\d*) \(([1-9]\d*)\)\.jpe?g", re.IGNORECASE)


@dataclass(frozen=True)
class IchSlice:
    """One file. `label`, `subtypes` and `fracture` are the radiologists'; None, () and None where no row can be placed."""

    file: str  # relative to the root of the data set, "Stroke/58 (12).jpg"
    patient: str
    order: int  # 0-based position within the patient
    label: int | None  # 1 = haemorrhage of any type on this slice
    folder_label: int  # 1 = the file lies in Stroke
    subtypes: tuple[str, ...]
    fracture: int | None


@dataclass(frozen=True)
class IchCohort:
    """The whole data set, ordered by patient and slice. `slices` also holds those that `left_out` lists (label None)."""

    slices: tuple[IchSlice, ...]
    left_out: tuple[tuple[str, str], ...]  # (file, reason)
    rotations: dict[str, int]  # patient → k ≠ 0 of np.roll(table rows, k)
    patient_labels: dict[str, dict[str, int]]  # patient → {"folder": 0|1, "table": 0|1}
    demographics: dict[str, tuple[float | None, str | None]]  # patient → (age in years, gender); None where unknown


@dataclass(frozen=True)
class _File:
    name: str  # relative to the root
    number: int
    folder_label: int


@dataclass(frozen=True)
class _Row:
    line: int  # in the CSV file, 1 = header
    number: int
    label: int
    subtypes: tuple[str, ...]
    fracture: int


def read_cohort(root: Path) -> IchCohort:
    """Read `root`/{Normal,Stroke}/*.jpg (names only), the diagnosis table and, if present, the demographics.

    Raises DataError naming file and row where names, table and folders contradict each other. A patient whose table
    cannot be placed is no error: the slices are in `left_out` with the reason.
    """
    files, table = _read_files(root), _read_table(root / TABLE)
    _check_same_patients(files, table, root)
    slices: list[IchSlice] = []
    left_out: list[tuple[str, str]] = []
    rotations: dict[str, int] = {}
    for patient, own in files.items():
        rows = table[patient]
        positive = np.array([row.label for row in rows], dtype=bool)
        gaps = _gap_positive(own)
        rotation = find_rotation(positive, gaps)
        if rotation is None:
            reason = _why_unplaced(positive, gaps)
            left_out += [(file.name, reason) for file in own]
        elif rotation:
            rotations[patient] = rotation
        for order, file in enumerate(own):
            row = None if rotation is None else rows[(order - rotation) % len(rows)]  # the same as np.roll(rows, rotation)
            slices.append(_make_slice(file, patient, order, row))
    patient_labels = {
        patient: {"folder": own[0].folder_label, "table": max(row.label for row in table[patient])}
        for patient, own in files.items()
    }
    known = _read_demographics(root / DEMOGRAPHICS)
    demographics = {patient: known.get(patient, (None, None)) for patient in files}
    return IchCohort(tuple(slices), tuple(left_out), rotations, patient_labels, demographics)


def find_rotation(table_positive: NDArray[np.bool_], gap_positive: NDArray[np.bool_]) -> int | None:
    """The k, −n/2 < k ≤ n/2, for which np.roll(table_positive, k) agrees with the gaps; None if there is no such k or several.

    Both are (n,) bool. The last entry of `gap_positive` is ignored: no number follows the last slice. 0 wins if it agrees;
    any other rotation must be the only one that does and needs at least one gap as evidence.
    """
    n = len(table_positive)
    if len(gap_positive) != n or n == 0:
        raise ValueError(f"expected two arrays of the same length above 0, not {n} and {len(gap_positive)}")
    shown = gap_positive[:-1]
    if np.array_equal(table_positive[:-1], shown):
        return 0
    if not shown.any():
        return None  # a lone positive could be rolled onto the last slice, with nothing to support it
    fits = [k for k in range(-((n - 1) // 2), n // 2 + 1) if np.array_equal(np.roll(table_positive, k)[:-1], shown)]
    return fits[0] if len(fits) == 1 else None


def _gap_positive(files: list[_File]) -> NDArray[np.bool_]:
    """(n,) bool: the number after this file's is missing. The last entry is always False."""
    if files[0].number != 1:
        raise DataError(f"{files[0].name}: the numbering of a patient starts at (1); files are missing or renamed")
    steps = [(after, after.number - before.number) for before, after in pairwise(files)]
    for file, step in steps:
        if step not in (1, 2):
            fault = "the number occurs twice" if step == 0 else f"{step - 1} numbers are missing before it"
            raise DataError(f"{file.name}: {fault}; a mask explains one missing number. Download the data set again")
    return np.array([step == 2 for _, step in steps] + [False])


def _why_unplaced(positive: NDArray[np.bool_], gaps: NDArray[np.bool_]) -> str:
    counts = f"{positive.sum()} positive slices in the table, {gaps.sum()} gaps in the file numbers"
    if not gaps.any():
        return f"{counts}: no mask was counted in, so nothing tells which slices the rows belong to"
    return f"{counts}: no single rotation of the table agrees with the gaps"


def _make_slice(file: _File, patient: str, order: int, row: _Row | None) -> IchSlice:
    if row is None:
        return IchSlice(file.name, patient, order, None, file.folder_label, (), None)
    return IchSlice(file.name, patient, order, row.label, file.folder_label, row.subtypes, row.fracture)


def _read_files(root: Path) -> dict[str, list[_File]]:
    """Patient → files in the order of their numbers; patients in numeric order."""
    files: dict[str, list[_File]] = {}
    for folder, label in FOLDERS.items():
        if not (root / folder).is_dir():
            raise DataError(f"{root / folder} is missing: expected the folders {' and '.join(FOLDERS)} of the Kaggle data set")
        for path in sorted((root / folder).iterdir()):
            if path.name.startswith("."):
                continue  # .DS_Store, .gitignore: written by tools, not part of the data set
            match = FILE_NAME.fullmatch(path.name)
            if match is None:
                raise DataError(f"{folder}/{path.name}: not named like '58 (12).jpg' (patient, slice); move it out of {root}")
            files.setdefault(match[1], []).append(_File(f"{folder}/{path.name}", int(match[2]), label))
    if not files:
        raise DataError(f"{root}: {' and '.join(FOLDERS)} are empty")
    for patient, own in files.items():
        if len({file.folder_label for file in own}) > 1:
            other = next(file for file in own if file.folder_label != own[0].folder_label)
            raise DataError(f"{other.name}: patient {patient} is in both folders (also {own[0].name})")
        own.sort(key=lambda file: file.number)
    return {patient: files[patient] for patient in sorted(files, key=int)}


def _read_table(path: Path) -> dict[str, list[_Row]]:
    """hemorrhage_diagnosis.csv: patient → rows in the order of SliceNumber, which counts from 1."""
    if not path.is_file():
        raise DataError(f"{path} is missing: the slice labels are in this file of PhysioNet CT-ICH (1.2.0); copy it there")
    columns = ("PatientNumber", "SliceNumber", *SUBTYPES, "No_Hemorrhage", "Fracture_Yes_No")
    table: dict[str, list[_Row]] = {}
    for line, row in read_table(path, columns):
        where = f"{path}, row {line}"
        for column in columns[:2]:
            if not re.fullmatch(r"[1-9]\d*", row[column]):
                raise DataError(f"{where}: {column} is {row[column]!r}; it must be a number from 1")
        for column in columns[2:]:
            if row[column] not in ("0", "1"):
                raise DataError(f"{where}: {column} is {row[column]!r}; it must be 0 or 1")
        subtypes = tuple(name for name in SUBTYPES if row[name] == "1")
        if bool(subtypes) == (row["No_Hemorrhage"] == "1"):
            raise DataError(f"{where}: No_Hemorrhage is {row['No_Hemorrhage']} but {len(subtypes)} haemorrhage types are marked")
        entry = _Row(line, int(row["SliceNumber"]), int(bool(subtypes)), subtypes, int(row["Fracture_Yes_No"]))
        table.setdefault(row["PatientNumber"], []).append(entry)
    for patient, rows in table.items():
        rows.sort(key=lambda entry: entry.number)
        for expected, entry in enumerate(rows, start=1):
            if entry.number != expected:
                fault = "occurs twice" if entry.number < expected else f"comes without slice {expected}"
                raise DataError(f"{path}, row {entry.line}: slice {entry.number} of patient {patient} {fault}")
    return table


def _check_same_patients(files: dict[str, list[_File]], table: dict[str, list[_Row]], root: Path) -> None:
    for patient, own in files.items():
        if patient not in table:
            raise DataError(f"{own[0].name}: patient {patient} is not in {root / TABLE}; use the table of CT-ICH 1.2.0")
        if len(own) != len(table[patient]):
            raise DataError(f"{own[0].name}: patient {patient} has {len(own)} files and {len(table[patient])} rows in {TABLE}")
    absent = [patient for patient in table if patient not in files]
    if absent:
        row = table[absent[0]][0].line
        raise DataError(f"{root / TABLE}, row {row}: no files of patient {', '.join(absent)}; the download is incomplete")


def _read_demographics(path: Path) -> dict[str, tuple[float | None, str | None]]:
    """Patient → (age in years, gender). Labels do not need this file, so its absence means "unknown", not an error."""
    if not path.is_file():
        return {}
    known: dict[str, tuple[float | None, str | None]] = {}
    for line, row in read_table(path, ("PatientNumber", "AgeYears", "Gender")):
        where, patient, age = f"{path}, row {line}", row["PatientNumber"], row["AgeYears"]
        if patient in known:
            raise DataError(f"{where}: patient {patient} occurs twice")
        if age and not re.fullmatch(r"\d+(\.\d+)?", age):
            raise DataError(f"{where}: AgeYears is {age!r}; it must be a number or empty")
        known[patient] = (min(float(age), OLDEST_AGE) if age else None, row["Gender"] or None)
    return known
