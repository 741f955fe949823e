"""The table of labels of a DICOM export, and what in it contradicts the files. Messages name rows, never values."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import Any

from strokect.dicom_headers import Header
from strokect.errors import DataError
from strokect.params import DicomParams
from strokect.tables import OPTIONAL, by_key, extra_columns, label_of, nfc, patient_of, read_table

ATTRIBUTE = {"sop_instance_uid": "instance_uid", "file": "file", "series_instance_uid": "series_uid", "patient_id": "patient_id"}
MIN_TELLING = 4  # letters; a shorter id is as likely to be the number of a site


@dataclass(frozen=True)
class Label:
    """One row of the table of labels."""

    line: int
    label: int
    patient_id: str  # "" where the table has none
    extra: dict[str, Any]


def read_labels(p: DicomParams, path: Path) -> dict[str, Label]:
    """Key (as `nfc` has it) → label. Raises DataError for a faulty row."""
    lines = read_table(path, (p.key_column, p.label_column), OPTIONAL)
    if p.key == "file":
        lines = [(line, {**row, p.key_column: _posix(row[p.key_column])}) for line, row in lines]
    labels = {}
    for key, (line, row) in by_key(lines, p.key_column, path).items():
        where = f"{path}, row {line}"
        label = label_of(row[p.label_column], p.positive, p.negative, f"{where}: {p.label_column}")
        labels[key] = Label(line, label, patient_of(row, where), extra_columns(row, where))
    return labels


def key_of(header: Header, kind: str) -> str:
    """What a row about this slice has for its key."""
    return nfc(str(getattr(header, ATTRIBUTE[kind])))


def check_agreement(found: Iterable[tuple[Header, Label]], path: Path) -> None:
    """Raise DataError where the table makes several patients of one in the files, or gives two labels to one slice."""
    first: dict[tuple[str, ...], Label] = {}
    for header, label in found:
        patient = label.patient_id or header.patient_id
        for what, ids in (
            ("PatientID", (header.patient_id,)),
            ("SeriesInstanceUID", (header.series_uid,)),
            ("SOPInstanceUID", (header.instance_uid, patient)),
        ):
            other = first.setdefault((what, *ids), label) if ids[0] else label
            apart = other.label != label.label if what == "SOPInstanceUID" else other.patient_id != label.patient_id
            if apart:
                rows = "rows {} and {}".format(*sorted((other.line, label.line)))
                several = "labels" if what == "SOPInstanceUID" else "patients"
                dummy = "; if it is one dummy for everybody, empty it in the files" if what == "PatientID" else ""
                raise DataError(f"{path}, {rows}: two {several} for files with one {what}; correct one of them{dummy}")


def check_free_text(labels: Mapping[str, Label], headers: Sequence[Header], path: Path) -> None:
    """Raise DataError where site or subtype, which travel as they are written, hold the id of a patient or an examination."""
    ids = {text for header in headers for text in (header.patient_id, header.accession)}
    ids |= {label.patient_id for label in labels.values()}
    ids = {text for text in ids if len(text) >= MIN_TELLING}
    for label in labels.values():
        for name in ("site", "subtype"):
            text = nfc(label.extra.get(name, ""))
            if ids & {text, *re.split(r"[^\w^-]+", text)}:
                raise DataError(
                    f"{path}, row {label.line}: {name} holds a PatientID or AccessionNumber; it would reach the manifest"
                )


def unmatched(p: DicomParams, labels: Mapping[str, Label], headers: Sequence[Header], path: Path) -> list[str]:
    """What does not fit, counted, for whoever runs `prepare`. Raises DataError where nothing fits."""
    keys = [key_of(header, p.key) for header in headers]
    idle, bare = len(labels.keys() - set(keys)), sum(key not in labels for key in keys)
    if headers and bare == len(headers):
        fault = f"none of its {len(labels)} keys fits any of {len(headers)} CT slices"
        raise DataError(f"{path}: {fault}; data.dicom.key says that {p.key_column} holds the {p.key}")
    said = []
    if idle:
        said.append(f"{idle} of {len(labels)} rows of {path.name} ({idle / len(labels):.1%}) fit no CT slice")
    if bare:
        said.append(f"{bare} of {len(headers)} CT slices ({bare / len(headers):.1%}) have no row in {path.name}")
    return said


def _posix(path: str) -> str:
    return normpath(path.replace("\\", "/")) if path else ""
