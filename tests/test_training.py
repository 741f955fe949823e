"""The loop's parts against references, and a killed run against an uninterrupted one."""

import dataclasses
import itertools
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import ROOT, run, tiny_params, workspace
from safetensors.numpy import load_file

from strokect.augment import augment
from strokect.devices import pick_amp, pick_device
from strokect.errors import TrainingError
from strokect.losses import class_weights, slice_loss
from strokect.mining import mine
from strokect.network import FoldNet, predict_logits
from strokect.parameter_groups import parameter_groups
from strokect.params import AugmentParams, HnmParams, Params, TrainParams, load_params
from strokect.training import Task, Trainer, learning_rate


@pytest.fixture
def params(tmp_path: Path) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tiny_params()))
    return load_params(path)


class FakeBackbone(torch.nn.Module):
    """Two convolutions with a BatchNorm between them: trains in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 6, 3, stride=2)
        )

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def fake_net() -> FoldNet:
    torch.manual_seed(0)
    return FoldNet(FakeBackbone(), 6, (0.5,) * 3, (0.5,) * 3, 0.2)


def bright_or_dark(n: int = 64) -> Task:
    """A task that anything can learn: positives are brighter."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    images = (rng.integers(0, 100, (n, 1, 16, 16)) + 100 * labels[:, None, None, None]).astype(np.uint8)
    half = n // 2
    return Task(images[:half], labels[:half], np.ones(half, np.float32), images[half:], labels[half:], "fake@0")


def trainer(params: TrainParams, resume: Path, **changes: object) -> Trainer:
    return Trainer(fake_net(), bright_or_dark(), dataclasses.replace(params, **changes), seed=1, mine_epoch=2, resume=resume)  # type: ignore[arg-type]


def test_it_learns_what_anything_can_learn(params: Params, tmp_path: Path) -> None:
    loop = trainer(params.train, tmp_path / "r.pt", epochs=25, learning_rate=0.02, batch_size=8)
    progress = loop.run()
    assert progress.history[-1]["held_out_log_loss"] < 0.3 < progress.history[0]["held_out_log_loss"]
    assert progress.mined is not None
    assert progress.mined.shape == (32,)


def test_a_resumed_run_equals_an_uninterrupted_one(params: Params, tmp_path: Path) -> None:
    whole = trainer(params.train, tmp_path / "whole.pt", epochs=4)
    whole.run()

    class Killed(Exception):
        pass

    def kill_after_two(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        trainer(params.train, tmp_path / "killed.pt", epochs=4).run(kill_after_two)
    again = trainer(params.train, tmp_path / "killed.pt", epochs=4)
    assert again.progress.epoch == 2
    progress = again.run()
    for name, value in whole.ema.module.state_dict().items():
        torch.testing.assert_close(again.ema.module.state_dict()[name], value, rtol=0, atol=0, msg=name)
    np.testing.assert_array_equal(progress.mined, whole.progress.mined)
    assert [row["loss"] for row in progress.history] == [row["loss"] for row in whole.progress.history]


def test_not_finite_loss_stops_with_advice(params: Params, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not finite in epoch \d+; lower train.learning_rate"):
        trainer(params.train, tmp_path / "r.pt", epochs=30, learning_rate=1e30, clip_norm=1e30).run()


def test_focal_loss_of_a_worked_case(params: Params) -> None:
    focal = dataclasses.replace(params.train, loss="focal", focal_gamma=2.0, label_smoothing=0.0)
    got = slice_loss(torch.tensor([0.0, math.log(9.0)]), torch.tensor([1.0, 1.0]), focal)
    # p = 0.5 and 0.9: −(1 − p)² ln p
    torch.testing.assert_close(got, torch.tensor([-0.25 * math.log(0.5), -0.01 * math.log(0.9)]))


def test_cross_entropy_with_smoothing_moves_the_target(params: Params) -> None:
    plain = dataclasses.replace(params.train, loss="cross_entropy", label_smoothing=0.1)
    got = slice_loss(torch.tensor([1.0, -2.0]), torch.tensor([1.0, 0.0]), plain)
    torch.testing.assert_close(
        got, F.binary_cross_entropy_with_logits(torch.tensor([1.0, -2.0]), torch.tensor([0.95, 0.05]), reduction="none")
    )


def test_class_weights_balance_and_have_mean_one() -> None:
    labels = np.array([0] * 9 + [1])
    weights = class_weights(labels, True)
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum())
    assert weights.mean() == pytest.approx(1.0)
    assert (class_weights(labels, False) == 1).all()


def test_schedule_warms_up_then_falls_to_a_hundredth() -> None:
    rates = [learning_rate(step, 100, 10, 1.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.505)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 0.011


def test_weight_decay_spares_biases_and_norms() -> None:
    decayed, spared = parameter_groups(fake_net(), 0.02, layer_decay=1.0)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.02, 0.0)
    assert {p.ndim for p in spared["params"]} == {1}
    assert {p.ndim for p in decayed["params"]} == {2, 4}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(fake_net().parameters()))


