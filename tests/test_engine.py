"""The engine on fake folds: what a view is worth, batch independence, and folds that must not load."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes import FEATURES, SIZE, fake_export, grey_slice
from onnx import TensorProto, helper

from strokect.engine import FoldModel, score_slices
from strokect.errors import ReleaseError
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
    features, feature_map = model.run(make_views(images[3], ["mirror"])[0])
    assert np.allclose(scores.features[3, 1], features) and np.allclose(feature_map.mean((1, 2)), features, atol=1e-5)
    assert np.isclose(scores.logits[3, 1], features @ model.weight + model.bias)
    assert not np.allclose(scores.logits[:, 0], scores.logits[:, 1])


def test_a_slice_scores_the_same_alone_and_in_company(tmp_path: Path, images: np.ndarray) -> None:
    model = FoldModel(fake_export(tmp_path / "0", 0))
    together = score_slices(model, images, ["identity"]).logits
    alone = np.concatenate([score_slices(model, images[i : i + 1], ["identity"]).logits for i in range(5)])
    assert np.array_equal(together, alone)


def test_unknown_views_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    model = FoldModel(fake_export(tmp_path / "0", 0))
    for views in ([], ["identity", "upside_down"]):
        with pytest.raises(ReleaseError, match="views"):
            score_slices(model, images, views)


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
