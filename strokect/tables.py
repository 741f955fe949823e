"""CSV tables that say more about raw files: labels, patients, demographics. What is wrong with one is said with file and row."""

import csv
import io
import re
from pathlib import Path
from typing import Any

from strokect.errors import DataError

OPTIONAL = ("patient_id", "age", "sex", "site", "subtype", "fracture")  # columns that any table of labels may have
SEXES = {"m": "Male", "male": "Male", "f": "Female", "female": "Female", "o": "Other", "other": "Other"}
AGE = re.compile(r"\d{1,3}(\.\d+)?")
TableRows = list[tuple[int, dict[str, str]]]  # (row as an editor counts it, {column: text without blanks around it})


def read_table(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> TableRows:
    """The rows of a comma-separated UTF-8 file, with or without a byte order mark; columns beyond those named are ignored.

    Raises DataError for a missing file or column, a column named twice, text that is not UTF-8 and a row of another length. No
    message quotes a value: it may be a patient's.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: expected a CSV with the columns {', '.join(required)}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as CSV UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    missing = [column for column in required if column not in names]
    if missing:
        hint = "; columns must be separated by commas" if len(names) == 1 and re.search(r"[;\t|]", names[0]) else ""
        raise DataError(f"{path}: column {', '.join(missing)} is missing{hint}")
    twice = [column for column in (*required, *optional) if names.count(column) > 1]
    if twice:
        raise DataError(f"{path}: column {', '.join(twice)} occurs twice")
    columns = [column for column in (*required, *optional) if column in names]
    rows: TableRows = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, row {reader.line_num}: expected {len(names)} fields")
            rows.append((reader.line_num, {column: row[column].strip() for column in columns}))
    except csv.Error as error:
        raise DataError(f"{path}, row {reader.reader.line_num}: not readable as CSV ({error})") from None
    return rows


def by_key(rows: TableRows, column: str, path: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Key → its row. Raises DataError for an empty key, and for one that occurs twice."""
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for line, row in rows:
        key = row[column]
        if not key:
            raise DataError(f"{path}, row {line}: {column} is empty")
        if key in found:
            raise DataError(f"{path}, row {line}: the {column} of row {found[key][0]} once more; keep one of them")
        found[key] = line, row
    return found


def label_of(text: str, positive: tuple[str, ...], negative: tuple[str, ...], where: str) -> int:
    """0 or 1. Raises DataError for a label that the params do not name; `where` is file, row and column."""
    if text in positive:
        return 1
    if text in negative:
        return 0
    raise DataError(f"{where} is none of the labels in params.yaml: positive {list(positive)}, negative {list(negative)}")


def extra_columns(row: dict[str, str], where: str) -> dict[str, Any]:
    """Manifest columns from those of OPTIONAL that the table has, but for the patient. Raises DataError for an unusable value."""
    extra: dict[str, Any] = {name: row[name] for name in ("subtype", "site") if name in row}
    if "age" in row:
        if row["age"] and (not AGE.fullmatch(row["age"]) or float(row["age"]) > 130):
            raise DataError(f"{where}: age must be a number of years, or empty")
        extra["age_years"] = float(row["age"]) if row["age"] else None
    if "sex" in row:
        if row["sex"] and row["sex"].lower() not in SEXES:
            raise DataError(f"{where}: sex must be M, F or O (male, female or other), or empty")
        extra["gender"] = SEXES.get(row["sex"].lower())
    if "fracture" in row:
        if row["fracture"] not in ("", "0", "1"):
            raise DataError(f"{where}: fracture must be 0 or 1, or empty")
        extra["fracture"] = int(row["fracture"]) if row["fracture"] else None
    return extra
