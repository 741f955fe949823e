"""The audit: what in a prepared cohort would make every later number wrong.

Each check is a pure function of the manifest, the pixels, facts of the files and the cohort's description. A finding of severity
`error` stops the pipeline unless `audit.allow` names its check; what was allowed stays in every report.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect import audit_classes, audit_copies, audit_files, audit_labels
from strokect.duplicates import HASH_BLOCK, is_blank, linked_rows, one_slice
from strokect.errors import DataError, ParamsError
from strokect.files import sha256_bytes
from strokect.finding import Check, Evidence, Finding, count, finding
from strokect.manifest import has_patients
from strokect.npy_rows import blocks
from strokect.params import SHUFFLE_CONTROL, SplitParams
from strokect.splits import check_feasible

MAX_FILES = 50  # listed per finding; the message has the full count
MIN_PATIENTS, MAX_ALONE = 10, 0.9  # from so many patients on, this share of them with a single slice is too much


def audit_cohort(
    manifest: pd.DataFrame,
    images: NDArray[np.uint8],
    cohort: dict[str, Any],
    facts: pd.DataFrame | None = None,
    split: SplitParams | None = None,
) -> list[Finding]:
    """Run every check on manifest (N rows), row-aligned images (N, C, S, S) uint8 and cohort.json; worst findings first.

    `facts`: what `file_facts` says of each row's file; `split`: what the cohort must carry. Checks that need one are skipped
    without it.
    """
    evidence = _gather(manifest, images, cohort, facts, split)
    findings = [found for check in CHECKS.values() if (found := check(evidence)) is not None]
    return sorted(findings, key=lambda found: ("error", "warning", "info").index(found.severity))


def check_allow(allow: Iterable[str]) -> None:
    """Raise ParamsError if `audit.allow` names something that is no check."""
    for name in allow:
        if name not in (known := (*CHECKS, SHUFFLE_CONTROL)):
            raise ParamsError(f"params.yaml: audit.allow: {name!r} is not a check; known: {', '.join(known)}")


def references(manifest: pd.DataFrame, cohort: dict[str, Any]) -> dict[str, str]:
    """File → what stands for it where names must not go: its row in data/prepared/manifest.csv or its place in cohort.json.

    Names of files often hold ids of patients, and metrics and logs of a CI run travel further than the data.
    """
    kept = {str(file): f"manifest.csv row {row}" for row, file in enumerate(manifest["file"], start=2)}
    lists = ("unreadable", "left_out")
    others = {entry["file"]: f"cohort.json {name} {at}" for name in lists for at, entry in enumerate(cohort[name])}
    return kept | others


def build_report(findings: list[Finding], allow: Iterable[str], where: Mapping[str, str]) -> dict[str, Any]:
    """The content of metrics/audit.json, which names no file and no patient. `where`: see `references`; `files` follow its order.

    `allowed` lists the checks whose errors were found and let pass.
    """
    allow = set(allow)
    errors = [found.check for found in findings if found.severity == "error"]
    place = {file: number for number, file in enumerate(where)}
    return {
        "passed": all(check in allow for check in errors),
        "allowed": [check for check in errors if check in allow],
        "findings": [
            {
                "check": found.check,
                "severity": found.severity,
                "message": found.message,
                "files": [where[file] for file in sorted(found.files, key=place.__getitem__)[:MAX_FILES]],
            }
            for found in findings
        ],
    }


def one_slice_per_patient(evidence: Evidence) -> Finding | None:
    """(Almost) every patient has one slice: the ids are probably those of pictures, and the split would not be by patient."""
    if not evidence.has_patients:
        return None
    slices = evidence.manifest.groupby("patient").size()
    alone = int((slices == 1).sum())
    if len(slices) < MIN_PATIENTS or alone < MAX_ALONE * len(slices):
        return None
    message = (
        f"{alone:,} of {count(len(slices), 'patient')} have a single slice: patient level not verifiable. Check how the patient "
        "id is found (data.folder.patient_regex); slices of one person under several ids would leak"
    )
    own = evidence.manifest[evidence.manifest["patient"].isin(slices.index[slices == 1])]
    return finding("one_slice_per_patient", "error", message, [own])


def patient_level(evidence: Evidence) -> Finding | None:
    """The source names no patients; `prepare` has put slices that look alike into one group each."""
    if evidence.has_patients:
        return None
    groups = count(evidence.manifest["patient"].nunique(), "group")
    message = (
        f"no patient ids in this source: slices are in {groups} of near-duplicates instead. Patient level not verifiable. Nor is "
        "the position of a slice in the head known: shortcut_probes is left out, and what differs between the classes is not "
        "compared at the same position"
    )
    return Finding("patient_level", "warning", message, ())


def too_few_patients(evidence: Evidence) -> Finding | None:
    """The split that params.yaml asks for cannot be made of this cohort."""
    if evidence.split is None:
        return None
    try:
        check_feasible(evidence.manifest, evidence.linked, evidence.split)
    except DataError as error:
        return Finding("too_few_patients", "error", str(error), ())
    return None


def said_by_prepare(evidence: Evidence) -> Finding | None:
    """What the reader and `prepare` found worth knowing: a table that fits no slice, a series chosen among several."""
    warnings: list[str] = evidence.cohort.get("warnings", [])
    return Finding("said_by_prepare", "warning", "; ".join(warnings), ()) if warnings else None


_ALL: tuple[Check, ...] = (
    audit_copies.identical_across_patients,
    audit_copies.identical_across_classes,
    audit_copies.near_duplicates_across_patients,
    audit_copies.near_duplicates_across_classes,
    audit_files.overlays,
    audit_files.unlike_head_ct,
    audit_labels.patient_in_two_classes,
    audit_labels.label_conflict,
    one_slice_per_patient,
    too_few_patients,
    audit_copies.identical_within_patient,
    audit_copies.near_duplicates_within_patient,
    audit_files.suspicious_names,
    audit_classes.resolution_by_class,
    audit_classes.encoding_by_class,
    audit_classes.frame_by_class,
    audit_classes.text_by_class,
    audit_classes.shortcut_probes,
    patient_level,
    audit_files.blank_slices,
    said_by_prepare,
    audit_files.unreadable,
    audit_files.left_out,
)
CHECKS: dict[str, Check] = {check.__name__: check for check in _ALL}


def _gather(
    manifest: pd.DataFrame,
    images: NDArray[np.uint8],
    cohort: dict[str, Any],
    facts: pd.DataFrame | None,
    split: SplitParams | None,
) -> Evidence:
    missing = [name for name in ("file", "patient", "label", "sha256") if name not in manifest.columns]
    missing += [name for name in ("label_unit", "left_out", "unreadable", "patient_labels") if name not in cohort]
    if missing:
        raise DataError(f"data/prepared: manifest.csv or cohort.json lacks {', '.join(missing)}; run `dvc repro -f prepare`")
    if len(images) != len(manifest):
        raise DataError(f"data/prepared: {len(images)} images but {len(manifest)} manifest rows; run `dvc repro -f prepare`")
    rows = manifest.reset_index(drop=True).astype({"file": str, "patient": str})
    rows["pixels"] = [sha256_bytes(image.tobytes()) for _, block in blocks(images, HASH_BLOCK) for image in block]
    blank = is_blank(images[:, 0])
    # Groups of look-alikes were made of the pairs to be looked at, so that none would be left between groups.
    linked = linked_rows(images[:, 0], rows["patient"].to_numpy(np.str_) if has_patients(cohort) else None)
    pixels = rows["pixels"].to_numpy(np.str_)
    altered = linked[pixels[linked[:, 0]] != pixels[linked[:, 1]]]
    owner, label = rows["patient"].to_numpy(np.str_), rows["label"].to_numpy()
    torn = altered[(owner[altered[:, 0]] == owner[altered[:, 1]]) & (label[altered[:, 0]] != label[altered[:, 1]])]
    torn = torn[one_slice(images[:, 0], torn)]
    return Evidence(rows, tuple(_identical_groups(rows[~blank])), altered, torn, rows[blank], cohort, facts, split)


def _identical_groups(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    repeated = rows[rows.duplicated("pixels", keep=False)]
    yield from (group for _, group in repeated.groupby("pixels", sort=False))
    # One file always gives the same pixels, so a group by bytes adds something only where rows are slices of one volume
    # (NIfTI, multi-frame DICOM). Those are not copies of each other, unless the volume is filed under several patients.
    repeated = rows[rows.duplicated("sha256", keep=False)]
    for _, group in repeated.groupby("sha256", sort=False):
        if group["pixels"].nunique() > 1 and group["patient"].nunique() > 1:
            yield group
