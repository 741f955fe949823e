"""Where slices come from: one reader per `data.source`, all giving the same `Source`.

A new reader is one function here plus one line in READERS.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect import ct_ich, phantom
from strokect.errors import DataError, ImageError
from strokect.files import sha256_bytes
from strokect.params import DataParams
from strokect.preflight import check_raw_data
from strokect.slices import Picture, decode, load_slice, resize_slice

# What lies beside pictures and is none. Everything else is opened, whatever its name: PACS exports often have no suffix.
NO_PICTURES = (".txt", ".csv", ".json", ".xml", ".html", ".md", ".pdf", ".ini", ".db")
NO_PICTURE_NAMES = ("DICOMDIR",)


@dataclass(frozen=True)
class Pixels:
    """One slice as `prepare` packs it."""

    image: NDArray[np.uint8]  # (C, S, S)
    sha256: str  # of the file's bytes
    width: int
    height: int
    mask: NDArray[np.uint8] | None = None  # (S, S) lesion codes, where the source has them


@dataclass(frozen=True)
class Row:
    """One slice before it is decoded."""

    file: str  # posix path below data/raw/<source>, unique
    patient: str
    slice: int  # order within the patient, 0-based
    label: int
    extra: dict[str, Any] = field(default_factory=dict)  # further manifest columns


@dataclass(frozen=True)
class Source:
    """A cohort as its reader found it, sorted by patient and slice."""

    rows: list[Row]
    read: Callable[[Row], Pixels]  # raises ImageError
    picture: Callable[[Row], Picture]  # the slice as its file has it, before any resizing; raises ImageError
    target: str  # what a positive label means, in words; travels to model, page and report
    label_unit: str  # slice | patient: what one label was given for
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (file, reason)
    patient_labels: dict[str, dict[str, int]] = field(default_factory=dict)  # patient → {who says it: 0 | 1}


def read_source(params: DataParams, root: Path) -> Source:
    """Read the cohort under `root` (data/raw/<source>) with the labels that `data.labels` asks for."""
    check_raw_data(params.source, root)
    source = READERS[params.source](params, root)
    if not source.rows:
        raise DataError(f"{root}: no slices found")
    if params.labels == "shuffled":
        source = shuffle_patient_labels(source, params.shuffle_seed)
    return source


def raw_pictures(params: DataParams, files: list[str]) -> list[Callable[[], Picture]]:
    """How to read each slice of `files` as its file has it; data/prepared holds them resized.

    Raises DataError for a file that is gone.
    """
    root = Path("data/raw") / params.source
    source = read_source(params, root)
    rows = {row.file: row for row in source.rows}
    missing = [file for file in files if file not in rows]
    if missing:
        raise DataError(f"{root} no longer holds {missing[0]!r}: run `dvc repro prepare`")
    return [partial(source.picture, rows[file]) for file in files]


def read_phantom(params: DataParams, root: Path) -> Source:
    """The synthetic cohort. `labels: folder` calls every slice of a positive patient positive, as folder copies do."""
    made: dict[str, Pixels] = {}
    rows: list[Row] = []
    p = params.phantom
    for piece in phantom.make_cohort(patients=p.patients, slices=p.slices, size=params.image_size, seed=p.seed):
        grey = phantom.window(piece.hu)
        file = f"{piece.patient}/{piece.slice:02d}.png"
        height, width = grey.shape
        made[file] = Pixels(resize_slice(grey, params.image_size), sha256_bytes(grey.tobytes()), width, height, piece.mask)
        rows.append(Row(file, piece.patient, piece.slice, int(piece.lesion != ""), {"subtype": piece.lesion}))
    target, unit = "synthetic bleed or infarct on this slice", "slice"
    if params.labels != "slice":
        positive = {row.patient for row in rows if row.label}
        rows = [replace(row, label=int(row.patient in positive)) for row in rows]
        target, unit = "slice of a synthetic patient who has a bleed or infarct somewhere", "patient"
    # The phantom is drawn at the size that the models see: its file, had it one, would hold the same pixels.
    return Source(rows, lambda row: made[row.file], lambda row: Picture(made[row.file].image[0], 0), target, unit)


def read_kaggle_ct_ich(params: DataParams, root: Path) -> Source:
    """The Kaggle "Brain Stroke CT Image Dataset"; see `strokect.ct_ich` for how its slice labels are rebuilt."""
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
    return Source(rows, *_file_readers(params, root), target, unit, left_out, cohort.patient_labels)


def read_folder(params: DataParams, root: Path) -> Source:
    """`<class>/…` folders of PNG, JPEG or DICOM slices; the patient id comes from `data.folder.patient_regex`."""
    p = params.folder
    try:
        pattern = re.compile(p.patient_regex)
    except re.error as error:
        raise DataError(f"params.yaml: data.folder.patient_regex is not a regular expression ({error})") from None
    if "patient" not in pattern.groupindex:
        raise DataError("params.yaml: data.folder.patient_regex has no group named patient, e.g. ^(?P<patient>[^/_]+)")
    classes = {**dict.fromkeys(p.negative, 0), **dict.fromkeys(p.positive, 1)}
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    missing, unknown = [c for c in classes if c not in folders], [f for f in folders if f not in classes]
    if missing or unknown:
        raise DataError(
            f"{root}: class folders are {folders}; params.yaml has positive {list(p.positive)}, negative {list(p.negative)}. "
            "Every class folder must be named once in data.folder.positive or data.folder.negative"
        )
    stray = sorted(path.name for path in root.iterdir() if path.is_file() and not is_no_picture(path))
    if stray:
        raise DataError(f"{root}: {len(stray)} file(s) outside the class folders, e.g. {stray[0]!r}; move them into one or away")
    found: list[tuple[str, str, int]] = []
    left_out = []
    for name, label in classes.items():
        for path in sorted((root / name).rglob("*"), key=lambda path: _natural(path.as_posix())):
            if not path.is_file():
                continue
            file = path.relative_to(root).as_posix()
            if is_no_picture(path):
                left_out.append((file, "not a picture by its name"))
                continue
            match = pattern.search(path.relative_to(root / name).as_posix())
            if match is None or not match["patient"]:
                raise DataError(f"{root / file}: data.folder.patient_regex {p.patient_regex!r} finds no patient in this name")
            found.append((match["patient"], file, label))
    order: dict[str, int] = {}
    rows = []
    for patient, file, label in sorted(found, key=lambda item: (_natural(item[0]), _natural(item[1]))):
        order[patient] = order.get(patient, -1) + 1
        rows.append(Row(file, patient, order[patient], label))
    return Source(rows, *_file_readers(params, root), p.target, p.label_unit, left_out)


def shuffle_patient_labels(source: Source, seed: int) -> Source:
    """The control: permute the patient-level label (any positive slice) between patients; each slice gets its patient's."""
    positive = {row.patient for row in source.rows if row.label}
    patients = sorted({row.patient for row in source.rows})
    permuted = np.random.default_rng(seed).permutation([patient in positive for patient in patients])
    label = dict(zip(patients, permuted.astype(int).tolist(), strict=True))
    rows = [replace(row, label=label[row.patient]) for row in source.rows]
    target = "nothing: labels were permuted between patients (a control, not a model)"
    return replace(source, rows=rows, target=target, label_unit="patient", patient_labels={})


def _file_readers(params: DataParams, root: Path) -> tuple[Callable[[Row], Pixels], Callable[[Row], Picture]]:
    """`Source.read` and `Source.picture` of a cohort of files."""

    def data_of(row: Row) -> bytes:
        try:
            return (root / row.file).read_bytes()
        except OSError as error:
            raise ImageError("unreadable_file", f"cannot be opened ({type(error).__name__})") from None

    def read(row: Row) -> Pixels:
        data = data_of(row)
        loaded = load_slice(data, params.image_size)
        return Pixels(loaded.pixels, sha256_bytes(data), loaded.width, loaded.height)

    return read, lambda row: decode(data_of(row))


def is_no_picture(path: Path) -> bool:
    """Whether a file beside pictures is none, by its name."""
    return path.name.startswith(".") or path.name in NO_PICTURE_NAMES or path.suffix.lower() in NO_PICTURES


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `slice 10` after `slice 9`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text)]


READERS: dict[str, Callable[[DataParams, Path], Source]] = {
    "phantom": read_phantom,
    "kaggle_ct_ich": read_kaggle_ct_ich,
    "folder": read_folder,
}
