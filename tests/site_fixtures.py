"""A hospital that had no part in training, as `examples.make_site` makes it, for the tests of stages.external and recalibrate."""

from pathlib import Path
from typing import Any

from conftest import tiny_params


def site_params(target: str, resamples: int = 100) -> dict[str, Any]:
    """params.yaml of the site: its labels ask what the release answers."""
    params = tiny_params()
    params["data"]["folder"]["target"] = target
    params["evaluate"]["resamples"] = resamples
    return params


def hashes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
