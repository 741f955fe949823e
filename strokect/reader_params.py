"""Params of the readers: the sections of `data` that say how raw files are to be understood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from strokect.readers import READERS

if TYPE_CHECKING:
    from strokect.params import DataParams

Rule = tuple[bool, str, str]  # whether it holds, the key, what its value must be


@dataclass(frozen=True)
class PhantomParams:
    """The synthetic cohort (`data.source: phantom`)."""

    patients: int
    slices: int
    seed: int


@dataclass(frozen=True)
class FolderParams:
    """How to read `data/raw/folder/<class>/…` (`data.source: folder`)."""

    positive: tuple[str, ...]  # class folders that count as positive
    negative: tuple[str, ...]
    patient_regex: str  # matched against the path inside the class folder; its group `patient` is the patient id
    label_unit: Literal["slice", "patient"]
    target: str  # what a positive means, in words


@dataclass(frozen=True)
class ManifestParams:
    """How to read `data/raw/manifest` (`data.source: manifest`)."""

    table: str  # the CSV below data/raw/manifest
    positive: tuple[str, ...]  # values of its column `label`
    negative: tuple[str, ...]
    label_unit: Literal["slice", "patient"]
    target: str


@dataclass(frozen=True)
class DicomParams:
    """How to read `data/raw/dicom` (`data.source: dicom`)."""

    table: str  # the CSV below data/raw/dicom that holds the labels
    key: Literal["sop_instance_uid", "file", "series_instance_uid", "patient_id"]  # what a label was given for
    key_column: str
    label_column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    series: Literal["largest", "all"]  # of each patient
    target: str


@dataclass(frozen=True)
class NiftiParams:
    """How to read `data/raw/nifti` (`data.source: nifti`)."""

    labels: Literal["masks", "table"]
    mask: str  # path of a volume's mask without .nii or .nii.gz; {folder} and {name} are the volume's
    table: str  # the CSV below data/raw/nifti with one label per volume
    patient_regex: str  # matched against the volume's path; its group `patient` is the patient id
    positive: tuple[str, ...]  # values of the table's column `label`
    negative: tuple[str, ...]
    target: str


def reader_rules(data: DataParams) -> list[Rule]:
    """What must hold in the params of the readers."""
    apart = [
        (not set(section.positive) & set(section.negative), f"data.{name}.positive", f"apart from data.{name}.negative")
        for name in ("folder", "manifest", "dicom", "nifti")
        for section in [getattr(data, name)]
    ]
    return [(data.source in READERS, "data.source", f"one of {', '.join(READERS)}"), *apart]
