"""CSV tables that say more about raw files: labels, patients, demographics. What is wrong with one is said with file and row."""

import csv
import io
import re
import unicodedata
from pathlib import Path
from typing import Any

from strokect.errors import DataError

OPTIONAL = ("patient_id", "age", "sex", "site", "subtype", "fracture")  # columns that any table of labels may have
SEPARATORS = (",", ";", "\t")  # Excel writes semicolons where the decimal mark is a comma
SEXES = {"m": "Male", "male": "Male", "f": "Female", "female": "Female", "o": "Other", "other": "Other"}
AGE = re.compile(r"\d{1,3}(\.\d+)?")
OLDEST_AGE = 90.0  # years; an age above is given as this one, for so few people are older that it tells who
# In free text: 20190401, 2019-04-01, 1.4.19, 1 Apr 2019, and four numbers or more with dots between them.
DATE = re.compile(
    r"""(?<![\w.])(
        (19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])
        | \d{4}(?P<a>[-/.])\d{1,2}(?P=a)\d{1,2}
        | \d{1,2}(?P<b>[-/.])\d{1,2}(?P=b)(\d{4}|\d\d)
        | \d{1,2}[\ .-]*(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[\ .-]*(\d{4}|\d\d)
    )(?!\w)""",
    re.VERBOSE | re.IGNORECASE,
)
UID = re.compile(r"(?<![\w.])\d+(\.\d+){3,}")
TableRows = list[tuple[int, dict[str, str]]]  # (row as an editor counts it, {column: text without blanks around it})


def read_table(path: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> TableRows:
    """The rows of a UTF-8 file, with or without a byte order mark, separated by one of SEPARATORS: the one that its header has.

    Columns beyond those named are ignored. Raises DataError for a missing file or column, a column named twice or but for case,
    blanks and underscores like a known one that is not there, text that is not UTF-8 and a row of another length. No message
    quotes a value: it may be a patient's.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: expected a CSV with the columns {', '.join(required)}") from None
    except OSError as error:  # a folder, a link that points at itself, no right to read
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as CSV UTF-8") from None
    separator = _separator(text, required)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    rows: TableRows = []
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        columns = _check_columns(names, required, optional, path)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(f"{path}, row {reader.line_num}: expected {len(names)} fields")
            rows.append((reader.line_num, {column: row[column].strip() for column in columns}))
    except csv.Error as error:
        raise DataError(f"{path}, row {reader.reader.line_num}: not readable as CSV ({error})") from None
    return rows


def _separator(text: str, required: tuple[str, ...]) -> str:
    """The one by which the header has most of the `required` columns; of several the first."""

    def found(separator: str) -> int:
        try:
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
        except csv.Error:
            return 0
        return len({name.strip() for name in header} & set(required))

    return max(SEPARATORS, key=found)


def _check_columns(names: list[str], required: tuple[str, ...], optional: tuple[str, ...], path: Path) -> list[str]:
    missing = [column for column in required if column not in names]
    if missing:
        hint = "; columns are separated by commas, semicolons or tabs" if len(names) == 1 else ""
        raise DataError(f"{path}: column {', '.join(missing)} is missing{hint}")
    for name in names:
        meant = [column for column in (*required, *optional) if _plain(column) == _plain(name) and column != name]
        if meant and meant[0] not in names:
            raise DataError(f"{path}: column {name!r} is ignored as it stands; call it {meant[0]!r}, or something else")
    twice = [column for column in (*required, *optional) if names.count(column) > 1]
    if twice:
        raise DataError(f"{path}: column {', '.join(twice)} occurs twice")
    return [column for column in (*required, *optional) if column in names]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def nfc(text: str) -> str:
    """`text` with composed letters: file systems, files and tables write ü as one letter or as two."""
    return unicodedata.normalize("NFC", text)


def by_key(rows: TableRows, column: str, path: Path) -> dict[str, tuple[int, dict[str, str]]]:
    """Key (as `nfc` has it) → its row. Raises DataError for an empty key, and for one that occurs twice."""
    found: dict[str, tuple[int, dict[str, str]]] = {}
    for line, row in rows:
        key = nfc(row[column])
        if not key:
            raise DataError(f"{path}, row {line}: {column} is empty")
        if key in found:
            raise DataError(f"{path}, row {line}: the {column} of row {found[key][0]} once more; keep one of them")
        found[key] = line, row
    return found


def patient_of(row: dict[str, str], where: str) -> str:
    """The patient that the column `patient_id` names, as `nfc` has it; "" in a table without that column.

    Raises DataError for an empty cell: what stands in for it (the file's own id, say) would make two people of one.
    """
    if "patient_id" in row and not row["patient_id"]:
        raise DataError(f"{where}: patient_id is empty; fill it in every row, or leave the column out")
    return nfc(row.get("patient_id", ""))


def label_of(text: str, positive: tuple[str, ...], negative: tuple[str, ...], where: str) -> int:
    """0 or 1. Raises DataError for a label that the params do not name; `where` is file, row and column."""
    if text in positive:
        return 1
    if text in negative:
        return 0
    raise DataError(f"{where} is none of the labels in params.yaml: positive {list(positive)}, negative {list(negative)}")


def extra_columns(row: dict[str, str], where: str) -> dict[str, Any]:
    """Manifest columns from those of OPTIONAL that the table has, but for the patient; ages end at OLDEST_AGE.

    Raises DataError for an unusable value, and for a site or subtype with a date or UID in it: they travel as they are written.
    """
    extra: dict[str, Any] = {name: row[name] for name in ("subtype", "site") if name in row}
    for name, text in extra.items():
        if DATE.search(text) or UID.search(text):
            raise DataError(f"{where}: {name} holds what looks like a date or a UID; it would reach the manifest")
    if "age" in row:
        if row["age"] and (not AGE.fullmatch(row["age"]) or float(row["age"]) > 130):
            raise DataError(f"{where}: age must be a number of years, or empty")
        extra["age_years"] = min(float(row["age"]), OLDEST_AGE) if row["age"] else None
    if "sex" in row:
        if row["sex"] and row["sex"].lower() not in SEXES:
            raise DataError(f"{where}: sex must be M, F or O (male, female or other), or empty")
        extra["gender"] = SEXES.get(row["sex"].lower())
    if "fracture" in row:
        if row["fracture"] not in ("", "0", "1"):
            raise DataError(f"{where}: fracture must be 0 or 1, or empty")
        extra["fracture"] = int(row["fracture"]) if row["fracture"] else None
    return extra
