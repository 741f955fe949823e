"""What ships instead of the fp32 fold models: accepted when as good, refused by name when worse."""

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_FOLDS, run, tiny_params, workspace
from sklearn.metrics import recall_score, roc_auc_score

from strokect.acceptance import accept, refusals, variant_figures
from strokect.errors import DataError, TrainingError
from strokect.files import read_json
from strokect.manifest import load_prepared
from strokect.out_of_fold import OutOfFold, load_out_of_fold, tune
from strokect.params import ToleranceParams, TuneThresholdParams
from strokect.splits import read_split

PARAMS = TuneThresholdParams(goal="f2", patient_rule="mean_top_k", patient_top_k=3, calibration="affine", resamples=100, seed=0)
TOLERANCE = ToleranceParams(roc_auc=0.01, ece=0.02, sensitivity=0.02)
INT8 = {"precision": "int8", "backbone": "tf_efficientnet_lite0"}
GOOD = {"roc_auc": 0.9, "ece": 0.05, "sensitivity": 0.8}


def out_of_fold(noise: float) -> OutOfFold:
    """40 patients × 6 slices; what ships has `noise` on top of the reference's logits."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i:02d}" for i in range(40)], 6)
    labels = (np.repeat(np.arange(40) % 2 == 0, 6) & (rng.uniform(size=240) < 0.5)).astype(np.int64)
    reference = 2.0 * labels + rng.normal(-1, 1, 240)
    shipped = reference + noise * rng.normal(size=240)
    return OutOfFold(np.arange(240), np.arange(240) % 5, shipped, labels, patients, np.arange(240), shipped[:, None], reference)


def judged(oof: OutOfFold, **changes: Any) -> dict[str, Any]:
    return accept(oof, tune(oof, PARAMS), INT8 | changes, PARAMS, TOLERANCE)


def test_an_equal_variant_is_accepted_with_both_figures() -> None:
    oof = out_of_fold(noise=0.0)
    variant = judged(oof)["variant"]
    assert variant["reference"] == variant["shipped"]
    assert (variant["precision"], variant["student"]) == ("int8", None)
    assert variant["tolerance"] == {"roc_auc": 0.01, "ece": 0.02, "sensitivity": 0.02}
    tuned = tune(oof, PARAMS)
    assert variant["shipped"]["roc_auc"] == pytest.approx(roc_auc_score(oof.labels, oof.logits))
    assert variant["shipped"]["sensitivity"] == pytest.approx(recall_score(oof.labels, tuned.slices.decision))
    assert judged(oof, taught_by=[0])["variant"]["student"] == "tf_efficientnet_lite0"


def test_a_degraded_variant_is_refused_by_figure_change_and_advice() -> None:
    with pytest.raises(
        TrainingError, match=r"the int8 export is worse.*roc_auc 0\.\d+ → 0\.\d+ \(-0\.\d+, tolerance 0\.01\)"
    ) as caught:
        judged(out_of_fold(noise=3.0))
    assert "export.precision: fp32" in str(caught.value)
    with pytest.raises(TrainingError, match="the int8 student tf_efficientnet_lite0 is worse"):
        judged(out_of_fold(noise=3.0), taught_by=[0])


def test_the_fold_models_themselves_need_no_acceptance() -> None:
    assert judged(dataclasses.replace(out_of_fold(noise=3.0), reference=None)) == {}


@pytest.mark.parametrize(
    ("figure", "worse", "better"), [("roc_auc", 0.889, 0.95), ("ece", 0.071, 0.01), ("sensitivity", 0.779, 0.9)]
)
def test_each_figure_is_refused_alone_and_only_when_worse(figure: str, worse: float, better: float) -> None:
    (clause,) = refusals(GOOD, GOOD | {figure: worse}, TOLERANCE)
    assert clause.startswith(f"{figure} {GOOD[figure]:.4f} → {worse:.4f}")
    assert refusals(GOOD, GOOD | {figure: better}, TOLERANCE) == []
    assert refusals(GOOD, GOOD | {figure: (GOOD[figure] + worse) / 2}, TOLERANCE) == []  # within tolerance
    assert len(refusals(GOOD, GOOD | {figure: math.nan}, TOLERANCE)) == 1


def test_sensitivity_is_that_of_the_cross_fitted_decisions() -> None:
    tuned = tune(out_of_fold(noise=0.0), PARAMS)
    labels = out_of_fold(noise=0.0).labels
    blind = dataclasses.replace(tuned.slices, decision=np.zeros_like(tuned.slices.decision))
    assert variant_figures(labels, blind)["sensitivity"] == 0.0


def test_the_stage_refuses_before_it_writes(pipeline: Path, tmp_path: Path) -> None:
    for name in ("data", "models/export", "metrics"):
        shutil.copytree(pipeline / name, tmp_path / name)
    prepared = load_prepared(tmp_path / "data/prepared")
    for fold in TINY_FOLDS:  # fold models that knew every label
        path = tmp_path / f"models/export/{fold}/oof.npz"
        arrays = dict(np.load(path))
        truth = prepared.labels[arrays["rows"]].astype(np.float32)
        np.savez(path, **arrays, reference=np.repeat(8 * truth[:, None] - 4, 2, axis=1))
    with workspace(tmp_path, tiny_params()):
        with pytest.raises(TrainingError, match="is worse than the fp32 fold models out-of-fold: roc_auc"):
            run("tune_threshold")
        assert not Path("models/operating_point.json").exists()
    np.savez(path, **arrays)
    split = read_split(tmp_path / "data/splits.csv", prepared.manifest)
    with pytest.raises(DataError, match="different forms"):
        load_out_of_fold(tmp_path / "models/export", TINY_FOLDS, prepared.manifest, split)


def test_a_default_run_has_no_variant(pipeline: Path) -> None:
    assert "variant" not in read_json(pipeline / "metrics/oof.json")
    for fold in TINY_FOLDS:
        assert "reference" not in np.load(pipeline / f"models/export/{fold}/oof.npz")
        assert read_json(pipeline / f"models/export/{fold}/model.json")["precision"] == "fp32"
