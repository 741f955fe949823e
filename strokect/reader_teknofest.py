"""The TEKNOFEST 2021 stroke set (Kaggle "Brain Stroke CT Dataset"): Bleeding, Ischemia and Normal; docs/data/teknofest.md.

Only PNG/ is read. OVERLAY/ holds the same slices with the lesion's contour drawn on them, which is the answer; DICOM/ holds them
a second time. No name says whose a slice is.
"""

from pathlib import Path

from strokect.errors import DataError
from strokect.params import DataParams
from strokect.sources import Row, Source, file_readers, files_below

CLASSES = {"Bleeding": ("bleeding", 1), "Ischemia": ("ischaemia", 1), "Normal": ("", 0)}  # folder → (subtype, label)
REASONS = {
    "OVERLAY": "OVERLAY: the lesion's contour is drawn on it",
    "DICOM": "DICOM: the same slice as in PNG",
}


def read(params: DataParams, root: Path) -> Source:
    """The PNG files of each class. Raises DataError where a class has no folder PNG."""
    for name in CLASSES:
        if not (root / name / "PNG").is_dir():
            raise DataError(
                f"{root / name / 'PNG'} is missing: expected {', '.join(CLASSES)}, each with PNG; "
                "import the folder that holds these three"
            )
    files, left_out = files_below(root)
    rows = []
    for file in files:
        top, below, *_ = [*file.split("/"), ""]
        if top not in CLASSES:
            left_out.append((file, "outside the folders of the three classes"))
        elif below == "PNG":
            subtype, label = CLASSES[top]
            rows.append(Row(file, file, 0, label, {"subtype": subtype}))
        else:
            left_out.append((file, REASONS.get(below, "in none of PNG, OVERLAY and DICOM")))
    target = "bleeding or ischaemia on this slice"
    return Source(rows, *file_readers(params, lambda row: root / row.file), target, "slice", left_out, patient_ids=False)
