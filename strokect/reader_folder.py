"""`<class>/…` folders of PNG, JPEG or DICOM slices; the patient id comes from `data.folder.patient_regex`."""

from pathlib import Path

from strokect.errors import DataError
from strokect.params import DataParams
from strokect.sources import Row, Source, file_readers, files_below, is_no_picture, natural, patient_pattern


def read(params: DataParams, root: Path) -> Source:
    """Every picture below the class folders, in the natural order of its patient's file names."""
    p = params.folder
    pattern = patient_pattern(p.patient_regex, "data.folder.patient_regex")
    classes = {**dict.fromkeys(p.negative, 0), **dict.fromkeys(p.positive, 1)}
    _check_folders(root, p.positive, p.negative)
    found: list[tuple[str, str, int]] = []
    left_out = []
    for name, label in classes.items():
        files, others = files_below(root, name)
        left_out += others
        for file in files:
            match = pattern.search(file.removeprefix(f"{name}/"))
            if match is None or not match["patient"]:
                raise DataError(f"{root / file}: data.folder.patient_regex {p.patient_regex!r} finds no patient in this name")
            found.append((match["patient"], file, label))
    order: dict[str, int] = {}
    rows = []
    for patient, file, label in sorted(found, key=lambda item: (natural(item[0]), natural(item[1]))):
        order[patient] = order.get(patient, -1) + 1
        rows.append(Row(file, patient, order[patient], label))
    return Source(rows, *file_readers(params, lambda row: root / row.file), p.target, p.label_unit, left_out)


def _check_folders(root: Path, positive: tuple[str, ...], negative: tuple[str, ...]) -> None:
    classes = {*positive, *negative}
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    if classes != set(folders):
        raise DataError(
            f"{root}: class folders are {folders}; params.yaml has positive {list(positive)}, negative {list(negative)}. "
            "Every class folder must be named once in data.folder.positive or data.folder.negative"
        )
    stray = sorted(path.name for path in root.iterdir() if path.is_file() and not is_no_picture(path))
    if stray:
        raise DataError(f"{root}: {len(stray)} file(s) outside the class folders, e.g. {stray[0]!r}; move them into one or away")
