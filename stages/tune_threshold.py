"""tune_threshold: calibration, slice and patient threshold from out-of-fold predictions only."""

from typing import Any

import numpy as np
import pandas as pd

from strokect.acceptance import accept
from strokect.errors import NotEstimableError, run_stage
from strokect.files import atomic_path, sha256_file, write_json
from strokect.guarantee import guarantees, no_promise
from strokect.manifest import load_prepared
from strokect.net_benefit import net_benefit_figures
from strokect.operating_point import patient_labels
from strokect.out_of_fold import load_out_of_fold, operating_point_json, tune
from strokect.params import load_params
from strokect.reporting import metrics_table, read_audit, report
from strokect.shipping import EXPORTS, shipped_folder, shipped_names
from strokect.sidecar import read_sidecar
from strokect.splits import SPLIT, read_split
from strokect.subgroups import subgroups
from strokect.thresholds import parse_goal


def main() -> None:
    """Write models/operating_point.json, models/oof.csv, models/oof_patients.csv and metrics/oof.json."""
    params = load_params()
    prepared = load_prepared()
    folds = params.split.folds
    oof = load_out_of_fold(EXPORTS, folds, prepared.manifest, read_split(SPLIT, prepared.manifest))
    sidecar = read_sidecar(EXPORTS / "0")
    impossible = no_promise(prepared.cohort, sidecar["group_by"])
    if impossible and parse_goal(params.tune_threshold.goal).kind == "guaranteed":
        raise NotEstimableError(f"params.yaml: tune_threshold.goal asks for a guarantee, which is not available: {impossible}")
    tuned = tune(oof, params.tune_threshold)
    variant = accept(oof, tuned, sidecar, params.tune_threshold, params.export.tolerance)

    names = shipped_names(folds, student="taught_by" in sidecar)
    hashes = {name: sha256_file(shipped_folder(name) / "model.onnx") for name in names}
    views = np.load(EXPORTS / "0" / "oof.npz")["views"].tolist()
    described_by = {"folds": folds, "views": views, "exports": hashes, "group_by": sidecar["group_by"]}
    write_json("models/operating_point.json", operating_point_json(tuned, params.tune_threshold, **described_by))
    table = pd.DataFrame(
        {
            "file": prepared.manifest["file"].iloc[oof.rows],
            "patient": oof.patients,
            "label": oof.labels,
            "fold": oof.fold,
            "logit": oof.logits,
            "ranking": tuned.slices.ranking,
            "probability": tuned.slices.probability,
            "decision": tuned.slices.decision,
            "in_series": tuned.in_series,
        }
    )
    with atomic_path("models/oof.csv") as path:
        table.to_csv(path, index=False)
    whole = pd.DataFrame(
        {
            "patient": np.unique(oof.patients),
            "label": patient_labels(oof.labels, oof.patients),
            "probability": tuned.whole.probability,
            "ranking": tuned.whole.ranking,
            "decision": tuned.whole.decision,
        }
    )
    with atomic_path("models/oof_patients.csv") as path:
        whole.to_csv(path, index=False)
    described: dict[str, Any] = {"cohort": prepared.cohort, "sidecar": sidecar, "audit": read_audit()}
    bootstrap = {"resamples": params.tune_threshold.resamples, "seed": params.tune_threshold.seed}
    described |= {"prevalence": params.evaluate.prevalence, **bootstrap}
    metrics = report("oof", oof.labels, oof.patients, tuned.slices, tuned.whole, **described) | variant
    judged = prepared.manifest.iloc[oof.rows].assign(ranking=tuned.slices.ranking, decision=tuned.slices.decision)
    metrics["subgroups"] = subgroups(judged, verifiable=prepared.cohort["patient_level_verifiable"], **bootstrap)
    metrics["net_benefit"] = net_benefit_figures(oof.labels, tuned.slices.probability, oof.patients, **bootstrap)
    metrics["guarantees"] = guarantees(tuned.patient_scores, patient_labels(oof.labels, oof.patients), impossible)
    write_json("metrics/oof.json", metrics)
    print(
        f"calibration: {tuned.calibrator.method}; cross-fitted log loss {tuned.log_loss_before:.4f} → "
        f"{tuned.log_loss_after:.4f}; goal {params.tune_threshold.goal}\n{metrics_table(metrics)}"
    )


if __name__ == "__main__":
    run_stage(main)
