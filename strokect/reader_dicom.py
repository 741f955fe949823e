"""A DICOM export of any depth and naming, with labels from a CSV; docs/data/dicom.md.

No name, id, date, UID or path of the export leaves this module: patients, series and files are keyed hashes. Which path one of
them is: `python -m strokect.reader_dicom FILE…`.
"""

import logging
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import normpath
from typing import Any

from strokect.dicom_headers import Header, read_header
from strokect.dicom_order import By, order_series
from strokect.errors import DataError, ImageError, run_stage
from strokect.params import DataParams, DicomParams, load_params
from strokect.pseudonyms import Pseudonyms, load_key
from strokect.sources import Row, Source, file_readers, files_below
from strokect.tables import OPTIONAL, by_key, extra_columns, label_of, read_table

ATTRIBUTE = {"sop_instance_uid": "instance_uid", "file": "file", "series_instance_uid": "series_uid", "patient_id": "patient_id"}
UNITS = {"sop_instance_uid": "slice", "file": "slice", "series_instance_uid": "series", "patient_id": "patient"}
LOOK_UP = "python -m strokect.reader_dicom"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Label:
    """One row of the table of labels."""

    line: int
    label: int
    patient_id: str  # "" where the table has none
    extra: dict[str, Any]


@dataclass
class _Export:
    """The files of the raw folder, each under its pseudonym in `paths`."""

    root: Path
    pseudonym: Pseudonyms
    paths: dict[str, str] = field(default_factory=dict)  # pseudonym → posix path below root
    headers: list[Header] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    def name(self, file: str, pseudonym: str) -> str:
        """Remember what stands for `file`."""
        self.paths[pseudonym] = file
        return pseudonym

    def leave_out(self, file: str, reason: str) -> None:
        """Count a file that is no slice of the cohort."""
        self.left_out.append((self.name(file, f"left_out/{self.pseudonym('file', file)}"), reason))


def read(params: DataParams, root: Path) -> Source:
    """CT slices with a label, in the order of the body. Raises DataError where the table or the key is unusable."""
    return _read(params, root)[0]


def _read(params: DataParams, root: Path) -> tuple[Source, dict[str, str]]:
    p = params.dicom
    labels = _read_labels(p, root / p.table)
    export = _index(root, Pseudonyms(load_key()))
    # (patient, series) → slices with a label. One UID in two patients is two series: anonymisers that forget it make such pairs.
    series: dict[tuple[str, str], list[tuple[Header, _Label]]] = defaultdict(list)
    used: set[str] = set()
    for header in export.headers:
        key = getattr(header, ATTRIBUTE[p.key])
        found = labels.get(key)
        used.add(key)
        patient = (found.patient_id if found else "") or header.patient_id
        reason = "no label in the table" if found is None else "nothing says whose it is (no PatientID)" if not patient else ""
        if found is None or reason:
            export.leave_out(header.file, reason)
        else:
            series[patient, header.series_uid].append((header, found))
    export.left_out += [
        (f"{p.table}, row {label.line}", "a label without a slice") for key, label in labels.items() if key not in used
    ]
    if export.headers and not used & labels.keys():
        fault = f"none of its {len(labels)} keys fits any of {len(export.headers)} CT slices"
        raise DataError(f"{root / p.table}: {fault}; data.dicom.key says that {p.key_column} holds the {p.key}")
    rows = _rows(p, export, series)

    def path(row: Row) -> Path:
        return root / export.paths[row.file]

    left_out, unreadable = sorted(export.left_out), sorted(export.unreadable)
    readers = file_readers(params, path)
    source = Source(rows, *readers, p.target, UNITS[p.key], left_out, unreadable, path=path, look_up=LOOK_UP)
    return source, export.paths


