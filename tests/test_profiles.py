"""The networks for a GPU, b3@300 and b4@380: their profiles, and (slow) each from training to an answer over HTTP."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
import timm
import torch
import yaml
from conftest import ROOT, TINY_FOLDS, composed, run, tiny_params, workspace
from safetensors.torch import save_file
from serving import serve

from stages import build_bento
from stages.build_bento import self_test_slice
from strokect.files import read_json, sha256_file
from strokect.params import load_params
from strokect.phantom import make_cohort, window
from strokect.training import Trainer

PROFILES = {"b3": ("tf_efficientnet_b3.ns_jft_in1k", 300), "b4": ("tf_efficientnet_b4.ns_jft_in1k", 380)}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("cohort", ["phantom", "ct_ich", "folder"])
def test_a_network_brings_its_size_to_every_cohort(profile: str, cohort: str, tmp_path: Path) -> None:
    params = composed(f"profile={cohort}", f"model={profile}")
    backbone, size = PROFILES[profile]
    assert (params["model"]["backbone"], params["model"]["weights"]) == (backbone, "hub")
    assert params["data"]["image_size"] == size
    others = composed(f"profile={cohort}")
    for section in others.keys() - {"model", "data"}:
        assert params[section] == others[section]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert load_params(tmp_path / "params.yaml").data.image_size == size


def profile_params(profile: str, weights: str) -> dict[str, Any]:
    """As few slices and passes as every stage can do with; the pixels are the profile's."""
    backbone, size = PROFILES[profile]
    params = tiny_params()
    params["data"].update(image_size=size, phantom={"patients": 8, "slices": 4, "seed": 0})
    params["split"].update(test_fraction=0.0)
    params["model"].update(backbone=backbone, weights=weights)
    params["train"].update(epochs=2, batch_size=4)
    params["hnm"].update(enabled=profile == "b3")
    params["export"].update(views=["identity"], parity_slices=2)
    params["safety"].update(max_false_reject=0.2, outliers_per_category=1, proxies_per_kind=1, mc_samples=2)
    return params


def write_weights(backbone: str, size: int, path: Path) -> None:
    """Weights as timm's hub would hand them over, with the classifier of 1,000 classes, but random.

    BatchNorm statistics are those of a few slices: at their initial zeros and ones every slice would look the same in so deep a
    network, and the feature gate refuses to be fitted on that.
    """
    torch.manual_seed(0)
    net = timm.create_model(backbone)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    slices = np.stack([window(piece.hu) for piece in make_cohort(patients=1, slices=6, size=size, seed=1)])
    with torch.no_grad():
        net.train()(torch.from_numpy(slices)[:, None].expand(-1, 3, -1, -1) / 127.5 - 1)
    save_file(net.state_dict(), path)


class Killed(Exception):
    """Stands for a kill in the middle of the second epoch."""


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_it_trains_resumes_exports_and_serves(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, size = PROFILES[profile]
    weights = "none"
    if profile == "b4":
        weights = str(tmp_path / "b4.safetensors")
        write_weights(backbone, size, Path(weights))
    with workspace(tmp_path, profile_params(profile, weights)):
        for stage in ("prepare", "audit", "split"):
            run(stage)

        run("train_fold", "--fold", "0")
        uninterrupted = (tmp_path / "models/folds/0/model.safetensors").read_bytes()
        shutil.rmtree("models/folds/0")
        step = Trainer._step

        def kill(trainer: Trainer, *batch: Any) -> torch.Tensor:
            if trainer.steps_done > trainer.steps_per_epoch:
                raise Killed
            return step(trainer, *batch)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Trainer, "_step", kill)
            run("train_fold", "--fold", "0")
        assert not Path("models/folds/0").exists()
        capsys.readouterr()
        run("train_fold", "--fold", "0")
        assert "resuming after epoch 1 of 2" in capsys.readouterr().out
        assert (tmp_path / "models/folds/0/model.safetensors").read_bytes() == uninterrupted
        run("train_fold", "--fold", "1")
        for fold in TINY_FOLDS:
            run("hnm", "--fold", str(fold))
        run("student")
        for fold in TINY_FOLDS:
            run("export", "--fold", str(fold))
        for stage in ("tune_threshold", "safety", "evaluate"):
            run(stage)
        monkeypatch.setattr(build_bento, "build_bento", lambda *args: None)  # packing has a test of its own
        monkeypatch.setattr(build_bento, "bento_version", lambda root, version: version)
        run("build_bento")

    assert pd.read_csv(tmp_path / "models/folds/0/history.csv")["epoch"].tolist() == [1, 2]
    sidecar = read_json(tmp_path / "models/export/1/model.json")
    assert (sidecar["backbone"], sidecar["image_size"]) == (backbone, size)
    assert sidecar["weights_sha256"] == (None if weights == "none" else sha256_file(weights))
    command = [sys.executable, "-m", "bentoml", "serve", "service:StrokeCT"]
    with serve(command, ROOT, tmp_path / "serving", STROKECT_RELEASE=str(tmp_path / "models/release")) as server:
        assert requests.get(f"{server.url}/readyz", timeout=60).status_code == 200
        model = requests.get(f"{server.url}/model", timeout=60).json()
        files = {"image": ("slice.png", self_test_slice(size))}
        answer = requests.post(f"{server.url}/predict", files=files, timeout=60).json()
    assert model["backbone"] == backbone
    assert answer["decision"] in ("stroke", "normal", "refer", "reject") and answer["model_version"]
    assert answer["probability"] is None or 0 < answer["probability"] < 1
