"""What people look at first in a cohort: counts, slices per patient, grey levels, samples, age and gender, lesion types.

Pure functions of the prepared cohort; nothing they return names a file or a patient. `eda_plots` draws it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.manifest import Prepared, has_patients

CLASSES = ("negative", "positive")  # by label; of a patient: whether any slice is positive
POSITIONS = ("lowest fifth", "second", "middle", "fourth", "highest fifth")  # of a patient's slices, in their order
UNPLACED = ("1", "2", "3", "4", "5")  # columns of the sample grid where nobody knows the position
SAMPLES_PER_CELL = 2
MAX_INTENSITY_SLICES = 1000  # per class; evenly taken from the whole cohort
LEVELS = 60  # bins of a grey level histogram
END_LEVELS = 8  # grey levels at each end of the window that count as clipped: air in a JPEG is 0 to 7
# Whose grey levels were made from HU by a window that is known. Those of the others were, too, where the window is not the one
# that pictures have baked in: then `prepare` has refused pictures.
HU_SOURCES = ("phantom", "dicom", "nifti")
BRAIN_WINDOW_HU = (40.0, 120.0)  # level and width, unless cohort.json names another


@dataclass(frozen=True)
class Exploration:
    """A cohort as numbers. Tables have no row per slice; that of the patients has no id."""

    facts: dict[str, str]
    synthetic: bool
    has_patients: bool  # False: "patients" below are groups of look-alikes, and positions are unknown
    classes: pd.DataFrame  # index CLASSES; slices, patients
    patients: pd.DataFrame  # a row per patient in no telling order: slices, positive_slices, class, age_years, gender
    positions: pd.DataFrame  # index POSITIONS; slices, positive_slices; empty where unknown
    intensity: pd.DataFrame  # value (middle of the bin), then a column per class: share of the class's pixels
    intensity_axis: str  # what `value` is, with its unit
    clipped: dict[str, tuple[float, float]]  # class → share of pixels at the window's lower and upper end, not in `intensity`
    # (class, position or column of UNPLACED) → up to SAMPLES_PER_CELL slices (S, S)
    samples: dict[tuple[str, str], list[NDArray[np.uint8]]]
    subtypes: pd.DataFrame  # index lesion type; slices, patients; empty where unknown

    @property
    def owners(self) -> str:
        """What the rows of `patients` are."""
        return "patients" if self.has_patients else "groups of near-duplicates"


def explore(prepared: Prepared, seed: int = 0) -> Exploration:
    """Look at a prepared cohort; `seed` chooses the samples."""
    manifest, cohort = prepared.manifest, prepared.cohort
    rng = np.random.default_rng(seed)
    window = hu_window(cohort)
    intensity, clipped = intensity_table(prepared.images, prepared.labels, window)
    axis = "grey level in the window (0 to 255)" if window is None else "HU within the window"
    people = patient_table(manifest)
    known = has_patients(cohort)
    return Exploration(
        facts=_facts(prepared, people),
        synthetic=bool(cohort.get("synthetic", False)),
        has_patients=known,
        classes=class_counts(manifest),
        patients=people.sample(frac=1, random_state=int(rng.integers(2**31))).reset_index(drop=True),
        positions=position_counts(manifest) if known else pd.DataFrame({"slices": [], "positive_slices": []}, dtype=int),
        intensity=intensity,
        intensity_axis=axis,
        clipped=clipped,
        samples=sample_slices(prepared.images, manifest, rng, known),
        subtypes=subtype_counts(manifest),
    )


def class_counts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Slices by their label, patients by whether any slice is positive."""
    slices = manifest["label"].value_counts().reindex([0, 1], fill_value=0)
    patients = manifest.groupby("patient")["label"].max().value_counts().reindex([0, 1], fill_value=0)
    return pd.DataFrame({"slices": slices.to_numpy(), "patients": patients.to_numpy()}, index=list(CLASSES))


def patient_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """One row per patient, indexed by id: slices, positive_slices, class, age_years (NaN unknown), gender ("" unknown)."""
    grouped = manifest.groupby("patient")
    table = pd.DataFrame({"slices": grouped.size(), "positive_slices": grouped["label"].sum()})
    table["class"] = np.where(table["positive_slices"] > 0, CLASSES[1], CLASSES[0])
    known = manifest.drop_duplicates("patient").set_index("patient")
    age = known["age_years"] if "age_years" in known else pd.Series(np.nan, known.index)
    gender = known["gender"] if "gender" in known else pd.Series("", known.index)
    table["age_years"] = pd.to_numeric(age, errors="coerce")
    table["gender"] = gender.fillna("").astype(str)
    return table


def positions_of(manifest: pd.DataFrame) -> NDArray[np.int64]:
    """(N,) index into POSITIONS: where in its patient's slices (ordered by column `slice`) each one lies."""
    grouped = manifest.groupby("patient")["slice"]
    share = (grouped.rank(method="first") - 0.5) / grouped.transform("size")  # in (0, 1)
    return (share.to_numpy(float) * len(POSITIONS)).astype(np.int64)


