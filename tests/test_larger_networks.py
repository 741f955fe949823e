"""The networks for a GPU: their settings, and (slow) b3 at 300 px and b4 at 380 px from start to service on a tiny phantom."""

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml
from conftest import TINY_FOLDS, composed, copy_repository, run, workspace
from fakes import encode
from safetensors.torch import save_file
from serving import serve

from strokect.files import read_json, sha256_file
from strokect.manifest import load_prepared
from strokect.network import create_backbone
from strokect.params import load_params
from strokect.predictor import Predictor

WEIGHTS = Path("weights.safetensors")
# A step of b4 on a CPU takes seconds: as few slices as every stage can do with, and each in one view.
SMALL = (
    *("profile=tiny", "data.phantom.slices=4", "train.batch_size=8", "export.views=[identity]"),
    *("safety.outliers_per_category=2", "safety.proxies_per_kind=1"),
)


NETWORKS = {
    "lite2": ("tf_efficientnet_lite2", 300),
    "b3": ("tf_efficientnet_b3.ns_jft_in1k", 300),
    "b4": ("tf_efficientnet_b4.ns_jft_in1k", 380),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("cohort", ["phantom", "ct_ich", "folder"])
def test_a_network_brings_its_size_to_every_cohort(name: str, cohort: str, tmp_path: Path) -> None:
    params = composed(f"profile={cohort}", f"model={name}")
    backbone, size = NETWORKS[name]
    assert (params["model"]["backbone"], params["model"]["weights"]) == (backbone, "package" if name == "lite2" else "hub")
    assert params["data"]["image_size"] == size
    others = composed(f"profile={cohort}")
    for section in others.keys() - {"model", "data"}:
        assert params[section] == others[section]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert load_params(tmp_path / "params.yaml").data.image_size == size


def kill_after_an_epoch(fold: int) -> None:
    """Train a fold in a process of its own and kill that when its first epoch is on disk."""
    command = [sys.executable, "-m", "stages.train_fold", "--fold", str(fold)]
    with subprocess.Popen(command, start_new_session=True) as process:
        while not list(Path(".strokect/resume").glob("train_fold-*.pt")):
            assert process.poll() is None, "training ended before its time"
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    assert not Path(f"models/folds/{fold}").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "weights"), [("b3", "none"), ("b4", str(WEIGHTS))])
def test_it_trains_resumes_exports_and_serves(
    profile: str, weights: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """From random weights or from a file of them, with the picture size of the profile; the batch is smaller."""
    copy_repository(tmp_path)
    params = composed(*SMALL, f"model={profile}", f"model.weights={weights}")
    size = params["data"]["image_size"]
    assert size == {"b3": 300, "b4": 380}[profile]
    with workspace(tmp_path, params):
        if weights != "none":
            save_file(create_backbone(params["model"]["backbone"], "none").state_dict(), WEIGHTS)
        for stage in ("prepare", "audit", "split"):
            run(stage)
        kill_after_an_epoch(0)
        for stage in ("train_fold", "hnm", "export"):
            for fold in TINY_FOLDS:
                run(stage, "--fold", str(fold))
            if stage == "hnm":
                run("student")
        assert "train_fold@0: resuming after epoch 1 of 2" in capfd.readouterr().out
        for stage in ("tune_threshold", "safety", "evaluate", "build_bento"):
            run(stage)
        sidecar = read_json("models/export/0/model.json")
        assert (sidecar["backbone"], sidecar["image_size"]) == (params["model"]["backbone"], size)
        assert sidecar["weights"] == ("none" if weights == "none" else "file")  # a path would leave the machine with the bento
        assert sidecar["weights_sha256"] == (None if weights == "none" else sha256_file(WEIGHTS))
        with tarfile.open("models/bento/strokect.bento") as archive:
            archive.extractall("bento", filter="data")
        picture = np.asarray(load_prepared().images[6, 0])
        expected = Predictor("models/release").predict(png := encode(picture))
        with serve([sys.executable, "-m", "bentoml", "serve", str(tmp_path / "bento")], tmp_path, tmp_path / "serving") as server:
            answer = requests.post(f"{server.url}/predict", files={"image": ("a.png", png)}, timeout=120).json()
            about = requests.get(f"{server.url}/model", timeout=60).json()
    assert (answer["decision"], answer["probability"]) == (expected.decision, pytest.approx(expected.probability, abs=1e-5))
    assert (about["backbone"], about["image_size"]) == (params["model"]["backbone"], size)
