"""int8: smaller, close to float, the same bytes every time, and judged against the float fold model in the same views."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import run, tiny_params, workspace
from onnx import TensorProto, helper
from scipy.stats import spearmanr

from strokect.engine import FoldModel
from strokect.files import read_json, sha256_file, write_json
from strokect.network import FoldNet, build_network, describe_network
from strokect.onnx_export import export_fold
from strokect.phantom import make_cohort, window
from strokect.quantisation import FLOAT_CONVOLUTIONS, float_nodes, quantise

SIZE = 64


def logits(model: FoldModel, images: np.ndarray) -> np.ndarray:
    return np.array([model.logit(model.run(image)) for image in images])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([window(piece.hu)[None] for piece in make_cohort(patients=4, slices=6, size=SIZE, seed=0)])


def export(net: FoldNet, images: np.ndarray, folder: Path) -> None:
    """With a head along which slices differ most, as a trained one has."""
    with torch.inference_mode():
        features = net.features(torch.from_numpy(images[::2]))[0]
    net.head.weight.data = torch.linalg.svd(features - features.mean(0)).Vh[:1].clone()
    export_fold(net, folder, channels=1, size=SIZE)
    sidecar = {"schema": 1, "image_size": SIZE, "channels": 1, "classes": ["normal", "stroke"], "target": "t"}
    write_json(folder / "model.json", {**sidecar, **describe_network(net)})


@pytest.fixture(scope="module")
def floating(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> Path:
    """An exported EfficientNet-Lite0 with ImageNet weights."""
    folder = tmp_path_factory.mktemp("float")
    net = build_network("tf_efficientnet_lite0", "package", 0.2).eval()
    export(net, images, folder)
    return folder


def test_int8_is_small_close_and_the_same_every_time(floating: Path, images: np.ndarray, tmp_path: Path) -> None:
    calibration, others = images[::2], images[1::2]
    folders = [shutil.copytree(floating, tmp_path / name) for name in ("once", "again")]
    for folder in folders:
        quantise(folder, calibration)
    for name in ("model.onnx", "head.npz"):
        assert sha256_file(folders[0] / name) == sha256_file(folders[1] / name)
    assert (folders[0] / "model.onnx").stat().st_size < 0.35 * (floating / "model.onnx").stat().st_size

    plain, quantised = FoldModel(floating), FoldModel(folders[0])
    before, after = logits(plain, others), logits(quantised, others)
    assert np.isfinite(after).all() and not np.array_equal(before, after)
    assert spearmanr(before, after).statistic > 0.9, (before, after)
    assert np.abs(after - before).mean() < 0.2 * before.std()
    assert logits(quantised, calibration).mean() == pytest.approx(logits(plain, calibration).mean(), abs=1e-4)
    assert quantised.dropout == plain.dropout
    whole = quantised.run_whole(others[0])
    features, activation = whole.features, whole.activation
    assert activation.sum() == pytest.approx(quantised.logit(features) - quantised.bias, abs=1e-3)


def test_a_model_does_not_say_where_it_was_made(floating: Path) -> None:
    content = (floating / "model.onnx").read_bytes()
    assert b".py" not in content and str(Path(torch.__file__).parent).encode() not in content


def test_weights_keep_seven_bits_so_that_avx2_does_not_saturate(floating: Path, images: np.ndarray, tmp_path: Path) -> None:
    folder = shutil.copytree(floating, tmp_path / "int8")
    quantise(folder, images[:2])
    weights = [
        onnx.numpy_helper.to_array(w)
        for w in onnx.load(folder / "model.onnx").graph.initializer
        if w.data_type == TensorProto.INT8
    ]
    kernels = [weight for weight in weights if weight.ndim == 4]
    assert len(kernels) > 30
    assert max(int(np.abs(kernel.astype(int)).max()) for kernel in kernels) <= 64


def test_the_first_convolutions_and_squeeze_excite_stay_in_float() -> None:
    """x → eight convolutions; the last's map is gated by its own mean, through a 1×1 convolution and a sigmoid."""
    chain = [helper.make_node("Conv", [f"x{i}", "kernel"], [f"x{i + 1}"], name=f"conv{i}") for i in range(8)]
    excite = [
        helper.make_node("GlobalAveragePool", ["x8"], ["pooled"], name="pool"),
        helper.make_node("Conv", ["pooled", "kernel"], ["squeezed"], name="squeeze"),
        helper.make_node("Sigmoid", ["squeezed"], ["gate"], name="gate"),
        helper.make_node("Mul", ["x8", "gate"], ["out"], name="scale"),
    ]
    kernel = onnx.numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "kernel")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 8, 8]) for name in ("x0", "out")]
    graph = helper.make_graph([*chain, *excite], "g", values[:1], values[1:], [kernel])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert float_nodes(model) == [*(f"conv{i}" for i in range(FLOAT_CONVOLUTIONS)), "pool", "squeeze", "gate"]


def test_what_joins_a_slice_and_its_mirror_stays_in_float(images: np.ndarray, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build_network("tf_efficientnet_lite0", "package", 0.2, symmetry=True).eval()
    torch.nn.init.normal_(net.backbone.conv_stem.mirrored.weight, std=0.05)
    export(net, images, tmp_path)
    plain = FoldModel(tmp_path)
    graph = onnx.load(tmp_path / "model.onnx")
    kinds = {node.op_type for node in graph.graph.node if node.name in float_nodes(graph)}
    assert {"Slice", "Sub", "Abs", "Concat", "Add", "Conv"} <= kinds
    quantise(tmp_path, images[::2])
    before, after = (logits(model, images[1::2]) for model in (plain, FoldModel(tmp_path)))
    assert spearmanr(before, after).statistic > 0.9, (before, after)
    assert np.abs(after - before).mean() < 0.2 * before.std()


def test_the_export_stage_ships_int8_and_keeps_the_float_logits_beside(pipeline: Path, tmp_path: Path) -> None:
    for name in ("data", "models/folds", "models/hnm", "models/student"):
        shutil.copytree(pipeline / name, tmp_path / name)
    params = tiny_params()
    params["export"].update(precision="int8")
    with workspace(tmp_path, params):
        run("export", "--fold", "0")
    given, shipped = (np.load(folder / "models/export/0/oof.npz") for folder in (pipeline, tmp_path))
    np.testing.assert_array_equal(shipped["rows"], given["rows"])
    np.testing.assert_allclose(shipped["reference"], given["logits"], atol=1e-5)
    assert shipped["logits"].shape == given["logits"].shape
    assert not np.allclose(shipped["logits"], given["logits"], atol=1e-5)
    sidecar = read_json(tmp_path / "models/export/0/model.json")
    assert sidecar["precision"] == "int8"
    assert 0 < sidecar["largest_difference_from_torch"] < 1
    assert sidecar["onnx_sha256"] == sha256_file(tmp_path / "models/export/0/model.onnx")
