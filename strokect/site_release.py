"""A recalibrated release on disk: the models of its parent under a new operating point and policy, sealed as any release is."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from strokect.comparison import difference_text
from strokect.errors import DataError
from strokect.files import read_json, sha256_file, write_json
from strokect.guarantee import promise
from strokect.model_card import model_card
from strokect.recalibration import Cases, Fitted, new_policy
from strokect.release import Release
from strokect.release_writer import write_release
from strokect.self_test import slice_name
from strokect.thresholds import parse_goal

CHOSEN_ON = "labelled cases of one site, judged by the models that ship; "


def read_cases(folder: Path, release: Release) -> tuple[Cases, dict[str, Any]]:
    """scores.csv and dropout.npy of stages.external, and its external.json. Raises DataError where they are of something else."""
    metrics = read_json(folder / "external.json")
    if metrics["release"]["version"] != release.version:
        raise DataError(
            f"{folder} was judged by release {metrics['release']['version']}, this is {release.version}: "
            "run stages.external with it"
        )
    if metrics["overlap"].get("identical") or metrics["overlap"].get("near_duplicates"):
        raise DataError(f"{folder} holds pictures that the release was made from: its scores there are no measure of the site")
    try:
        table = pd.read_csv(folder / "scores.csv", dtype={"file": str, "patient": str, "flags": str}, keep_default_na=False)
        sampled = np.load(folder / "dropout.npy", allow_pickle=False)
        names = ["gate_score", *(f"logit_{name}" for name in release.policy.models)]
        numbers = table[names].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{folder}: scores.csv or dropout.npy is missing or damaged ({error}): run stages.external again"
        ) from None
    shape = (len(table), len(release.policy.models), release.policy.samples)
    if sampled.shape != shape or len(table) != metrics["n_slices"]:
        raise DataError(
            f"{folder}: dropout.npy is {sampled.shape}, scores.csv has {len(table)} slices, external.json {metrics['n_slices']}: "
            "they are not of one run; run stages.external again"
        )
    wrong = table.index[~table["label"].isin([0, 1])]
    if len(wrong):
        raise DataError(f"{folder / 'scores.csv'}, row {wrong[0] + 2}: label is {table['label'][wrong[0]]}; it must be 0 or 1")
    cases = Cases(
        numbers[:, 1:],
        table["label"].to_numpy(np.int64),
        table["patient"].to_numpy(np.str_),
        table["slice"].to_numpy(np.int64),
        (table["decision"] != "reject").to_numpy(),
        numbers[:, 0],
        sampled,
    )
    return cases, metrics


def write_site_release(
    target: Path,
    parent: Path,
    release: Release,
    fitted: Fitted,
    goals: tuple[str, str],
    refer_above: float,
    site: dict[str, Any],
    figures: dict[str, Any],
) -> str:
    """Write the release and return its version. `site` says whose cases, `figures` go into metrics.json."""
    names = list(release.policy.models)
    with tempfile.TemporaryDirectory(prefix="strokect-site-") as scratch:
        files = {name: Path(scratch) / Path(name).name for name in ("operating_point.json", "safety/policy.json", "metrics.json")}
        files["safety.json"] = Path(scratch) / "safety.json"
        goal = parse_goal(goals[1])
        promised = None
        if goal.kind == "guaranteed":
            promised = promise(site["n_positive_patients"], goal.target, goal.confidence, "the models that ship")
        chosen_on = CHOSEN_ON + ("of the patient threshold a sensitivity is promised" if promised else "empirical, no guarantee")
        point = read_json(parent / "operating_point.json") | {"chosen_on": chosen_on, "site": site}
        point["calibration"] = fitted.calibrator.to_json()
        point["calibration_log_loss_cross_fitted"] = fitted.log_loss
        point["slice"] |= {"threshold": fitted.threshold, "goal": goals[0]}
        point["patient"] |= {"threshold": fitted.patient_threshold, "goal": goals[1], "promise": promised}
        write_json(files["operating_point.json"], point)
        policy = new_policy(release.policy, fitted, refer_above, sha256_file(files["operating_point.json"]))
        write_json(files["safety/policy.json"], policy.to_json())
        metrics, safety = release.metrics | {"site": figures}, release.safety | {"policy": policy.to_json()}
        write_json(files["metrics.json"], metrics)
        write_json(files["safety.json"], safety)
        card = "\n".join([model_card(release.sidecar, point, metrics, safety), *_card_lines(site, figures), ""])
        return write_release(
            target,
            {name: parent / "folds" / name for name in names},
            parent / "safety" / "gates",
            {**files, "audit.json": parent / "audit.json"},
            card,
            (parent / "self_test" / slice_name(release.judge.windows)).read_bytes(),
        )


def _card_lines(site: dict[str, Any], figures: dict[str, Any]) -> list[str]:
    lines = [
        f"## Recalibrated for {site['name']}",
        f"- From release {site['parent']}, on {site['n_slices']} slices of {site['n_patients']} patients "
        f"({site['n_positive_patients']} positive). The figures above are the parent's, with its calibration and thresholds.",
        "- Figures of the site's cases, cross-fitted by patient, before → after, difference with 95 % interval:",
    ]
    for level in ("slice", "patient"):
        for name, f in figures[level].items():
            change = "" if f["difference"] is None else f"{f['before']:.3f} → {f['after']:.3f}, {difference_text(f, 3)}: "
            lines.append(f"  - {level} {name}: {change}{f['verdict']}")
    return [*lines, *(f"- {note}" for note in figures["notes"])]
