"""Checks of the audit for pictures that are in the cohort more than once, as they are or altered."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.finding import Evidence, Finding, Severity, count, files_in, finding


def identical_across_patients(evidence: Evidence) -> Finding | None:
    """The same picture under two patient ids: a split by patient would put it into training and test."""
    return _identical("identical_across_patients", "error", evidence, "patient", "under different patients")


def identical_across_classes(evidence: Evidence) -> Finding | None:
    """The same picture with two labels: one of them is wrong."""
    return _identical("identical_across_classes", "error", evidence, "label", "with different labels")


def identical_within_patient(evidence: Evidence) -> Finding | None:
    """The same picture more than once in one patient: it counts twice in every average."""
    doubled = [own for group in evidence.same for _, own in group.groupby("patient") if own.duplicated("pixels").any()]
    message = f"{files_in(doubled)} repeat a picture of the same {evidence.owner} ({count(len(doubled), 'group')})"
    return finding("identical_within_patient", "warning", message, doubled)


def near_duplicates_across_patients(evidence: Evidence) -> Finding | None:
    """A slice and an altered copy of it (re-encoded, resized, mirrored, turned, cropped, brightened) under two patient ids."""
    rows = evidence.linked[~_alike("patient", evidence, evidence.linked)]
    message = f"{count(len(rows), 'pair')} of different {evidence.owner}s show the same slice, altered; {_torn(evidence, rows)}"
    return _near("near_duplicates_across_patients", "error", message, evidence, rows)


def near_duplicates_across_classes(evidence: Evidence) -> Finding | None:
    """A slice and an altered copy of it in one patient, or in one group of look-alikes, with two labels: one of them is wrong.

    Thin neighbours where a lesion ends are all but alike with different labels, too, and rightly so: the brains are compared.
    """
    rows = evidence.torn
    message = f"{count(len(rows), 'pair')} of one {evidence.owner} show the same slice, altered, with different labels"
    return _near("near_duplicates_across_classes", "error", message, evidence, rows)


def near_duplicates_within_patient(evidence: Evidence) -> Finding | None:
    """Two slices of a patient that can hardly be told apart: thin neighbouring slices, or one slice twice."""
    rows = evidence.linked[_alike("patient", evidence, evidence.linked)]
    message = f"{count(len(rows), 'pair')} of slices of one {evidence.owner} are all but alike; {_torn(evidence, rows)}"
    return _near("near_duplicates_within_patient", "warning", message, evidence, rows)


def _alike(column: str, evidence: Evidence, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(P,) whether the two rows of each pair (P, 2) have one value in `column`. Thin series have some pairs per slice."""
    values = evidence.manifest[column].to_numpy()
    return np.asarray(values[rows[:, 0]] == values[rows[:, 1]], np.bool_)


def _torn(evidence: Evidence, rows: NDArray[np.int64]) -> str:
    return f"{np.count_nonzero(~_alike('label', evidence, rows))} with different labels"


def _near(check: str, severity: Severity, message: str, evidence: Evidence, rows: NDArray[np.int64]) -> Finding | None:
    if not len(rows):
        return None
    files = evidence.manifest["file"].to_numpy(object)
    pairs = tuple(zip(*(files[rows[:, side]].tolist() for side in (0, 1)), strict=True))
    return Finding(check, severity, message, tuple(sorted(set(files[rows].ravel()))), pairs)


def _identical(check: str, severity: Severity, evidence: Evidence, column: str, how: str) -> Finding | None:
    groups = [group for group in evidence.same if group[column].nunique() > 1]
    exact = sum(group["sha256"].nunique() < len(group) for group in groups)
    message = f"{files_in(groups)} hold the same picture {how} ({count(len(groups), 'group')}, {exact} with identical bytes)"
    return finding(check, severity, message, [_odd_ones_first(group, column) for group in groups])


def _odd_ones_first(group: pd.DataFrame, column: str) -> pd.DataFrame:
    """The group in an order whose first two rows differ in `column`: these are shown side by side."""
    return group.loc[group.duplicated(column).sort_values(kind="stable").index]
