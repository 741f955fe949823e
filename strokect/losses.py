"""What training minimises: the loss of each slice and its weight."""

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from strokect.params import TrainParams


def class_weights(labels: NDArray[np.int64], balance: bool) -> NDArray[np.float32]:
    """(n,) loss weights with mean 1; with `balance` both classes weigh the same in total."""
    if not balance:
        return np.ones(len(labels), np.float32)
    counts = np.bincount(labels, minlength=2)
    return (len(labels) / (2.0 * counts))[labels].astype(np.float32)


def slice_loss(logits: Tensor, labels: Tensor, params: TrainParams) -> Tensor:
    """(B,) loss of each slice: focal (Lin et al. 2017, α left to class balancing) or cross-entropy, labels smoothed.

    Labels are 0 or 1 or, with cross-entropy, any probability between.
    """
    target = labels * (1.0 - params.label_smoothing) + 0.5 * params.label_smoothing
    if params.loss == "focal":
        return sigmoid_focal_loss(logits, target, alpha=-1, gamma=params.focal_gamma, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
