"""Does the class activation map point at the lesion? Where the lesion's place is known, which is so on the phantom."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from strokect.engine import FoldModel
from strokect.gate_fit import read_oof
from strokect.manifest import Prepared
from strokect.safety_report import share
from strokect.shipping import EXPORTS


def pointing_game(maps: Sequence[NDArray[np.float32]], masks: NDArray[np.uint8], heads: NDArray[np.bool_]) -> dict[str, Any]:
    """How often the head's maximum of the activation map lies in the lesion (Zhang et al. 2018, without a margin).

    maps: (h, w) each, resampled to the slice's size; masks (n, S, S), non-zero in the lesion; heads (n, S, S), inside the head.
    Chance is what a point drawn evenly over the head would hit: the lesion's share of it.
    """
    hits, chance = [], []
    for activation, mask, head in zip(maps, masks, heads, strict=True):
        large = np.array(Image.fromarray(activation).resize(mask.shape[::-1], Image.Resampling.BICUBIC))
        allowed = head | (mask > 0)
        hits.append(bool(mask[np.unravel_index(np.argmax(np.where(allowed, large, -np.inf)), large.shape)]))
        chance.append((mask > 0).sum() / max(1, allowed.sum()))
    return {
        "n": len(hits),
        "map_size": list(maps[0].shape) if maps else None,
        "hit": share(sum(hits), len(hits)),
        "chance": float(np.mean(chance)) if chance else None,
    }


def play_out_of_fold(prepared: Prepared, masks: NDArray[np.uint8], folds: Sequence[int]) -> dict[str, Any]:
    """The pointing game of each fold on the slices with a lesion that it holds out."""
    maps, rows = [], []
    for fold in folds:
        model = FoldModel(EXPORTS / str(fold))
        held_out = [row for row in read_oof(fold)[0] if masks[row].any()]
        maps += [model.run_whole(prepared.images[row]).activation for row in held_out]
        rows += held_out
    return pointing_game(maps, masks[rows], prepared.images[rows][:, 0] > 0)
