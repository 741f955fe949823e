"""Several processes train what one would have trained; when one is lost the run ends soon, says so and can go on."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import ROOT, run, tiny_params, workspace
from safetensors.numpy import load_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from strokect.distributed import GlobalBatchNorm, World, globalise, joined, spread
from strokect.errors import TrainingError
from strokect.files import read_json
from strokect.network import FoldNet
from strokect.params import TrainParams
from strokect.strict import build
from strokect.training import Task, Trainer

CPU = torch.device("cpu")


class Small(nn.Module):
    """BatchNorm after convolutions without bias, as in EfficientNet: a bias there has no gradient but rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.SiLU(),
            nn.Conv2d(8, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.SiLU(),
        )  # fmt: skip

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def task() -> Task:
    """36 slices in batches of 7: of two processes one has 3 and one 4, and the last batch is a single slice.

    A ring of bone around tissue, so that there is room for synthetic bleeds.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 40)
    radius = np.hypot(*(np.mgrid[:64, :64] - 31.5))
    tissue = rng.integers(90, 130, (40, 1, 64, 64)) + 60 * labels[:, None, None, None]
    images = np.select([radius < 24, radius < 29], [tissue, 255], 0).astype(np.uint8)
    weights = rng.uniform(0.5, 1.5, 36).astype(np.float32)
    beside = np.where(rng.random((36, 3)) < 0.3, np.nan, rng.integers(0, 2, (36, 3))).astype(np.float32)
    return Task(images[:36], labels[:36], weights, images[36:], labels[36:], "fake@0", beside)


def train_params(**changes: Any) -> TrainParams:
    params: TrainParams = build(TrainParams, tiny_params()["train"], "test")
    augment = dataclasses.replace(params.augment, bleeds=0.5)
    settings = {"epochs": 3, "batch_size": 7, "learning_rate": 0.01, "device": "cpu", "augment": augment, **changes}
    return dataclasses.replace(params, **settings)


def train(folder: Path, world: World, epochs: int = 3, device: str = "cpu") -> dict[str, Any]:
    """Everything a run leaves behind; the checkpoint is that of `folder`, its schedule that of three epochs."""
    torch.manual_seed(0)
    net = FoldNet(Small(), 6, (0.5,) * 3, (0.5,) * 3, 0.3)
    params = train_params(mixup_alpha=0.4, auxiliary=0.5, device=device, amp="off")
    loop = Trainer(net, task(), params, seed=1, mine_epoch=2, resume=folder / "resume.pt", world=world)
    resumed = loop.progress.epoch

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == epochs:
            raise KeyboardInterrupt

    steps: list[dict[str, float]] = []
    with contextlib.suppress(KeyboardInterrupt):
        loop.run(stop if epochs < 3 else lambda row: None, steps.append, every=2)
    rows = [{key: row[key] for key in ("loss", "held_out_log_loss", "grad_norm")} for row in loop.progress.history]
    weights = {name: value.cpu().clone() for name, value in loop.net.state_dict().items()}
    averaged = {name: value.cpu() for name, value in loop.ema.module.state_dict().items()}
    found = {"rows": rows, "steps": steps, "mined": loop.progress.mined, "resumed": resumed}
    return {"net": weights, "ema": averaged, **found}


def work(rank: int, port: int, folder: Path, epochs: int, device: str = "cpu") -> None:
    """One of two processes, as torchrun would have started it."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test")
    with joined(torch.device(device)) as world:
        torch.save(train(folder, world, epochs, device), folder / f"{rank}.pt")


