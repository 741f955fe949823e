"""docs/results/audit.md: what was planted and what the audit caught, what it says of untouched sets, and the shuffle control."""

from collections import Counter
from typing import Any

from scipy.stats import beta

INTRO = """# Does the audit find what is wrong?

Written by `python -m benchmarks.planted_leaks --render` from `metrics/bench/planted_leaks.json`
({runs}), `metrics/bench/shuffle_control.json` and `metrics/bench/audit.json`; what each kind of leak is, in
`benchmarks/plants.py`. Phantom slices are drawn anew for every seed; real ones are the 2,468 usable slices of CT-ICH. A leak
is caught if the check that is meant for it lists the planted file. Brackets: 95 % interval (Clopper–Pearson); planted files
are taken as independent. "grey contour": on slices with a head of at least 60 % soft tissue, where lesions are outlined;
"anywhere": at the skull base and in the face, too, where lines are told from thin bone less well. "white contour in a small
picture": pure white on a slice of 128, 256 or 384 px with a head of at least 60 % soft tissue.

The limits of the search for altered copies and of drawn lines were set on the same real slices and on phantom cohorts of the same
seeds, with other random draws of the changes: read the recall as one of known kinds of change, not of any change, and the
silence on untouched sets as that of sets which were looked at.

Not planted, and known to be seen badly: light grey lines in JPEG pictures of less than 500 px, most of which are missed; and
mirrored or turned copies filed under the same patient, where only the hash looks (no leak: they stay on one side of a split).
In a window narrower than 40/120 a clean slice can be taken for one that was drawn on: the limits are of the brain window. And
what is thin, sharp and bright in the head counts as drawn, too, a drain or an electrode for one: look at what is listed.
"""
KIND_NAMES = {"phantom": "phantom", "real": "CT-ICH"}
TARGET = 0.95  # of every kind


def render(result: dict[str, Any], shuffle: dict[str, Any] | None, speed: dict[str, Any] | None) -> str:
    """The page, from the JSON files; the latter two may not be there yet."""
    sets = result["sets"]
    names = [name for name in KIND_NAMES if name in sets]
    runs = "; ".join(f"{KIND_NAMES[name]}: {_run(sets[name]['run'])}" for name in names)
    lines = [INTRO.format(runs=runs), "## Planted leaks", ""]
    lines += ["| planted | " + " | ".join(f"{KIND_NAMES[name]}: caught of planted" for name in names) + " |"]
    lines += ["|---|" + "---|" * len(names)]
    for kind in sets[names[0]]["kinds"]:
        lines.append(f"| {kind} | " + " | ".join(_recall(sets[name]["kinds"][kind]) for name in names) + " |")
    missed = [
        f"{kind} on {KIND_NAMES[name]}"
        for name in names
        for kind, counts in sets[name]["kinds"].items()
        if counts["caught"] < TARGET * counts["planted"]
    ]
    lines += ["", f"Asked for: {TARGET} of every kind planted in each set. Missed by value: {', '.join(missed) or 'none'}.", ""]
    lines += ["## Untouched sets", ""]
    lines += ["| set | check | severity | runs in which it found something | files, at most |", "|---|---|---|---|---|"]
    for name in names:
        lines += _untouched(KIND_NAMES[name], sets[name]["untouched"])
    lines += ["", "What a check means: `strokect/audit.py`, and the modules it names.", ""]
    if speed is not None:
        lines += ["## The search for near-duplicates at size", "", _speed(speed), ""]
    if shuffle is not None:
        runs = "; ".join(f"{name}: {_run(run)}" for name, run in shuffle["runs"].items())
        lines += ["## Shuffle control", "", f"{runs}.", "", "| set | group_by | seeds | flagged |", "|---|---|---|---|"]
        lines += [f"| {row['set']} | {row['group_by']} | {row['seeds']} | {row['flagged']} |" for row in shuffle["rows"]]
        lines.append("")
    return "\n".join(lines)


def _run(run: dict[str, Any]) -> str:
    return f"`{run['command']}` on {run['machine']['date']}, commit {run['commit'][:7]}{run['commit'][40:]}"


def _recall(counts: dict[str, int]) -> str:
    caught, planted = counts["caught"], counts["planted"]
    low = float(beta.ppf(0.025, caught, planted - caught + 1)) if caught else 0.0
    high = float(beta.ppf(0.975, caught + 1, planted - caught)) if caught < planted else 1.0
    return f"{caught} of {planted}: {caught / planted:.3f} [{low:.3f}, {high:.3f}]"


def _untouched(name: str, runs: list[dict[str, list[Any]]]) -> list[str]:
    times = Counter(check for run in runs for check in run)
    severity = {check: run[check][0] for run in runs for check in run}
    files = {check: max(run[check][1] for run in runs if check in run) for check in times}
    order = sorted(times, key=lambda check: (("error", "warning", "info").index(severity[check]), check))
    if not order:
        return [f"| {name} | none | | 0 of {len(runs)} | |"]
    return [f"| {name} | `{c}` | {severity[c]} | {times[c]} of {len(runs)} | {files[c]:,} |" for c in order]


def _speed(speed: dict[str, Any]) -> str:
    at, read = speed["machine"], speed["facts"]
    minutes = read["ms_per_file"] * speed["slices"] / 60000
    return (
        f"{_run(speed)}: {speed['slices']:,} made-up slices at {speed['image_size']} px, a memory-mapped array of "
        f"{speed['array_mb'] / 1000:.2f} GB, took {speed['seconds'] / 60:.1f} min on {at['cores']} cores ({at['cpu']}; load "
        f"before {at['load_before']}: others may have had part of them), with a peak of {speed['peak_mb'] / 1000:.2f} GB, "
        f"mapped pages included. {speed['planted_found']} of {speed['planted']} altered copies were in one group with their "
        f"original, and {speed['other_ties']:,} further ties were made: `prepare` does so without patient ids, and there a "
        "close hash is enough.\n\nBeside this search the audit reads each file for what it says apart from the slice "
        f"(drawings, frames, letters, whether it is a head CT): {read['ms_per_file']:.1f} ms for a grey PNG of "
        f"{read['file_px']}² pixels on these cores, {minutes:.0f} min for {speed['slices']:,}."
    )
