"""Whether the shuffle control tells leaking splits from honest ones, over split seeds: metrics/bench/shuffle_control.json.

`python -m benchmarks.shuffle_control [data/raw/kaggle_ct_ich]`: the committed phantom, and CT-ICH where its folder is given;
without it the rows of CT-ICH of an earlier run stay. Writes counts only. Beside the 20 seeds of each kind of split stands a
longer run on honest splits, for the rate of false alarms.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from scipy.stats import binomtest

from benchmarks.machine import commit, facts, spread
from stages.prepare import prepare
from strokect.duplicates import linked_rows
from strokect.files import read_json, write_json
from strokect.manifest import Prepared, load_prepared
from strokect.params import SplitParams, load_params
from strokect.shuffle_control import MAX_P, Control, shuffle_control
from strokect.splits import make_split

RESULT = Path("metrics/bench/shuffle_control.json")
SEEDS = 20
HONEST_SEEDS = 300  # further ones, on the phantom
FOLDS = (0, 1, 2, 3, 4)
TEST_FRACTION = {"phantom": 0.2, "kaggle_ct_ich": 0.0}  # as their profiles have it


def cohort(source: str, root: Path, scratch: Path) -> tuple[Prepared, Any]:
    """The prepared cohort and its near-duplicate pairs."""
    params = load_params().data
    phantom = dataclasses.replace(params.phantom, patients=60, slices=10, seed=0)
    prepare(dataclasses.replace(params, source=source, labels="slice", image_size=96, phantom=phantom), root, scratch / source)
    prepared = load_prepared(scratch / source)
    return prepared, linked_rows(prepared.images[:, 0], prepared.patients)


def measure(prepared: Prepared, linked: Any, source: str, group_by: str, seeds: range) -> tuple[list[Control], list[float]]:
    """The control of each split seed, and the seconds it took."""
    controls, seconds = [], []
    for seed in seeds:
        params = SplitParams(group_by, TEST_FRACTION[source], FOLDS, seed)  # type: ignore[arg-type]
        split = make_split(prepared.manifest, linked, params)
        start = time.perf_counter()
        controls.append(shuffle_control(prepared.images, prepared.manifest, split, seed))
        seconds.append(time.perf_counter() - start)
    return controls, seconds


def earlier(measured: set[str], path: Path = RESULT) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of sets that were not measured now and how they were made, as an earlier run left them."""
    if not path.is_file():
        return [], {}
    kept = read_json(path)
    rows = [row for row in kept["rows"] if row["set"] not in measured]
    return rows, {row["set"]: kept["runs"][row["set"]] for row in rows}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ct_ich", nargs="?", type=Path, help="folder of the Kaggle set, e.g. data/raw/kaggle_ct_ich")
    given = parser.parse_args().ct_ich
    command = f"python -m benchmarks.shuffle_control{' FOLDER' if given else ''}"
    run = {"command": command, "commit": commit(), "machine": facts("cpu", [np, sklearn])}
    roots = {"phantom": Path("data/raw/phantom")} | ({"kaggle_ct_ich": given} if given else {})
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for source, root in roots.items():
            prepared, linked = cohort(source, root, Path(scratch))
            for group_by in ("patient", "none"):
                controls, seconds = measure(prepared, linked, source, group_by, range(SEEDS))
                flagged = sum(not control.passed for control in controls)
                row = {"set": source, "group_by": group_by, "seeds": SEEDS, "flagged": flagged}
                auc = spread([control.auc_mean for control in controls])
                rows.append(row | {"slices": controls[0].slices, "auc_mean": auc, "seconds": spread(seconds, 2)})
                print(rows[-1], flush=True)
            if source == "phantom":
                honest, _ = measure(prepared, linked, source, "patient", range(SEEDS, SEEDS + HONEST_SEEDS))
    alarms = sum(control.permutations > min(c.permutations for c in honest) * 1.5 for control in honest)
    rate = binomtest(alarms, HONEST_SEEDS).proportion_ci(0.95)
    false_alarms = {
        "set": "phantom",
        "group_by": "patient",
        "seeds": HONEST_SEEDS,
        "first_test_below_max_p": alarms,
        "rate_ci95": [round(float(rate.low), 4), round(float(rate.high), 4)],
        "nominal": MAX_P,
        "flagged": sum(not control.passed for control in honest),
        "auc_mean_of_seeds": round(float(np.mean([control.auc_mean for control in honest])), 4),
    }
    print(false_alarms)
    before, runs = earlier(set(roots))
    write_json(RESULT, {"runs": dict.fromkeys(roots, run) | runs, "rows": rows + before, "false_alarms": false_alarms})


if __name__ == "__main__":
    main()
