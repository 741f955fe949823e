"""When the test part may be judged, and the list of how often it was: metrics/test_openings.csv, a plain file in git."""

import hashlib
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from strokect.files import atomic_path
from strokect.params import EvaluateParams

OPENINGS = Path("metrics/test_openings.csv")
COLUMNS = ("date", "model", "data_sha256", "test_sha256")


def opens_test(params: EvaluateParams, cohort: dict[str, Any]) -> bool:
    """Whether this run may look at the test part, if there is one."""
    return params.open_test is True or (params.open_test == "synthetic" and cohort["synthetic"])


def hash_of_part(source: str, files: Iterable[str]) -> str:
    """SHA-256 of what the test part is made of: the source, and the SHA-256 of its files in whatever order.

    Neither the packed pixels nor the labels are in it: another image size or label set of the same files is the same test part.
    """
    return hashlib.sha256("\n".join([source, *sorted(files)]).encode()).hexdigest()


def openings_of(path: Path, test_sha256: str, data_sha256: str) -> pd.DataFrame:
    """The lines about this test part. Lines from before `test_sha256` was written down are known by their data hash alone."""
    known = pd.read_csv(path, dtype=str) if path.is_file() else pd.DataFrame(columns=COLUMNS)
    same = known.reindex(columns=COLUMNS)
    return known[(same["test_sha256"] == test_sha256) | (same["test_sha256"].isna() & (same["data_sha256"] == data_sha256))]


def record_opening(path: Path, model: str, test_sha256: str, cohort: dict[str, Any], metrics: dict[str, Any]) -> str | None:
    """Add one line for each new model that the test part of real data was opened with, never remove one. Returns what to say."""
    if cohort["synthetic"]:
        return None
    earlier = openings_of(path, test_sha256, cohort["data_sha256"])
    if (earlier["model"] == model).any():
        return None
    row = {
        "date": date.today().isoformat(),
        "model": model,
        "data_sha256": cohort["data_sha256"],
        "group_by": metrics["group_by"],
        "slice_roc_auc": metrics["slice"]["roc_auc"]["value"],
        "patient_roc_auc": metrics["patient"]["roc_auc"]["value"],
        "test_sha256": test_sha256,
    }
    known = [pd.read_csv(path, dtype=str)] if path.is_file() else []
    with atomic_path(path) as temporary:
        pd.concat([*known, pd.DataFrame([row])]).to_csv(temporary, index=False)
    return f"the test part was opened with a new model: opening {len(earlier) + 1} of it, recorded in {path}; commit it"
