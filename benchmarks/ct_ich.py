"""The honest run on CT-ICH beside its controls: `python -m benchmarks.ct_ich` runs them and writes docs/results/ct-ich.md.

Needs the data: `make import SOURCE=kaggle_ct_ich FROM=<folder>`. Runs that DVC has cached are restored, not repeated, and a
killed run resumes, so the command can be given again at any time.
"""

import argparse
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from strokect.errors import DataError, run_stage
from strokect.files import read_json, write_json, write_text
from strokect.preflight import check_raw_data
from strokect.reporting import figure_text

RESULTS = Path("docs/results")
RUNS = {
    "ct_ich": "radiologists' slice labels, grouped by patient",
    "ct_ich_folder_labels": "folder labels, grouped by patient",
    "ct_ich_leaky": "folder labels, slices dealt out one by one",
    "ct_ich_leaky_holdout": "folder labels, slices dealt out one by one, a tenth held out; demonstrates the published protocol",
    "ct_ich_leaky_shuffled": "labels permuted between patients, slices dealt out one by one",
}
COLUMNS = ("run", "labels and split", "target", "judged on", "slices / patients (positive)", "px, epochs", "training", "device")
COLUMNS += ("data hash",)
EARLIER_INTERVALS = [
    "Such percentiles are too narrow near 1, and say nothing where a share is 1 ([how intervals cover](statistics.md)); runs of",
    "today have other ones.",
]
PARTS = {"oof": "out-of-fold", "test": "held-out slices"}
SERVED = (
    "`make serve` in the workspace of `ct_ich`, then `python -m benchmarks.ct_ich_predict http://127.0.0.1:3000`; release "
    "`{model_version}`, threshold {threshold}. Four of the five folds were trained on each of these patients: the answers show "
    "that the service works, not how good the model is."
)
FIGURES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f2": "F2",
    "ece": "ECE",
    "brier": "Brier",
}


def command(profile: str) -> str:
    """The command that makes a run."""
    opened = " -S evaluate.open_test=true" if profile == "ct_ich_leaky_holdout" else ""
    return f"dvc exp run -S profile={profile}{opened}"