def position_counts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Slices and positive slices by position in the head: a label that follows the position can be had without looking."""
    counted = manifest["label"].groupby(positions_of(manifest)).agg(["size", "sum"])
    counted = counted.reindex(range(len(POSITIONS)), fill_value=0)
    return pd.DataFrame(
        {"slices": counted["size"].to_numpy(), "positive_slices": counted["sum"].to_numpy()}, index=list(POSITIONS)
    )


def hu_window(cohort: dict[str, Any]) -> tuple[float, float] | None:
    """Level and width in HU of the window that made the first channel's grey levels; None where HU are not known."""
    windows = cohort.get("windows") or [BRAIN_WINDOW_HU]
    if cohort.get("source") not in HU_SOURCES and [tuple(window) for window in windows] == [BRAIN_WINDOW_HU]:
        return None
    level, width = windows[0]
    return float(level), float(width)


def intensity_table(
    images: NDArray[np.uint8], labels: NDArray[np.int64], window: tuple[float, float] | None
) -> tuple[pd.DataFrame, dict[str, tuple[float, float]]]:
    """Histogram by class of the pixels inside the window of images (N, C, S, S), first channel; shares at its two ends.

    The ends hold what the window clipped (air, bone) and would dwarf the brain. `value` is in HU if `window` is given.
    """
    edges = np.linspace(END_LEVELS, 256 - END_LEVELS, LEVELS + 1) - 0.5  # 4 levels a bin
    middle = (edges[:-1] + edges[1:]) / 2
    value = middle if window is None else window[0] - window[1] / 2 + middle * window[1] / 255
    table, clipped = pd.DataFrame({"value": value}), {}
    for label, name in enumerate(CLASSES):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_INTENSITY_SLICES)).astype(int)] if len(rows) else rows
        counts = np.zeros(256, np.int64)
        for row in rows:
            counts += np.bincount(images[row, 0].ravel(), minlength=256)
        inside = counts[END_LEVELS:-END_LEVELS].reshape(LEVELS, -1).sum(axis=1)
        table[name] = inside / max(inside.sum(), 1)
        total = max(counts.sum(), 1)
        clipped[name] = (float(counts[:END_LEVELS].sum() / total), float(counts[-END_LEVELS:].sum() / total))
    return table, clipped


def sample_slices(
    images: NDArray[np.uint8], manifest: pd.DataFrame, rng: np.random.Generator, placed: bool = True
) -> dict[tuple[str, str], list[NDArray[np.uint8]]]:
    """Random slices of different patients for each class and position; fewer, or none, where there are no more.

    Not `placed`: where they lie in the head is unknown, and they are dealt to the columns of UNPLACED.
    """
    position = positions_of(manifest) if placed else rng.permutation(len(manifest)) % len(UNPLACED)
    label, patient = manifest["label"].to_numpy(int), manifest["patient"].to_numpy(str)
    samples = {}
    for number, name in enumerate(CLASSES):
        for place, where in enumerate(POSITIONS if placed else UNPLACED):
            rows = rng.permutation(np.flatnonzero((label == number) & (position == place)))
            _, first = np.unique(patient[rows], return_index=True)
            chosen = rows[np.sort(first)[:SAMPLES_PER_CELL]]
            samples[name, where] = [np.array(images[row, 0]) for row in chosen]
    return samples


def subtype_counts(manifest: pd.DataFrame) -> pd.DataFrame:
    """Slices and patients with each lesion type, the most frequent first; a slice with "a+b" counts for a and for b."""
    if "subtype" not in manifest:
        return pd.DataFrame({"slices": [], "patients": []}, dtype=int)
    rows = manifest.loc[manifest["label"] == 1, ["patient", "subtype"]]
    rows = rows.assign(subtype=rows["subtype"].fillna("").astype(str).str.split("+")).explode("subtype")
    grouped = rows[rows["subtype"] != ""].groupby("subtype")["patient"]
    table = pd.DataFrame({"slices": grouped.size(), "patients": grouped.nunique()})
    return table.sort_values(["slices", "patients"], ascending=False, kind="stable")


def _facts(prepared: Prepared, people: pd.DataFrame) -> dict[str, str]:
    cohort = prepared.cohort
    low, middle, high = np.percentile(people["slices"], [0, 50, 100])
    facts = {
        "source": str(cohort.get("source", "unknown")),
        "a positive means": str(cohort.get("target", "unknown")),
        "labels": f"{cohort.get('labels', 'unknown')} (given per {cohort.get('label_unit', 'unknown')})",
        "slices": f"{len(prepared.manifest):,}",
        "patients": f"{len(people):,}",
        "slices per patient": f"median {middle:g}, {low:g} to {high:g}",
        "pixels": f"{prepared.images.shape[2]} × {prepared.images.shape[3]}, {prepared.images.shape[1]} channel(s)",
        "left out": f"{len(cohort.get('left_out', [])):,} files, {len(cohort.get('unreadable', [])):,} more unreadable",
    }
    if not has_patients(cohort):
        facts["patients"] += " groups of near-duplicates: the data name no patients, patient level is not verifiable"
        del facts["slices per patient"]
        facts["not shown"] = "slices per patient, positive slices by position, age and gender: they need to know whose a slice is"
    return facts
