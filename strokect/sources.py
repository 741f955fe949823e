"""Where slices come from: the reader that `data.source` names finds the cohort as a `Source`, in the same form for all.

Readers are listed in `strokect.readers`; what several of them need is here.
"""

import importlib
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import DataError, ImageError
from strokect.files import sha256_bytes
from strokect.params import DataParams
from strokect.preflight import check_raw_data
from strokect.readers import module_of
from strokect.slices import Picture, decode, load_slice

# What lies beside pictures and is none. Everything else is opened, whatever its name: PACS exports often have no suffix.
NO_PICTURES = (".txt", ".csv", ".json", ".xml", ".html", ".md", ".pdf", ".ini", ".db")
NO_PICTURE_NAMES = ("DICOMDIR",)
UNFIT = re.compile(r"[\ud800-\udfff\n\r]")  # in a file name: what stands for bytes that are no UTF-8, and line breaks


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

    file: str  # unique; the posix path below data/raw/<source> unless `Source.look_up` says otherwise
    patient: str
    slice: int  # order within the patient, 0-based, from the skull base up where the source tells
    label: int
    # Further manifest columns. Where a source knows them they are called age_years (float), gender (Male, Female or Other),
    # subtype (of the positive finding; "" without one), site, fracture (0 or 1) and series.
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A cohort as its reader found it, sorted by patient and slice. `read` and `picture` are called from several threads."""

    rows: list[Row]
    read: Callable[[Row], Pixels]  # of the row's file and `data` only: `prepare` keeps what it gives; raises ImageError
    picture: Callable[[Row], Picture]  # the slice as its file has it, before any resizing; raises ImageError
    target: str  # what a positive label means, in words; travels to model, page and report
    label_unit: str  # slice | series | patient: what one label was given for
    # (file, reason). Reasons go into metrics and logs: they name no patient and no file.
    left_out: list[tuple[str, str]] = field(default_factory=list)  # what is no slice of this cohort
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # may be one; counts as data.max_unreadable
    patient_labels: dict[str, dict[str, int]] = field(default_factory=dict)  # patient → {who says it: 0 | 1}
    patient_ids: bool = (
        True  # False: nothing tells whose a slice is, each row's `patient` is its file, `prepare` groups by likeness
    )
    path: Callable[[Row], Path] | None = None  # the raw file that a row is read from, where it is not `file` below the root
    look_up: str = ""  # the command that says which path a `file` is, where it is a pseudonym
    warnings: list[str] = field(default_factory=list)  # what whoever runs `prepare` should know, without names of files or people


def read_source(params: DataParams, root: Path) -> Source:
    """Read the cohort under `root` (data/raw/<source>) with the labels that `data.labels` asks for.

    Raises DataError where data, tables and params contradict each other.
    """
    check_raw_data(params.source, root)
    source: Source = importlib.import_module(module_of(params.source)).read(params, root)
    if not source.rows:
        counts = Counter(reason for _, reason in source.left_out + source.unreadable).most_common()
        raise DataError(f"{root}: no slices found" + "".join(f"\n  left out: {n} × {reason}" for reason, n in counts))
    if source.label_unit != "slice" and re.search(r"\bthis slice\b", source.target, re.IGNORECASE):
        fault = (
            f"labels are per {source.label_unit}, so a positive one need not show on each slice; the target says: {source.target}"
        )
        source = replace(source, warnings=[*source.warnings, fault])
    if params.labels == "shuffled" and source.patient_ids:  # otherwise `prepare` does it when it knows the groups
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


def shuffle_patient_labels(source: Source, seed: int) -> Source:
    """The control: permute the patient-level label (any positive slice) between patients; each slice gets its patient's."""
    positive = {row.patient for row in source.rows if row.label}
    patients = sorted({row.patient for row in source.rows})
    permuted = np.random.default_rng(seed).permutation([patient in positive for patient in patients])
    label = dict(zip(patients, permuted.astype(int).tolist(), strict=True))
    rows = [replace(row, label=label[row.patient]) for row in source.rows]
    target = "nothing: labels were permuted between patients (a control, not a model)"
    return replace(source, rows=rows, target=target, label_unit="patient", patient_labels={})


def file_readers(params: DataParams, path_of: Callable[[Row], Path]) -> tuple[Callable[[Row], Pixels], Callable[[Row], Picture]]:
    """`Source.read` and `Source.picture` of a cohort with one PNG, JPEG or DICOM file per slice, which `path_of` finds."""

    def data_of(row: Row) -> bytes:
        try:
            return path_of(row).read_bytes()
        except OSError as error:
            raise ImageError("unreadable_file", f"cannot be opened ({type(error).__name__})") from None

    def read(row: Row) -> Pixels:
        data = data_of(row)
        loaded = load_slice(data, params.image_size, params.windows, params.crop)
        return Pixels(loaded.pixels, sha256_bytes(data), loaded.width, loaded.height)

    return read, lambda row: decode(data_of(row), params.windows)


def files_below(root: Path, folder: str = "") -> tuple[list[str], list[tuple[str, str]]]:
    """Every file at any depth of `root`/`folder` that may be a picture, and (file, reason) of the rest.

    Both hold posix paths below `root`, in natural order. Links to folders are not followed: they may lead in a circle or to a
    copy. Raises DataError for a folder that cannot be read and for a name that no table can hold.
    """
    found, left_out = [], []

    def stop(error: OSError) -> None:
        raise DataError(f"{root}: a folder below it cannot be read ({type(error).__name__}): chmod -R u+rX {root}")

    for at, folders, names in os.walk(root / folder, onerror=stop):
        for path in (Path(at) / name for name in (*folders, *names)):
            file = path.relative_to(root).as_posix()
            if path.is_dir():
                if path.is_symlink():
                    left_out.append((file, "a link to a folder: not followed"))
            elif UNFIT.search(file):
                shown = f"`LC_ALL=C.UTF-8 find {root} | grep -axv '.*'` shows the former"
                raise DataError(f"{root}: a file name is not UTF-8 text, or holds a line break; {shown}")
            elif is_no_picture(path):
                left_out.append((file, "not a picture by its name"))
            elif path.is_file():
                found.append(file)
            else:
                left_out.append((file, "a link that leads to no file" if path.is_symlink() else "neither a file nor a folder"))
    return sorted(found, key=natural), sorted(left_out)


def is_no_picture(path: Path) -> bool:
    """Whether a file beside pictures is none, by its name."""
    return path.name.startswith(".") or path.name in NO_PICTURE_NAMES or path.suffix.lower() in NO_PICTURES


def patient_pattern(regex: str, key: str) -> re.Pattern[str]:
    """The compiled `regex` of the param `key`. Raises DataError unless it is one and names a group `patient`."""
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise DataError(f"params.yaml: {key} is not a regular expression ({error})") from None
    if "patient" not in pattern.groupindex:
        raise DataError(f"params.yaml: {key} has no group named patient, e.g. ^(?P<patient>[^/_]+)")
    return pattern


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `slice 10` after `slice 9`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text)]
