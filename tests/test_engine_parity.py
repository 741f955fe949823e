"""The engine against torch on a real backbone: sampled logits, activation map, variance under dropout, untouched weights."""

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import grey_slice
from torch import Tensor, nn

from strokect.engine import Engine, FoldModel
from strokect.files import sha256_bytes, sha256_file, write_json
from strokect.network import FoldNet, build_network, describe_network
from strokect.onnx_export import export_fold
from strokect.uncertainty import dropout_masks, logit_variance, sample_logits
from strokect.views import make_views

VIEWS, SAMPLES, RATE, SIZE = ("identity", "mirror"), 5, 0.3, 64
IMAGE = grey_slice(SIZE, seed=99)[None]  # (1, S, S) uint8
SHA = sha256_bytes(IMAGE.tobytes())


@dataclass(frozen=True)
class Twins:
    """Two folds, in torch and exported."""

    nets: list[FoldNet]
    folders: list[Path]
    models: list[FoldModel]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small wait for their threads more than they compute, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """One backbone under two heads: exporting a graph takes seconds, and the folds' graphs are told apart in test_engine."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export")
    net = settled_network()
    nets = [with_head(net, 0), with_head(net, 1)]
    folders = [folder / "0", folder / "1"]
    for net, fold in zip(nets, folders, strict=True):
        fold.mkdir()
        sidecar = {"schema": 1, "image_size": SIZE, "channels": 1, "classes": ["normal", "stroke"], "target": "t"}
        write_json(fold / "model.json", {**sidecar, **describe_network(net)})
    export_fold(nets[0], folders[0], channels=1, size=SIZE)
    shutil.copy(folders[0] / "model.onnx", folders[1])
    head = nets[1].head
    np.savez(folders[1] / "head.npz", weight=head.weight.detach()[0], bias=head.bias.detach()[0], dropout=np.float32(RATE))
    return Twins(nets, folders, [FoldModel(fold) for fold in folders])


def settled_network() -> FoldNet:
    """Random weights whose BatchNorm statistics fit them: at their initial zeros and ones the features would fade away."""
    net = build_network("tf_efficientnet_lite0", "none", RATE)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one batch sets the statistics
    with torch.no_grad():
        net.train()(torch.stack([torch.from_numpy(grey_slice(SIZE, seed))[None] for seed in range(8)]))
    return net.eval()


def with_head(net: FoldNet, seed: int) -> FoldNet:
    """A copy with a head that gives logits of order one, as a trained one does."""
    net = copy.deepcopy(net)
    nn.init.normal_(net.head.weight, std=0.05, generator=torch.Generator().manual_seed(seed))
    nn.init.constant_(net.head.bias, 0.5 - seed)
    return net


class FixedDropout(nn.Module):
    """torch's dropout with its mask given."""

    def __init__(self, mask: np.ndarray):
        super().__init__()
        self.mask = torch.from_numpy(mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask / (1 - RATE)


def test_sampled_logits_are_those_of_full_passes_in_torch(twins: Twins) -> None:
    """Folds × views × T full passes with the same masks, against one backbone pass per fold and view."""
    passes = Engine(twins.models, VIEWS).run(IMAGE)
    for fold, (net, model) in enumerate(zip(twins.nets, twins.models, strict=True)):
        masks = dropout_masks(SHA, fold, len(VIEWS), SAMPLES, len(model.weight), model.dropout)
        sampled = sample_logits(passes.features[fold], model.weight, float(model.bias), model.dropout, masks)
        slow = copy.deepcopy(net)
        for v, view in enumerate(torch.from_numpy(image)[None] for image in make_views(IMAGE, VIEWS)):
            with torch.inference_mode():
                assert passes.logits[fold, v] == pytest.approx(net(view).item(), abs=1e-4)
                for t in range(SAMPLES):
                    slow.dropout = FixedDropout(masks[v, t])
                    assert sampled[v, t] == pytest.approx(slow(view).item(), abs=1e-4)
        assert sampled.std(axis=1).min() > 0.05  # the masks matter far more than the tolerance


def test_the_map_is_grad_cam(twins: Twins) -> None:
    """Selvaraju et al. 2017 by autograd: the gradient of the logit by the map, averaged over space, weighs the channels."""
    maps = []
    for net, model in zip(twins.nets, twins.models, strict=True):
        whole = model.run_whole(IMAGE)
        features, activation = whole.features, whole.activation
        pooled, feature_map = net.features(torch.from_numpy(IMAGE)[None])
        logit = net.head(pooled)[0, 0]
        (gradient,) = torch.autograd.grad(logit, feature_map)
        grad_cam = (gradient.mean(dim=(2, 3), keepdim=True) * feature_map).sum(dim=1)[0].detach().numpy()  # before its ReLU
        assert activation.shape == grad_cam.shape == (2, 2)
        np.testing.assert_allclose(np.maximum(activation, 0), np.maximum(grad_cam, 0), atol=1e-4)
        np.testing.assert_allclose(activation, grad_cam, atol=1e-4)
        assert activation.sum() == pytest.approx(model.logit(features) - model.bias, abs=1e-4)
        assert np.ptp(activation) > 0.01
        maps.append(grad_cam)
    np.testing.assert_allclose(Engine(twins.models, VIEWS).run(IMAGE).activation, np.mean(maps, axis=0), atol=1e-4)


def test_the_pooled_stages_are_the_means_of_what_leaves_each_stage(twins: Twins) -> None:
    """Block by block: a stage ends where the next block halves the map."""
    for net, model in zip(twins.nets, twins.models, strict=True):
        left: list[torch.Tensor] = []
        with torch.inference_mode():
            x = torch.from_numpy(IMAGE)[None].float().expand(-1, 3, -1, -1) / 255
            x = net.backbone.bn1(net.backbone.conv_stem((x - net.mean) / net.std))
            left.extend(x := block(x) for block in net.backbone.blocks)
        ends = [m for m, after in zip(left, [*left[1:], None], strict=True) if after is None or after.shape[2] < m.shape[2]]
        want = np.concatenate([m.mean(dim=(2, 3))[0].numpy() for m in ends])
        assert len(want) == model.num_stage_features
        np.testing.assert_allclose(model.run_whole(IMAGE).stages, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_the_variance_is_that_of_torch_dropout(twins: Twins) -> None:
    draws = 20_000
    net, model = twins.nets[0], twins.models[0]
    features = model.run(IMAGE)
    expected = float(logit_variance(features, model.weight, RATE))
    masks = dropout_masks(SHA, 0, 1, draws, len(features), RATE)
    ours = sample_logits(features[None], model.weight, float(model.bias), RATE, masks)[0]
    torch.manual_seed(0)
    with torch.inference_mode():
        theirs = net.head(nn.Dropout(RATE)(torch.from_numpy(features).expand(draws, -1)))[:, 0].numpy()
    error = np.sqrt(2 / draws)  # relative standard error of the variance of nearly normal values
    for sampled in (ours, theirs):
        assert sampled.var(dtype=np.float64) == pytest.approx(expected, rel=5 * error)
        assert sampled.mean(dtype=np.float64) == pytest.approx(float(model.logit(features)), abs=5 * np.sqrt(expected / draws))


def test_running_leaves_the_weights_as_they_were(twins: Twins) -> None:
    def hashes() -> list[str]:
        files = [sha256_file(folder / name) for folder in twins.folders for name in ("model.onnx", "head.npz")]
        return files + [sha256_bytes(model.weight.tobytes() + model.bias.tobytes()) for model in twins.models]

    engine, before = Engine(twins.models, VIEWS), hashes()
    first = engine.run(IMAGE)
    for seed in range(5):
        engine.run(grey_slice(SIZE, seed)[None])
    again = engine.run(IMAGE)
    assert hashes() == before
    assert np.array_equal(first.features, again.features) and np.array_equal(first.activation, again.activation)
