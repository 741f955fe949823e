"""The prepared cohort on disk: packed images, their manifest, and what the cohort is about."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.errors import DataError
from strokect.files import read_json

PREPARED = Path("data/prepared")
NOT_VERIFIABLE = "Patient level not verifiable: groups are clusters of near-duplicates, for the source has no patient ids."
COLUMNS = ["file", "patient", "slice", "label", "sha256", "source", "width", "height"]


def has_patients(cohort: Mapping[str, Any]) -> bool:
    """False: the source names no patients, `patient` is a group of slices that look alike, and `slice` no place in a head."""
    return bool(cohort.get("patient_level_verifiable", True))


@dataclass(frozen=True)
class Prepared:
    """The output of `prepare`. Row i of `manifest` describes `images[i]`."""

    images: NDArray[np.uint8]  # (N, C, S, S), memory-mapped
    manifest: pd.DataFrame  # COLUMNS first; sources may add more
    cohort: dict[
        str, Any
    ]  # source, labels, label_unit, target, data_sha256, patient_level_verifiable, left_out, unreadable, patient_labels …

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) 0 or 1."""
        return self.manifest["label"].to_numpy(np.int64)

    @property
    def patients(self) -> NDArray[np.str_]:
        """(N,) patient id of each slice."""
        return self.manifest["patient"].to_numpy(np.str_)


def load_prepared(folder: Path | str = PREPARED) -> Prepared:
    """Open the prepared cohort without reading the images. Raises DataError when a part is missing or they disagree."""
    folder = Path(folder)
    for name in ("images.npy", "manifest.csv", "cohort.json"):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} is missing: run `dvc repro prepare`")
    manifest = read_manifest(folder / "manifest.csv")
    images = np.load(folder / "images.npy", mmap_mode="r")
    if len(images) != len(manifest) or images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            f"{folder}: images.npy has shape {images.shape} ({images.dtype}), manifest.csv has {len(manifest)} rows; "
            "they do not belong together: run `dvc repro -f prepare`"
        )
    return Prepared(images, manifest, read_json(folder / "cohort.json"))


def read_manifest(path: Path | str) -> pd.DataFrame:
    """manifest.csv with patient and file as text; raises DataError naming the file, row and column."""
    frame = pd.read_csv(path, dtype={"file": str, "patient": str, "sha256": str, "source": str}, keep_default_na=False)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise DataError(f"{path}: column {', '.join(missing)} is missing")
    wrong = frame.index[~frame["label"].isin([0, 1])]
    if len(wrong):
        raise DataError(f"{path}, row {wrong[0] + 2}: label is {frame['label'][wrong[0]]!r}; it must be 0 or 1")
    if frame["file"].duplicated().any():
        raise DataError(f"{path}: file {frame['file'][frame['file'].duplicated()].iloc[0]!r} occurs twice")
    return frame
