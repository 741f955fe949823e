"""Optional training steps: mixup, layer-wise learning rates, the mirrored slice; each against a reference, and off by default."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import composed
from test_distributed import Small, task, train_params
from torch.distributions import Beta
from torchvision.transforms.v2 import MixUp

from strokect.engine import FoldModel, score_slices
from strokect.errors import ParamsError, TrainingError
from strokect.files import write_json
from strokect.losses import slice_loss
from strokect.mixup import mix
from strokect.network import FoldNet, build_network, describe_network, load_network, save_network
from strokect.onnx_export import check_parity, export_fold
from strokect.parameter_groups import parameter_groups
from strokect.params import load_params
from strokect.symmetry import SymmetricStem, has_symmetry
from strokect.training import Trainer

LITE0 = "tf_efficientnet_lite0"
SIZE = 48
SHAPE = {"backbone": LITE0, "schema": 1, "image_size": SIZE, "channels": 1, "classes": ["normal", "stroke"], "target": "t"}


def slices(n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_every_step_is_off_by_default_and_the_profiles() -> None:
    for profile in ("phantom", "ct_ich", "folder"):
        params = composed(f"profile={profile}")
        assert params["train"]["mixup_alpha"] == 0.0
        assert params["train"]["layer_decay"] == 1.0
        assert params["train"]["auxiliary"] == 0.0
        assert params["model"]["symmetry"] is False


@pytest.mark.parametrize(
    ("key", "value"), [("mixup_alpha", -0.1), ("auxiliary", -0.1), ("layer_decay", 0.0), ("layer_decay", 1.1)]
)
def test_values_that_cannot_work_are_named(key: str, value: float, tmp_path: Path) -> None:
    params = composed()
    params["train"][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ParamsError, match=f"train.{key} is {value}"):
        load_params(tmp_path / "params.yaml")


# Mixup


def test_mixup_of_a_worked_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Beta, "sample", lambda self: torch.tensor(0.75))
    images = torch.tensor([0.0, 100.0, 200.0]).view(3, 1, 1, 1)
    mixed, parts = mix(images, 0.2, torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.5, 2.0, 0.5]))
    assert mixed.flatten().tolist() == [50.0, 75.0, 175.0]  # ¾ of itself and ¼ of the one before, which the first finds last
    (own, labels, weights), (other, others, their_weights) = parts
    assert (own, other) == (0.75, 0.25)
    assert labels.tolist() == [0, 1, 0] and weights.tolist() == [0.5, 2.0, 0.5]
    assert others.tolist() == [0, 0, 1] and their_weights.tolist() == [0.5, 0.5, 2.0]


def test_mixup_is_that_of_torchvision_where_the_loss_is_linear_in_the_label() -> None:
    """Pictures and, with cross-entropy and equal weights, the loss; torchvision mixes labels, this one losses."""
    images, labels = slices(8).float(), torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    torch.manual_seed(3)
    mixed, parts = mix(images, 0.4, labels.float(), torch.ones(8))
    torch.manual_seed(3)
    expected, soft = MixUp(alpha=0.4, num_classes=2)(images, labels)
    torch.testing.assert_close(mixed, expected)
    params = train_params(loss="cross_entropy", label_smoothing=0.0)
    logits = torch.randn(8)
    got = torch.stack([share * slice_loss(logits, target, params) * weight for share, target, weight in parts]).sum(0)
    torch.testing.assert_close(got, F.binary_cross_entropy_with_logits(logits, soft[:, 1], reduction="none"))


def test_mixup_off_draws_nothing_and_changes_nothing() -> None:
    images, labels, weights = slices().float(), torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.rand(4)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    mixed, parts = mix(images, 0.0, labels, weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert mixed is images
    assert len(parts) == 1 and parts[0][0] == 1.0 and parts[0][1] is labels and parts[0][2] is weights


def test_shares_of_mixup_follow_the_beta_distribution() -> None:
    """Mean ½ and variance 1 / (4 (2α + 1))."""
    torch.manual_seed(0)
    nothing = torch.zeros(2)
    shares = np.array([mix(torch.zeros(2, 1, 1, 1), 0.4, nothing, nothing)[1][0][0] for _ in range(2000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * 1.8), abs=0.01)


def test_the_loop_takes_the_loss_of_both_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of the loop: its loss against the formula, written out from the pictures that the network was given."""
    params = train_params(mixup_alpha=0.5, epochs=1, batch_size=36, warmup_epochs=0.0)
    params = dataclasses.replace(params, augment=dataclasses.replace(params.augment, strength=0.0))
    torch.manual_seed(0)
    net, given = FoldNet(Small(), 6, (0.5,) * 3, (0.5,) * 3, 0.0), task()
    loop = Trainer(net, given, params, seed=1, mine_epoch=0, resume=tmp_path / "r.pt")
    monkeypatch.setattr(Beta, "sample", lambda self: torch.tensor(0.7))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    net.register_forward_hook(lambda module, arguments, logits: seen.append((arguments[0].clone(), logits.detach().clone())))
    torch.manual_seed(1 * 10_000)
    order = torch.randperm(36)  # the first thing that an epoch draws
    row = loop.train_epoch(0)
    images, logits = seen[0]
    plain = torch.from_numpy(np.asarray(given.images))[order].float()
    torch.testing.assert_close(images, 0.7 * plain + 0.3 * plain.roll(1, 0))
    labels, weights = torch.from_numpy(given.labels)[order].float(), torch.from_numpy(given.weights)[order]
    own, other = (slice_loss(logits, targets, params) for targets in (labels, labels.roll(1, 0)))
    expected = (0.7 * own * weights + 0.3 * other * weights.roll(1, 0)).mean()
    assert row["loss"] == pytest.approx(float(expected), rel=1e-5)