def collect(profile: str) -> dict[str, Any]:
    """What the workspace holds after a run: metrics, params, training time."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    metrics = read_json("metrics/evaluate.json")
    histories = [pd.read_csv(path) for path in sorted(Path("models").glob("*/*/history.csv"))]
    return {
        "command": command(profile),
        "training_minutes": round(sum(float(history["seconds"].sum()) for history in histories) / 60, 1),
        "params": params,
        "metrics": metrics,
    }


def render(runs: dict[str, dict[str, Any]], answers: list[dict[str, Any]]) -> str:
    """docs/results/ct-ich.md; `answers` are those of `benchmarks.ct_ich_predict`."""
    first = runs["ct_ich"]["metrics"]
    lines = [
        "# CT-ICH: one honest run beside what leaks",
        "",
        "Written by `python -m benchmarks.ct_ich` from the metrics of each run (`docs/results/ct-ich/*.json`). Figures are",
        f"out-of-fold except where the table says so; brackets are {first['interval']}. Backbone `{first['backbone']}`.",
        *(EARLIER_INTERVALS if "percentile interval" in first["interval"] else []),
        "",
        _reading(runs),
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for name, run in runs.items():
        m, p = run["metrics"], run["params"]
        counts = f"{m['n_slices']} ({m['slice']['n_positive']}) / {m['n_patients']} ({m['n_positive_patients']})"
        tuning = p["hnm"]["epochs"] if p["hnm"]["enabled"] else 0
        size = f"{p['data']['image_size']}, {p['train']['epochs']} + {tuning}"
        minutes, data = f"{run['training_minutes']} min", f"`{m['data_sha256'][:12]}`"
        cells = (f"`{name}`", RUNS[name], m["target"], PARTS[m["part"]], counts, size, minutes, m["device"], data)
        lines.append(f"| {' | '.join(cells)} |")
    for level in ("slice", "patient"):
        lines += ["", f"## {level.capitalize()} level", "", "| | " + " | ".join(f"`{name}`" for name in runs) + " |"]
        lines.append("|---|" + "---|" * len(runs))
        for key, label in FIGURES.items():
            lines.append(f"| {label} | " + " | ".join(figure_text(run["metrics"][level][key]) for run in runs.values()) + " |")
    lines += ["", "## Commands", "", "```"]
    lines += [run["command"] for run in runs.values()]
    lines += ["```", "", "Notes that travel with the figures:", ""]
    for note in dict.fromkeys(note for run in runs.values() for note in run["metrics"]["notes"]):
        names = ", ".join(f"`{name}`" for name, run in runs.items() if note in run["metrics"]["notes"])
        lines.append(f"- {names}: {note}")
    if answers:
        lines += ["", "## The served model asked about known patients", "", SERVED.format(**answers[0]), ""]
        lines += ["| patient | slice | radiologists | decision | probability |", "|---|---|---|---|---|"]
        lines += [f"| {a['patient']} | {a['slice']} | {a['label']} | {a['decision']} | {a['probability']:.3f} |" for a in answers]
    return "\n".join(lines) + "\n"


def _reading(runs: dict[str, dict[str, Any]]) -> str:
    """What the comparison says."""
    auc = {name: f"{run['metrics']['patient']['roc_auc']['value']:.3f}" for name, run in runs.items()}
    held_out = runs["ct_ich_leaky_holdout"]["metrics"]["slice"]
    return (
        "With slices dealt out one by one, labels that mean nothing still reach a patient ROC AUC of "
        f"{auc['ct_ich_leaky_shuffled']}, about what the folder labels reach there ({auc['ct_ich_leaky']}): "
        f"nothing can be learned from such a score. Grouped by patient, the folder labels reach {auc['ct_ich_folder_labels']} "
        f"and the radiologists' slice labels {auc['ct_ich']} (the controls are cheaper runs: smaller pictures, fewer epochs).\n\n"
        f"The published protocol, a tenth of the slices held out, gives an accuracy of {held_out['accuracy']['value']:.4f} and a "
        f"slice ROC AUC of {held_out['roc_auc']['value']:.4f} here. The accuracy of 0.9549 and AUC of 0.9908 that are published "
        "for such a protocol (on another set, with the stroke slices copied before the split) mean nothing: they say that a "
        "model knows patients again that it was trained on, which permuted labels allow as well."
    )


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked for (all by default), then write the page from every run that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profiles", nargs="*", metavar="run", help=f"which of {', '.join(RUNS)}; all by default")
    # The controls first: what the workspace holds at the end is what `make serve` serves.
    profiles = parser.parse_args(arguments).profiles or list(reversed(RUNS))
    if unknown := set(profiles) - set(RUNS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(RUNS)}")
    check_raw_data("kaggle_ct_ich", Path("data/raw/kaggle_ct_ich"))
    for profile in profiles:
        print(f"== {command(profile)}", flush=True)
        if subprocess.run(command(profile).split(), check=False).returncode:
            raise DataError(f"`{command(profile)}` failed; its message is above. Give the command again to resume")
        write_json(RESULTS / "ct-ich" / f"{profile}.json", collect(profile))
    runs = {name: read_json(path) for name in RUNS if (path := RESULTS / "ct-ich" / f"{name}.json").is_file()}
    if set(runs) == set(RUNS):
        predictions = RESULTS / "ct-ich" / "predict.json"
        write_text(RESULTS / "ct-ich.md", render(runs, read_json(predictions) if predictions.is_file() else []))
        print(f"{RESULTS / 'ct-ich.md'} written")
    else:
        print(f"still missing: {', '.join(sorted(set(RUNS) - set(runs)))}")


if __name__ == "__main__":
    run_stage(main)
