"""What the report, and the checklists in it, say: facts taken from metrics, params and sidecars; nothing is computed anew."""

import subprocess
from pathlib import Path
from typing import Any

from strokect.hounsfield import in_words, windows_of
from strokect.intended_use import INTENDED_USE, OUT_OF_SCOPE
from strokect.manifest import has_patients
from strokect.openings import openings_of
from strokect.report_sections import guarantee_words
from strokect.reporting import FIGURES, figure_text

NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f2": "F2",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "log_loss": "log loss",
}
CARDS = (("patient", "roc_auc"), ("slice", "roc_auc"), ("patient", "sensitivity"), ("patient", "specificity"))
TAKEN_OVER = (
    *("target", "n_slices", "n_patients", "n_positive_patients", "group_by", "device", "interval"),
    *("source", "labels", "data_sha256", "backbone", "notes"),
)
# Tracked, and written by a run or from its outcome: `dvc.lock`, and `params.yaml` and `data` of an experiment, by DVC, the
# README's numbers and docs by `make readme`. The report has the params and the hash of the data itself.
WRITTEN_BY_RUNS = ("dvc.lock", "params.yaml", "data", "metrics", "docs", "README.md")
PART_WORDS = {"test": "Test part", "oof": "Out-of-fold"}


def revision(root: Path) -> tuple[str, bool]:
    """The commit that is checked out, and whether code differs from it; ("unknown", False) without git.

    What the pipeline writes itself (WRITTEN_BY_RUNS) differs whenever this is asked in a run, and says nothing about the code.
    """

    def git(*arguments: str) -> str | None:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    code = [":/", *(f":(top,exclude){path}" for path in WRITTEN_BY_RUNS)]
    try:
        commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", "--", *code)
    except FileNotFoundError:
        return "unknown", False
    return commit or "unknown", bool(changed)


def opened(path: Path, test_sha256: str | None, data_sha256: str, synthetic: bool) -> str:
    """How often the test part was opened, in a sentence. `test_sha256` is `openings.hash_of_part`, None without a part."""
    if test_sha256 is None:
        return "There is no test part (split.test_fraction: 0): every patient is judged out-of-fold."
    if synthetic:
        return "The test part was opened as often as anybody liked: the data are synthetic."
    times = len(openings_of(path, test_sha256, data_sha256))
    words = {0: "not once", 1: "once"}.get(times, f"{times} times, each with another model")
    how = "metrics/test_openings.csv, by the hashes of its files: another split is another part"
    return f"The test part was opened {words} ({how})."


def report_facts(
    *,
    metrics: dict[str, Any],
    oof: dict[str, Any],
    safety: dict[str, Any],
    audit: dict[str, Any],
    split: dict[str, Any],
    point: dict[str, Any],
    sidecar: dict[str, Any],
    cohort: dict[str, Any],
    params: dict[str, Any],
    openings: str,
    commit: tuple[str, bool],
) -> dict[str, Any]:
    """The facts by name, from the content of metrics/{evaluate,oof,safety,audit,split}.json, models/operating_point.json, a
    model's sidecar, data/prepared/cohort.json and params.yaml.
    """
    severities = [finding["severity"] for finding in audit["findings"]]
    return {
        **{key: metrics[key] for key in TAKEN_OVER},
        "label_unit": cohort["label_unit"],
        "synthetic": cohort["synthetic"],
        "left_out": len(cohort["left_out"]),
        "unreadable": len(cohort["unreadable"]),
        "cohort_words": cohort_words(cohort),
        "windows": f"the window {in_words(windows_of(sidecar))} (level/width in HU)",
        "part_words": PART_WORDS[metrics["part"]],
        "figures": {
            PART_WORDS[part["part"]]: _rows(part) for part in ([metrics, oof] if metrics["part"] == "test" else [metrics])
        },
        "cards": [_card(metrics, level, name) for level, name in CARDS],
        "parts": split["parts"],
        "control": control_words(split),
        "audit": {"passed": audit["passed"], "findings": audit["findings"]},
        "audit_errors": severities.count("error"),
        "audit_warnings": severities.count("warning"),
        "audit_allowed": ", ".join(metrics["audit_allowed"]),
        "intended_use": INTENDED_USE,
        "out_of_scope": OUT_OF_SCOPE,
        "calibration": point["calibration"]["method"],
        "slice_threshold": point["slice"]["threshold"],
        "patient_threshold": point["patient"]["threshold"],
        "views": ", ".join(point["views"]),
        "ships": _ships(sidecar, point),
        "versions": sidecar["versions"],
        "pointing": _pointing(safety),
        "guarantee": guarantee_words(metrics),
        "subgroups": f"{metrics['subgroups']['looked_at']} figures of {len(metrics['subgroups']['groups'])} subgroups",
        "sites": any(group["variable"] in ("site", "source") for group in metrics["subgroups"]["groups"]),
        "params": params,
        "openings": openings,
        "commit": commit[0],
        "dirty": commit[1],
    }


def cohort_words(cohort: dict[str, Any]) -> str:
    """The cohort in a sentence or two."""
    text = (
        f"{cohort['n_slices']} slices of {cohort['n_patients']} patients: {cohort['n_positive_slices']} positive slices, "
        f"{cohort['n_positive_patients']} patients with at least one. Left out on purpose: {len(cohort['left_out'])} files; "
        f"unreadable: {len(cohort['unreadable'])}."
    )
    if not has_patients(cohort):
        text += " The data name no patients: clusters of near-duplicates stand in for them, and patient level is not verifiable."
    return text


def control_words(split: dict[str, Any]) -> str:
    """What the shuffle control found, in a sentence."""
    control = split["control"]
    low, high = control["auc_ci95"]
    verdict = "no sign of a leak" if control["passed"] else "THE SPLIT LEAKS"
    return (
        f"Shuffle control: labels permuted between patients are predicted across this split with an AUC of "
        f"{control['auc_mean']:.3f} [{low:.3f}, {high:.3f}] over {control['permutations']} permutations "
        f"(one-sided p = {control['p']:.2g}): {verdict}."
    )


def _rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    names = [name for name in FIGURES if name in metrics["slice"]]
    return [{"name": NAMES[name], "slice": metrics["slice"][name], "patient": metrics["patient"][name]} for name in names]


def _card(metrics: dict[str, Any], level: str, name: str) -> dict[str, str]:
    value, _, interval = figure_text(metrics[level][name]).partition(" [")
    return {"name": f"{NAMES[name]}, {level}s", "value": value, "interval": f"[{interval}" if interval else ""}


def _ships(sidecar: dict[str, Any], point: dict[str, Any]) -> str:
    if "taught_by" in sidecar:
        return f"one {sidecar.get('backbone')} student taught by {len(point['folds'])} fold models"
    return f"{len(point['folds'])} folds, their calibrated probabilities averaged"


def _pointing(safety: dict[str, Any]) -> str:
    game = safety.get("activation_map")
    if not game:
        return " Whether they point at the lesion is not known on this data."
    return f" Their maximum lies in the lesion on {figure_text(game['hit'])} of {game['n']} slices (chance {game['chance']:.3f})."
