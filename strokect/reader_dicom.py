"""A DICOM export of any depth and naming, with labels from a CSV; docs/data/dicom.md.

No name, id, date, UID or path of the export leaves this module: patients, series and files are keyed hashes. Which path one of
them is: `python -m strokect.reader_dicom FILE…`.
"""

import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strokect.dicom_headers import Header, read_header
from strokect.dicom_labels import Label, check_agreement, check_free_text, key_of, read_labels, unmatched
from strokect.dicom_order import By, order_series
from strokect.errors import DataError, ImageError, run_stage
from strokect.params import DataParams, DicomParams, load_params
from strokect.pseudonyms import Pseudonyms, load_key
from strokect.sources import Row, Source, file_readers, files_below

UNITS = {"sop_instance_uid": "slice", "file": "slice", "series_instance_uid": "series", "patient_id": "patient"}
LOOK_UP = "python -m strokect.reader_dicom"

Series = dict[tuple[str, str], list[tuple[Header, Label]]]  # (patient, SeriesInstanceUID) → its slices
_Ordered = tuple[str, By, list[tuple[Header, Label]]]  # a series: its pseudonym, what its order stands on, slices in order


@dataclass
class _Export:
    """The files of the raw folder, each under its pseudonym in `paths`."""

    root: Path
    pseudonym: Pseudonyms
    paths: dict[str, str] = field(default_factory=dict)  # pseudonym → posix path below root
    headers: list[Header] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

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
    table = root / p.table
    labels = read_labels(p, table)
    export = _index(root, Pseudonyms(load_key()))
    export.warnings += unmatched(p, labels, export.headers, table)
    found = [(header, labels.get(key_of(header, p.key))) for header in export.headers]
    check_agreement([(header, label) for header, label in found if label], table)
    check_free_text(labels, export.headers, table)
    # (patient, series) → slices with a label. One UID in two patients is two series: anonymisers that forget it make such pairs.
    series: Series = defaultdict(list)
    for header, label in found:
        patient = (label.patient_id if label else "") or header.patient_id
        reason = "no label in the table" if label is None else "nothing says whose it is (no PatientID)" if not patient else ""
        if label is None or reason:
            export.leave_out(header.file, reason)
        else:
            series[patient, header.series_uid].append((header, label))
    used = {key_of(header, p.key) for header in export.headers}
    export.left_out += [
        (f"{p.table}, row {label.line}", "a label without a slice") for key, label in labels.items() if key not in used
    ]
    rows = _rows(p, export, series, table)

    def path(row: Row) -> Path:
        return root / export.paths[row.file]

    left_out, unreadable = sorted(export.left_out), sorted(export.unreadable)
    readers = file_readers(params, path)
    found_by: dict[str, Any] = {"path": path, "look_up": LOOK_UP, "warnings": export.warnings}
    return Source(rows, *readers, p.target, UNITS[p.key], left_out, unreadable, **found_by), export.paths


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


def _rows(p: DicomParams, export: _Export, series: Series, table: Path) -> list[Row]:
    """Rows by patient, series and place. The series of a patient follow each other in the order of their UIDs.

    That order, and which of two equally large series is the largest, must not hang on the key: teams would get other cohorts.
    """
    ordered: dict[str, list[_Ordered]] = defaultdict(list)
    lost: set[str] = set()  # slices, not files: a second copy of a slice loses nothing
    for (patient_id, uid), members in sorted(series.items(), key=lambda item: item[0]):
        patient, name = export.pseudonym("patient", patient_id), export.pseudonym("series", f"{patient_id}\0{uid}")
        label = {header.file: found for header, found in members}
        kept, by, left = order_series([header for header, _ in members])
        for header, reason in left:
            export.leave_out(header.file, reason)
            if label[header.file].label:
                lost.add(f"{patient} {header.instance_uid or header.file}")
        lost -= {f"{patient} {header.instance_uid}" for header in kept}
        if kept:
            ordered[patient].append((name, by, [(header, label[header.file]) for header in kept]))
    several = sum(len(own) > 1 for own in ordered.values())
    if p.series == "largest" and several:
        export.warnings.append(f"{several} of {len(ordered)} patients have several CT series; of each the largest was taken")
    if lost:
        export.warnings.append(f"{len(lost)} slices with a positive label have no place in their series and were left out")
    rows = []
    for patient, own in sorted(ordered.items()):
        at = 0
        for name, by, members in _largest(export, own, table) if p.series == "largest" else own:
            for place, (header, found) in enumerate(members):
                file = export.name(header.file, f"{patient}/{name}/{place:04d}")
                rows.append(Row(file, patient, at + place, found.label, _extra(header, found, name, by)))
            at += len(members)
    _say_order(rows, export)
    return rows


def _largest(export: _Export, own: list[_Ordered], table: Path) -> list[_Ordered]:
    """Of the series of one patient the first with most slices; raises DataError where another would have said otherwise."""
    largest = max(own, key=lambda item: len(item[2]))
    for other in own:
        if other is largest:
            continue
        positive = [any(label.label for _, label in members) for _, _, members in (largest, other)]
        if positive[0] != positive[1]:
            first, second = (min(label.line for _, label in members) for _, _, members in (largest, other))
            raise DataError(
                f"{table}, rows from {first} and from {second}: two series of one patient, one with a positive label and one "
                "without, and data.dicom.series `largest` keeps only the first. Take the rows of one series out of the table, or "
                "set data.dicom.series to all"
            )
        for header, _ in other[2]:
            export.leave_out(header.file, "of another series than the patient's largest (data.dicom.series)")
    return [largest]


def _extra(header: Header, label: Label, series: str, by: str) -> dict[str, Any]:
    """The further manifest columns; what the table says goes before what the file says."""
    return {"series": series, "order_by": by, "age_years": header.age_years, "gender": header.gender, **label.extra}


def _say_order(rows: list[Row], export: _Export) -> None:
    series = {row.extra["series"]: row.extra["order_by"] for row in rows}
    unplaced = sum(by == "instance" for by in series.values())
    if unplaced:
        export.warnings.append(
            f"{unplaced} of {len(series)} series say nowhere where their slices lie and are ordered by InstanceNumber "
            "(order_by in the manifest)"
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
