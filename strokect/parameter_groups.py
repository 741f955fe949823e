"""Which parameters AdamW decays, and how much of the learning rate each layer gets."""

from typing import Any

from timm.optim import param_groups_layer_decay
from torch import nn

from strokect.errors import TrainingError
from strokect.network import FoldNet


def parameter_groups(
    net: FoldNet, weight_decay: float, layer_decay: float, heads: nn.Module | None = None
) -> list[dict[str, Any]]:
    """AdamW's groups of what is trained of the net, and of `heads` beside it.

    Weight decay is for matrices, not for biases and norms (vectors).

    With `layer_decay` below 1 a group has `lr_scale`, its share of the learning rate: 1 for the head, the last convolution
    and the last block, and a factor `layer_decay` less for each block towards the stem (BEiT, Bao et al. 2022; the
    layers are timm's).
    """
    beside = _by_shape(heads, weight_decay) if heads else []
    if layer_decay == 1:
        return _by_shape(net, weight_decay) + beside
    if not hasattr(net.backbone, "group_matcher"):
        raise TrainingError(f"train.layer_decay is {layer_decay}: timm knows no layers of this backbone; set it to 1")
    layers: list[dict[str, Any]] = param_groups_layer_decay(net.backbone, weight_decay, layer_decay=layer_decay)
    return layers + [group | {"lr_scale": 1.0} for group in _by_shape(net.head, weight_decay)] + beside


def _by_shape(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
