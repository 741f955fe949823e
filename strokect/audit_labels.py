"""Checks of the audit for labels that contradict each other: of a patient, of a series, of one slice."""

import pandas as pd

from strokect.finding import Evidence, Finding, count, finding, first


def patient_in_two_classes(evidence: Evidence) -> Finding | None:
    """Where labels are per patient or per series, what has both labels is filed wrongly somewhere.

    A patient whose *series* differ is only a warning where labels are per series: a bleed may have come between two scans.
    """
    unit, rows = evidence.cohort["label_unit"], evidence.manifest
    if unit == "slice" or not evidence.has_patients:
        return None
    if unit == "series" and "series" in rows:
        torn = _mixed(rows, ["patient", "series"])
        if not torn:
            mixed = _mixed(rows, ["patient"])
            message = f"{count(len(mixed), 'patient')} with series of both classes, as before and after a bleed. Are they right?"
            return finding("patient_in_two_classes", "warning", message, mixed, _names(mixed))
    else:
        torn = _mixed(rows, ["patient"])  # without a column `series` a patient has one
    message = f"{count(len(torn), 'patient')} with slices of both classes, though labels are per {unit}"
    return finding("patient_in_two_classes", "error", message, torn, _names(torn))


def label_conflict(evidence: Evidence) -> Finding | None:
    """Two statements of one label disagree: two sources on a patient, or label and finding of a slice.

    E.g. a haemorrhage patient filed under "Normal", and a negative slice that a table gives a subtype of the positive finding.
    Two pictures of one slice with two labels: `identical_across_classes` and `near_duplicates_across_classes`. A table with two
    rows for one slice: readers refuse it.
    """
    rows = evidence.manifest
    sources: dict[str, dict[str, int]] = evidence.cohort["patient_labels"]
    conflicts = {patient: labels for patient, labels in sources.items() if len(set(labels.values())) > 1}
    patients = rows["patient"].isin(list(conflicts))
    slices = pd.Series(False, rows.index)
    if "subtype" in rows and evidence.cohort.get("labels") != "shuffled":
        slices = (rows["label"] == 0) & (rows["subtype"].fillna("").astype(str) != "")
    if not conflicts and not slices.any():
        return None
    told = []
    if conflicts:
        told.append(
            f"the label sources disagree on {count(len(conflicts), 'patient')}, {count(int(patients.sum()), 'file')} in use"
        )
    if slices.any():
        told.append(f"{count(int(slices.sum()), 'negative slice')} with a subtype of the positive finding")
    names = first((f"{p} ({', '.join(f'{s} {v}' for s, v in labels.items())})" for p, labels in conflicts.items()), "; ")
    files = tuple(sorted(rows["file"][patients | slices]))
    return Finding("label_conflict", "error", "; ".join(told), files, details=names)


def _mixed(rows: pd.DataFrame, by: list[str]) -> list[pd.DataFrame]:
    return [_both_first(own) for _, own in rows.groupby(by) if own["label"].nunique() > 1]


def _both_first(own: pd.DataFrame) -> pd.DataFrame:
    """The rows in an order whose first two have different labels: these are shown side by side."""
    return own.loc[own["label"].duplicated().sort_values(kind="stable").index]


def _names(groups: list[pd.DataFrame]) -> str:
    return first(dict.fromkeys(str(own["patient"].iloc[0]) for own in groups))
