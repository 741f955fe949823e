"""Does the sequence head gain by the slices' features? `python -m benchmarks.sequence_features`, beside the data.

The head that ships sees the logits of a slice's neighbourhood. Pooled features say more than a logit, but each fold's network has
features of its own, so here they are standardised within each fold before principal components are taken. Heads are fitted and
judged as `tune_threshold` does: cross-fitted by patient, out-of-fold. Writes docs/results/training/sequence_features.json.
"""

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.accuracy import FEATURES, RESULTS, log_losses, make, mean_with_interval, read_results, render
from strokect.calibration_fit import CROSS_FIT_GROUPS, fit_sequence_head, patient_groups
from strokect.errors import run_stage
from strokect.files import read_json, write_json, write_text
from strokect.manifest import load_prepared
from strokect.out_of_fold import OutOfFold, load_out_of_fold
from strokect.params import load_params
from strokect.sequence import REACH, context
from strokect.shipping import EXPORTS
from strokect.splits import SPLIT, read_split

RUN = "head-crop"  # of benchmarks.accuracy
COMPONENTS, STRENGTHS = (4, 16, 64), (0.001, 0.01, 0.1)  # principal components; C of the L2 penalty
Floats = NDArray[np.float64]


def features_of(folds: tuple[int, ...], rows: NDArray[np.int64]) -> Floats:
    """(n, F) pooled features of `rows`, the mean over the views, standardised within each fold's network."""
    parts = [dict(np.load(EXPORTS / str(fold) / "oof.npz")) for fold in folds]
    found = np.concatenate([StandardScaler().fit_transform(part["features"].astype(np.float64).mean(axis=1)) for part in parts])
    order = np.argsort(np.concatenate([part["rows"] for part in parts]))
    assert np.array_equal(np.concatenate([part["rows"] for part in parts])[order], rows)
    return np.asarray(found[order])


def around(columns: Floats, oof: OutOfFold) -> Floats:
    """(n, 2 F): a slice's own columns (n, F), and their mean over its neighbourhood."""
    mean = np.empty_like(columns)
    for patient in np.unique(oof.patients):
        rows = np.flatnonzero(oof.patients == patient)
        rows = rows[np.argsort(oof.order[rows], kind="stable")]
        padded = np.pad(columns[rows], ((REACH, REACH), (0, 0)), mode="edge")
        mean[rows] = np.lib.stride_tricks.sliding_window_view(padded, 2 * REACH + 1, axis=0).mean(axis=-1)
    return np.hstack([columns, mean])


def judge(oof: OutOfFold, features: Floats, seed: int) -> dict[str, Floats]:
    """{head: (n,) probability of each slice by the head fitted on the other groups' patients}."""
    groups = patient_groups(oof.patients, oof.labels, CROSS_FIT_GROUPS, seed)
    logits = context(oof.logits, oof.patients, oof.order)
    named = {f"{k} components, C {c:g}": (k, c) for k in COMPONENTS for c in STRENGTHS}
    found = {name: np.empty(len(oof.labels)) for name in ("logits", *named)}
    for group in np.unique(groups):
        own, rest = groups == group, groups != group
        found["logits"][own] = fit_sequence_head(logits[rest], oof.labels[rest])(logits[own])
        for name, (components, strength) in named.items():
            reduced = make_pipeline(StandardScaler(), PCA(components, random_state=0)).fit(features[rest])
            seen = np.hstack([logits, around(reduced.transform(features), oof)])
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(
                seen[rest], oof.labels[rest]
            )
            found[name][own] = model.predict_proba(seen[own])[:, 1]
    return found


def main() -> None:
    """Make the run, or restore it, and judge the heads on it."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    make(RUN)
    params, prepared = load_params(), load_prepared()
    split = read_split(SPLIT, prepared.manifest)
    oof = load_out_of_fold(EXPORTS, params.split.folds, prepared.manifest, split)
    judged = judge(oof, features_of(params.split.folds, oof.rows), params.tune_threshold.seed)
    scores = prepared.manifest.iloc[oof.rows].reset_index(drop=True)
    losses = {name: log_losses(scores.assign(probability=probability)) for name, probability in judged.items()}
    result: dict[str, Any] = {
        "command": "python -m benchmarks.sequence_features",
        "run": RUN,
        "split_seed": params.split.seed,
        "data_sha256": read_json("metrics/oof.json")["data_sha256"],
        "log_loss": {name: mean_with_interval(values, scores, "positive") for name, values in losses.items()},
        "difference_to_logits": {
            name: mean_with_interval(values - losses["logits"], scores, "linear")
            for name, values in losses.items()
            if name != "logits"
        },
    }
    write_json(FEATURES, result)
    write_text(RESULTS.with_suffix(".md"), render(read_results()))
    for name, figure in result["log_loss"].items():
        print(f"{name}: {figure['value']:.4f}")


if __name__ == "__main__":
    run_stage(main)
