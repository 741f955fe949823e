"""evaluate: the exported ensemble on the test part when it is open, out-of-fold otherwise; figures, plots, test openings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from strokect.ablation import ablate_ensemble, ablate_out_of_fold
from strokect.abstention import account
from strokect.calibration import Calibrator, sigmoid
from strokect.errors import run_stage
from strokect.files import atomic_folder, read_json, sha256_file, write_json
from strokect.judge import Judge, load_judge
from strokect.manifest import Prepared, load_prepared
from strokect.net_benefit import net_benefit_figures
from strokect.openings import OPENINGS, hash_of_part, opens_test, record_opening
from strokect.operating_point import patient_scores, series_probability, uncalibrated_scores
from strokect.out_of_fold import load_out_of_fold
from strokect.params import EvaluateParams, load_params
from strokect.plots import Scored, draw, plot_tables, risk_coverage_table, training_curves, training_table
from strokect.reporting import Judged, metrics_table, read_audit, report
from strokect.shipping import EXPORTS, shipped_folders
from strokect.slices import Picture
from strokect.sources import raw_pictures
from strokect.splits import SPLIT, read_split, rows_of_test_part
from strokect.subgroups import subgroups
from strokect.tracking import headline, start_tracker

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
    each, logits = (np.empty((len(rows), len(judge.engine.models))) for _ in range(2))
    answers = []
    for i, read in enumerate(tqdm(pictures, desc="evaluate test part", unit="slice", mininterval=1)):
        evidence = judge.examine(read(), hashes[i]).evidence
        each[i], logits[i] = evidence.probabilities, evidence.logits
        answers.append(judge.policy.decide(evidence).decision)
    patients, labels, probability = prepared.patients[rows], prepared.labels[rows], each.mean(axis=1)
    decision = (probability >= judge.policy.threshold).astype(np.int64)
    order = prepared.manifest["slice"].to_numpy(np.int64)[rows]
    in_series = series_probability(point["patient"], probability, logits, patients, order)
    _, scores = patient_scores(in_series, patients, point["patient"]["top_k"])
    raw = sigmoid(logits).mean(axis=1)
    slices = Judged(probability, probability, decision, judge.policy.threshold, raw)
    at = point["patient"]["threshold"]
    whole = Judged(scores, scores, (scores >= at).astype(np.int64), at, uncalibrated_scores(point["patient"], raw, patients))
    described: dict[str, Any] = {"cohort": prepared.cohort, "sidecar": judge.engine.models[0].sidecar, "audit": audit}
    bootstrap = {"resamples": params.resamples, "seed": params.seed}
    described |= {"prevalence": params.prevalence, **bootstrap}
    metrics = report("test", labels, patients, slices, whole, **described)
    metrics["policy"] = account(labels, np.array(answers), patients, **bootstrap)
    judged = prepared.manifest.iloc[rows].assign(ranking=probability, decision=decision)
    metrics["subgroups"] = subgroups(judged, verifiable=prepared.cohort["patient_level_verifiable"], **bootstrap)
    metrics["net_benefit"] = net_benefit_figures(labels, probability, patients, **bootstrap)
    metrics["ablation"] = ablate_ensemble(labels, patients, each, **bootstrap)
    return metrics, Scored("test", labels, probability, probability, decision)


def main() -> None:
    """Write metrics/evaluate.json and reports/plots/."""
    params = load_params()
    prepared = load_prepared()
    split = read_split(SPLIT, prepared.manifest)
    test = rows_of_test_part(split)
    point = read_json(POINT)
    oof = pd.read_csv("models/oof.csv", dtype={"file": str, "patient": str})
    parts = [Scored("oof", *(oof[name].to_numpy() for name in ("label", "probability", "ranking", "decision")))]
    of_folds = read_json("metrics/oof.json")
    metrics = of_folds | {"policy": read_json("metrics/safety.json")["policy_out_of_fold"]}
    if len(test) and opens_test(params.evaluate, prepared.cohort):
        folders = dict(zip(point["exports"], shipped_folders(point), strict=True))
        judge = load_judge(folders, point["views"], Calibrator.from_json(point["calibration"]), SAFETY, POINT)
        pictures = raw_pictures(params.data, list(prepared.manifest["file"].iloc[test]))
        audit = read_audit()
        metrics, scored = evaluate_test(prepared, test, judge, pictures, point, audit, params.evaluate)
        parts.append(scored)
        # The policy holds the hashes of models, gates and operating point: another limit on the same folds is another model.
        model = sha256_file(SAFETY / "policy.json")[:12]
        files = hash_of_part(prepared.cohort["source"], prepared.manifest["sha256"].to_numpy(str)[test])
        if opening := record_opening(OPENINGS, model, files, prepared.cohort, metrics):
            print(opening)
    scored_views = load_out_of_fold(EXPORTS, tuple(point["folds"]), prepared.manifest, split)
    bootstrap = {"resamples": params.evaluate.resamples, "seed": params.evaluate.seed}
    parts_left_out = ablate_out_of_fold(scored_views, point["calibration"]["method"], **bootstrap)
    metrics["ablation"] = parts_left_out + metrics.get("ablation", [])
    metrics["guarantees"] = of_folds["guarantees"]
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
        measures = read_json("metrics/safety.json")["uncertainty"]["measures"]
        risk_coverage_table(measures).to_csv(folder / "risk_coverage.csv", index=False)
        worth = {"oof": of_folds["net_benefit"], metrics["part"]: metrics["net_benefit"]}
        draw(parts, training, measures, worth, folder, f"positive: {metrics['target']}")
    with start_tracker(params, "evaluate", "evaluate", prepared.cohort, sha256_file(SPLIT)) as tracker:
        tracker.summary(headline(metrics))
        tracker.plots(Path("reports/plots"))
    print(f"part: {metrics['part']}\n{metrics_table(metrics)}")
    for note in metrics["notes"]:
        print(f"note: {note}")


if __name__ == "__main__":
    run_stage(main)
