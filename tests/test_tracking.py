"""Tracking: what an offline run holds and what it must not, silence on the network, and that it stops and changes no run."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, TINY_FOLDS, run, tiny_params, workspace
from test_training import bright_or_dark, fake_net

from docs.offline_runs import describe, describe_all, read_run
from docs.tracking_page import tracking_page
from stages import build_bento
from strokect import fold, search
from strokect.errors import DataError
from strokect.files import read_json
from strokect.fold import gpu_memory, some_augmented, train
from strokect.manifest import PREPARED
from strokect.params import Params, load_params
from strokect.run_params import TrackingParams
from strokect.search_space import values_of
from strokect.splits import SPLIT
from strokect.tracking import PRIVATE, Tracker, WandbTracker, headline, run_group, start_tracker
from strokect.training import Trainer

PATIENT, FILE = "Mustermann^Erika^19530412", "ward7/Mustermann_Erika_slice_011.png"
COHORT = {"source": "phantom", "labels": "slice", "image_size": 48, "data_sha256": "d" * 64}
ABOUT = {"name": "train_fold@0", "job_type": "train_fold", "group": "g", "config": {}}
OFFLINE = TrackingParams("offline", "strokect", False)


@pytest.fixture
def params(tmp_path: Path) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tiny_params()))
    return load_params(path)


@contextlib.contextmanager
def own_wandb() -> Iterator[None]:
    """wandb's environment and its service process end with the block."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if wandb := sys.modules.get("wandb"):
            wandb.teardown()  # type: ignore[attr-defined]
        os.environ.clear()
        os.environ.update(before)


def plant_names() -> None:
    """Give the first patient and its first file names that nobody may read elsewhere."""
    for path in (PREPARED / "manifest.csv", SPLIT):
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        frame.loc[frame["patient"] == frame["patient"][0], "patient"] = PATIENT
        frame.loc[0, "file"] = FILE
        frame.to_csv(path, index=False)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which fold 0 was trained untracked (kept in `untracked`), then tracked, with its fine-tuning."""
    params = tiny_params()
    with workspace(tmp_path_factory.mktemp("tracked"), params) as folder, own_wandb():
        for stage in ("prepare", "audit", "split"):
            run(stage)
        plant_names()
        run("train_fold", "--fold", "0")
        shutil.copytree("models/folds/0", "untracked")
        params["tracking"]["wandb"] = "offline"
        Path("params.yaml").write_text(yaml.safe_dump(params))
        run("train_fold", "--fold", "0")
        run("hnm", "--fold", "0")
    return folder


def test_offline_runs_hold_the_curves_of_their_folds_in_one_group(tracked: Path) -> None:
    runs = {(found := read_run(path))["run"].display_name: found for path in (tracked / "wandb").glob("offline-run-*")}
    assert set(runs) == {"train_fold@0", "hnm@0"}
    assert len({found["run"].run_group for found in runs.values()}) == 1
    assert {found["run"].job_type for found in runs.values()} == {"train_fold", "hnm"}
    found = runs["train_fold@0"]
    assert found["config"]["train"]["batch_size"] == 16 and len(found["config"]["data"]["data_sha256"]) == 64
    steps = [row for row in found["rows"] if "step" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]  # 40 slices in batches of 16, twice
    assert all(row["step/loss"] > 0 and row["step/grad_norm"] > 0 and row["step/learning_rate"] > 0 for row in steps)
    epochs = pd.DataFrame([row for row in found["rows"] if "epoch" in row])
    history = pd.read_csv(tracked / "models/folds/0/history.csv")
    for name in ("loss", "held_out_log_loss", "learning_rate", "grad_norm", "images_per_s"):
        np.testing.assert_allclose(epochs[f"epoch/{name}"], history[name], rtol=1e-9)


def test_tracking_changes_no_weight(tracked: Path) -> None:
    weights = [(tracked / folder / "model.safetensors").read_bytes() for folder in ("untracked", "models/folds/0")]
    assert weights[0] == weights[1]


def test_no_patient_no_file_name_and_nothing_of_the_machine_is_in_the_bytes(tracked: Path) -> None:
    assert FILE in (tracked / "data/prepared/manifest.csv").read_text()
    files = [path for path in (tracked / "wandb").rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.suffix == ".wandb" for path in files) == 2
    for path in files:
        content = path.read_bytes()
        for secret in (PATIENT, "Mustermann", FILE, Path(FILE).name):
            assert secret.encode() not in content, path
    for path in (tracked / "wandb").rglob("*.wandb"):  # what would be sent
        content = path.read_bytes()
        assert str(tracked).encode() not in content and sys.executable.encode() not in content
        assert b"requirements.txt" not in content and b"wandb-metadata" not in content
    assert not list((tracked / "wandb").rglob("media"))


@pytest.fixture(scope="module")
def later(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the whole tiny pipeline in which the last stages and a search of two trials were run again, tracked."""
    folder = tmp_path_factory.mktemp("later")
    shutil.copytree(pipeline, folder, dirs_exist_ok=True)
    shutil.copytree(ROOT / "conf", folder / "conf")
    params = tiny_params()
    params["tracking"]["wandb"] = "offline"
    params["search"].update(trials=2)
    with workspace(folder, params), own_wandb(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_bento, "build_bento", lambda *args: None)  # packing has a test of its own
        patch.setattr(build_bento, "bento_version", lambda root, version: f"bento-of-{version}")
        run("evaluate")
        run("build_bento")
        patch.setattr(sys, "argv", ["search"])
        search.main()
    return folder


