"""The mirrored slice as a second input of the network: a bleed is on one side, what is normal is mostly on both.

Inside the network, so that training, ONNX and service see the same, and a view that mirrors the slice mirrors both inputs.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from strokect.errors import TrainingError


class SymmetricStem(nn.Module):
    """`plain`, the backbone's stem, on a slice x (B, 3, S, S), plus a convolution like it on [mirror(x), |x − mirror(x)|].

    Mirrored left–right about the middle of the picture. That equals one stem with nine input channels, kept apart so that the
    first three can be frozen and loaded alone. The other six start at zero: the network begins as the one that ImageNet taught.
    """

    def __init__(self, plain: nn.Conv2d):
        super().__init__()
        self.plain = plain
        self.mirrored = copy.deepcopy(plain)  # timm's own class: its padding depends on the size of the picture
        self.mirrored.in_channels = 2 * plain.in_channels
        shape = (plain.out_channels, 2 * plain.in_channels, *plain.kernel_size)
        self.mirrored.weight = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        mirror = x.flip(-1)
        return self.plain(x) + self.mirrored(torch.cat([mirror, (x - mirror).abs()], dim=1))


def give_symmetry(backbone: Any) -> None:
    """Replace the stem of a timm EfficientNet by a SymmetricStem around it. Raises TrainingError for other backbones."""
    stem = getattr(backbone, "conv_stem", None)
    if not isinstance(stem, nn.Conv2d) or stem.groups != 1 or stem.bias is not None:
        raise TrainingError("model.symmetry is true: the backbone is no EfficientNet, whose stem it extends; set it to false")
    backbone.conv_stem = SymmetricStem(stem)


def has_symmetry(backbone: Any) -> bool:
    """Whether the backbone compares the slice with its mirror."""
    return isinstance(getattr(backbone, "conv_stem", None), SymmetricStem)
