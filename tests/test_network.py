"""Where weights come from, and the form on disk."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from conftest import composed

from strokect.engine import FoldModel
from strokect.errors import TrainingError
from strokect.files import write_json
from strokect.network import build_network, describe_network, load_network, save_network
from strokect.onnx_export import check_parity, export_fold

LITE0 = "tf_efficientnet_lite0"


def test_packaged_weights_are_imagenet_weights() -> None:
    packaged = build_network(LITE0, "package", 0.2)
    random = build_network(LITE0, "none", 0.2)
    assert packaged.head.in_features == 1280
    # BatchNorm statistics of a trained network are nowhere near their initial zeros and ones.
    statistics = [v for k, v in packaged.backbone.state_dict().items() if k.endswith("running_var")]
    assert max(float((v - 1).abs().mean()) for v in statistics) > 0.5
    assert all(torch.equal(v, torch.ones_like(v)) for k, v in random.backbone.state_dict().items() if k.endswith("running_var"))


@pytest.mark.slow
def test_packaged_weights_know_a_flower() -> None:

    from PIL import Image
    from sklearn.datasets import load_sample_image

    from strokect.network import packaged_weights

    whole = timm.create_model(LITE0)
    given = torch.load(packaged_weights(LITE0), weights_only=True)
    tensors = [v for k, v in given.items() if not k.endswith("num_batches_tracked")]
    names = [k for k in whole.state_dict() if not k.endswith("num_batches_tracked")]
    whole.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    ours = build_network(LITE0, "package", 0.0)
    for name, value in ours.backbone.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name])
    picture = np.array(Image.fromarray(load_sample_image("flower.jpg")).resize((224, 224)))
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = whole.eval().classifier(ours.eval().features(image)[0])
    assert int(logits.argmax()) == 985 or 984 <= int(logits.topk(5).indices[0, 0]) <= 987  # daisy and its neighbours


def test_missing_weights_say_which_options_exist(tmp_path: Path) -> None:
    for backbone, weights in (("tf_efficientnet_b3", "package"), (LITE0, str(tmp_path / "no.pth"))):
        with pytest.raises(TrainingError, match=r"hub.*none.*path"):
            build_network(backbone, weights, 0.2)
    with pytest.raises(TrainingError, match="not a timm model"):
        build_network("efficientnet_b99", "none", 0.2)


def test_hub_that_cannot_be_reached_is_an_error_with_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(TrainingError, match=r"no weights for .*hub.*options: package"):
        build_network("tf_efficientnet_b3", "hub", 0.2)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file_and_strict(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    state = timm.create_model(LITE0).state_dict()  # with its classifier, as checkpoints come
    path = tmp_path / f"w{suffix}"
    save = save_file if suffix == ".safetensors" else torch.save
    save(state, path)
    net = build_network(LITE0, str(path), 0.2)
    torch.testing.assert_close(net.backbone.state_dict()["conv_stem.weight"], state["conv_stem.weight"])
    if suffix == ".pth":
        torch.save({"epoch": 3, "state_dict": state}, path)  # as training scripts save it
        assert build_network(LITE0, str(path), 0.2)
    del state["conv_stem.weight"]
    save(state, path)
    with pytest.raises(TrainingError, match="does not fit"):
        build_network(LITE0, str(path), 0.2)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_weights_are_an_error_that_names_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(b"junk" * 50)
    with pytest.raises(TrainingError, match=r"damaged.* cannot be read"):
        build_network(LITE0, str(path), 0.2)


def test_disk_round_trip_is_exact_and_strict(tmp_path: Path) -> None:
    net = build_network(LITE0, "none", 0.25)
    shape = {"schema": 1, "image_size": 48, "channels": 1, "classes": ["normal", "stroke"], "target": "t"}
    save_network(net, tmp_path, {"backbone": LITE0, **shape, **describe_network(net)})
    again, sidecar = load_network(tmp_path)
    assert sidecar["dropout"] == 0.25
    image = torch.randint(0, 256, (2, 1, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(image), again.eval()(image), rtol=0, atol=0)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"model\.safetensors does not load"):
        load_network(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    write_json(tmp_path / "model.json", {**sidecar, "backbone": "tf_efficientnet_lite1"})
    with pytest.raises(TrainingError, match=r"model\.safetensors does not load"):
        load_network(tmp_path)


def test_grey_and_three_channels_agree_and_dropout_is_real() -> None:
    net = build_network(LITE0, "none", 0.5)
    grey = torch.randint(0, 256, (1, 1, 48, 48), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(grey), net.eval()(grey.repeat(1, 3, 1, 1)))
        net.eval()
        net.dropout.train()
        draws = torch.stack([net(grey) for _ in range(8)])
    assert draws.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["b3", "b4"])
def test_larger_networks_learn_a_step_and_export(profile: str, tmp_path: Path) -> None:
    """The networks of conf/model from random weights: one optimiser step, then ONNX that agrees with torch."""
    params = composed(f"model={profile}")
    size = 96  # the graph is the same at 300 and 380 px, and two cores have time for this
    net = build_network(params["model"]["backbone"], "none", 0.3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    images = torch.randint(0, 256, (4, 1, size, size), dtype=torch.uint8)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(net.train()(images), torch.tensor([0.0, 1.0, 0.0, 1.0]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    optimizer.step()
    export_fold(net, tmp_path, channels=1, size=size)
    sidecar = {"schema": 1, "image_size": size, "channels": 1, "classes": ["normal", "stroke"], "target": "t"}
    write_json(tmp_path / "model.json", {**sidecar, **describe_network(net)})
    assert check_parity(net, FoldModel(tmp_path), images.numpy(), 1e-4) < 1e-4


def test_frozen_stages_stay_as_they_are_statistics_included() -> None:
    net = build_network(LITE0, "none", 0.2, frozen_stages=2)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net(torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8)).sum().backward()
    optimizer.step()
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    frozen = ("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0", "backbone.blocks.1")
    assert not any(key.startswith(frozen) for key in changed)
    assert {"head.weight", "backbone.blocks.2.0.bn1.running_mean", "backbone.blocks.2.0.conv_pw.weight"} <= changed
    assert not net.backbone.bn1.training
    assert net.backbone.blocks[2].training
    with pytest.raises(TrainingError, match="frozen_stages is 99"):
        net.freeze(99)
