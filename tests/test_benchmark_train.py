"""The parts of the training benchmark that can be wrong without anybody noticing: the rivals, what is compared, the targets."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_distributed import train_params

from benchmarks import train
from benchmarks.five_folds import five_folds
from benchmarks.plain_loop import Form, PlainLoop
from benchmarks.rivals import LoaderFeed, OurForm, Ours, our_forms
from benchmarks.training_set import TrainingSet, make_set
from docs.training_speed_page import training_speed_page, training_speed_table
from strokect.files import read_json

CPU, CUDA, LITE0 = torch.device("cpu"), torch.device("cuda"), "tf_efficientnet_lite0"


@pytest.fixture
def data() -> TrainingSet:
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 32, 32), np.uint8)
    return TrainingSet(images, np.arange(12) % 2, np.arange(12) // 2)


def test_the_set_is_a_phantom_of_the_size_asked_for() -> None:
    made = make_set(13, 32)
    assert made.images.shape == (13, 1, 32, 32) and made.images.dtype == np.uint8 and made.images.std() > 20
    assert made.patients.tolist() == [0] * 10 + [1] * 3
    half = made.part(made.patients == 1)
    np.testing.assert_array_equal(half.images, made.images[10:])


def test_both_loops_train_every_slice_once_per_epoch(data: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, params = data.write(tmp_path / "png"), train_params(batch_size=5)
    monkeypatch.chdir(tmp_path)
    plain = PlainLoop(LITE0, paths, data.labels, params, CPU, Form(amp=False, channels_last=True, workers=0))
    before = {name: value.clone() for name, value in plain.net.named_parameters()}
    assert np.isfinite(plain.epoch()) and plain.steps == 3
    assert all(not torch.equal(value, before[name]) for name, value in plain.net.named_parameters() if value.ndim > 1)
    ours = Ours(LITE0, data, paths, params, OurForm(amp=False, channels_last=False), CPU)
    ours.epoch()
    assert ours.done == 1 and ours.trainer.steps_done == 3
    assert ours.trainer.net.backbone.conv_stem.weight.is_contiguous()
    assert not list(tmp_path.glob("never*"))


def test_the_loader_of_ours_gives_the_same_slices_in_the_order_of_the_epoch(data: TrainingSet, tmp_path: Path) -> None:
    off = dataclasses.replace(train_params().augment, strength=0.0, mirror=False)
    feed = LoaderFeed(data.write(tmp_path / "png"), train_params(batch_size=5, augment=off), CPU, workers=1)
    for order in (torch.arange(12), torch.randperm(12)):
        got = torch.cat(list(feed.batches(order, 5)))
        np.testing.assert_array_equal(got, data.images[order])


def test_the_forms_differ_from_the_pipelines_in_one_thing_each() -> None:
    first, *others = our_forms(CUDA, 4, True)
    assert first == OurForm(amp=True, channels_last=True, workers=0, compiled=False)
    for form in others:
        assert sum(a != b for a, b in zip(dataclasses.astuple(form), dataclasses.astuple(first), strict=True)) == 1
    assert len({form.name for form in [first, *others]}) == 5 and len(our_forms(CUDA, 4, False)) == 4
    assert {form.amp for form in train.plain_forms(CUDA)} == {True, False}
    assert not any(form.amp for form in [*train.plain_forms(CPU), *our_forms(CPU, 2, True)])


RESULT: dict[str, Any] = {
    "images_per_s": {
        "ours, AMP, channels_last": {"best": 1000, "median": 900},
        "ours, AMP, channels_last, compiled": {"best": 2000, "median": 2000},
        "plain, AMP, contiguous, 8 workers": {"best": 500, "median": 450},
        "plain, AMP, channels_last, 8 workers": {"best": 800, "median": 400},
        "plain, fp32, contiguous, 8 workers": {"best": 5000, "median": 5000},
    },
    "peak_memory_gb": {"ours, AMP, channels_last": 6.5, "ours, fp32, channels_last": 10.0},
    "validation_log_loss": {"AMP": [0.5, 0.7], "fp32": [0.5, 0.6]},
}


def test_ours_is_compared_with_the_fastest_plain_loop_of_the_same_precision() -> None:
    found = train.figures(RESULT, CUDA)
    assert found["ours / plain, images/s, cuda"] == (1.25, 2.0)
    assert found["share of memory saved by AMP"] == (0.35, 0.35)
    assert found["validation log loss, AMP - fp32"] == (0.05, 0.05)
    assert [row["met"] for row in train.judge(found)] == [False, False, False]
    assert [row["met"] for row in train.judge({"five folds, s": (300.0, 300.0)})] == [True]
    assert train.figures({"images_per_s": {}, "peak_memory_gb": {"ours, fp32, channels_last": 9}}, CUDA) == {}


def test_where_fp32_does_not_fit_what_was_free_bounds_what_amp_saves() -> None:
    run = {"images_per_s": {}, "peak_memory_gb": {"ours, AMP, channels_last": 6.0}, "free_memory_gb": 16.0}
    assert train.figures(run, CUDA) == {}
    run["left_out"] = {"ours, fp32, channels_last": "OutOfMemoryError: CUDA out of memory."}
    assert train.figures(run, CUDA) == {"share of memory saved by AMP, at least": (0.625, 0.625)}


def test_what_cannot_run_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("empty_cache", None), ("memory_allocated", 1e9), ("reset_peak_memory_stats", None)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3.5e9)
    assert train.peak_gb(lambda: lambda: None) == 2.5

    def fail() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    assert train.peak_gb(lambda: fail) == "OutOfMemoryError: CUDA out of memory."


def test_parts_of_one_json_are_kept_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: TrainingSet) -> None:
    monkeypatch.setattr(train, "plain_forms", lambda device: [Form(False, True, 0)])
    monkeypatch.setattr(train, "make_set", lambda slices, size: data)
    out = tmp_path / "train.json"
    for network in ("tf_efficientnet_lite0@32", "tf_efficientnet_lite1@32"):
        train.main(["--networks", network, "--batch-size", "6", "--repeats", "1", "--device", "cpu", "--out", str(out)])
    bench = read_json(out)
    assert [name.split("@")[0] for name in bench["runs"]] == ["tf_efficientnet_lite0", "tf_efficientnet_lite1"]
    run = bench["runs"]["tf_efficientnet_lite0@32 on a CPU"]
    assert run["slices"] == 12 and set(run["images_per_s"]) == {
        "ours, fp32, channels_last",
        "ours, fp32, contiguous",
        "plain, fp32, channels_last, 0 workers",
    }
    names = ("ours, fp32, channels_last", "plain, fp32, channels_last, 0 workers")
    ours, plain = (run["images_per_s"][name]["best"] for name in names)
    assert run["targets"][0]["best"] == pytest.approx(ours / plain, abs=0.006)
    assert "tf_efficientnet_b4@380" in training_speed_table(bench).splitlines()[-1]  # not measured yet
    assert "| ours, fp32, contiguous |" in training_speed_page(bench)
    on_gpu = {f"{part} on NVIDIA H100": run for part in ("tf_efficientnet_b3@300", "tf_efficientnet_b4@380")}
    assert "five folds" in training_speed_table({"runs": on_gpu}).splitlines()[-1]


def test_five_folds_hold_out_every_patient_once_and_leave_no_time_uncounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: TrainingSet
) -> None:
    monkeypatch.setattr("benchmarks.five_folds.make_set", lambda slices, size: data)
    result = five_folds(LITE0, 32, 12, train_params(epochs=1, warmup_epochs=0.0, batch_size=4), tmp_path)
    assert len(result["folds"]) == 5 and result["epochs"] == 1
    assert result["seconds"] >= sum(fold["seconds"] for fold in result["folds"]) - 0.1
    with pytest.raises(SystemExit):
        train.parse(["--five-folds", "--slices", "20"])
