"""Which training steps pay on CT-ICH: `python -m benchmarks.accuracy` runs them and writes docs/results/training.md.

Every step is a `dvc exp run` on the tuning split seed and is kept or dropped by its out-of-fold log loss; the headline comes from
split seeds on which nothing was chosen. Needs the data: `make import SOURCE=kaggle_ct_ich FROM=<folder>`. Runs that DVC has
cached are restored, not repeated, and a killed run resumes, so the command can be given again at any time.
"""

import argparse
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.accuracy_steps import BEST, HEADLINE_SEEDS, HEADLINES, PROFILE, STEPS, SUPERSEDED, TUNING_SEED, Step
from benchmarks.machine import commit
from strokect.edges import Scale
from strokect.errors import DataError, run_stage
from strokect.files import read_json, write_json, write_text
from strokect.finding import count
from strokect.preflight import check_raw_data
from strokect.reporting import figure_text
from strokect.statistics import bootstrap_weights, estimate, estimate_auc, patients_of_rarer

RESULTS = Path("docs/results/training")
FEATURES = RESULTS / "sequence_features.json"  # of benchmarks.sequence_features
REPEATS = RESULTS / "repeats"  # NAME.json: a run of the command of NAME that is not in the tables
# Scores of single slices stay out of the repository: they are only needed to compare two runs slice by slice.
SCORES = Path(".strokect/accuracy")
RESAMPLES, SEED = 2000, 0
# Asked for; the second is what a challenge winner that had learned from 25,000 other scans reached on 75 of these patients.
TARGETS = {"slice": 0.95, "patient": 0.964}


def runs() -> dict[str, tuple[Step, int]]:
    """Every run by name, with its step and split seed: the steps on the tuning seed, the headlines on their own seeds."""
    tuning = {name: (step, TUNING_SEED) for name, step in STEPS.items()}
    return tuning | {f"{name}-{seed}": (STEPS[name], seed) for seed in HEADLINE_SEEDS for name in HEADLINES}


def command(name: str) -> str:
    """The command that makes a run, after those that it needs; it stops after the out-of-fold figures."""
    step, seed = runs()[name]
    overrides = {"profile": PROFILE, **step.overrides, "split.seed": seed}
    settings = [part for key, value in overrides.items() for part in ("-S", f"{key}={value}")]
    return " && ".join([*step.before, shlex.join(["dvc", "exp", "run", "tune_threshold", *settings])])


def with_predecessors(asked: Iterable[str]) -> list[str]:
    """`asked`, before each the step that it is compared with, where that is not asked for and its scores are not here."""
    ordered: list[str] = []
    for name in asked:
        against = STEPS[name].against if name in STEPS else None
        missing = [against] if against and not (SCORES / f"{against}.csv").is_file() else []
        ordered += [each for each in (*missing, name) if each not in ordered]
    return ordered


def log_losses(scores: pd.DataFrame) -> np.ndarray:
    """(n,) −log of the `probability`, calibrated and cross-fitted by patient, that each slice's label was given."""
    p = np.clip(scores["probability"].to_numpy(float), 1e-7, 1 - 1e-7)
    return -np.where(scores["label"] == 1, np.log(p), np.log1p(-p))


def mean_with_interval(values: np.ndarray, scores: pd.DataFrame, scale: Scale) -> dict[str, Any]:
    """Mean of values (n,) of the slices of `scores`, with its 95 % interval as in the metrics; `scale` is of `edges.interval`."""
    counts, index = bootstrap_weights(scores["patient"].to_numpy(), RESAMPLES, SEED)
    rarer = patients_of_rarer(scores["label"].to_numpy(np.int64), index)
    return estimate(lambda weights: weights @ values / weights.sum(1), counts, index, patients=rarer, scale=scale)


def auc_with_interval(scores: pd.DataFrame) -> dict[str, Any]:
    """ROC AUC of the probabilities with its 95 % interval over resampled patients."""
    labels, ranking = scores["label"].to_numpy(np.int64), scores["probability"].to_numpy(float)
    counts, index = bootstrap_weights(scores["patient"].to_numpy(), RESAMPLES, SEED)
    return estimate_auc(labels, ranking, counts, index)


