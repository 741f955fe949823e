"""A hospital that had no part in training: phantom slices of other patients as PNG files, brighter than those learned from."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from conftest import tiny_params
from PIL import Image

from strokect.phantom import make_cohort, window

SIZE = 64


def site_slices(patients: int, slices: int, seed: int, size: int = SIZE, brighter: int = 0) -> list[tuple[str, int, bytes]]:
    """(name, label, PNG bytes) of a phantom cohort; `brighter`: grey levels added to what is no air."""
    made = []
    for piece in make_cohort(patients=patients, slices=slices, size=size, seed=seed):
        grey = window(piece.hu)
        grey = np.where(grey > 8, np.clip(grey.astype(int) + brighter, 0, 255), grey).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(grey).save(stream, "PNG")
        made.append((f"{piece.patient}_{piece.slice}.png", int(piece.lesion != ""), stream.getvalue()))
    return made


def write_site(root: Path, slices: list[tuple[str, int, bytes]]) -> None:
    """The files as `data.source: folder` wants them."""
    for name, label, data in slices:
        path = root / ("stroke" if label else "normal") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def site_params(target: str, **evaluate: Any) -> dict[str, Any]:
    """params.yaml of the site: its labels ask what the release answers."""
    params = tiny_params()
    params["data"]["folder"]["target"] = target
    params["evaluate"].update(evaluate or {"resamples": 100})
    return params


def hashes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
