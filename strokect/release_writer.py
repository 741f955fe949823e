"""Writing the release folder that `strokect.release` loads."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strokect.errors import ReleaseError
from strokect.files import atomic_folder, sha256_file, write_json
from strokect.hounsfield import windows_of
from strokect.release import SCHEMA, load_release, open_release, release_files, version_of
from strokect.self_test import self_test_answer, slice_name
from strokect.sidecar import read_sidecar

MODEL_FILES = ("model.onnx", "head.npz", "model.json")
ORIGIN_KEYS = (
    "source",
    "labels",
    "label_unit",
    "patient_level_verifiable",
    "group_by",
    "backbone",
    "weights",
    "target",
    "data_sha256",
    "split_sha256",
)


def write_release(
    target: Path | str, models: Mapping[str, Path], gates: Path, files: Mapping[str, Path], card: str, test_slice: bytes
) -> str:
    """Write a release and return its version; the same content gives the same version.

    `models` maps the names in the operating point to exported folders, `gates` holds <name>.npz for each, `files` maps paths
    inside the release to files, `test_slice` is the synthetic slice of the self-test, a file of the kind that
    `self_test.slice_name` says. The new folder is loaded before it replaces
    the old one, so a release that cannot be served is never left behind.
    """
    if not models:
        raise ReleaseError("no exported model: run `dvc repro export`")
    with atomic_folder(target) as folder:
        for name, export in models.items():
            for file in MODEL_FILES:
                _copy(export / file, folder / "folds" / name / file)
            _copy(gates / f"{name}.npz", folder / "safety" / "gates" / f"{name}.npz")
        for path, source in files.items():
            _copy(source, folder / path)
        (folder / "model_card.md").write_text(card, encoding="utf-8")
        (folder / "self_test").mkdir()
        origin = read_sidecar(next(iter(models.values())))
        (folder / "self_test" / slice_name(windows_of(origin))).write_bytes(test_slice)
        _seal(folder, origin)
        write_json(folder / "self_test" / "expected.json", self_test_answer(folder / "self_test", open_release(folder).judge))
        version = _seal(folder, origin)
        load_release(folder)
    return version


def _seal(folder: Path, sidecar: dict[str, Any]) -> str:
    """Write manifest.json over the files that are there and return the version."""
    files = {path: sha256_file(folder / path) for path in release_files(folder)}
    version = version_of(files)
    created_from = {key: sidecar.get(key) for key in ORIGIN_KEYS}
    write_json(folder / "manifest.json", {"schema": SCHEMA, "version": version, "created_from": created_from, "files": files})
    return version


def _copy(source: Path, target: Path) -> None:
    """A real copy: DVC may have linked the source, and a bento would carry the link dangling."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise ReleaseError(f"{source} is missing: run `dvc repro`") from None
