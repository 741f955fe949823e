"""What other split seeds gave, on which nothing was chosen, where the repository has it for the very cohort of a run."""

import re
from pathlib import Path
from typing import Any

from strokect.files import read_json
from strokect.reporting import figure_text

RESULTS = Path("docs/results/training")  # written by benchmarks.accuracy, a file for each run: NAME.json and NAME-SEED.json
NAME = re.compile(r"(?P<params>.+)-(?P<seed>\d+)")
LEAST = 3  # seeds of the same params, as the protocol asks


def seeds_section(cohort: dict[str, Any], folder: Path = RESULTS) -> dict[str, Any] | None:
    """The report's section of them; None unless LEAST seeds of the same params are known for these pictures and labels.

    `cohort` is data/prepared/cohort.json: its hash is that of the pictures as they were packed, and of the labels.
    """
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.json")):
        name, run = NAME.fullmatch(path.stem), read_json(path)
        if name and all(run[key] == cohort[key] for key in ("data_sha256", "target")):
            found.setdefault(name["params"], []).append((int(name["seed"]), run))
    known = [(params, *run) for params, runs in found.items() if len(runs) >= LEAST for run in sorted(runs, key=lambda r: r[0])]
    if not known:
        return None
    rows = [
        [params, str(seed), *(figure_text(run[level]["roc_auc"]) for level in ("slice", "patient")), figure_text(run["log_loss"])]
        for params, seed, run in known
    ]
    devices = ", ".join(sorted({run["device"] for *_, run in known}))
    text = (
        "The figures above are of one split seed. These are of networks trained on the same slices with other seeds, on which "
        f"nothing was chosen; out-of-fold, trained on {devices}. The runs are as old as the last python -m benchmarks.accuracy, "
        "and need not have the params of this one: what a name stands for, the kind of its intervals (of older runs percentiles, "
        "which are narrower), and the command of each, is in docs/results/training.md of the repository."
    )
    head = ["params of", "split seed", "ROC AUC, slices", "ROC AUC, patients", "log loss, slices"]
    table = {"caption": "", "head": head, "rows": rows}
    return {"id": "seeds", "title": "Other split seeds", "paragraphs": [text], "tables": [table]}
