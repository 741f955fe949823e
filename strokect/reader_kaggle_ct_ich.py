"""The Kaggle "Brain Stroke CT Image Dataset"; see `strokect.ct_ich` for how its slice labels are rebuilt."""

from pathlib import Path

from strokect import ct_ich
from strokect.params import DataParams
from strokect.sources import Row, Source, file_readers


def read(params: DataParams, root: Path) -> Source:
    """Slices with the radiologists' labels, haemorrhage types and fractures, and age and gender where their table is there."""
    cohort = ct_ich.read_cohort(root)
    rows, left_out = [], []
    reasons = dict(cohort.left_out)
    for piece in cohort.slices:
        label = piece.label if params.labels == "slice" else piece.folder_label
        if label is None:
            left_out.append((piece.file, reasons[piece.file]))
            continue
        age, gender = cohort.demographics.get(piece.patient, (None, None))
        extra = {"subtype": "+".join(piece.subtypes), "fracture": piece.fracture, "age_years": age, "gender": gender}
        rows.append(Row(piece.file, piece.patient, piece.order, label, extra))
    if params.labels == "slice":
        target, unit = "intracranial haemorrhage on this slice", "slice"
    else:
        target, unit = "slice of a patient filed under 'Stroke' (31 of the 36 haemorrhage patients)", "patient"
    readers = file_readers(params, lambda row: root / row.file)
    return Source(rows, *readers, target, unit, left_out, patient_labels=cohort.patient_labels)