def _read_labels(p: DicomParams, path: Path) -> dict[str, _Label]:
    """Key → label. Messages name rows, never values."""
    lines = read_table(path, (p.key_column, p.label_column), OPTIONAL)
    if p.key == "file":
        lines = [(line, {**row, p.key_column: _posix(row[p.key_column])}) for line, row in lines]
    labels = {}
    for key, (line, row) in by_key(lines, p.key_column, path).items():
        where = f"{path}, row {line}"
        label = label_of(row[p.label_column], p.positive, p.negative, f"{where}: {p.label_column}")
        labels[key] = _Label(line, label, row.get("patient_id", ""), extra_columns(row, where))
    return labels


def _posix(path: str) -> str:
    return normpath(path.replace("\\", "/")) if path else ""


def _index(root: Path, pseudonym: Pseudonyms) -> _Export:
    """Read the header of every file below `root`."""
    export = _Export(root, pseudonym)
    files, others = files_below(root)
    for file, reason in others:
        if not file.lower().endswith(".csv"):  # the table of labels and those beside it are no part of the export
            export.leave_out(file, reason)

    def header_of(file: str) -> tuple[str, Header | ImageError]:
        try:
            return file, read_header(root / file, file)
        except ImageError as error:
            return file, error

    with ThreadPoolExecutor() as pool:
        for file, header in pool.map(header_of, files):
            if isinstance(header, Header) and not header.no_slice:
                export.headers.append(header)
            elif isinstance(header, Header):
                export.leave_out(file, header.no_slice)
            elif header.code == "not_dicom":
                export.leave_out(file, str(header))
            else:
                name = export.name(file, f"unreadable/{pseudonym('file', file)}")
                export.unreadable.append((name, str(header)))
    return export


def _rows(p: DicomParams, export: _Export, series: dict[tuple[str, str], list[tuple[Header, _Label]]]) -> list[Row]:
    """Rows by patient, series and place. The series of a patient follow each other in the order of their pseudonyms."""
    ordered: dict[str, list[tuple[str, By, list[tuple[Header, _Label]]]]] = defaultdict(list)
    for (patient_id, uid), members in series.items():
        patient, name = export.pseudonym("patient", patient_id), export.pseudonym("series", f"{patient_id}\0{uid}")
        label = {header.file: found for header, found in members}
        kept, by, left = order_series([header for header, _ in members])
        for header, reason in left:
            export.leave_out(header.file, reason)
        ordered[patient].append((name, by, [(header, label[header.file]) for header in kept]))
    rows = []
    for patient, own in sorted(ordered.items()):
        own.sort(key=lambda item: item[0])
        if p.series == "largest":
            largest = max(own, key=lambda item: len(item[2]))
            for _, _, members in [item for item in own if item is not largest]:
                for header, _ in members:
                    export.leave_out(header.file, "of another series than the patient's largest (data.dicom.series)")
            own = [largest]
        at = 0
        for name, by, members in own:
            for place, (header, found) in enumerate(members):
                file = export.name(header.file, f"{patient}/{name}/{place:04d}")
                rows.append(Row(file, patient, at + place, found.label, _extra(header, found, name, by)))
            at += len(members)
    _say_order(rows)
    return rows


def _extra(header: Header, label: _Label, series: str, by: str) -> dict[str, Any]:
    """The further manifest columns; what the table says goes before what the file says."""
    return {"series": series, "order_by": by, "age_years": header.age_years, "gender": header.gender, **label.extra}


def _say_order(rows: list[Row]) -> None:
    series = {row.extra["series"]: row.extra["order_by"] for row in rows}
    unplaced = sum(by == "instance" for by in series.values())
    if unplaced:
        log.warning(
            "dicom: %d of %d series say nowhere where their slices lie and are ordered by InstanceNumber "
            "(order_by in the manifest)",
            *(unplaced, len(series)),
        )


def main() -> None:
    """Print the path of each pseudonym given. What it prints may name patients."""
    params = load_params().data
    paths = _read(params, Path("data/raw/dicom"))[1]
    for file in sys.argv[1:]:
        if file not in paths:
            raise DataError(f"{file!r} stands for no file here: another patient key, or other raw data")
        print(paths[file])


if __name__ == "__main__":
    run_stage(main)
