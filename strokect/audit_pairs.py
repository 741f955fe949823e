"""The pictures of the audit's page: pairs side by side, single ones where a finding is about pictures that were drawn on."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from strokect.finding import Finding

MAX_SHOWN = 12  # pairs, or single pictures, of one finding
SINGLE = (
    "overlays",
    "unlike_head_ct",
    "frame_by_class",
    "text_by_class",
    "suspicious_names",
    "label_conflict",
)  # files shown one by one


@dataclass(frozen=True)
class Shown:
    """One picture on the page. `uri` holds the whole PNG."""

    file: str
    about: str  # patient and label
    uri: str


def draw_pairs(
    findings: Sequence[Finding], manifest: pd.DataFrame, images: NDArray[np.uint8], grouped: bool = False
) -> dict[str, list[list[Shown]]]:
    """Check → what is shown of it, in rows of pictures that belong together. `images` (N, S, S) uint8, row-aligned.

    `grouped`: the column `patient` holds names of groups of look-alikes.
    """
    rows = {str(file): row for row, file in enumerate(manifest["file"])}

    def show(file: str) -> Shown:
        row = rows[file]
        owner, label = manifest["patient"].iloc[row], "positive" if manifest["label"].iloc[row] else "negative"
        return Shown(file, f"{owner if grouped else f'patient {owner}'}, {label}", _png(np.asarray(images[row])))

    labels = manifest["label"].to_numpy()
    shown = {}
    for found in findings:
        if found.pairs:  # two labels of what looks alike: there one is wrong, so these come first
            pairs = sorted(found.pairs, key=lambda pair: labels[rows[pair[0]]] == labels[rows[pair[1]]])
            shown[found.check] = [[show(a), show(b)] for a, b in pairs[:MAX_SHOWN]]
        elif found.check in SINGLE:  # those in colour were not prepared: nothing to show
            own = manifest.iloc[[rows[file] for file in found.files if file in rows]]
            turn = own.groupby("patient").cumcount().to_numpy()  # one of each patient, then a second of each
            files = own["file"].iloc[np.argsort(turn, kind="stable")[:MAX_SHOWN]]
            shown[found.check] = [[show(str(file))] for file in files]
    return {check: groups for check, groups in shown.items() if groups}


def _png(image: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
