"""evaluate: the exported ensemble on the test part when it is open, out-of-fold otherwise; figures, plots, test openings."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from strokect.abstention import account
from strokect.calibration import Calibrator
from strokect.errors import run_stage
from strokect.files import atomic_folder, atomic_path, read_json, sha256_file, write_json
from strokect.judge import Judge, load_judge
from strokect.manifest import Prepared, load_prepared
from strokect.operating_point import patient_scores, series_probability
from strokect.params import EvaluateParams, load_params
from strokect.plots import Scored, draw, plot_tables, training_curves, training_table
from strokect.reporting import Judged, metrics_table, read_audit, report
from strokect.shipping import shipped_folders
from strokect.slices import Picture
from strokect.sources import raw_pictures
from strokect.splits import SPLIT, read_split, rows_of_test_part
from strokect.tracking import headline, start_tracker

OPENINGS = Path("metrics/test_openings.csv")
POINT = Path("models/operating_point.json")
SAFETY = Path("models/safety")


def evaluate_test(
    prepared: Prepared,
    rows: NDArray[np.int64],
    judge: Judge,
    pictures: list[Callable[[], Picture]],
    point: dict[str, Any],
    audit: dict[str, Any],
    params: EvaluateParams,
) -> tuple[dict[str, Any], Scored]:
    """Judge the test part exactly as the service does; `pictures` are those of `rows`, as their files have them."""
    hashes = prepared.manifest["sha256"].to_numpy(str)[rows]
    probability, logits, answers = np.empty(len(rows)), np.empty((len(rows), len(judge.engine.models))), []
    for i, read in enumerate(tqdm(pictures, desc="evaluate test part", unit="slice", mininterval=1)):
        evidence = judge.examine(read(), hashes[i]).evidence
        probability[i], logits[i] = evidence.probabilities.mean(), evidence.logits
        answers.append(judge.policy.decide(evidence).decision)
    patients, labels = prepared.patients[rows], prepared.labels[rows]
    decision = (probability >= judge.policy.threshold).astype(np.int64)
    order = prepared.manifest["slice"].to_numpy(np.int64)[rows]
    in_series = series_probability(point["patient"], probability, logits, patients, order)
    _, scores = patient_scores(in_series, patients, point["patient"]["top_k"])
    slices = Judged(probability, probability, decision, judge.policy.threshold)
    at = point["patient"]["threshold"]
    whole = Judged(scores, scores, (scores >= at).astype(np.int64), at)
    described = {"cohort": prepared.cohort, "sidecar": judge.engine.models[0].sidecar, "audit": audit}
    metrics = report("test", labels, patients, slices, whole, resamples=params.resamples, seed=params.seed, **described)
    metrics["policy"] = account(labels, np.array(answers), patients, resamples=params.resamples, seed=params.seed)
    return metrics, Scored("test", labels, probability, probability, decision)


def opens_test(params: EvaluateParams, cohort: dict[str, Any]) -> bool:
    """Whether this run may look at the test part, if there is one."""
    return params.open_test is True or (params.open_test == "synthetic" and cohort["synthetic"])


def record_opening(path: Path, model: str, cohort: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Add one line for each new model that the test part of real data was opened with. Never removes a line."""
    if cohort["synthetic"]:
        return
    known = pd.read_csv(path, dtype=str) if path.is_file() else pd.DataFrame()
    if len(known) and ((known["model"] == model) & (known["data_sha256"] == cohort["data_sha256"])).any():
        return
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
    print(f"the test part was opened with a new model: opening {len(known) + 1}, recorded in {path}; commit it")


def main() -> None:
    """Write metrics/evaluate.json and reports/plots/."""
    params = load_params()
    prepared = load_prepared()
    test = rows_of_test_part(read_split(SPLIT, prepared.manifest))
    point = read_json(POINT)
    oof = pd.read_csv("models/oof.csv", dtype={"file": str, "patient": str})
    parts = [Scored("oof", *(oof[name].to_numpy() for name in ("label", "probability", "ranking", "decision")))]
    metrics = read_json("metrics/oof.json") | {"policy": read_json("metrics/safety.json")["policy_out_of_fold"]}
    if len(test) and opens_test(params.evaluate, prepared.cohort):
        folders = dict(zip(point["exports"], shipped_folders(point), strict=True))
        judge = load_judge(folders, point["views"], Calibrator.from_json(point["calibration"]), SAFETY, POINT)
        pictures = raw_pictures(params.data, list(prepared.manifest["file"].iloc[test]))
        audit = read_audit()
        metrics, scored = evaluate_test(prepared, test, judge, pictures, point, audit, params.evaluate)
        parts.append(scored)
        # The policy holds the hashes of models, gates and operating point: another limit on the same folds is another model.
        model = sha256_file(SAFETY / "policy.json")[:12]
        record_opening(OPENINGS, model, prepared.cohort, metrics)
    write_json("metrics/evaluate.json", metrics)

    training = training_table([Path("models") / kind / str(fold) for kind in ("folds", "hnm") for fold in point["folds"]])
    with atomic_folder("reports/plots") as folder:
        tables = {scored.part: plot_tables(scored) for scored in parts}
        for name, table in tables["oof"].items():
            table.to_csv(folder / f"{name}_oof.csv", index=False)
            # dvc.yaml names both parts: without a test part its file has a header and no rows.
            tables.get("test", {}).get(name, table.head(0)).to_csv(folder / f"{name}_test.csv", index=False)
        for column in ("loss", "held_out_log_loss"):
            training_curves(training, column).to_csv(folder / f"training_{column}.csv")
        draw(parts, training, folder, f"target: {metrics['target']}")
    with start_tracker(params, "evaluate", "evaluate", prepared.cohort, sha256_file(SPLIT)) as tracker:
        tracker.summary(headline(metrics))
        tracker.plots(Path("reports/plots"))
    print(f"part: {metrics['part']}\n{metrics_table(metrics)}")
    for note in metrics["notes"]:
        print(f"note: {note}")


if __name__ == "__main__":
    run_stage(main)
