"""split: a test part and the folds, grouped by patient, with near-duplicates kept together; an error where it leaks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from strokect.duplicates import linked_rows
from strokect.errors import AuditError, run_stage
from strokect.files import atomic_path, write_json
from strokect.manifest import Prepared, has_patients, load_prepared
from strokect.params import SHUFFLE_CONTROL, SplitParams, load_params
from strokect.shuffle_control import Control, shuffle_control
from strokect.splits import SPLIT, make_split


def describe(
    prepared: Prepared, split: pd.DataFrame, linked_pairs: int, control: Control, params: SplitParams, allow: Sequence[str]
) -> dict[str, Any]:
    """The content of metrics/split.json; `findings` and `allowed` have the form of metrics/audit.json."""
    finding = {"check": SHUFFLE_CONTROL, "severity": "error", "message": control.message(), "files": []}
    allowed = [] if control.passed else [name for name in (SHUFFLE_CONTROL,) if name in allow]
    return {
        "passed": control.passed or bool(allowed),
        "allowed": allowed,
        "findings": [] if control.passed else [finding],
        "group_by": params.group_by,
        "seed": params.seed,
        "patient_level_verifiable": has_patients(prepared.cohort),
        "linked_pairs": linked_pairs,
        "parts": count_parts(prepared, split).to_dict("index"),
        "control": control.to_json(),
    }


def count_parts(prepared: Prepared, split: pd.DataFrame) -> pd.DataFrame:
    """Patients and slices of each part, and how many are positive; with `group_by: none` a patient counts in every part."""
    rows = split[["part", "patient"]].assign(positive=prepared.labels)
    table = rows.groupby("part").agg(
        patients=("patient", "nunique"), slices=("patient", "size"), positive_slices=("positive", "sum")
    )
    positive = rows[rows["positive"] == 1].groupby("part")["patient"].nunique()
    table.insert(1, "positive_patients", positive.reindex(table.index, fill_value=0))
    return table


def raise_if_leaking(report: dict[str, Any]) -> None:
    """Raise AuditError if the control found a leak that is not allowed."""
    if report["passed"]:
        return
    remedy = "Group the split by patient (split.group_by: patient)"
    if report["group_by"] == "patient":
        remedy = "The split is grouped by patient, so data or code are at fault: run `dvc repro -f prepare`, report it"
    raise AuditError(
        f"the split leaks: {report['findings'][0]['message']}. {remedy}, or, for a control that is meant to leak, add "
        f"{SHUFFLE_CONTROL} to audit.allow in params.yaml. See metrics/split.json"
    )


def main() -> None:
    """Read the prepared cohort; write metrics/split.json, and data/splits.csv unless the split leaks."""
    params, prepared = load_params(), load_prepared()
    linked = linked_rows(prepared.images[:, 0], prepared.patients)
    split = make_split(prepared.manifest, linked, params.split)
    control = shuffle_control(prepared.images, prepared.manifest, split, params.split.seed)
    report = describe(prepared, split, len(linked), control, params.split, params.audit.allow)
    write_json(Path("metrics/split.json"), report)
    print(f"grouped by {params.split.group_by}; {len(linked)} near-duplicate pairs kept together")
    print(pd.DataFrame.from_dict(report["parts"], orient="index").to_string())
    print(f"shuffle control: AUC {control.auc_mean:.3f} over {control.permutations} permutations, {control.p_text()}")
    SPLIT.unlink(missing_ok=True)  # a leaking split must not leave an older one to be trained on
    raise_if_leaking(report)
    with atomic_path(SPLIT) as path:
        split.to_csv(path, index=False)
    if not report["patient_level_verifiable"]:
        print("WARNING: the data name no patients: groups are clusters of near-duplicates, patient level is not verifiable")
    if params.split.group_by == "none":
        print("WARNING: split.group_by is none: patients are in several parts, no number from this split is patient-independent")


if __name__ == "__main__":
    run_stage(main)