@pytest.fixture(scope="module")
def runs(later: Path) -> dict[str, dict[str, Any]]:
    """The offline runs of `later` by name."""
    found = [read_run(path) for path in (later / "wandb").glob("offline-run-*")]
    return {one["run"].display_name: one for one in found}


def test_evaluate_holds_the_reported_figures_and_the_plots(later: Path, runs: dict[str, dict[str, Any]]) -> None:
    assert set(runs) == {"evaluate", "build_bento", "trial-0", "trial-1"}
    reported = read_json(later / "metrics/evaluate.json")
    found = runs["evaluate"]["summary"]
    assert found["part"] == "test" and found["n_patients"] == reported["n_patients"]
    for level in ("slice", "patient"):
        for name in ("roc_auc", "sensitivity", "specificity"):
            assert found[f"{level}/{name}"] == reported[level][name]["value"], (level, name)
    plots = {f"plots/{path.stem}" for path in (later / "reports/plots").glob("*.png")}
    assert plots and plots == {key for key in describe(runs["evaluate"])["logged"] if key.startswith("plots/")}


def test_build_bento_holds_the_exported_models_with_the_hashes_of_what_they_learned_from(
    later: Path, runs: dict[str, dict[str, Any]]
) -> None:
    assert runs["build_bento"]["run"].run_group == runs["evaluate"]["run"].run_group
    release = read_json(later / "models/release/manifest.json")["version"]
    assert runs["build_bento"]["summary"]["release"] == release
    (artifact,) = describe(runs["build_bento"])["artifacts"]
    assert (artifact["name"], artifact["type"]) == ("exported-models", "model")
    data = read_json(later / "data/prepared/cohort.json")["data_sha256"]
    split = hashlib.sha256((later / SPLIT).read_bytes()).hexdigest()
    versions = {"release": release, "bento": f"bento-of-{release}"}
    assert artifact["metadata"] == {"data_sha256": data, "split_sha256": split, **versions}
    models = [f"models/{fold}/{file}" for fold in TINY_FOLDS for file in ("head.npz", "model.json", "model.onnx")]
    assert list(artifact["files"]) == [*models, "operating_point.json"]
    for path, said in artifact["files"].items():
        content = (later / path.replace("models/", "models/export/") if "/" in path else later / "models" / path).read_bytes()
        assert said == {"bytes": len(content), "md5": base64.b64encode(hashlib.md5(content).digest()).decode()}, path


def test_a_trial_holds_its_params_its_course_and_its_value(later: Path, runs: dict[str, dict[str, Any]]) -> None:
    with contextlib.chdir(later):
        trials = search.prepare_search()[2].trials
    for trial in trials:
        found = runs[f"trial-{trial.number}"]
        assert (found["run"].run_group, found["run"].job_type) == ("search-strokect", "search")
        train = found["config"]["train"]
        logged = {name: train[name] for name in ("learning_rate", "weight_decay", "batch_size", "focal_gamma", "label_smoothing")}
        logged |= {"dropout": found["config"]["model"]["dropout"], "augment_strength": train["augment"]["strength"]}
        assert logged == pytest.approx(values_of(trial))
        assert {row["epoch"]: row["epoch/log_loss"] for row in found["rows"] if "epoch" in row} == trial.intermediate_values
        assert (found["summary"]["state"], found["summary"]["log_loss"]) == ("complete", trial.value)
    assert runs["trial-0"]["config"]["train"]["learning_rate"] != runs["trial-1"]["config"]["train"]["learning_rate"]


