"""model.json, the sidecar of a fold model: what every part of the project that meets a model agrees on. Needs no package."""

from pathlib import Path
from typing import Any

from strokect.errors import DataError, ReleaseError
from strokect.files import read_json

SCHEMA = 1
CLASSES = ["normal", "stroke"]
REQUIRED = ("schema", "image_size", "channels", "classes", "num_features", "target", "mean", "std")


def read_sidecar(folder: Path | str) -> dict[str, Any]:
    """model.json of a fold, checked for what its readers need. Raises ReleaseError naming the file."""
    path = Path(folder) / "model.json"
    try:
        sidecar = read_json(path)
    except DataError as error:
        raise ReleaseError(str(error)) from None
    if not isinstance(sidecar, dict) or (missing := [key for key in REQUIRED if key not in sidecar]):
        raise ReleaseError(f"{path}: missing {', '.join(missing) if isinstance(sidecar, dict) else 'everything'}")
    if sidecar["schema"] != SCHEMA:
        raise ReleaseError(f"{path}: schema {sidecar['schema']}, this version reads {SCHEMA}")
    if sidecar["classes"] != CLASSES:
        raise ReleaseError(f"{path}: classes {sidecar['classes']}, expected {CLASSES}")
    return sidecar
