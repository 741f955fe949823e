"""docs/results/safety.md and the README's table of it, from the two committed metrics/safety.json."""

from typing import Any

from strokect.reporting import figure_text

RUNS = {"phantom": "synthetic phantom (`make repro`)", "ct_ich": "CT-ICH (`profile=ct_ich_best`, `model=lite0_phantom`)"}
WANTED_REJECTED, WANTED_FALSE = (
    0.95,
    0.03,
)  # of every kind at least; of the slices at most, and of positives no more than of others
COMMAND = """\
make import SOURCE=outliers FROM=/path/to/pictures      # one folder per kind; only if you have some
# the weights first: conf/model/lite0_phantom.yaml
dvc exp run -S profile=ct_ich_best -S model=lite0_phantom -S safety.outliers=outliers"""
SHOWN_COVERAGES = ("1", "0.95", "0.9", "0.8", "0.7", "0.5")


def rejects_table(runs: dict[str, dict[str, Any]]) -> str:
    """Share rejected of each kind of picture, a column per run, and the false rejects below."""
    names = list(dict.fromkeys(name for run in runs.values() for name in run["outliers"]))
    lines = ["| rejected | " + " | ".join(RUNS[name] for name in runs) + " |", "|---" * (len(runs) + 1) + "|"]
    for name in names:
        cells = []
        for run in runs.values():
            entry = run["outliers"].get(name)
            cells.append(f"{figure_text(entry['rejected'])} of {entry['n']}" if entry else "–")
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    for group in runs["phantom"]["false_rejects"]:
        cells = [f"{figure_text(run['false_rejects'][group])} of {run['false_rejects'][group]['n']}" for run in runs.values()]
        lines.append(f"| **slices, wrongly: {group}** | {' | '.join(cells)} |")
    return "\n".join(lines)


def safety_page(runs: dict[str, dict[str, Any]], headlines: dict[str, str]) -> str:
    """The whole page; `headlines` says how good the model of each run is."""
    lines = [
        "# What the safety layer refuses",
        "",
        "Filled by `make readme` from `docs/phantom/safety.json` and `docs/results/ct-ich/safety.json`, which are the",
        "`metrics/safety.json` of two runs. 95 % intervals: exact for shares of pictures, patient-clustered for slices.",
        "",
        rejects_table(runs),
        "",
        "```bash",
        COMMAND,
        "```",
        "",
    ]
    for name, run in runs.items():
        lines += [f"## {RUNS[name]}", "", f"Target: {run['target']}. {headlines[name]}", ""]
        lines += [*_layers(run), "", targets(run), "", *_uncertainty(run), ""]
        if game := run.get("activation_map"):
            lines += [
                "Pointing game out-of-fold: the maximum of the class activation map lies in the lesion on "
                f"{figure_text(game['hit'])} of {game['n']} slices with a lesion; a point drawn evenly over the head would on "
                f"{game['chance']:.3f}. The map has {' × '.join(map(str, game['map_size']))} places; where it does no better "
                "than chance it must not be read as one.",
                "",
            ]
    notes = dict.fromkeys(note for run in runs.values() for note in run["notes"])  # the same, if the runs are of the same code
    lines += ["## How to read this", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def targets(run: dict[str, Any]) -> str:
    """What was asked for beside what was measured, by value and by interval."""
    kinds, wrongly = run["outliers"], run["false_rejects"]
    below = [name for name, entry in kinds.items() if entry["rejected"]["value"] < WANTED_REJECTED]
    reaching = [name for name, entry in kinds.items() if entry["rejected"]["ci95"][0] < WANTED_REJECTED and name not in below]
    whole, positives, others = (wrongly[group] for group in ("all", "stroke", "normal"))
    met = whole["value"] <= WANTED_FALSE and positives["value"] <= others["value"]
    return (
        f"Asked for: {WANTED_REJECTED:.0%} of every kind rejected; missed for {_named(below)}; met, with an interval "
        f"that reaches below, for {_named(reaching)}. At most {WANTED_FALSE:.0%} of the slices wrongly rejected and positives "
        f"not more often than others: {'met' if met else 'missed'} by value; {figure_text(whole)} of all, the limits having "
        "been set for "
        f"{run['max_false_reject']:.0%}."
    )


def _named(kinds: list[str]) -> str:
    return ", ".join(kind.replace("_", " ") for kind in kinds) or "none"


def _layers(run: dict[str, Any]) -> list[str]:
    gate = run["policy"]["feature_gate"]
    lines = [
        f"Feature gate: `{gate['score']}`, chosen on proxy outliers. By layer:",
        "",
        "| kind | n | pixel checks | feature gate | AUROC of the gate | FPR at 95 % TPR | reasons |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in run["outliers"].items():
        alone = entry["feature_gate"]
        reasons = ", ".join(f"{code} {count}" for code, count in list(entry["by_reason"].items())[:4])
        cells = [figure_text(entry["rejected_by_pixel_checks"])]
        cells += [figure_text(alone[figure]) for figure in ("rejected", "auroc", "fpr_at_95_tpr")]
        lines.append(f"| {name} | {entry['n']} | {' | '.join(cells)} | {reasons} |")
    kinds = run["feature_gate_choice"]
    scores = sorted(next(iter(kinds.values())))
    lines += ["", "AUROC on the proxy outliers that the score was chosen on:", ""]
    lines += ["| proxy | " + " | ".join(scores) + " |", "|---" * (len(scores) + 1) + "|"]
    lines += [f"| {kind} | " + " | ".join(f"{row[score]:.3f}" for score in scores) + " |" for kind, row in kinds.items()]
    series, share = run["false_rejects_of_series"], run["policy"]["series"]["reject_above_share"]
    lines += [
        "",
        f"A series is rejected as a whole when more than {share:.0%} of its slices are: {figure_text(series)} of the "
        f"{series['n']} development patients, under limits fitted without them.",
    ]
    return lines


def _uncertainty(run: dict[str, Any]) -> list[str]:
    comparison, refer, policy = run["uncertainty"], run["policy"]["refer"], run["policy_out_of_fold"]
    coverages = [c for c in next(iter(comparison["measures"].values()))["error_rate_at_coverage"] if c in SHOWN_COVERAGES]
    lines = [
        f"Which uncertainty finds the {comparison['n_errors']} wrong decisions among {comparison['n']} slices (out-of-fold); "
        f"`{refer['measure']}` above {refer['above']:.4g} refers:",
        "",
        f"| measure | AUROC of error detection | AURC (perfect {comparison['perfect_aurc']:.3f}) | "
        + " | ".join(f"errors at {float(c):.0%}" for c in coverages)
        + " |",
        "|---" * (3 + len(coverages)) + "|",
    ]
    for name, entry in comparison["measures"].items():
        rates = " | ".join(f"{entry['error_rate_at_coverage'][c]:.3f}" for c in coverages)
        lines.append(f"| {name} | {figure_text(entry['error_detection_auroc'])} | {entry['aurc']:.3f} | {rates} |")
    lines += ["", "The whole policy, out-of-fold, with refer and reject counted in three ways:", ""]
    lines += ["| counted | sensitivity | specificity | coverage |", "|---|---|---|---|"]
    words = {"as_errors": "as errors", "to_a_human": "as sent to a human", "answered_only": "left out"}
    for way, word in words.items():
        figures = policy[way]
        coverage = figure_text(figures["coverage"]) if "coverage" in figures else "all"
        lines.append(f"| {word} | {figure_text(figures['sensitivity'])} | {figure_text(figures['specificity'])} | {coverage} |")
    return lines