def test_no_patient_is_in_the_runs_of_the_last_stages(later: Path) -> None:
    manifest = pd.read_csv(later / "data/prepared/manifest.csv", dtype=str)
    names = {name.encode() for column in ("patient", "file") for name in manifest[column]}
    assert len(names) > 100
    for path in (later / "wandb").rglob("*.wandb"):
        content = path.read_bytes()
        assert not [name for name in names if name in content], path


def test_the_page_of_runs_is_made_of_what_was_read_back(later: Path, runs: dict[str, dict[str, Any]]) -> None:
    described = describe_all(later / "wandb")
    assert [run["name"] for run in described] == ["build_bento", "evaluate", "trial-0", "trial-1"]
    page = tracking_page(described)
    auc = runs["evaluate"]["summary"]["slice/roc_auc"]
    assert f"`slice/roc_auc` {auc:.4g}" in page and "`epoch/log_loss` (2)" in page
    assert f"- data_sha256: `{described[0]['data_sha256']}`" in page
    assert runs["evaluate"]["run"].run_id not in page
    with pytest.raises(DataError, match="no offline run"):
        describe_all(later / "models")


def test_gpu_memory_is_in_the_rows_of_the_epochs(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_memory(torch.device("cpu")) == {}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2_500_000_000 if device.type == "cuda" else 0)
    assert gpu_memory(torch.device("cuda")) == {"gpu_memory_gb": 2.5}
    monkeypatch.setattr(fold, "gpu_memory", lambda device: gpu_memory(torch.device("cuda")))
    runs = fake_wandb(monkeypatch)
    with WandbTracker(OFFLINE, ABOUT, None) as tracker:
        train(fake_net(), bright_or_dark(), params.train, fold=0, mine_epoch=0, resume=tmp_path / "r.pt", tracker=tracker)
    assert [row["epoch/gpu_memory_gb"] for row in runs[0].rows if "epoch" in row] == [2.5] * params.train.epochs


def test_pictures_are_logged_only_when_asked_for_and_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), dtype=np.uint8)
    asked: list[bool] = []
    with own_wandb():
        for wanted in (False, True):
            with WandbTracker(replace(OFFLINE, log_images=wanted), ABOUT, None) as tracker:
                tracker.slices("slices", lambda wanted=wanted: asked.append(wanted) or pictures)  # type: ignore[misc,func-returns-value]
    assert asked == [True]
    media = sorted(path.name for path in tmp_path.rglob("media/images/*"))
    assert len(media) == 3 and all(name.startswith("slices_") for name in media)


def test_plots_figures_and_the_exported_model_with_its_data_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plots").mkdir()
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "plots/roc.png")
    (tmp_path / "model.onnx").write_bytes(b"weights")
    metrics = {
        "part": "oof",
        "n_slices": 5,
        "n_patients": 2,
        "slice": {"roc_auc": {"value": 0.75, "ci95": [0, 1]}, "threshold": 0.5},
    }
    with own_wandb(), WandbTracker(OFFLINE, ABOUT, None) as tracker:
        tracker.summary(headline(metrics | {"patient": {}}))
        tracker.plots(tmp_path / "plots")
        tracker.artifact("exported-models", "model", {"models/0/model.onnx": tmp_path / "model.onnx"}, {"data_sha256": "d" * 64})
    found = read_run(next(tmp_path.glob("wandb/offline-run-*")))
    assert found["summary"]["slice/roc_auc"] == 0.75 and "slice/threshold" not in found["summary"]
    assert any("plots/roc" in key for row in found["rows"] for key in row)
    artifact = found["artifacts"][0]
    assert (artifact.name, artifact.type) == ("exported-models", "model") and "d" * 64 in artifact.metadata
    assert [entry.path for entry in artifact.manifest.contents] == ["models/0/model.onnx"]
    staged = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file() and path.read_bytes() == b"weights"]
    assert staged, "`wandb sync` would not find the artifact's files"


@contextlib.contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A server that hangs up on everybody: its port, and what it was sent."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    client.settimeout(1)
                    with client, contextlib.suppress(OSError):
                        heard.append(client.recv(64))

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)