def test_amp_is_never_used_on_a_cpu_and_a_missing_gpu_is_an_error(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    for amp in ("auto", "bf16", "fp16", "off"):
        assert pick_amp(dataclasses.replace(params.train, amp=amp), torch.device("cpu")) is None  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert pick_amp(dataclasses.replace(params.train, amp="auto"), torch.device("cuda")) is torch.float16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TrainingError, match="no CUDA device"):
        pick_device(dataclasses.replace(params.train, device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
def test_amp_on_a_gpu_learns_too(params: Params, tmp_path: Path, amp: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    loop = trainer(params.train, tmp_path / "r.pt", epochs=25, learning_rate=0.02, batch_size=8, amp=amp, device="cuda")
    assert loop.run().history[-1]["held_out_log_loss"] < 0.3


def test_predicting_leaves_the_network_as_it_was() -> None:
    net = fake_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images = bright_or_dark().images
    first, again = (predict_logits(net, images, torch.device("cpu"), batch_size=size) for size in (5, 64))
    np.testing.assert_allclose(first, again, atol=1e-5)
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_augmentation_off_changes_nothing_and_on_keeps_the_range() -> None:
    on = AugmentParams(1.0, 12.0, 0.1, 0.05, True, 0.04, 0.1, 0.03, 0.5, bleeds=0.0)
    images = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(augment(images, dataclasses.replace(on, strength=0.0)), images.float())
    out = augment(images, on)
    assert out.shape == images.shape
    assert out.min() >= 0
    assert out.max() <= 255
    assert not torch.equal(out, images.float())


def test_augmentation_with_only_mirroring_gives_the_slice_or_its_mirror() -> None:
    only = AugmentParams(1.0, 0.0, 0.0, 0.0, True, 0.0, 0.0, 0.0, 0.0, bleeds=0.0)
    images = torch.randint(0, 256, (16, 1, 12, 12), dtype=torch.uint8)
    mirrored = 0
    for given, got in zip(images.float(), augment(images, only), strict=True):
        straight, flipped = torch.allclose(got, given, atol=0.1), torch.allclose(got, given.flip(-1), atol=0.1)
        assert straight or flipped
        mirrored += flipped
    assert 0 < mirrored < 16


def test_mining_takes_the_hardest_of_each_class() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    logits = np.array([-3, 2, -1, 1, 3, -2, 0, 1], np.float32)
    params = HnmParams(True, 1, 0.5, 0.25, 2.0, 1, 1e-4)
    hard = mine(logits, labels, params)
    assert hard.negatives.tolist() == [1, 3]
    assert hard.positives.tolist() == [5]
    nothing = mine(logits, labels, dataclasses.replace(params, negative_fraction=0.0, positive_fraction=0.0))
    assert len(nothing.negatives) == len(nothing.positives) == 0


def test_a_killed_stage_resumes_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    params = tiny_params()
    params["train"]["epochs"] = 3
    command = [sys.executable, "-m", "stages.train_fold", "--fold", "0"]
    with workspace(tmp_path / "killed", params) as folder:
        for stage in ("prepare", "audit", "split"):
            run(stage)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "epoch 1/3" in line:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "models/folds/0").exists()

    output = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    assert "resuming after epoch" in output
    assert "epoch 1/3" not in output
    assert pd.read_csv(folder / "models/folds/0/history.csv")["epoch"].tolist() == [1, 2, 3]
    assert not list((folder / ".strokect/resume").iterdir())

    resumed = load_file(folder / "models/folds/0/model.safetensors")
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    whole = load_file(folder / "models/folds/0/model.safetensors")
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
