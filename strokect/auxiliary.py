"""Auxiliary heads: beside the label, the backbone learns of which type a finding is, and whether there is a fracture.

One linear output for each type and for the fracture, on the features and under the dropout of the head. They exist in training
only: the averaged network, and with it everything that is saved and exported, never has them. What the manifest does not say of a
slice is masked, and so is everything of a slice that was given a synthetic bleed. Mining and the student go without them.
"""

import numpy as np
import pandas as pd
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from strokect.errors import TrainingError
from strokect.network import FoldNet


def auxiliary_targets(manifest: pd.DataFrame) -> NDArray[np.float32]:
    """(N, A) 0 or 1 for each finding of the manifest's columns `subtype` (types joined by +) and `fracture`; NaN where unknown.

    A slice labelled 0 has none of the types; of one labelled 1 they are unknown where `subtype` is empty.
    """
    columns = []
    if "subtype" in manifest:
        types = [set(text.split("+")) - {""} for text in manifest["subtype"].fillna("").astype(str)]
        known = (manifest["label"] == 0) | np.array([bool(names) for names in types])
        named = sorted(set().union(*types))
        columns = [pd.Series([float(name in own) for own in types], manifest.index).where(known) for name in named]
    if "fracture" in manifest:
        columns.append(pd.to_numeric(manifest["fracture"], errors="coerce"))
    columns = [column for column in columns if column.notna().any()]
    return np.array(columns, np.float32).reshape(len(columns), len(manifest)).T


def auxiliary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits and targets (B, A) → (B,) mean cross-entropy of each slice over its known targets, 0 where there are none."""
    known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(), reduction="none") * known
    return losses.sum(dim=1) / known.sum(dim=1).clamp(min=1)


class WithHeads(nn.Module):
    """A FoldNet with auxiliary heads: images (B, C, S, S) → its logit (B,) and theirs (B, A)."""

    def __init__(self, net: FoldNet, targets: Tensor):
        """`targets` (n, A) are those of the training part."""
        super().__init__()
        if not targets.shape[1]:
            raise TrainingError("train.auxiliary: the manifest has neither types (subtype) nor fractures (fracture); set it to 0")
        self.net = net
        self.heads = nn.Linear(net.head.in_features, targets.shape[1])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.net.dropout(self.net.features(images)[0])
        return self.net.head(pooled).squeeze(1), self.heads(pooled)