TRACK = """
import sys
from pathlib import Path
opened = []
sys.addaudithook(lambda event, args: opened.append(args[1]) if event == "socket.connect" and isinstance(args[1], tuple) else None)
import strokect.tracking as tracking
from strokect.run_params import TrackingParams
from strokect.search_space import values_of
tracking.INIT_TIMEOUT_S = 2
about = {"name": "train_fold@0", "job_type": "train_fold", "group": "g", "config": {}}
with tracking.WandbTracker(TrackingParams(sys.argv[1], "strokect", False), about, Path("run.wandb")) as tracker:
    for step in range(1, 4):
        tracker.step({"step": step, "loss": 1.0})
print("opened", opened)
"""


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_offline_contacts_nobody_and_an_unreachable_server_costs_seconds(tmp_path: Path, mode: str) -> None:
    """The same script in both modes, in reach of a server that counts: online proves that the count can be other than 0."""
    with listener() as (port, heard):
        address = f"http://127.0.0.1:{port}"
        changed = dict.fromkeys(("WANDB_BASE_URL", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), address)
        changed |= {"WANDB_API_KEY": "a" * 40, "PYTHONPATH": str(ROOT), "NO_PROXY": "", "no_proxy": ""}
        started = time.perf_counter()
        command = [sys.executable, "-c", TRACK, mode]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | changed, capture_output=True, text=True, check=True)
        assert time.perf_counter() - started < 60
    said = done.stdout.splitlines()
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1  # where online fails, too: nothing is lost
    if mode == "offline":
        assert heard == []
        assert said[-1] == "opened []"
        assert len(said) == 2 and "W&B offline" in said[0]
    else:
        assert heard
        assert said[0].startswith("train_fold@0: W&B online failed, this run is tracked offline (")
        assert "W&B offline" in said[1]
    assert done.stderr == ""


class FakeRun:
    """Accepts the first `works` rows, then fails."""

    def __init__(self, works: int, settings: dict[str, Any]):
        self.works, self.id, self.rows, self.summary = works, settings["id"], list[dict[str, Any]](), dict[str, Any]()
        self.finished: int | None = None
        self.settings, self.dir = settings["settings"], "wandb/run-x/files"

    def define_metric(self, *args: Any, **kwargs: Any) -> None: ...

    def log(self, row: dict[str, Any]) -> None:
        if len(self.rows) >= self.works:
            raise BrokenPipeError("service is gone")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.finished = exit_code


