"""Mixup (Zhang et al. 2018): each slice of a batch blended with another, and its loss with that of the other's label."""

from torch import Tensor
from torch.distributions import Beta

Part = tuple[float, Tensor, Tensor]  # share of the loss, labels (B,), loss weights (B,)


def mix(images: Tensor, labels: Tensor, weights: Tensor, alpha: float) -> tuple[Tensor, list[Part]]:
    """Images (B, C, S, S) float, labels and weights (B,) → λ · images + (1 − λ) · those of the slice before, and both parts.

    One λ ~ Beta(α, α) a batch, drawn from torch's generator on the CPU; α = 0 changes and draws nothing. The losses are mixed,
    as in the authors' code, not the labels. Without focus and weights that is the same, since cross-entropy is linear in the
    label; with them it keeps each slice's weight, and its focus, at its own label. A batch comes in random order, so the slice
    before is any other.
    """
    if alpha == 0:
        return images, [(1.0, labels, weights)]
    share = float(Beta(alpha, alpha).sample())
    mixed = share * images + (1.0 - share) * images.roll(1, 0)
    return mixed, [(share, labels, weights), (1.0 - share, labels.roll(1, 0), weights.roll(1, 0))]