# Layer-wise learning rates


def test_each_block_learns_by_a_factor_slower_than_the_next(tmp_path: Path) -> None:
    net = build_network(LITE0, "none", 0.2)
    rates = {id(p): group["lr_scale"] for group in parameter_groups(net, 0.02, 0.9) for p in group["params"]}
    assert len(rates) == len(list(net.parameters()))
    blocks = [block for stage in net.backbone.blocks for block in stage]
    for number, block in enumerate(blocks):  # 16; the last one shares its layer with the convolution behind it
        got = [rates[id(p)] for p in block.parameters()]
        assert got == pytest.approx([0.9 ** (len(blocks) - 1 - number)] * len(got)), number
    for module, power in ((net.backbone.conv_stem, 16), (net.backbone.bn1, 16), (net.backbone.conv_head, 0), (net.head, 0)):
        assert [rates[id(p)] for p in module.parameters()] == pytest.approx([0.9**power] * len(list(module.parameters())))


def test_layer_decay_keeps_the_rule_of_weight_decay_and_what_is_frozen() -> None:
    net = build_network(LITE0, "none", 0.2, frozen_stages=2)
    groups = parameter_groups(net, 0.02, 0.9)
    assert all(group["weight_decay"] == (0.02 if p.ndim > 1 else 0.0) for group in groups for p in group["params"])
    trained = [p for group in groups for p in group["params"]]
    assert all(p.requires_grad for p in trained)
    assert len(trained) == sum(p.requires_grad for p in net.parameters()) < len(list(net.parameters()))


def test_the_loop_steps_each_layer_at_its_rate(tmp_path: Path) -> None:
    """Adam's first step moves every weight by its learning rate, whatever the gradient: the sizes of the steps are the rates."""
    params = train_params(epochs=1, batch_size=36, layer_decay=0.5, weight_decay=0.0, warmup_epochs=0.0, ema_decay=0.0)
    net = build_network(LITE0, "none", 0.2)
    before = {name: value.clone() for name, value in net.named_parameters()}
    Trainer(net, task(), params, seed=1, mine_epoch=0, resume=tmp_path / "r.pt").train_epoch(0)
    moved = {name: float((value - before[name]).detach().abs().max()) for name, value in net.named_parameters()}
    rate = moved["head.bias"]
    for name, power in (
        ("backbone.conv_head.weight", 0),
        ("backbone.blocks.6.0.conv_pw.weight", 0),
        ("backbone.blocks.5.3.conv_pw.weight", 1),
        ("backbone.blocks.5.2.conv_pw.weight", 2),
    ):
        assert moved[name] == pytest.approx(rate * 0.5**power, rel=0.02), name


def test_a_backbone_without_layers_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"train\.layer_decay is 0\.9.*set it to 1"):
        parameter_groups(FoldNet(Small(), 6, (0.5,) * 3, (0.5,) * 3, 0.3), 0.02, 0.9)


# The mirrored slice


