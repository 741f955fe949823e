"""The audit: what in a prepared cohort would make every later number wrong.

Each check is a pure function of the manifest, the pixels and the cohort's description. A finding of severity `error`
stops the pipeline unless `audit.allow` names its check; what was allowed stays in every report.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.duplicates import is_blank
from strokect.errors import DataError, ParamsError
from strokect.files import sha256_bytes
from strokect.params import SHUFFLE_CONTROL

MAX_FILES = 50  # listed per finding; the message has the full count
MIN_PATIENTS, MAX_ALONE = 10, 0.9  # from so many patients on, this share of them with a single slice is too much
MAX_NAMED = 20  # patients or reasons spelled out in a message
# Seen in public copies: Explorer's copies, augmented or generated pictures, slices with the lesion's contour drawn on them.
# The words stand alone ("aug_12", "x - Copy"), so that names such as "Augsburg" or "copyright" pass.
SUSPICIOUS = re.compile(r"(?<![a-z])(copy|aug|augmented|synthetic|synth|overlay)(?![a-z])", re.IGNORECASE)

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """What one check found. `files` are all files concerned, sorted."""

    check: str
    severity: Severity
    message: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """What the checks look at. `same` holds groups of rows with identical prepared pixels or file bytes."""

    manifest: pd.DataFrame  # file, patient, label; patient as text
    same: tuple[pd.DataFrame, ...]
    blank: pd.DataFrame  # rows that show nothing; alike without being copies, so they are in no group of `same`
    cohort: dict[str, Any]


def audit_cohort(manifest: pd.DataFrame, images: NDArray[np.uint8], cohort: dict[str, Any]) -> list[Finding]:
    """Run every check on manifest (N rows), row-aligned images (N, C, S, S) uint8 and cohort.json; worst findings first."""
    evidence = _gather(manifest, images, cohort)
    findings = [finding for check in CHECKS.values() if (finding := check(evidence)) is not None]
    return sorted(findings, key=lambda finding: ("error", "warning", "info").index(finding.severity))


def check_allow(allow: Iterable[str]) -> None:
    """Raise ParamsError if `audit.allow` names something that is no check."""
    for name in allow:
        if name not in (known := (*CHECKS, SHUFFLE_CONTROL)):
            raise ParamsError(f"params.yaml: audit.allow: {name!r} is not a check; known: {', '.join(known)}")


def build_report(findings: list[Finding], allow: Iterable[str]) -> dict[str, Any]:
    """The content of metrics/audit.json. `allowed` lists the checks whose errors were found and let pass."""
    allow = set(allow)
    errors = [finding.check for finding in findings if finding.severity == "error"]
    return {
        "passed": all(check in allow for check in errors),
        "allowed": [check for check in errors if check in allow],
        "findings": [
            {"check": f.check, "severity": f.severity, "message": f.message, "files": list(f.files[:MAX_FILES])} for f in findings
        ],
    }


def identical_across_patients(evidence: Evidence) -> Finding | None:
    """The same picture under two patient ids: a split by patient would put it into training and test."""
    return _identical("identical_across_patients", "error", evidence, "patient", "under different patients")


def identical_across_classes(evidence: Evidence) -> Finding | None:
    """The same picture with two labels: one of them is wrong."""
    return _identical("identical_across_classes", "error", evidence, "label", "with different labels")


def identical_within_patient(evidence: Evidence) -> Finding | None:
    """The same picture more than once in one patient: it counts twice in every average."""
    doubled = [own for group in evidence.same for _, own in group.groupby("patient") if own.duplicated("pixels").any()]
    message = f"{_files(doubled)} repeat a picture of the same patient ({_count(len(doubled), 'group')})"
    return _finding("identical_within_patient", "warning", message, doubled)


def patient_in_two_classes(evidence: Evidence) -> Finding | None:
    """Where labels are per patient, a patient with both labels is filed wrongly somewhere."""
    if evidence.cohort["label_unit"] != "patient":
        return None
    mixed = [own for _, own in evidence.manifest.groupby("patient") if own["label"].nunique() > 1]
    names = _first(str(own["patient"].iloc[0]) for own in mixed)
    message = f"{_count(len(mixed), 'patient')} with slices of both classes, though labels are per patient: {names}"
    return _finding("patient_in_two_classes", "error", message, mixed)


def label_conflict(evidence: Evidence) -> Finding | None:
    """The label sources of a patient disagree, e.g. a haemorrhage patient filed under "Normal"."""
    sources: dict[str, dict[str, int]] = evidence.cohort["patient_labels"]
    conflicts = {patient: labels for patient, labels in sources.items() if len(set(labels.values())) > 1}
    if not conflicts:
        return None
    names = _first((f"{p} ({', '.join(f'{s} {v}' for s, v in labels.items())})" for p, labels in conflicts.items()), "; ")
    own = evidence.manifest[evidence.manifest["patient"].isin(list(conflicts))]
    message = f"the label sources disagree on {_count(len(conflicts), 'patient')}, {_count(len(own), 'file')} in use: {names}"
    return Finding("label_conflict", "error", message, tuple(sorted(own["file"])))


def one_slice_per_patient(evidence: Evidence) -> Finding | None:
    """(Almost) every patient has one slice: the ids are probably those of pictures, and the split would not be by patient."""
    slices = evidence.manifest.groupby("patient").size()
    alone = int((slices == 1).sum())
    if len(slices) < MIN_PATIENTS or alone < MAX_ALONE * len(slices):
        return None
    message = (
        f"{alone:,} of {_count(len(slices), 'patient')} have a single slice: patient level not verifiable. Check how the patient "
        "id is found (data.folder.patient_regex); slices of one person under several ids would leak"
    )
    own = evidence.manifest[evidence.manifest["patient"].isin(slices.index[slices == 1])]
    return _finding("one_slice_per_patient", "error", message, [own])


def blank_slices(evidence: Evidence) -> Finding | None:
    """Slices that are one grey level: harmless above the vertex, a sign of a wrong window or of broken files elsewhere."""
    blank = evidence.blank
    return _finding("blank_slices", "warning", f"{_count(len(blank), 'slice')} show nothing", [blank] if len(blank) else [])


def suspicious_names(evidence: Evidence) -> Finding | None:
    """Names of copies, augmented or synthetic pictures and overlays: not original slices."""
    hits = tuple(sorted(file for file in evidence.manifest["file"] if SUSPICIOUS.search(file)))
    message = f"{_count(len(hits), 'file')} named like copies, augmented or synthetic pictures or overlays with drawn contours"
    return Finding("suspicious_names", "warning", message, hits) if hits else None


def unreadable(evidence: Evidence) -> Finding | None:
    """Files that `prepare` could not use."""
    return _excluded("unreadable", "warning", evidence, "could not be read")


def left_out(evidence: Evidence) -> Finding | None:
    """Files that `prepare` left out on purpose."""
    return _excluded("left_out", "info", evidence, "left out of the cohort")


Check = Callable[[Evidence], Finding | None]
_ALL: tuple[Check, ...] = (
    identical_across_patients,
    identical_across_classes,
    patient_in_two_classes,
    label_conflict,
    one_slice_per_patient,
    identical_within_patient,
    blank_slices,
    suspicious_names,
    unreadable,
    left_out,
)
CHECKS: dict[str, Check] = {check.__name__: check for check in _ALL}


def _gather(manifest: pd.DataFrame, images: NDArray[np.uint8], cohort: dict[str, Any]) -> Evidence:
    missing = [name for name in ("file", "patient", "label", "sha256") if name not in manifest.columns]
    missing += [name for name in ("label_unit", "left_out", "unreadable", "patient_labels") if name not in cohort]
    if missing:
        raise DataError(f"data/prepared: manifest.csv or cohort.json lacks {', '.join(missing)}; run `dvc repro -f prepare`")
    if len(images) != len(manifest):
        raise DataError(f"data/prepared: {len(images)} images but {len(manifest)} manifest rows; run `dvc repro -f prepare`")
    rows = manifest[["file", "patient", "label", "sha256"]].astype({"file": str, "patient": str})
    rows["pixels"] = [sha256_bytes(image.tobytes()) for image in images]
    blank = is_blank(images[:, 0])
    return Evidence(rows, tuple(_identical_groups(rows[~blank])), rows[blank], cohort)


def _identical_groups(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    repeated = rows[rows.duplicated("pixels", keep=False)]
    yield from (group for _, group in repeated.groupby("pixels", sort=False))
    # One file always gives the same pixels, so a group by bytes adds something only where rows are slices of one volume
    # (NIfTI, multi-frame DICOM). Those are not copies of each other, unless the volume is filed under several patients.
    repeated = rows[rows.duplicated("sha256", keep=False)]
    for _, group in repeated.groupby("sha256", sort=False):
        if group["pixels"].nunique() > 1 and group["patient"].nunique() > 1:
            yield group


def _identical(check: str, severity: Severity, evidence: Evidence, column: str, how: str) -> Finding | None:
    groups = [group for group in evidence.same if group[column].nunique() > 1]
    exact = sum(group["sha256"].nunique() < len(group) for group in groups)
    message = f"{_files(groups)} hold the same picture {how} ({_count(len(groups), 'group')}, {exact} with identical bytes)"
    return _finding(check, severity, message, groups)


def _excluded(key: str, severity: Severity, evidence: Evidence, what: str) -> Finding | None:
    entries: list[dict[str, str]] = evidence.cohort[key]
    if not entries:
        return None
    reasons = Counter(entry["reason"] for entry in entries).most_common()
    why = _first((f"{count} × {reason}" for reason, count in reasons), "; ")
    files = tuple(sorted(entry["file"] for entry in entries))
    return Finding(key, severity, f"{_count(len(entries), 'file')} {what}: {why}", files)


def _finding(check: str, severity: Severity, message: str, groups: list[pd.DataFrame]) -> Finding | None:
    if not groups:
        return None
    return Finding(check, severity, message, tuple(sorted({str(file) for group in groups for file in group["file"]})))


def _files(groups: list[pd.DataFrame]) -> str:
    return _count(sum(map(len, groups)), "file")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _first(names: Iterable[str], separator: str = ", ") -> str:
    listed = list(names)
    more = f"{separator}and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return separator.join(listed[:MAX_NAMED]) + more
