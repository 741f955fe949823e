"""The release folder: everything the service needs, sealed by a manifest of SHA-256 that is verified at every start.

    folds/<k>/{model.onnx, head.npz, model.json}   the exported fold models
    operating_point.json                           calibration, views, thresholds
    metrics.json, audit.json                       what is known about the model
    manifest.json                                  {"schema", "version", "created_from", "files": {path: sha256}}

Imports neither torch nor timm.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strokect.calibration import Calibrator
from strokect.engine import FoldModel, check_views
from strokect.errors import DataError, ReleaseError
from strokect.files import atomic_folder, read_json, sha256_file, write_json
from strokect.sidecar import read_sidecar

SCHEMA = 1
OPERATING_POINT_SCHEMA = 1
FOLD_FILES = ("model.onnx", "head.npz", "model.json")
REBUILD = "run `dvc repro build_bento` to write the release again"
# Folds that differ in one of these were not trained for the same question on the same data.
SHARED_KEYS = ("image_size", "channels", "target", "classes", "split_sha256", "data_sha256")
ORIGIN_KEYS = ("source", "labels", "label_unit", "group_by", "backbone", "weights", "target", "data_sha256", "split_sha256")


@dataclass(frozen=True)
class OperatingPoint:
    """How logits become a decision; read from operating_point.json."""

    calibrator: Calibrator
    views: tuple[str, ...]
    slice: dict[str, Any]  # {"threshold", "goal"}
    patient: dict[str, Any]  # {"threshold", "goal", "rule", "top_k"}
    group_by: str
    folds: tuple[int, ...]
    exports: dict[str, str]  # fold → SHA-256 of its model.onnx

    @property
    def slice_threshold(self) -> float:
        """A slice is "stroke" from this probability on."""
        return float(self.slice["threshold"])

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "OperatingPoint":
        """Read operating_point.json's content; raises ReleaseError on anything unexpected."""
        try:
            if value["schema"] != OPERATING_POINT_SCHEMA:
                raise ReleaseError(f"operating_point.json: schema {value['schema']}, this version reads {OPERATING_POINT_SCHEMA}")
            point = cls(
                Calibrator.from_json(value["calibration"]),
                tuple(value["views"]),
                dict(value["slice"]),
                dict(value["patient"]),
                str(value["group_by"]),
                tuple(int(fold) for fold in value["folds"]),
                dict(value["exports"]),
            )
            thresholds = [float(level["threshold"]) for level in (point.slice, point.patient)]
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseError(f"operating_point.json is malformed ({error!r})") from None
        check_views(point.views)
        if not all(math.isfinite(t) and 0 <= t <= 1 for t in thresholds):
            raise ReleaseError(f"operating_point.json: thresholds {thresholds}, expected probabilities")
        if not point.folds or len(set(point.folds)) != len(point.folds):
            raise ReleaseError(f"operating_point.json: folds {list(point.folds)}")
        return point


@dataclass(frozen=True)
class Release:
    """A verified release with its fold models loaded."""

    version: str
    created_from: dict[str, Any]
    models: tuple[FoldModel, ...]
    operating_point: OperatingPoint
    metrics: dict[str, Any]
    audit: dict[str, Any]

    @property
    def sidecar(self) -> dict[str, Any]:
        """model.json of the first fold; what `SHARED_KEYS` names is the same in all of them."""
        return self.models[0].sidecar


def write_release(target: Path | str, exports: Sequence[Path], operating_point: Path, metrics: Path, audit: Path) -> str:
    """Write a release from exported folds and return its version; the same content gives the same version.

    The new folder is loaded once before it replaces the old one, so a release that cannot be served is never left behind.
    """
    if not exports:
        raise ReleaseError("no exported fold: run `dvc repro export`")
    with atomic_folder(target) as folder:
        for export in sorted(exports):
            fold = folder / "folds" / str(read_sidecar(export)["fold"])
            fold.mkdir(parents=True)
            for name in FOLD_FILES:
                _copy(export / name, fold / name)
        _copy(operating_point, folder / "operating_point.json")
        _copy(metrics, folder / "metrics.json")
        _copy(audit, folder / "audit.json")
        files = {path: sha256_file(folder / path) for path in _files(folder)}
        version = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
        sidecar = read_sidecar(sorted(exports)[0])
        created_from = {key: sidecar.get(key) for key in ORIGIN_KEYS}
        write_json(folder / "manifest.json", {"schema": SCHEMA, "version": version, "created_from": created_from, "files": files})
        load_release(folder)
    return version


def load_release(folder: Path | str) -> Release:
    """Verify a release folder and load its models. Raises ReleaseError naming the first file that is wrong."""
    folder = Path(folder)
    manifest = _verify(folder)
    point = OperatingPoint.from_json(_read(folder / "operating_point.json"))
    numbers = sorted({int(path.split("/")[1]) for path in manifest["files"] if re.fullmatch(r"folds/\d+/model\.onnx", path)})
    if numbers != sorted(point.folds):
        raise ReleaseError(f"operating_point.json is for folds {sorted(point.folds)}, the release holds {numbers}: {REBUILD}")
    for k in numbers:
        if point.exports.get(str(k)) != manifest["files"][f"folds/{k}/model.onnx"]:
            raise ReleaseError(
                f"operating_point.json was tuned on another model than folds/{k}/model.onnx: "
                "run `dvc repro tune_threshold build_bento`"
            )
    models = tuple(FoldModel(folder / "folds" / str(k)) for k in numbers)
    _check_agreement(numbers, models)
    metrics, audit = _read(folder / "metrics.json"), _read(folder / "audit.json")
    return Release(manifest["version"], dict(manifest.get("created_from", {})), models, point, metrics, audit)


def _verify(folder: Path) -> dict[str, Any]:
    """Check manifest.json against the files, both ways."""
    manifest = _read(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise ReleaseError(f"manifest.json: schema {found}, this version reads {SCHEMA}: {REBUILD}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not isinstance(manifest.get("version"), str):
        raise ReleaseError(f"manifest.json: no version or no list of files: {REBUILD}")
    present = set(_files(folder))
    for path in sorted(files.keys() | present):
        if path not in present:
            raise ReleaseError(f"{path} is missing from the release: {REBUILD}")
        if path not in files:
            raise ReleaseError(f"{path} is not in manifest.json: remove it or {REBUILD}")
        if sha256_file(folder / path) != files[path]:
            raise ReleaseError(f"{path} does not match its SHA-256 in manifest.json: {REBUILD}")
    return manifest


def _check_agreement(numbers: Sequence[int], models: Sequence[FoldModel]) -> None:
    first = models[0].sidecar
    for k, model in zip(numbers, models, strict=True):
        if model.sidecar.get("fold") != k:
            raise ReleaseError(f"folds/{k}/model.json says it is fold {model.sidecar.get('fold')}")
        for key in SHARED_KEYS:
            if model.sidecar.get(key) != first.get(key):
                raise ReleaseError(f"folds/{k}/model.json: {key} differs from fold {numbers[0]}'s: run `dvc repro export`")
    if first["channels"] != 1:
        raise ReleaseError(f"folds/{numbers[0]}/model.json: {first['channels']} channels; the service reads one grey channel")


def _files(folder: Path) -> list[str]:
    """Every file of the release except its manifest, as sorted relative paths."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(path for path in paths if path != "manifest.json")


def _copy(source: Path, target: Path) -> None:
    """A real copy: DVC may have linked the source, and a bento would carry the link dangling."""
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise ReleaseError(f"{source} is missing: run `dvc repro`") from None


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError:
        raise ReleaseError(f"{path.name} is missing or not valid JSON: {REBUILD}") from None
