"""The distilled student: each learns only from what its fold may see, from its own teacher; the one that ships from all."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import ROOT, TINY_FOLDS, run, tiny_params, workspace

from strokect import distillation
from strokect.calibration import sigmoid
from strokect.distillation import student_model, student_schedule
from strokect.engine import FoldModel
from strokect.files import read_json, sha256_file
from strokect.losses import slice_loss
from strokect.manifest import Prepared, load_prepared
from strokect.network import load_network, predict_logits
from strokect.params import Params, load_params
from strokect.release import load_release
from strokect.shipping import shipped_folders
from strokect.splits import development_rows, held_out_rows, read_split, rows_of_test_part, training_rows
from strokect.training import Task, Trainer

CPU = torch.device("cpu")


def student_params() -> dict[str, Any]:
    """Tiny params with a student; two epochs on 50 slices teach nobody, so nothing is refused."""
    params = tiny_params()
    params["export"].update(student="tf_efficientnet_lite0", tolerance={"roc_auc": 1.0, "ece": 1.0, "sensitivity": 1.0})
    return params


def typed(tmp_path: Path, params: dict[str, Any]) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return load_params(path)


@dataclasses.dataclass
class Taught:
    """A run of the stages student, export and tune_threshold, and what the students were given."""

    folder: Path
    tasks: dict[str, Task]

    @property
    def prepared(self) -> Prepared:
        return load_prepared(self.folder / "data/prepared")


@pytest.fixture(scope="module")
def taught(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taught]:
    folder = tmp_path_factory.mktemp("student")
    for name in ("data", "models/folds", "models/hnm", "metrics"):
        shutil.copytree(pipeline / name, folder / name)
    tasks: dict[str, Task] = {}
    train = distillation.train

    def spy(net: Any, task: Task, *args: Any, **kwargs: Any) -> Any:
        tasks[task.name] = task
        return train(net, task, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, workspace(folder, student_params()):
        patch.setattr(distillation, "train", spy)
        run("student")
        for fold in TINY_FOLDS:
            run("export", "--fold", str(fold))
        run("tune_threshold")
    yield Taught(folder, tasks)


def teacher_logits(taught: Taught, fold: int, rows: np.ndarray) -> np.ndarray:
    net, _ = load_network(taught.folder / f"models/hnm/{fold}")
    return predict_logits(net, taught.prepared.images[rows], CPU)


@pytest.mark.parametrize("fold", TINY_FOLDS)
def test_student_k_sees_only_what_fold_k_may_see(taught: Taught, fold: int) -> None:
    task, prepared = taught.tasks[f"student@{fold}"], taught.prepared
    split = read_split(taught.folder / "data/splits.csv", prepared.manifest)
    rows = training_rows(split, fold)
    np.testing.assert_array_equal(task.images, prepared.images[rows])
    held_out = {*prepared.patients[held_out_rows(split, fold)], *prepared.patients[rows_of_test_part(split)]}
    assert not held_out & set(prepared.patients[rows])
    own = sigmoid(teacher_logits(taught, fold, rows))
    np.testing.assert_allclose(task.labels, own, atol=1e-5)
    other = sigmoid(teacher_logits(taught, 1 - fold, rows))  # has trained on the patients that fold k holds out
    assert not np.allclose(task.labels, other, atol=1e-4)


def test_the_student_that_ships_learns_from_all_development_by_the_mean_logit(taught: Taught) -> None:
    task, prepared = taught.tasks["student@all"], taught.prepared
    split = read_split(taught.folder / "data/splits.csv", prepared.manifest)
    rows = development_rows(split)
    np.testing.assert_array_equal(task.images, prepared.images[rows])
    assert len(rows_of_test_part(split)) > 0 and len(task.held_out_labels) == 0
    mean = np.mean([teacher_logits(taught, fold, rows) for fold in TINY_FOLDS], axis=0)
    np.testing.assert_allclose(task.labels, 1 / (1 + np.exp(-mean)), atol=1e-5)
    assert set(taught.tasks) == {"student@0", "student@1", "student@all"}


def test_what_ships_is_the_student_and_its_siblings_are_out_of_fold(pipeline: Path, taught: Taught) -> None:
    point = read_json(taught.folder / "models/operating_point.json")
    assert point["folds"] == list(TINY_FOLDS)
    assert [str(folder) for folder in shipped_folders(point)] == ["models/student/release"]
    release = taught.folder / "models/student/release"
    assert point["exports"] == {"student": sha256_file(release / "model.onnx")}
    sidecars = {name: read_json(taught.folder / f"models/student/{name}/model.json") for name in ("0", "1", "all", "release")}
    assert [(s["fold"], s["taught_by"]) for s in sidecars.values()] == [
        (0, [0]),
        (1, [1]),
        ("student", [0, 1]),
        ("student", [0, 1]),
    ]
    assert [s["stage"] for s in sidecars.values()] == ["student", "student", "student", "export"]

    net, _ = load_network(taught.folder / "models/student/all")
    images = taught.prepared.images[:4]
    exported = FoldModel(release)
    by_onnx = [exported.logit(exported.run(image)) for image in images]
    np.testing.assert_allclose(by_onnx, predict_logits(net, images, CPU), atol=1e-3)
    for fold in TINY_FOLDS:
        oof = np.load(taught.folder / f"models/export/{fold}/oof.npz")
        student, _ = load_network(taught.folder / f"models/student/{fold}")
        np.testing.assert_allclose(
            oof["logits"][:, 0], predict_logits(student, taught.prepared.images[oof["rows"]], CPU), atol=1e-3
        )
        np.testing.assert_allclose(oof["reference"], np.load(pipeline / f"models/export/{fold}/oof.npz")["logits"], atol=1e-5)
    metrics = read_json(taught.folder / "metrics/oof.json")
    assert metrics["variant"]["student"] == "tf_efficientnet_lite0"
    assert metrics["variant"]["reference"]["roc_auc"] == read_json(pipeline / "metrics/oof.json")["slice"]["roc_auc"]["value"]
    assert metrics["variant"]["shipped"]["roc_auc"] == metrics["slice"]["roc_auc"]["value"]
    assert any("one student" in note for note in metrics["notes"])


def test_a_student_goes_through_safety_and_evaluation_into_a_release(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages import build_bento as stage

    monkeypatch.setattr(stage, "bento_version", lambda root, version: version)
    monkeypatch.setattr(stage, "build_bento", lambda *arguments: None)
    with workspace(taught.folder, student_params()):
        for name in ("safety", "evaluate", "build_bento"):
            run(name)
        release = load_release(Path("models/release"))
    assert release.policy.models == ("student",) and len(release.models) == 1
    assert read_json(taught.folder / "metrics/safety.json")["outliers"]["blank"]["rejected"]["value"] == 1.0
    assert read_json(taught.folder / "metrics/evaluate.json")["part"] == "test"
    assert (taught.folder / "models/release/folds/student/model.onnx").is_file()


def test_another_precision_trains_no_student_again(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Trainer, *arguments: object) -> dict[str, float]:
        raise AssertionError("trained again")

    before = {name: sha256_file(taught.folder / f"models/student/{name}/model.safetensors") for name in ("0", "1", "all")}
    monkeypatch.setattr(Trainer, "train_epoch", refuse)
    params = student_params()
    params["export"].update(precision="int8")
    stale = taught.folder / ".strokect/resume/student-9-0123456789abcdef.pt"
    stale.touch()
    with workspace(taught.folder, params):
        run("student")
    assert before == {name: sha256_file(taught.folder / f"models/student/{name}/model.safetensors") for name in before}
    assert read_json(taught.folder / "models/student/release/model.json")["precision"] == "int8"
    assert not stale.exists()


def test_without_a_student_the_stage_needs_no_torch(tmp_path: Path) -> None:
    with workspace(tmp_path, tiny_params()):
        code = "import sys; sys.modules.update(torch=None, timm=None); from stages.student import main; main()"
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
        assert [path.name for path in Path("models/student").iterdir()] == ["student.json"]
        assert read_json("models/student/student.json") == {"backbone": None}


def test_the_loss_is_cross_entropy_with_the_teachers_probability(tmp_path: Path) -> None:
    schedule = student_schedule(typed(tmp_path, student_params()))
    logits, targets = torch.tensor([0.3, -2.0, 4.0, 0.0]), torch.tensor([0.9, 0.1, 0.5, 0.25])
    got = slice_loss(logits, targets, schedule)
    torch.testing.assert_close(got, F.binary_cross_entropy_with_logits(logits, targets, reduction="none"))
    torch.testing.assert_close(got[3], torch.tensor(0.6931472))  # −ln ½, whatever the target
    assert schedule.epochs == 2


@pytest.mark.parametrize(
    ("backbone", "weights", "expected"),
    [
        ("tf_efficientnet_lite0", "none", "none"),
        ("tf_efficientnet_lite0", "b3.safetensors", "package"),
        ("tf_efficientnet_b3", "b3.safetensors", "b3.safetensors"),
        ("tf_efficientnet_b0", "hub", "hub"),
    ],
)
def test_a_file_of_weights_is_for_the_folds_backbone_only(tmp_path: Path, backbone: str, weights: str, expected: str) -> None:
    params = student_params()
    params["model"].update(backbone="tf_efficientnet_b3", weights=weights)
    params["export"].update(student=backbone)
    model = student_model(typed(tmp_path, params))
    assert (model.backbone, model.weights) == (backbone, expected)