def collect(name: str) -> dict[str, Any]:
    """What the workspace holds after a run, and the difference to the step that it is compared with, where that has run."""
    metrics = read_json("metrics/oof.json")
    scores = pd.read_csv("models/oof.csv", dtype={"file": str, "patient": str})
    step, _ = runs()[name]
    slice_auc = metrics["slice"]["roc_auc"]
    if step.in_series:
        scores["probability"] = scores["in_series"]
        slice_auc = auc_with_interval(scores)
    losses = log_losses(scores)
    scores.to_csv(SCORES / f"{name}.csv", index=False)
    histories = [pd.read_csv(path) for path in sorted(Path("models").glob("*/*/history.csv"))]
    found: dict[str, Any] = {
        "command": command(name),
        "training_minutes": round(sum(float(history["seconds"].sum()) for history in histories) / 60, 1),
        "log_loss": mean_with_interval(losses, scores, "positive"),
        "slice": {"roc_auc": slice_auc},
        "patient": {"roc_auc": metrics["patient"]["roc_auc"]},
        **{key: metrics[key] for key in ("n_slices", "n_patients", "n_positive_patients", "data_sha256", "device", "target")},
        "interval": metrics["interval"],
        "commit": commit(),
    }
    against = STEPS[name].against if name in STEPS else None
    if against and (SCORES / f"{against}.csv").is_file():
        other = pd.read_csv(SCORES / f"{against}.csv", dtype={"file": str, "patient": str})
        paired = scores[["file"]].merge(other, on="file", how="left", validate="one_to_one")
        before = log_losses(paired)
        found["against"] = {
            "step": against,
            "log_loss": float(before.mean()),
            "log_loss_difference": mean_with_interval(losses - before, scores, "linear"),
        }
    return found


def make(name: str) -> None:
    """Run a run's commands in the workspace, which then holds it. Raises DataError where the data are missing or one fails."""
    check_raw_data("kaggle_ct_ich", Path("data/raw/kaggle_ct_ich"))
    print(f"== {command(name)}", flush=True)
    for part in command(name).split(" && "):
        if subprocess.run(shlex.split(part), check=False).returncode:
            raise DataError(f"`{part}` failed; its message is above. Give the command again to resume")


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked for (by default all that needs no GPU), then write the page from every run that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="run", help=f"which of {', '.join(runs())}; all but those for a GPU by default"
    )
    asked = parser.parse_args(arguments).names or [name for name, (step, _) in runs().items() if not step.needs_gpu]
    if unknown := set(asked) - set(runs()):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(runs())}")
    SCORES.mkdir(parents=True, exist_ok=True)
    names = with_predecessors(asked)
    if further := [name for name in names if name not in asked]:
        print(f"run too, as what is asked for is compared with it slice by slice: {', '.join(further)}", flush=True)
    for name in names:
        make(name)
        found = collect(name)
        if name in asked:  # what has run for the comparison only has nothing to be compared with itself
            write_json(RESULTS / f"{name}.json", found)
        write_text(RESULTS.with_suffix(".md"), render(read_results()))


def read_results() -> dict[str, dict[str, Any]]:
    """The runs that have been made, in the order of `runs`."""
    return {name: read_json(path) for name in runs() if (path := RESULTS / f"{name}.json").is_file()}


def verdict(run: dict[str, Any], kept_for: str | None = None) -> str:
    """Kept if the out-of-fold log loss is lower; whether the interval of the difference says more than chance is said beside.

    `kept_for`: what a step is kept for although its log loss is not lower.
    """
    if "against" not in run:
        return "–"
    difference = run["against"]["log_loss_difference"]
    sure = "" if difference["ci95"][0] > 0 or difference["ci95"][1] < 0 else ", could be chance"
    if difference["value"] < 0:
        return "kept" + sure
    return (f"kept for {kept_for}, not its log loss" if kept_for else "dropped") + sure