def symmetric_net(frozen_stages: int = 0) -> FoldNet:
    """With random weights where zeros would make the second input invisible."""
    torch.manual_seed(0)
    net = build_network(LITE0, "none", 0.2, frozen_stages, symmetry=True)
    torch.nn.init.normal_(net.backbone.conv_stem.mirrored.weight, std=0.1)
    return net.eval()


def test_it_starts_as_the_network_without_and_draws_nothing_more() -> None:
    torch.manual_seed(0)
    plain = build_network(LITE0, "package", 0.2).eval()
    after = torch.rand(1)
    torch.manual_seed(0)
    symmetric = build_network(LITE0, "package", 0.2, symmetry=True).eval()
    assert torch.equal(torch.rand(1), after)
    assert not has_symmetry(plain.backbone) and has_symmetry(symmetric.backbone)
    with torch.inference_mode():
        torch.testing.assert_close(symmetric(slices()), plain(slices()), rtol=0, atol=0)


def test_the_stem_is_one_with_nine_channels() -> None:
    net = symmetric_net()
    stem = net.backbone.conv_stem
    x = torch.randn(2, 3, SIZE, SIZE)
    mirror = torch.stack([x[..., SIZE - 1 - column] for column in range(SIZE)], dim=-1)
    nine = torch.cat([x, mirror, (x - mirror).abs()], dim=1)
    weight = torch.cat([stem.plain.weight, stem.mirrored.weight], dim=1)
    expected = F.conv2d(F.pad(nine, (0, 1, 0, 1)), weight, stride=2)  # TensorFlow's SAME: of an even side, at the end only
    torch.testing.assert_close(stem(x), expected, rtol=1e-4, atol=1e-4)


def test_it_sees_a_difference_between_the_sides_and_learns_with_a_frozen_stem() -> None:
    net = symmetric_net(frozen_stages=2)
    net.train()
    net(slices()).sum().backward()
    stem = net.backbone.conv_stem
    assert stem.plain.weight.grad is None and not stem.plain.weight.requires_grad
    assert stem.mirrored.weight.grad is not None and stem.mirrored.weight.grad.abs().max() > 0
    even = torch.cat([(half := slices()[..., : SIZE // 2]), half.flip(-1)], dim=-1)
    with torch.no_grad():  # only the channels of the difference are left
        stem.plain.weight.zero_()
        stem.mirrored.weight.normal_()[:, :3].zero_()
        assert stem(net._normalised(even)).abs().max() == 0
        assert stem(net._normalised(slices())).abs().max() > 0


def test_on_disk_in_onnx_and_in_the_engine_it_is_the_same(tmp_path: Path) -> None:
    net = symmetric_net()
    save_network(net, tmp_path, {**SHAPE, **describe_network(net)})
    again, sidecar = load_network(tmp_path)
    assert sidecar["symmetry"] is True
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(slices()), net(slices()), rtol=0, atol=0)
        mirrored = net(slices().flip(-1)).numpy()
    export_fold(again, tmp_path, channels=1, size=SIZE)
    exported = FoldModel(tmp_path)
    assert check_parity(net, exported, slices().numpy(), 1e-4) < 1e-4
    scores = score_slices(exported, slices().numpy(), ("identity", "mirror"))
    np.testing.assert_allclose(scores.logits[:, 1], mirrored, atol=1e-3)
    # The map's mean is the logit without its bias, as for every network.
    whole = exported.run_whole(slices().numpy()[0])
    assert whole.activation.sum() + exported.bias == pytest.approx(scores.logits[0, 0], abs=1e-3)
    write_json(tmp_path / "model.json", {key: value for key, value in sidecar.items() if key != "symmetry"})
    with pytest.raises(TrainingError, match="does not load"):
        load_network(tmp_path)


def test_a_backbone_without_such_a_stem_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"model\.symmetry is true.*no EfficientNet"):
        build_network("resnet18", "none", 0.2, symmetry=True)
    assert isinstance(symmetric_net().backbone.conv_stem, SymmetricStem)


# Weights of an earlier run


def test_a_folds_own_file_starts_another_network(tmp_path: Path) -> None:
    first = build_network(LITE0, "none", 0.2)
    save_network(first, tmp_path, {**SHAPE, **describe_network(first)})
    second = build_network(LITE0, str(tmp_path / "model.safetensors"), 0.2)
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[name], value), name
    assert not torch.equal(second.head.weight, first.head.weight)  # the head is of another question
