"""Mixup (Zhang et al. 2018): each slice of a batch blended with another, and its loss with that of the other's label."""

from typing import Any

from torch import Tensor
from torch.distributions import Beta

Part = tuple[Any, ...]  # share of the loss, then what the loss needs of each slice


def mix(images: Tensor, alpha: float, *of_slices: Tensor) -> tuple[Tensor, list[Part]]:
    """Images (B, C, S, S) float → λ · images + (1 − λ) · those of the slice before, and both parts of the loss.

    `of_slices` (B, …) are labels, weights and whatever else the loss needs; a part has its share and those of its slices.

    One λ ~ Beta(α, α) a batch, drawn from torch's generator on the CPU; α = 0 changes and draws nothing. The losses are mixed,
    as in the authors' code, not the labels. Without focus and weights that is the same, since cross-entropy is linear in the
    label; with them it keeps each slice's weight, and its focus, at its own label. A batch comes in random order, so the slice
    before is any other.
    """
    if alpha == 0:
        return images, [(1.0, *of_slices)]
    share = float(Beta(alpha, alpha).sample())
    mixed = share * images + (1.0 - share) * images.roll(1, 0)
    return mixed, [(share, *of_slices), (1.0 - share, *(given.roll(1, 0) for given in of_slices))]
