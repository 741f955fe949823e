"""Checks of the audit for what single files are: drawn on, no head CT, blank, named like copies, unreadable, left out."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd

from strokect.file_names import is_overlay, is_suspicious
from strokect.finding import Evidence, Finding, Severity, count, finding, first
from strokect.pixel_checks import REASONS
from strokect.slices import COLOUR

MANY, MOST = 0.05, 0.5  # of the slices: more than those few of skull base and vertex; the rule, not the exception
MIN_SLICES = 3  # of a patient of whom most is unlike a head CT


def overlays(evidence: Evidence) -> Finding | None:
    """Pictures with something drawn on them, in colour or grey: a contour around the lesion is the answer."""
    coloured = [entry["file"] for entry in evidence.cohort["unreadable"] if COLOUR in entry["reason"]]
    files = evidence.manifest["file"]
    named = _named(evidence, "overlay", is_overlay)
    drawn = [] if evidence.facts is None else files[evidence.facts["drawn"].to_numpy(bool)].tolist()
    found = tuple(sorted({*coloured, *named, *drawn}))
    message = (
        f"{count(len(found), 'file')} with something drawn over the slice: {len(coloured)} in colour (left out as unreadable), "
        f"{len(drawn)} with grey or white lines, {len(named)} named as overlays"
    )
    return Finding("overlays", "error", message, found) if found else None


def blank_slices(evidence: Evidence) -> Finding | None:
    """Slices that are one grey level: harmless above the vertex, a sign of a wrong window or of broken files elsewhere."""
    blank = evidence.blank
    return finding("blank_slices", "warning", f"{count(len(blank), 'slice')} show nothing", [blank] if len(blank) else [])


def suspicious_names(evidence: Evidence) -> Finding | None:
    """Names of copies, augmented or synthetic pictures: not original slices."""
    hits = tuple(_named(evidence, "suspicious", is_suspicious))
    message = f"{count(len(hits), 'file')} named like copies, augmented or synthetic pictures"
    return Finding("suspicious_names", "warning", message, hits) if hits else None


def unlike_head_ct(evidence: Evidence) -> Finding | None:
    """Pictures that are hardly a head CT slice in the brain window, by `file_facts.TELLING`: MRI, another body part or window.

    An error where most of a class are so; a few at the skull base and the vertex are in each cohort. The limits are those that
    the pixel checks have before they have seen data: a release fits its own, which are never tighter.
    """
    if evidence.facts is None:
        return None
    rows = evidence.manifest
    unlike = (evidence.facts["unlike"] != "").to_numpy()
    of_class = {name: unlike[rows["label"] == label] for label, name in ((1, "positive"), (0, "negative"))}
    patients = pd.Index([])
    if evidence.has_patients:  # slices of the vertex are alike, and so a group of their own where nobody knows whose they are
        by_patient = rows.assign(unlike=unlike).groupby("patient")["unlike"].agg(["mean", "size"])
        patients = by_patient.index[(by_patient["mean"] > MOST) & (by_patient["size"] >= MIN_SLICES)]
    severity: Severity = "error" if any(own.mean() > MOST for own in of_class.values() if len(own) >= MIN_SLICES) else "warning"
    if severity == "warning" and unlike.mean() <= MANY and not len(patients):
        return None
    codes = Counter(code for flags in evidence.facts["unlike"][unlike] for code in flags.split(","))
    shares = " and ".join(f"{np.count_nonzero(own)} of {len(own)} {name}" for name, own in of_class.items())
    message = (
        f"{shares} slices do not look like a head CT in the brain window, as MRI or another part of the body would not: "
        f"{first((f'{number} × {REASONS[code]}' for code, number in codes.most_common()), '; ')}"
    )
    if len(patients):
        message += f"; {count(len(patients), 'patient')} of whom most slices are so"
    files = tuple(sorted(rows["file"][unlike]))
    return Finding("unlike_head_ct", severity, message, files, details=first(map(str, patients)))


def unreadable(evidence: Evidence) -> Finding | None:
    """Files that `prepare` could not use."""
    return _excluded("unreadable", "warning", evidence, "could not be read")


def left_out(evidence: Evidence) -> Finding | None:
    """Files that `prepare` left out on purpose."""
    return _excluded("left_out", "info", evidence, "left out of the cohort")


def _named(evidence: Evidence, kind: str, test: Callable[[str], bool]) -> list[str]:
    """Files whose name passes the test; of pseudonyms `prepare` has looked at the names behind them."""
    files = set(evidence.manifest["file"])
    behind: dict[str, list[str]] = evidence.cohort.get("named_behind_pseudonyms", {})
    return sorted({*filter(test, files), *files.intersection(behind.get(kind, ()))})


def _excluded(key: str, severity: Severity, evidence: Evidence, what: str) -> Finding | None:
    entries: list[dict[str, str]] = evidence.cohort[key]
    if not entries:
        return None
    reasons = Counter(entry["reason"] for entry in entries).most_common()
    why = first((f"{number} × {reason}" for reason, number in reasons), "; ")
    files = tuple(sorted(entry["file"] for entry in entries))
    return Finding(key, severity, f"{count(len(entries), 'file')} {what}: {why}", files)
