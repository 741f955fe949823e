"""When the test part may be judged, and the list of how often it was: metrics/test_openings.csv, a plain file in git."""

from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from strokect.files import atomic_path
from strokect.params import EvaluateParams

OPENINGS = Path("metrics/test_openings.csv")


def opens_test(params: EvaluateParams, cohort: dict[str, Any]) -> bool:
    """Whether this run may look at the test part, if there is one."""
    return params.open_test is True or (params.open_test == "synthetic" and cohort["synthetic"])


def record_opening(path: Path, model: str, cohort: dict[str, Any], metrics: dict[str, Any]) -> str | None:
    """Add one line for each new model that the test part of real data was opened with, never remove one. Returns what to say."""
    if cohort["synthetic"]:
        return None
    known = pd.read_csv(path, dtype=str) if path.is_file() else pd.DataFrame()
    if len(known) and ((known["model"] == model) & (known["data_sha256"] == cohort["data_sha256"])).any():
        return None
    row = {
        "date": date.today().isoformat(),
        "model": model,
        "data_sha256": cohort["data_sha256"],
        "group_by": metrics["group_by"],
        "slice_roc_auc": metrics["slice"]["roc_auc"]["value"],
        "patient_roc_auc": metrics["patient"]["roc_auc"]["value"],
    }
    with atomic_path(path) as temporary:
        pd.concat([known, pd.DataFrame([row])]).to_csv(temporary, index=False)
    return f"the test part was opened with a new model: opening {len(known) + 1}, recorded in {path}; commit it"