def train_by_two(folder: Path, epochs: int = 3, device: str = "cpu") -> list[dict[str, Any]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, folder, epochs, device), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def assert_same(got: dict[str, Any], expected: dict[str, Any], **tolerance: float) -> None:
    for part in ("net", "ema"):
        for name, value in expected[part].items():
            torch.testing.assert_close(got[part][name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)
    for row, other in zip(got["rows"], expected["rows"], strict=True):
        assert row == pytest.approx(other, rel=1e-3)
    np.testing.assert_allclose(got["mined"], expected["mined"], atol=1e-3)


def test_two_processes_equal_one_with_the_same_global_batch_and_one_goes_on_where_two_stopped(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = train(tmp_path / "one", World())
    first, second = train_by_two(tmp_path / "two", epochs=2)
    assert_same(second, first, rtol=0, atol=0)  # both processes hold the same network, bit by bit
    assert first["steps"] == second["steps"] and len(first["steps"]) == 6  # every second of two epochs' twelve
    for row, other in zip(first["steps"], whole["steps"][:6], strict=True):  # of the whole batch, not of one process's share
        assert row == pytest.approx(other, rel=1e-3)
    # Adam divides by the size of the gradient: rounding grows where that is near zero. A tenth of one step of 0.01 is allowed:
    # a sample, a weight or a statistic that differs moves whole steps.
    alone = train(tmp_path / "two", World())
    assert alone["resumed"] == 2
    assert_same(alone, whole, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
def test_two_gpus_equal_one_with_the_same_global_batch(tmp_path: Path) -> None:
    """NCCL and SyncBatchNorm for real; what of them a CPU can show is below."""
    if torch.cuda.device_count() < 2:
        pytest.skip("fewer than two CUDA devices")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = train(tmp_path / "one", World(), device="cuda")
    first, second = train_by_two(tmp_path / "two", device="cuda")
    assert_same(second, first, rtol=0, atol=0)
    assert_same(first, whole, rtol=1e-2, atol=1e-3)


class Calls(list[Any]):
    """Stands for torch's process group and GPUs: remembers what was asked of them, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
        monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: self.append(("init", backend)))
        monkeypatch.setattr(dist, "destroy_process_group", lambda: self.append(("destroy",)))
        monkeypatch.setattr(dist, "get_rank", lambda: 3)
        monkeypatch.setattr(dist, "get_world_size", lambda: 4)
        monkeypatch.setattr(torch.cuda, "set_device", lambda number: self.append(("device", number)))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        for name, value in {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2, "RANK": 3, "LOCAL_RANK": 1}.items():
            monkeypatch.setenv(name, str(value))


def test_gpus_talk_by_nccl_each_process_on_its_own_and_cpus_by_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second process of the second of two machines; NCCL takes the device that is current when the group begins."""
    calls = Calls(monkeypatch)
    with joined(torch.device("cuda")) as world:
        assert world == World(3, 4)
    assert calls == [("device", 1), ("init", "nccl"), ("destroy",)]
    calls.clear()
    with joined(CPU) as world:
        assert world == World(3, 4)
    assert calls == [("init", "gloo"), ("destroy",)]


def test_a_lost_gpu_process_is_said_and_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Calls(monkeypatch)
    with pytest.raises(TrainingError, match="process 3 of 4 has lost the others"), joined(torch.device("cuda")):
        raise dist.DistBackendError("NCCL communicator was aborted on rank 3")
    with pytest.raises(RuntimeError, match="shapes differ"), joined(torch.device("cuda")):
        raise RuntimeError("shapes differ")


def test_gradients_of_a_gpu_are_averaged_on_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    Calls(monkeypatch)
    wrapped: list[Any] = []
    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", lambda net, ids, **options: wrapped.append(ids))
    for device in ("cuda", "cpu"):
        World(3, 4).wrap(nn.Linear(2, 2), torch.device(device))
    assert wrapped == [[1], None]


@pytest.mark.parametrize(("n", "size"), [(0, 2), (1, 2), (33, 4), (64, 3), (5, 8)])
def test_shares_cover_a_batch_once_and_evenly(n: int, size: int) -> None:
    shares = [list(range(n))[World(rank, size).share(n)] for rank in range(size)]
    assert [item for share in shares for item in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_no_share_of_a_batch_is_empty_and_all_count_once_together() -> None:
    for n, size in ((1, 2), (2, 3), (3, 3), (7, 2)):
        portions = [World(rank, size).portion(n) for rank in range(size)]
        assert all(list(range(n))[mine] for mine, _ in portions)
        counted = np.zeros(n)
        for mine, counts in portions:
            counted[mine] += counts
        np.testing.assert_allclose(counted, 1.0)


def test_the_form_for_gpus_keeps_the_state_and_the_activations_of_the_network() -> None:
    torch.manual_seed(0)
    net = FoldNet(timm.create_model("tf_efficientnet_lite0", num_classes=0), 1280, (0.5,) * 3, (0.5,) * 3, 0.3).eval()
    image = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    state, expected = dict(net.state_dict()), net(image)
    globalise(net, World(0, 2), torch.device("cuda"))
    left = [type(module).__name__ for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(left) == 49 and set(left) == {"SyncBatchNormAct"}
    assert list(net.state_dict()) == list(state)
    torch.testing.assert_close(net.eval()(image), expected, rtol=0, atol=0)


def test_the_form_for_cpus_is_batchnorm_when_predicting() -> None:
    torch.manual_seed(0)
    net = FoldNet(timm.create_model("tf_efficientnet_lite0", num_classes=0), 1280, (0.5,) * 3, (0.5,) * 3, 0.3).eval()
    image = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    names, expected = list(net.state_dict()), net(image)
    net.freeze(2)
    frozen = {name for name, module in net.train().named_modules() if not module.training}
    globalise(net.eval(), World(0, 2), CPU)
    assert sum(isinstance(module, GlobalBatchNorm) for module in net.modules()) == 49
    assert list(net.state_dict()) == names
    assert {name for name, module in net.train().named_modules() if not module.training} == frozen
    net.eval()
    torch.testing.assert_close(net.eval()(image), expected, rtol=0, atol=0)


def test_one_process_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with joined(CPU) as world:
        assert world == World() and world.is_main and world.from_main("x") == "x"
        net = nn.Linear(2, 2)
        assert world.wrap(net, CPU) is net and not isinstance(net, DistributedDataParallel)
    assert not spread("stages.train_fold", train_params(devices=1))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")  # torchrun has started this process: it must not start others
    assert not spread("stages.train_fold", train_params(devices=2))


def test_more_processes_than_gpus_is_an_error_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(TrainingError, match=r"4 processes on a machine where torch sees 2 CUDA.*lower train\.devices"):
        spread("stages.train_fold", train_params(devices=4, device="auto"))


def children(pid: int) -> dict[str, int]:
    """Rank → process id of the processes below `pid` that torchrun has started (Linux)."""
    found: dict[str, int] = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [line.removeprefix(b"RANK=").decode() for line in environment if line.startswith(b"RANK=")]
        found |= dict.fromkeys(ranks, int(child)) or children(int(child))
    return found


def two_process_params(**train: Any) -> dict[str, Any]:
    params = tiny_params()
    params["train"].update(devices=2, epochs=3, **train)
    return params


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
STAGE = [sys.executable, "-m", "stages.train_fold", "--fold", "0"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks its processes up in /proc")
@pytest.mark.parametrize("lost", ["0", "1"])  # the first writes the checkpoints
def test_a_lost_process_ends_the_stage_soon_with_a_message_and_one_or_two_go_on(lost: str, tmp_path: Path) -> None:
    with workspace(tmp_path, two_process_params()) as folder:
        for stage in ("prepare", "audit", "split"):
            run(stage)
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(STAGE, cwd=folder, env=ENVIRONMENT, **pipes) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 1/3" in line:
                break
        os.kill(children(process.pid)[lost], signal.SIGKILL)
        killed = time.monotonic()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert time.monotonic() - killed < 60
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: stages.train_fold: one of its 2 processes ended") and "give the command again" in last
    assert not (folder / "models/folds/0").exists()
    assert len(list((folder / ".strokect/resume").glob("*.pt"))) == 1

    for devices in (2, 1):  # the second finds nothing to resume: the first has finished
        with workspace(tmp_path, two_process_params() | {"train": two_process_params()["train"] | {"devices": devices}}):
            done = subprocess.run(STAGE, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        assert ("resuming after epoch" in done.stdout) == (devices == 2)
        assert done.stdout.count("epoch 3/3") == 1  # by one process only
        assert read_json(folder / "models/folds/0/model.json")["device"] == ("2 × cpu" if devices == 2 else "cpu")
    assert not list((folder / ".strokect/resume").iterdir())


@pytest.mark.slow
def test_two_machines_with_one_folder_train_what_one_process_does(tmp_path: Path) -> None:
    """The commands of docs/multi-gpu.md, with this machine as both of two and its processors as their GPUs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    params = two_process_params(learning_rate=0.0001)
    params["train"].update(devices=1, epochs=1)
    for name in ("one", "two"):
        with workspace(tmp_path / name, params):
            for stage in ("prepare", "audit", "split"):
                run(stage)
    options = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    for stage in ("train_fold", "hnm"):
        what = ["-m", f"stages.{stage}", "--fold", "0"]
        done = subprocess.run([sys.executable, *what], cwd=tmp_path / "one", env=ENVIRONMENT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        launcher = [sys.executable, "-m", "torch.distributed.run", *options, f"--rdzv-id=strokect-{stage}-0", *what]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        machines = [subprocess.Popen(launcher, cwd=tmp_path / "two", env=ENVIRONMENT, **pipes) for _ in range(2)]
        said = [machine.communicate(timeout=300) for machine in machines]
        assert [machine.returncode for machine in machines] == [0, 0], said
        assert sum(output.count("epoch 1/1") for output, _ in said) == 1  # by process 0 of them all
    for part in ("folds", "hnm"):
        one, two = (pd.read_csv(tmp_path / name / f"models/{part}/0/history.csv") for name in ("one", "two"))
        assert two["loss"].tolist() == pytest.approx(one["loss"].tolist(), rel=0.02), part
    assert read_json(tmp_path / "two/models/folds/0/model.json")["device"] == "2 × cpu"


@pytest.mark.slow
def test_both_training_stages_on_two_processes_give_the_models_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for devices in (1, 2):
        # A small rate: from random weights a network is chaotic. The exact test is that of the small network.
        params = two_process_params(learning_rate=0.0001)
        params["train"].update(devices=devices, epochs=1)
        with workspace(tmp_path / str(devices), params):
            for stage in ("prepare", "audit", "split"):
                run(stage)
            run("train_fold", "--fold", "0")
            run("hnm", "--fold", "0")
    for stage in ("folds", "hnm"):
        one, two = (load_file(tmp_path / f"{devices}/models/{stage}/0/model.safetensors") for devices in (1, 2))
        assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in two.items()}
        histories = [pd.read_csv(tmp_path / f"{devices}/models/{stage}/0/history.csv") for devices in (1, 2)]
        for column in ("loss", "held_out_log_loss"):
            assert histories[1][column].tolist() == pytest.approx(histories[0][column].tolist(), rel=0.02), (stage, column)
    first, second = (pd.read_csv(tmp_path / f"{devices}/models/folds/0/train_scores.csv") for devices in (1, 2))
    assert list(first["file"]) == list(second["file"])
    np.testing.assert_allclose(second["logit"], first["logit"], atol=0.02)
    one, two = (read_json(tmp_path / f"{devices}/models/hnm/0/hnm.json") for devices in (1, 2))
    assert two["all"]["log_loss_after"] == pytest.approx(one["all"]["log_loss_after"], rel=0.01)