def render(made: dict[str, dict[str, Any]]) -> str:
    """docs/results/training.md."""
    any_run = next(iter(made.values()))
    counts = f"{any_run['n_slices']} slices of {any_run['n_patients']} patients ({any_run['n_positive_patients']} positive)"
    lines = [
        "# Training on CT-ICH: which steps pay",
        "",
        f"Written by `python -m benchmarks.accuracy` from `{RESULTS}/*.json`. Target: {any_run['target']}; {counts}, grouped by",
        f"patient, out-of-fold over all of them; trained on {any_run['device']}. Brackets are 95 % intervals over {RESAMPLES}",
        f"resampled cohorts of patients. Steps are chosen on split seed {TUNING_SEED} by log loss after calibration that was",
        "cross-fitted by patient; a difference is paired, slice by slice. Pretraining comes on top of the minutes, and the",
        "machine often did other work beside a run: minutes of two runs do not compare.",
        *_earlier_intervals(made),
        "",
        "| step | change | log loss | difference | slice ROC AUC | patient ROC AUC | minutes of the folds | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in filter(made.__contains__, STEPS):
        run, step = made[name], STEPS[name]
        figures = [figure_text(run["log_loss"]), _difference(run, made), *_aucs(run)]
        cells = [f"`{name}`", step.change, *figures, str(run["training_minutes"])]
        lines.append(f"| {' | '.join([*cells, verdict(run, step.kept_for)])} |")
    looked_at = [name for name in STEPS if name in made and STEPS[name].against]
    heads = read_json(FEATURES)["difference_to_logits"] if FEATURES.is_file() else {}
    lines += [
        "",
        f"{len(looked_at)} changes{f' and {len(heads)} heads (below)' if heads else ''} were looked at on this one split.",
        "Where the interval of a difference holds 0 it could be chance, and the lowest log loss of so many is too low for what",
        "it will be elsewhere. The headline is of other split seeds.",
    ]
    lines += headline_section(made)
    if FEATURES.is_file():
        lines += ["", *sequence_features(read_json(FEATURES))]
    if missing := [name for name in STEPS if name not in made]:
        lines += ["", "## Not run", "", "Steps for which there was no time, or no GPU; each is one command:", ""]
        lines += [f"- {STEPS[name].change}: `python -m benchmarks.accuracy {name}`" for name in missing]
    lines += [
        "",
        "## Commands",
        "",
        "`python -m benchmarks.accuracy <run>` gives a run's command and fills its row:",
        "",
        "```",
    ]
    lines += [f"# {name}\n{run['command']}" for name, run in made.items()]
    lines.append("```")
    return "\n".join(lines) + "\n"


def headline_section(made: dict[str, dict[str, Any]]) -> list[str]:
    """The part of the page on the split seeds on which nothing was chosen; nothing where none has run."""
    headline = {name: run for name, run in made.items() if name not in STEPS}
    if not headline:
        return []
    lines = [
        *("", "## Headline: split seeds on which nothing was chosen", ""),
        "Which steps a headline holds was decided on the tuning seed alone. Every headline below is of the same seeds;",
        f"{', '.join(f'`{step}`' for step in SUPERSEDED)} were run on some of them, too, before others did better on the",
        "tuning seed.",
        "",
    ]
    seeds = Counter(name.rsplit("-", 1)[0] for name in headline)
    if short := [f"`{step}`" for step, made_seeds in seeds.items() if made_seeds < len(HEADLINE_SEEDS)]:
        lines += [f"Of {', '.join(short)} some seeds are still to be run: no headline yet.", ""]
    lines += ["| split seed | params of | log loss | slice ROC AUC | patient ROC AUC |", "|---|---|---|---|---|"]
    for name, run in headline.items():
        step, seed = name.rsplit("-", 1)
        lines.append(f"| {seed} | `{step}` | {figure_text(run['log_loss'])} | {' | '.join(_aucs(run))} |")
    best = " ".join(["dvc exp run", *(f"-S {key}={value}" for key, value in BEST.items())])
    return [
        *lines,
        *("", *how_far(headline), *repeated(made), ""),
        f"`{best}` has the params of `{HEADLINES[0]}` on split seed {HEADLINE_SEEDS[0]}; "
        f"`profile={PROFILE}` keeps those of the run in [ct-ich.md](ct-ich.md).",
    ]


def _difference(run: dict[str, Any], made: dict[str, dict[str, Any]]) -> str:
    """By how much the log loss differs from which run: where that step's row is of another run of it, this is said."""
    if (against := run.get("against")) is None:
        return "–"
    row = made.get(against["step"])
    difference, log_loss = f"{_signed(against['log_loss_difference'])} to ", against.get("log_loss")
    if row is None or log_loss is None or abs(log_loss - row["log_loss"]["value"]) < 1e-9:
        return f"{difference}`{against['step']}`"
    return f"{difference}another run of `{against['step']}` ({log_loss:.3f})"


def _earlier_intervals(made: dict[str, dict[str, Any]]) -> list[str]:
    """What to say of runs from before intervals were named: theirs are percentiles."""
    earlier = [f"`{name}`" for name, run in made.items() if "interval" not in run]
    return [f"Intervals of {', '.join(earlier)} are percentiles: too narrow, by more the nearer to 1."] if earlier else []


def how_far(headline: dict[str, dict[str, Any]], steps: tuple[str, ...] = HEADLINES) -> list[str]:
    """In words, by how much the headlines of `steps` miss TARGETS: mean and range over the split seeds."""
    lines = [
        f"Asked for: slice ROC AUC ≥ {TARGETS['slice']} and patient ROC AUC ≥ {TARGETS['patient']}, the latter reached on 75 of "
        "these patients by a challenge winner that had learned from 25,000 other scans. Reached, mean and range over the split "
        "seeds, and from the lowest to the highest end of their 95 % intervals:",
        "",
    ]
    for step in steps:
        runs_of = [run for name, run in headline.items() if name.rsplit("-", 1)[0] == step]
        if not runs_of:
            continue
        figures = []
        for level, target in TARGETS.items():
            values = [run[level]["roc_auc"]["value"] for run in runs_of]
            mean, highest = float(np.mean(values)), max(run[level]["roc_auc"]["ci95"][1] for run in runs_of)
            where = "within the interval of a seed or more" if highest >= target else "above the interval of every seed"
            missed = f"{target - mean:.3f} short of the target, which is {where}" if mean < target else "the target is reached"
            lowest = min(run[level]["roc_auc"]["ci95"][0] for run in runs_of)
            spread = f"{min(values):.3f} to {max(values):.3f}; intervals from {lowest:.3f} to {highest:.3f}"
            figures.append(f"{level} {mean:.3f} ({spread}), {missed}")
        how = "slices in series" if STEPS[step].in_series else "each slice alone"
        lines.append(f"- `{step}`, {how}, {count(len(runs_of), 'seed')}: {'; '.join(figures)}")
    changes = [line for step in steps if STEPS[step].in_series for line in in_series(step, headline)]
    if not changes:
        return lines
    return [
        *lines,
        *("", "Judged in series instead of alone, mean and range over the seeds:", "", *changes, ""),
        "In series the ranking is by probabilities of heads fitted on the other patients, alone by the networks' scores, with "
        "nothing fitted to them. The step was chosen by the slices' log loss; whether it serves patients is another question.",
    ]


def repeated(made: dict[str, dict[str, Any]]) -> list[str]:
    """In words, what the same command gave at another time."""
    lines = []
    for name, shown in made.items():
        if not (path := REPEATS / f"{name}.json").is_file():
            continue
        both = (shown, read_json(path))
        figures = ["log loss {:.3f} and {:.3f}".format(*(run["log_loss"]["value"] for run in both))]
        for level in TARGETS:
            areas = (run[level]["roc_auc"]["value"] for run in both)
            figures.append("{} ROC AUC {:.3f} and {:.3f}".format(level, *areas))
        lines.append(f"- `{name}`: {', '.join(figures)}")
    if not lines:
        return []
    return [
        "",
        "These commands were given twice, on two runs of the pretraining; first the run in the tables. On a headline seed that "
        "is the later run, on the tuning seed the one that was compared with the step before it. Another processor or number of "
        "threads rounds otherwise: so much a figure can change by itself.",
        "",
        *lines,
    ]


def in_series(step: str, headline: dict[str, dict[str, Any]]) -> list[str]:
    """In words, what judging slices with their neighbours changed at each level, mean over the split seeds that ran both ways."""
    alone = str(STEPS[step].against)
    seeds = [seed for seed in HEADLINE_SEEDS if {f"{step}-{seed}", f"{alone}-{seed}"} <= headline.keys()]
    if not seeds:
        return []
    changes = []
    for level in TARGETS:
        by = [_auc(headline, f"{step}-{seed}", level) - _auc(headline, f"{alone}-{seed}", level) for seed in seeds]
        mean = round(float(np.mean(by)), 3) + 0.0  # not -0.0
        changes.append(f"{level} ROC AUC by {mean:+.3f} ({min(by):+.3f} to {max(by):+.3f})")
    return [f"- `{step}` instead of `{alone}`, {count(len(seeds), 'seed')}: {', '.join(changes)}"]


def sequence_features(found: dict[str, Any]) -> list[str]:
    """The section on heads that see more of the neighbourhood than logits."""
    lines = [
        "## Features in place of logits for the sequence head",
        "",
        "The head that ships sees the logits of a slice's neighbourhood. Heads that see, beside them, principal components of",
        "the pooled features of the slice and of its neighbourhood (standardised within each fold, whose network has features",
        f"of its own), fitted and judged in the same way, on the run `{found['run']}` (`{found['command']}`):",
        "",
        "| head | log loss | difference to `logits` |",
        "|---|---|---|",
    ]
    for name, figure in found["log_loss"].items():
        difference = found["difference_to_logits"].get(name)
        lines.append(f"| {name} | {figure_text(figure)} | {_signed(difference) if difference else '–'} |")
    best = min(found["difference_to_logits"].values(), key=lambda difference: float(difference["value"]))
    what = "None is better: the logits stay." if best["value"] >= 0 else "The best of them is better than the logits alone."
    return [*lines, "", what]


def _auc(runs_made: dict[str, dict[str, Any]], name: str, level: str) -> float:
    return float(runs_made[name][level]["roc_auc"]["value"])


def _aucs(run: dict[str, Any]) -> list[str]:
    return [figure_text(run[level]["roc_auc"]) for level in ("slice", "patient")]


def _signed(figure: dict[str, Any]) -> str:
    low, high = figure["ci95"]
    return f"{figure['value']:+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    run_stage(main)
