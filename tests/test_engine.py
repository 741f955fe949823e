"""The engine on fake folds: what a view is worth, batch independence, deadlines, and folds that must not load."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fakes import FEATURES, SIZE, STAGES, fake_export, grey_slice
from onnx import TensorProto, helper

from strokect.engine import Engine, FoldModel, Passes, Whole, activation_map, score_slices
from strokect.errors import DeadlineError, ReleaseError
from strokect.files import read_json, write_json
from strokect.sidecar import read_sidecar
from strokect.views import make_views


@pytest.fixture
def images() -> np.ndarray:
    return np.stack([grey_slice(SIZE, seed)[None] for seed in range(5)])  # (5, 1, S, S)


def test_scores_have_one_row_per_slice_and_one_column_per_view(tmp_path: Path, images: np.ndarray) -> None:
    model = FoldModel(fake_export(tmp_path / "0", 0))
    done: list[int] = []
    scores = score_slices(model, images, ["identity", "mirror"], done.append)
    assert scores.logits.shape == (5, 2) and scores.features.shape == (5, 2, FEATURES)
    assert done == [1, 2, 3, 4, 5]
    features = model.run(make_views(images[3], ["mirror"])[0])
    assert np.allclose(scores.features[3, 1], features)
    assert np.array_equal(scores.stages[3], model.run_whole(images[3]).stages) and scores.stages.shape == (5, STAGES)
    assert np.isclose(scores.logits[3, 1], features @ model.weight + model.bias)
    assert not np.allclose(scores.logits[:, 0], scores.logits[:, 1])


def test_a_slice_scores_the_same_alone_and_in_company(tmp_path: Path, images: np.ndarray) -> None:
    model = FoldModel(fake_export(tmp_path / "0", 0))
    together = score_slices(model, images, ["identity"]).logits
    alone = np.concatenate([score_slices(model, images[i : i + 1], ["identity"]).logits for i in range(5)])
    assert np.array_equal(together, alone)


def test_views_are_known_and_begin_with_the_unchanged_slice(tmp_path: Path, images: np.ndarray) -> None:
    model = FoldModel(fake_export(tmp_path / "0", 0))
    for views in ([], ["identity", "upside_down"], ["mirror"], ["mirror", "identity"]):
        with pytest.raises(ReleaseError, match="views"):
            score_slices(model, images, views)
        with pytest.raises(ReleaseError, match="views"):
            Engine([model], views)


def test_the_map_says_what_each_place_adds_to_the_logit(tmp_path: Path, images: np.ndarray) -> None:
    model = FoldModel(fake_export(tmp_path / "0", 0))
    whole = model.run_whole(images[0])
    features, activation = whole.features, whole.activation
    assert np.array_equal(features, model.run(images[0])) and activation.shape == (4, 4)
    assert activation.sum() == pytest.approx(model.logit(features) - model.bias, abs=1e-4)
    feature_map = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    expected = (0.5 * feature_map[0] - 2 * feature_map[1]) / 12
    assert np.allclose(activation_map(feature_map, np.array([0.5, -2], np.float32)), expected)


def test_engine_holds_every_fold_and_view_in_order(tmp_path: Path, images: np.ndarray) -> None:
    models = [FoldModel(fake_export(tmp_path / str(k), k)) for k in range(3)]
    passes = Engine(models, ["identity", "mirror", "shift_left"]).run(images[0])
    for model, features, stages, logits in zip(models, passes.features, passes.stages, passes.logits, strict=True):
        expected = score_slices(model, images[:1], ["identity", "mirror", "shift_left"])
        assert np.array_equal(features, expected.features[0]) and np.array_equal(stages, expected.stages[0])
        assert np.array_equal(logits, expected.logits[0])
    assert np.allclose(passes.activation, np.mean([model.run_whole(images[0]).activation for model in models], axis=0))


def equal(a: Passes, b: Passes) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("features", "stages", "logits", "activation"))


def test_the_answer_depends_neither_on_workers_nor_on_neighbours(tmp_path: Path, images: np.ndarray) -> None:
    models = [FoldModel(fake_export(tmp_path / str(k), k)) for k in range(2)]
    alone = [Engine(models, ["identity", "mirror"], workers=1).run(image) for image in images]
    engine = Engine(models, ["identity", "mirror"], workers=2)
    order = np.random.default_rng(0).permutation(np.arange(40) % 5)
    with ThreadPoolExecutor(8) as callers:
        together = list(callers.map(engine.run, images[order]))
    assert all(equal(passes, alone[i]) for i, passes in zip(order, together, strict=True))
    assert not equal(alone[0], alone[1])


class SlowModel:
    """Stands in for a FoldModel: 5 ms a pass, and counts the passes that were begun."""

    weight, bias = np.ones(FEATURES, np.float32), np.float32(0)

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.error = error
        self.lock = threading.Lock()

    def run(self, image: np.ndarray) -> np.ndarray:
        with self.lock:
            self.begun += 1
        time.sleep(0.005)
        if self.error:
            raise self.error
        return image.reshape(-1)[:FEATURES].astype(np.float32)

    def run_whole(self, image: np.ndarray) -> Whole:
        return Whole(self.run(image), np.zeros(STAGES, np.float32), np.zeros((4, 4), np.float32))

    def logit(self, features: np.ndarray) -> Any:
        return features @ self.weight


def test_a_deadline_leaves_no_work_behind(images: np.ndarray) -> None:
    model = SlowModel()
    engine = Engine([model] * 10, ["identity", "mirror"], workers=2)  # 20 jobs of 5 ms on two workers: 50 ms
    for _ in range(50):
        with pytest.raises(DeadlineError):
            engine.run(images[0], time.monotonic() + 0.008)
    begun = model.begun
    assert 0 < begun <= 50 * 6  # far from the 1,000 that were asked for
    engine.run(images[0], time.monotonic() + 60)
    assert model.begun == begun + 20  # nothing of the requests that were given up ran after them


def test_a_deadline_in_the_past_runs_nothing(images: np.ndarray) -> None:
    model = SlowModel()
    with pytest.raises(DeadlineError):
        Engine([model], ["identity"]).run(images[0], time.monotonic() - 1)
    assert model.begun == 0


def test_a_pass_that_fails_drops_the_rest_of_its_request(images: np.ndarray) -> None:
    broken, sound = SlowModel(RuntimeError("broken")), SlowModel()
    engine = Engine([broken, *[sound] * 20], ["identity"], workers=1)
    with pytest.raises(RuntimeError, match="broken"):
        engine.run(images[0])
    time.sleep(0.02)
    assert sound.begun <= 2  # the one under way, not all twenty


@pytest.mark.parametrize("name", ["model.onnx", "head.npz"])
@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_fold_with_a_bad_file_does_not_load(tmp_path: Path, name: str, content: bytes | None) -> None:
    fold = fake_export(tmp_path / "0", 0)
    (fold / name).unlink() if content is None else (fold / name).write_bytes(content)
    with pytest.raises(ReleaseError, match=r"cannot load model\.onnx and head\.npz"):
        FoldModel(fold)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"classes": ["stroke", "normal"]}, "classes"),
        ({"num_features": FEATURES + 1}, "model.json says 7 features"),
    ],
)
def test_a_sidecar_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ReleaseError, match=message):
        FoldModel(fake_export(tmp_path / "0", 0, **changes))


def test_a_sidecar_without_a_key_names_it(tmp_path: Path) -> None:
    fold = fake_export(tmp_path / "0", 0)
    sidecar = read_json(fold / "model.json")
    del sidecar["image_size"]
    write_json(fold / "model.json", sidecar)
    with pytest.raises(ReleaseError, match=r"model\.json: missing image_size"):
        read_sidecar(fold)


def test_a_pickled_head_is_not_loaded(tmp_path: Path) -> None:
    fold = fake_export(tmp_path / "0", 0)
    np.savez(fold / "head.npz", weight=np.array([{}] * FEATURES, dtype=object), bias=np.float32(0), dropout=np.float32(0))
    with pytest.raises(ReleaseError, match="cannot load"):
        FoldModel(fold)


def test_external_data_is_not_followed(tmp_path: Path) -> None:
    """A graph may name a file for its weights; a release that reads files of the host would be a way in."""
    fold = fake_export(tmp_path / "0", 0)
    (fold / "weights.bin").write_bytes(np.ones(FEATURES, np.float32).tobytes())
    model = onnx.load(fold / "model.onnx")
    kernel = model.graph.initializer[0]
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value=str(fold / "weights.bin"))
    (fold / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ReleaseError, match="cannot load"):
        FoldModel(fold)


def test_an_opset_of_another_domain_is_refused(tmp_path: Path) -> None:
    fold = fake_export(tmp_path / "0", 0)
    model = onnx.load(fold / "model.onnx")
    model.opset_import.append(helper.make_opsetid("evil.example", 1))
    model.graph.node[0].domain = "evil.example"
    (fold / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ReleaseError, match="cannot load"):
        FoldModel(fold)
