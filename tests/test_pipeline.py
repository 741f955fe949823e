"""Every stage on a tiny phantom: what it wrote is complete, agrees with its neighbours and saw only what it may."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, TINY_FOLDS, run_all, tiny_params, workspace
from safetensors.torch import load_file
from sklearn.metrics import log_loss as sklearn_log_loss

from strokect.calibration import Calibrator
from strokect.engine import FoldModel, score_slices
from strokect.errors import ReleaseError, TrainingError
from strokect.files import read_json, sha256_file, write_json
from strokect.gate import load_gate
from strokect.judge import load_judge
from strokect.manifest import load_prepared
from strokect.network import load_network, predict_logits
from strokect.onnx_export import check_parity
from strokect.operating_point import patient_scores
from strokect.policy import read_policy
from strokect.splits import held_out_rows, read_split, rows_of_test_part, training_rows

FIGURES = {"roc_auc", "average_precision", "accuracy", "sensitivity", "specificity", "f2", "ece", "brier"}


@pytest.mark.parametrize("fold", TINY_FOLDS)
def test_a_fold_scores_its_own_training_part_and_says_what_it_is(pipeline: Path, fold: int) -> None:
    prepared = load_prepared(pipeline / "data/prepared")
    split = read_split(pipeline / "data/splits.csv", prepared.manifest)
    scores = pd.read_csv(pipeline / f"models/folds/{fold}/train_scores.csv")
    assert list(scores["file"]) == list(prepared.manifest["file"].iloc[training_rows(split, fold)])
    sidecar = read_json(pipeline / f"models/folds/{fold}/model.json")
    assert sidecar["patient_independent"] is True
    assert sidecar["target"] == prepared.cohort["target"]
    assert sidecar["data_sha256"] == prepared.cohort["data_sha256"]
    assert len(pd.read_csv(pipeline / f"models/folds/{fold}/history.csv")) == 2


@pytest.mark.parametrize("stage", ["folds", "hnm"])
def test_the_saved_weights_are_the_averaged_ones_that_were_watched(pipeline: Path, stage: str) -> None:
    prepared = load_prepared(pipeline / "data/prepared")
    rows = held_out_rows(read_split(pipeline / "data/splits.csv", prepared.manifest), 0)
    net, _ = load_network(pipeline / f"models/{stage}/0")
    p = 1 / (1 + np.exp(-predict_logits(net, prepared.images[rows], torch.device("cpu")).astype(float)))
    watched = pd.read_csv(pipeline / f"models/{stage}/0/history.csv")["held_out_log_loss"].iloc[-1]
    assert sklearn_log_loss(prepared.labels[rows], p) == pytest.approx(watched, abs=1e-4)


@pytest.mark.parametrize("fold", TINY_FOLDS)
def test_hnm_counts_both_kinds_and_changes_the_weights(pipeline: Path, fold: int) -> None:
    report = read_json(pipeline / f"models/hnm/{fold}/hnm.json")
    assert report["hard_negatives"]["n"] > 0
    assert report["missed_positives"]["n"] > 0
    before, _ = load_network(pipeline / f"models/folds/{fold}")
    after, _ = load_network(pipeline / f"models/hnm/{fold}")
    assert not torch.equal(before.head.weight, after.head.weight)


@pytest.mark.parametrize("fold", TINY_FOLDS)
def test_out_of_fold_comes_from_the_exported_model_on_the_held_out_part(pipeline: Path, fold: int) -> None:
    prepared = load_prepared(pipeline / "data/prepared")
    split = read_split(pipeline / "data/splits.csv", prepared.manifest)
    oof = np.load(pipeline / f"models/export/{fold}/oof.npz")
    np.testing.assert_array_equal(oof["rows"], held_out_rows(split, fold))
    assert not set(prepared.patients[oof["rows"]]) & set(prepared.patients[training_rows(split, fold)])
    model = FoldModel(pipeline / f"models/export/{fold}")
    scores = score_slices(model, prepared.images[oof["rows"][:3]], oof["views"].tolist())
    np.testing.assert_allclose(scores.logits, oof["logits"][:3], atol=1e-5)
    np.testing.assert_allclose(model.logit(oof["features"]), oof["logits"], atol=1e-4)


def test_export_equals_torch_and_a_difference_is_refused(pipeline: Path) -> None:
    prepared = load_prepared(pipeline / "data/prepared")
    net, _ = load_network(pipeline / "models/hnm/0")
    exported = FoldModel(pipeline / "models/export/0")
    images = prepared.images[:8]
    by_onnx = np.array([exported.logit(exported.run(image)) for image in images])
    np.testing.assert_allclose(by_onnx, predict_logits(net, images, torch.device("cpu")), atol=1e-3)
    other, _ = load_network(pipeline / "models/hnm/1")
    with pytest.raises(TrainingError, match="differs from torch"):
        check_parity(other, exported, images, 1e-4)


def test_the_activation_map_sums_to_the_logit_without_its_bias(pipeline: Path) -> None:
    model = FoldModel(pipeline / "models/export/0")
    whole = model.run_whole(load_prepared(pipeline / "data/prepared").images[0])
    assert whole.activation.ndim == 2
    np.testing.assert_allclose(whole.activation.sum(), model.logit(whole.features) - model.bias, atol=1e-4)


def test_oof_covers_development_once_and_never_the_test_part(pipeline: Path) -> None:
    prepared = load_prepared(pipeline / "data/prepared")
    split = read_split(pipeline / "data/splits.csv", prepared.manifest)
    oof = pd.read_csv(pipeline / "models/oof.csv")
    test = set(prepared.manifest["file"].iloc[rows_of_test_part(split)])
    assert test
    assert not test & set(oof["file"])
    assert set(oof["file"]) | test == set(prepared.manifest["file"])
    assert oof["file"].is_unique


@pytest.mark.parametrize(("name", "part"), [("oof", "oof"), ("evaluate", "test")])
def test_metrics_have_the_contracts_form(pipeline: Path, name: str, part: str) -> None:
    metrics = read_json(pipeline / f"metrics/{name}.json")
    assert metrics["part"] == part
    assert {"slice", "patient", "n_slices", "n_patients", "n_positive_patients", "group_by", "target", "device"} <= set(metrics)
    assert metrics["patient_level_verifiable"] is True
    for level in ("slice", "patient"):
        assert set(metrics[level]) >= {*FIGURES, "threshold", "confusion_matrix", "per_class"}
        for figure in FIGURES:
            low, high = metrics[level][figure]["ci95"]
            assert 0 <= low <= high <= 1
        assert sum(metrics[level]["confusion_matrix"].values()) == metrics["n_slices" if level == "slice" else "n_patients"]


def test_evaluate_judges_with_the_shipped_ensemble_and_operating_point(pipeline: Path) -> None:
    prepared = load_prepared(pipeline / "data/prepared")
    rows = rows_of_test_part(read_split(pipeline / "data/splits.csv", prepared.manifest))
    point = read_json(pipeline / "models/operating_point.json")
    calibrate = Calibrator.from_json(point["calibration"])
    models = [FoldModel(pipeline / f"models/export/{fold}") for fold in TINY_FOLDS]
    by_hand = []
    for image in prepared.images[rows]:
        folds = []
        for model in models:
            logits = [model.logit(model.run(np.ascontiguousarray(view))) for view in (image, image[..., ::-1])]
            folds.append(calibrate(np.float64(np.mean(logits))))
        by_hand.append(np.mean(folds))
    probability = np.array(by_hand)
    metrics = read_json(pipeline / "metrics/evaluate.json")
    labels = prepared.labels[rows]
    called = probability >= point["slice"]["threshold"]
    assert metrics["slice"]["confusion_matrix"]["tp"] == int((called & (labels == 1)).sum())
    names, scores = patient_scores(probability, prepared.patients[rows], 3)
    assert metrics["patient"]["n"] == len(names)
    assert metrics["patient"]["confusion_matrix"]["fp"] + metrics["patient"]["confusion_matrix"]["tp"] == int(
        (scores >= point["patient"]["threshold"]).sum()
    )


def test_evaluate_counts_what_the_policy_sends_to_a_human(pipeline: Path) -> None:
    metrics = read_json(pipeline / "metrics/evaluate.json")
    counts = metrics["policy"]["counts"]
    assert sum(sum(row.values()) for row in counts.values()) == metrics["n_slices"]
    assert sum(counts["stroke"].values()) == metrics["slice"]["n_positive"]
    answered = sum(row[word] for row in counts.values() for word in ("stroke", "normal"))
    assert metrics["policy"]["answered_only"]["coverage"]["value"] == pytest.approx(answered / metrics["n_slices"])


def test_the_safety_layer_is_fitted_on_development_slices_by_the_fold_that_holds_them_out(pipeline: Path) -> None:
    metrics, point = read_json(pipeline / "metrics/safety.json"), read_json(pipeline / "models/operating_point.json")
    oof = pd.read_csv(pipeline / "models/oof.csv")
    assert metrics["false_rejects"]["all"]["n"] == metrics["uncertainty"]["n"] == len(oof)
    assert metrics["false_rejects"]["stroke"]["n"] == oof["label"].sum()
    policy = read_policy(pipeline / "models/safety/policy.json")
    assert policy.models == tuple(point["exports"]) and policy.threshold == point["slice"]["threshold"]
    assert policy.operating_point_sha256 == sha256_file(pipeline / "models/operating_point.json")
    # The limit again, by hand: every held-out slice by the gate of its own fold.
    scores = []
    for fold in TINY_FOLDS:
        gate = load_gate(pipeline / f"models/safety/gates/{fold}.npz", 1280, 512)
        with np.load(pipeline / f"models/export/{fold}/oof.npz") as held_out:
            scores.append(gate(held_out["features"][:, 0], held_out["stages"]))
    ordered = np.sort(np.concatenate(scores))
    above = ordered > policy.gate_threshold
    assert above.mean() <= metrics["max_false_reject"]
    if above.any():  # half-way between two slices, so that rounding cannot flip one
        assert policy.gate_threshold == pytest.approx((ordered[~above][-1] + ordered[above][0]) / 2)


def test_every_kind_of_outlier_is_judged_by_what_ships(pipeline: Path) -> None:
    metrics = read_json(pipeline / "metrics/safety.json")
    kinds = {"colour_photo", "grey_photo", "blank", "noise", "inverted", "bone_window", "overlay", "cropped_half", "extreme_jpeg"}
    kinds |= {"burned_in_text", "white_contour", "caliper_line", "screenshot_with_borders"}
    assert kinds == set(metrics["outliers"])  # the cohort is the phantom itself
    for name in ("colour_photo", "blank", "overlay"):
        assert metrics["outliers"][name]["rejected"]["value"] == 1.0, name
    assert not kinds & set(metrics["feature_gate_choice"])  # chosen on other kinds
    game = metrics["activation_map"]
    assert game["n"] == sum(pd.read_csv(pipeline / "models/oof.csv")["label"]) and 0 < game["chance"] < 0.3


def test_the_judge_of_the_pipeline_refuses_gates_of_another_score(pipeline: Path, tmp_path: Path) -> None:
    safety = Path(shutil.copytree(pipeline / "models/safety", tmp_path / "safety"))
    policy = read_json(safety / "policy.json")
    other = "knn" if policy["feature_gate"]["score"] != "knn" else "vim"
    write_json(safety / "policy.json", policy | {"feature_gate": policy["feature_gate"] | {"score": other}})
    folders = {str(fold): pipeline / f"models/export/{fold}" for fold in TINY_FOLDS}
    with pytest.raises(ReleaseError, match=f"scores by .*, policy.json by {other}"):
        load_judge(folders, ["identity"], Calibrator("none"), safety, pipeline / "models/operating_point.json")


def test_every_plot_is_there_as_points_and_as_picture(pipeline: Path) -> None:
    folder = pipeline / "reports/plots"
    for name in ("roc", "pr", "confusion", "calibration", "probabilities"):
        assert (folder / f"{name}.png").stat().st_size > 5_000
        for part in ("oof", "test"):
            assert len(pd.read_csv(folder / f"{name}_{part}.csv")) > 1
    for part, name in (("oof", "oof"), ("test", "evaluate")):  # what DVC draws is what the metrics say
        curve = pd.read_csv(folder / f"net_benefit_{part}.csv").set_index("threshold")["model"]
        for entry in read_json(pipeline / f"metrics/{name}.json")["net_benefit"]:
            assert curve[entry["threshold"]] == pytest.approx(entry["model"]["value"], abs=1e-12)
    curves = pd.read_csv(folder / "training_loss.csv")
    assert list(curves.columns[1:]) == [f"fold {k}" for k in range(5)]  # what dvc.yaml draws, whatever split.folds
    assert curves[[f"fold {fold}" for fold in TINY_FOLDS]].notna().all(axis=None)
    assert curves["epoch"].tolist() == [1, 2, 3]  # two of training, one of fine-tuning


def test_operating_point_belongs_to_these_exports(pipeline: Path) -> None:
    point = json.loads((pipeline / "models/operating_point.json").read_text())
    assert point["exports"] == {str(f): sha256_file(pipeline / f"models/export/{f}/model.onnx") for f in TINY_FOLDS}


def test_synthetic_data_leaves_no_test_opening_and_real_data_one_per_model(pipeline: Path, tmp_path: Path) -> None:
    from stages.evaluate import record_opening

    assert not (pipeline / "metrics/test_openings.csv").exists()
    path = tmp_path / "test_openings.csv"
    shutil.copy(ROOT / "metrics/test_openings.csv", path)
    path.write_text(path.read_text().splitlines()[0] + "\n")
    metrics = read_json(pipeline / "metrics/evaluate.json")
    real = {"synthetic": False, "data_sha256": "d"}
    for model in ("a", "a", "b", "a"):
        record_opening(path, model, "t", real, metrics)
    assert pd.read_csv(path)["model"].tolist() == ["a", "b"]
    # The same files at another image size: still the same test part, and only a new model adds a line.
    said = [record_opening(path, model, "t", real | {"data_sha256": "e"}, metrics) for model in ("a", "c")]
    assert said[0] is None and "opening 3 of it" in str(said[1])


def test_plotted_curves_are_those_of_the_reported_figures(pipeline: Path) -> None:
    for name, part in (("oof", "oof"), ("evaluate", "test")):
        points = pd.read_csv(pipeline / f"reports/plots/roc_{part}.csv")
        area = np.trapezoid(points["true_positive_rate"], points["false_positive_rate"])
        assert area == pytest.approx(read_json(pipeline / f"metrics/{name}.json")["slice"]["roc_auc"]["value"], abs=1e-6)


def test_not_grouped_says_so_everywhere(tmp_path: Path) -> None:
    params = tiny_params()
    params["split"].update(group_by="none", test_fraction=0.0)
    params["data"].update(labels="shuffled")
    params["audit"].update(allow=["shuffle_control"])
    params["train"].update(epochs=1)
    params["hnm"].update(enabled=False)
    with workspace(tmp_path, params):
        run_all()
    metrics = read_json(tmp_path / "metrics/evaluate.json")
    assert metrics["part"] == "oof"
    assert metrics["group_by"] == "none"
    assert any("NOT patient-independent" in note for note in metrics["notes"])
    assert any("Control" in note for note in metrics["notes"])
    assert metrics["audit_allowed"] == read_json(tmp_path / "metrics/oof.json")["audit_allowed"] == ["shuffle_control"]
    assert any("Audit exception in force: shuffle_control" in note for note in metrics["notes"])
    assert read_json(tmp_path / "models/export/0/model.json")["patient_independent"] is False
    mined = read_json(tmp_path / "models/hnm/0/hnm.json")
    assert mined["enabled"] is False
    assert mined["all"]["n"] > 0
    assert mined["all"]["log_loss_after"] is None  # nothing was tuned, so nothing was scored
    given, passed_on = (load_file(tmp_path / f"models/{stage}/0/model.safetensors") for stage in ("folds", "hnm"))
    assert given.keys() == passed_on.keys()
    assert all(torch.equal(given[name], passed_on[name]) for name in given)
    assert len(pd.read_csv(tmp_path / "reports/plots/roc_oof.csv")) > 1
    assert len(pd.read_csv(tmp_path / "reports/plots/roc_test.csv")) == 0  # there for `dvc plots show`