def fake_wandb(monkeypatch: pytest.MonkeyPatch, works: int = 1_000_000) -> list[FakeRun]:
    """Put a wandb in place that keeps its runs in a list."""
    runs: list[FakeRun] = []

    def init(**settings: Any) -> FakeRun:
        runs.append(FakeRun(works, settings))
        return runs[-1]

    module = types.SimpleNamespace(init=init, Settings=dict, teardown=lambda: None, login=lambda **_: False)
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    for name in (*PRIVATE, "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, "")
    return runs


def test_a_crash_of_wandb_is_one_line_and_the_training_is_the_same(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, _, _ = train(fake_net(), bright_or_dark(), params.train, fold=0, mine_epoch=0, resume=tmp_path / "a.pt")
    runs = fake_wandb(monkeypatch, works=2)
    capsys.readouterr()
    with WandbTracker(OFFLINE, ABOUT, None) as tracker:
        net, progress, _ = train(
            fake_net(), bright_or_dark(), params.train, fold=0, mine_epoch=0, resume=tmp_path / "b.pt", tracker=tracker
        )
    assert len(runs[0].rows) == 2 and progress.epoch == params.train.epochs
    said = [line for line in capsys.readouterr().out.splitlines() if "failed" in line]
    assert said == ["train_fold@0: W&B offline failed, it goes on untracked (BrokenPipeError: service is gone)"]
    for name, value in plain.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_an_upload_that_takes_too_long_is_said_with_the_command_that_sends_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = fake_wandb(monkeypatch)
    monkeypatch.setattr(FakeRun, "finish", lambda run, exit_code: (_ for _ in ()).throw(TimeoutError("upload incomplete")))
    with WandbTracker(OFFLINE, ABOUT, None):
        pass
    assert runs[0].settings["finish_timeout_raises"] is True  # without it wandb says nothing that anybody sees
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith("what was not sent stays on disk: wandb sync wandb/run-x (TimeoutError: upload incomplete)")


def test_without_an_account_online_goes_on_offline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs = fake_wandb(monkeypatch)
    with WandbTracker(replace(OFFLINE, wandb="online"), ABOUT, None) as tracker:
        tracker.epoch({"epoch": 1, "loss": 0.5})
    assert [run.rows for run in runs] == [[{"epoch": 1, "epoch/loss": 0.5}]]
    assert "no account on this machine: run `wandb login`" in capsys.readouterr().out


def test_without_wandb_it_goes_on_untracked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake_wandb(monkeypatch)
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    with WandbTracker(OFFLINE, ABOUT, None) as tracker:
        tracker.step({"step": 1, "loss": 0.5})
    assert "W&B offline failed, it goes on untracked (ModuleNotFoundError" in capsys.readouterr().out


def test_a_killed_fold_keeps_its_run_and_a_finished_one_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, run_file = fake_wandb(monkeypatch), tmp_path / "resume/train_fold-0-abc.wandb"
    WandbTracker(OFFLINE, ABOUT, run_file)  # killed: nobody finishes it
    with pytest.raises(KeyboardInterrupt), WandbTracker(OFFLINE, ABOUT, run_file):
        raise KeyboardInterrupt
    with WandbTracker(OFFLINE, ABOUT, run_file):
        pass
    assert not run_file.exists()
    WandbTracker(OFFLINE, ABOUT, run_file)
    assert runs[0].id == runs[1].id == runs[2].id != runs[3].id
    assert [run.finished for run in runs] == [None, 1, 0, None]


def test_the_group_is_of_data_split_and_what_trains(params: Params) -> None:
    group = run_group(params, COHORT, "s")
    for same in (
        replace(params, tracking=replace(params.tracking, wandb="offline")),
        replace(params, search=replace(params.search, trials=5)),
        replace(params, evaluate=replace(params.evaluate, resamples=500)),
    ):
        assert run_group(same, COHORT, "s") == group
    others = [
        run_group(replace(params, train=replace(params.train, epochs=7)), COHORT, "s"),
        run_group(params, COHORT | {"data_sha256": "e" * 64}, "s"),
        run_group(params, COHORT, "t"),
    ]
    assert len({group, *others}) == 4


def test_a_weights_file_of_this_machine_is_not_named(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("strokect.tracking.WandbTracker", lambda params, about, run_file: given.update(about))
    local = replace(params, model=replace(params.model, weights="/home/erika/secret.pth"), tracking=OFFLINE)
    start_tracker(local, "train_fold", "train_fold@0", COHORT, "s")
    assert given["config"]["model"]["weights"] == "file"
    assert "erika" not in json.dumps(given)


def test_disabled_imports_no_wandb_and_takes_everything(params: Params, tmp_path: Path) -> None:
    with start_tracker(params, "train_fold", "train_fold@0", COHORT, "s", run_file=tmp_path / "run.wandb") as tracker:
        assert type(tracker) is Tracker
        tracker.step({"step": 1})
        tracker.plots(tmp_path)
        tracker.slices("x", lambda: pytest.fail("pictures were made for nobody"))
    assert list(tmp_path.glob("*.wandb")) == []
    code = "import sys, strokect.tracking; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_disabled_reads_no_loss_from_the_device_between_epochs(params: Params, tmp_path: Path) -> None:
    """Reading one waits for everything before it on a GPU."""
    read: list[torch.Tensor] = []
    net = fake_net()
    real = Trainer._step

    class Watched(torch.Tensor):
        def tolist(self) -> list[float]:
            read.append(self)
            return super().tolist()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", lambda self, *given: real(self, *given).as_subclass(Watched))
        train(net, bright_or_dark(), params.train, fold=0, mine_epoch=0, resume=tmp_path / "r.pt")
        assert not read
        fake_wandb(patch)
        with WandbTracker(OFFLINE, ABOUT, None) as tracker:
            train(net, bright_or_dark(), params.train, fold=0, mine_epoch=0, resume=tmp_path / "s.pt", tracker=tracker)
        assert read


def test_pictures_to_show_leave_the_generators_alone(params: Params) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    shown = some_augmented(bright_or_dark(), params.train)
    assert torch.equal(torch.rand(3), expected)
    assert shown.shape == (16, 1, 16, 16) and shown.dtype == np.uint8


def test_no_stage_goes_stale_by_tracking_or_search() -> None:
    for name, stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items():
        listed = {str(param).split(".")[0] for param in stage.get("params", [])}
        assert not listed & {"tracking", "search"}, name
    done = subprocess.run(["git", "check-ignore", "-q", "wandb/run"], cwd=ROOT, check=False)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    assert done.returncode == 0
