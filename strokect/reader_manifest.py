"""Pictures anywhere below data/raw/manifest, named in a CSV with their labels; docs/data/manifest.md."""

import os
from pathlib import Path

from strokect.errors import DataError
from strokect.params import DataParams
from strokect.sources import Row, Source, file_readers, files_below, natural
from strokect.tables import OPTIONAL, extra_columns, label_of, patient_of, read_table


def read(params: DataParams, root: Path) -> Source:
    """One row of the table per slice; pictures that it does not name are listed as left out."""
    p = params.manifest
    table = root / p.table
    lines = read_table(table, ("path", "label"), ("slice", *OPTIONAL))
    rows: dict[str, tuple[int, Row]] = {}
    for line, row in lines:
        where = f"{table}, row {line}"
        file = _checked_path(root, row["path"], where)
        patient = patient_of(row, where)
        order = row.get("slice")
        if order is not None and not (order.isascii() and order.isdecimal()):
            raise DataError(f"{where}: slice must be a whole number from 0, the order within the patient from the skull base up")
        if file in rows:
            raise DataError(f"{where}: the path of row {rows[file][0]} once more; keep one of them")
        label = label_of(row["label"], p.positive, p.negative, f"{where}: label {row['label']!r}")
        found = Row(file, patient or file, int(order or 0), label, extra_columns(row, where))
        rows[file] = line, found
    ordered = _in_order(rows, table, told=bool(lines) and "slice" in lines[0][1])
    files, left_out = files_below(root)
    left_out += [(file, f"not named in {p.table}") for file in files if file not in rows]
    left_out = [(file, reason) for file, reason in left_out if file != p.table]
    readers = file_readers(params, lambda row: root / row.file)
    patient_ids = not lines or "patient_id" in lines[0][1]
    return Source(ordered, *readers, p.target, p.label_unit, left_out, patient_ids=patient_ids)


def _checked_path(root: Path, given: str, where: str) -> str:
    """`given` as the posix path below `root` that it stands for. Raises DataError for one outside it and for what is no file."""
    if not given:
        raise DataError(f"{where}: path is empty")
    file = os.path.normpath(given.replace("\\", "/"))
    path = root / file
    outside = file == ".." or file.startswith(("../", "/"))
    if not outside and not path.is_file():  # before `resolve`, which raises for a link to itself
        raise DataError(f"{where}: {path} is no file (names are compared letter by letter, accents included)")
    if outside or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{where}: path {given!r} leads outside {root}; paths are relative to it")
    return file


def _in_order(rows: dict[str, tuple[int, Row]], table: Path, told: bool) -> list[Row]:
    """Sorted by patient and slice; where the table does not say the order within a patient, by file name, counted from 0."""
    items = sorted(rows.values(), key=lambda item: (natural(item[1].patient), item[1].slice, natural(item[1].file)))
    place: dict[tuple[str, int], int] = {}
    count: dict[str, int] = {}
    ordered = []
    for line, row in items:
        if told and (row.patient, row.slice) in place:
            other = place[row.patient, row.slice]
            raise DataError(f"{table}, row {max(line, other)}: the patient_id and slice of row {min(line, other)} once more")
        place[row.patient, row.slice] = line
        count[row.patient] = count.get(row.patient, -1) + 1
        ordered.append(row if told else Row(row.file, row.patient, count[row.patient], row.label, row.extra))
    return ordered
