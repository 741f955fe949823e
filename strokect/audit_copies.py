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
    groups = [pair for pair in _pairs(evidence, evidence.linked) if pair["patient"].nunique() > 1]
    other = sum(pair["label"].nunique() > 1 for pair in groups)
    message = (
        f"{count(len(groups), 'pair')} of different {evidence.owner}s show the same slice, altered; {other} with different labels"
    )
    return finding("near_duplicates_across_patients", "error", message, groups)


def near_duplicates_across_classes(evidence: Evidence) -> Finding | None:
    """A slice and an altered copy of it in one patient, or in one group of look-alikes, with two labels: one of them is wrong.

    Thin neighbours where a lesion ends are all but alike with different labels, too, and rightly so: the brains are compared.
    """
    groups = _pairs(evidence, evidence.torn)
    message = f"{count(len(groups), 'pair')} of one {evidence.owner} show the same slice, altered, with different labels"
    return finding("near_duplicates_across_classes", "error", message, groups)


def near_duplicates_within_patient(evidence: Evidence) -> Finding | None:
    """Two slices of a patient that can hardly be told apart: thin neighbouring slices, or one slice twice."""
    groups = [pair for pair in _pairs(evidence, evidence.linked) if pair["patient"].nunique() == 1]
    other = sum(pair["label"].nunique() > 1 for pair in groups)
    message = f"{count(len(groups), 'pair')} of slices of one {evidence.owner} are all but alike; {other} with different labels"
    return finding("near_duplicates_within_patient", "warning", message, groups)


def _pairs(evidence: Evidence, rows: NDArray[np.int64]) -> list[pd.DataFrame]:
    return [evidence.manifest.iloc[[int(a), int(b)]] for a, b in rows]


def _identical(check: str, severity: Severity, evidence: Evidence, column: str, how: str) -> Finding | None:
    groups = [group for group in evidence.same if group[column].nunique() > 1]
    exact = sum(group["sha256"].nunique() < len(group) for group in groups)
    message = f"{files_in(groups)} hold the same picture {how} ({count(len(groups), 'group')}, {exact} with identical bytes)"
    return finding(check, severity, message, [_odd_ones_first(group, column) for group in groups])


def _odd_ones_first(group: pd.DataFrame, column: str) -> pd.DataFrame:
    """The group in an order whose first two rows differ in `column`: these are shown side by side."""
    return group.loc[group.duplicated(column).sort_values(kind="stable").index]
