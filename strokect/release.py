"""The release folder: everything the service needs, sealed by a manifest of SHA-256 that is verified at every start.

    folds/<name>/{model.onnx, head.npz, model.json}   the models that ship: folds 0 … 4, or one student
    operating_point.json                              calibration, views, thresholds
    safety/policy.json, safety/gates/<name>.npz       limits of the pixel checks, feature gate of each model, refer band
    self_test/{slice.png or .dcm, expected.json}      a synthetic slice and what this release says about it
    metrics.json, safety.json, audit.json             what is known about the model
    model_card.md                                     the same for people
    manifest.json                                     {"schema", "version", "created_from", "files": {path: sha256}}

Imports neither torch nor timm.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strokect.calibration import Calibrator
from strokect.engine import FoldModel, check_views
from strokect.errors import DataError, ReleaseError
from strokect.files import read_json, sha256_file
from strokect.head_crop import crop_of
from strokect.hounsfield import windows_of
from strokect.judge import Judge, load_judge
from strokect.policy import Policy
from strokect.self_test import check_self_test
from strokect.sequence import SequenceHead
from strokect.shipping import STUDENT

SCHEMA = 2
OPERATING_POINT_SCHEMA = 2
REBUILD = "run `dvc repro build_bento` to write the release again"
# Folds that differ in one of these were not trained for the same question on the same data.
SHARED_KEYS = ("image_size", "crop", "channels", "windows", "target", "classes", "split_sha256", "data_sha256")


@dataclass(frozen=True)
class OperatingPoint:
    """How logits become a decision; read from operating_point.json."""

    calibrator: Calibrator
    views: tuple[str, ...]
    slice: dict[str, Any]  # {"threshold", "goal"}
    patient: dict[str, Any]  # {"threshold", "goal", "rule", "top_k", "sequence": null or its head}
    group_by: str
    folds: tuple[int, ...]  # whose out-of-fold predictions it was chosen on
    exports: dict[str, str]  # name of a model that ships ("0" … "4", or "student") → SHA-256 of its model.onnx
    site: dict[str, Any] | None = None  # of stages.recalibrate: whose cases calibrated it, and the release that it was before

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
                dict(value["site"]) if value.get("site") is not None else None,
            )
            thresholds = [float(level["threshold"]) for level in (point.slice, point.patient)]
            if int(point.patient["top_k"]) < 1:
                raise ValueError(f"top_k {point.patient['top_k']}")
            if point.patient["sequence"] is not None:
                SequenceHead.from_json(point.patient["sequence"])
        except (KeyError, TypeError, ValueError) as error:
            raise ReleaseError(f"operating_point.json is malformed ({error!r})") from None
        check_views(point.views)
        if not all(math.isfinite(t) and 0 <= t <= 1 for t in thresholds):
            raise ReleaseError(f"operating_point.json: thresholds {thresholds}, expected probabilities")
        if not point.folds or len(set(point.folds)) != len(point.folds):
            raise ReleaseError(f"operating_point.json: folds {list(point.folds)}")
        if set(point.exports) not in ({str(fold) for fold in point.folds}, {STUDENT}):
            raise ReleaseError(f"operating_point.json: folds {list(point.folds)}, but the models {sorted(point.exports)}")
        return point


@dataclass(frozen=True)
class Release:
    """A verified release with its models loaded."""

    version: str
    created_from: dict[str, Any]
    models: tuple[FoldModel, ...]
    operating_point: OperatingPoint
    policy: Policy
    judge: Judge  # the models under their policy
    metrics: dict[str, Any]
    safety: dict[str, Any]
    audit: dict[str, Any]

    @property
    def sidecar(self) -> dict[str, Any]:
        """model.json of the first model; what `SHARED_KEYS` names is the same in all of them."""
        return self.models[0].sidecar


def load_release(folder: Path | str) -> Release:
    """Verify a release folder, load it and run its self-test. Raises ReleaseError naming the first file that is wrong."""
    release = open_release(Path(folder))
    check_self_test(Path(folder) / "self_test", release.judge)
    return release


def open_release(folder: Path) -> Release:
    """Verify the manifest and load everything, without the self-test."""
    manifest = _verify(folder)
    point = OperatingPoint.from_json(_read(folder, "operating_point.json"))
    names = sorted({path.split("/")[1] for path in manifest["files"] if path.startswith("folds/")})
    if names != sorted(point.exports):
        raise ReleaseError(
            f"operating_point.json is for the models {sorted(point.exports)}, the release holds {names}: {REBUILD}"
        )
    for name in names:
        if point.exports[name] != manifest["files"].get(f"folds/{name}/model.onnx"):
            raise ReleaseError(
                f"operating_point.json was tuned on another model than folds/{name}/model.onnx: "
                "run `dvc repro tune_threshold safety build_bento`"
            )
    folders = {name: folder / "folds" / name for name in names}
    judge = load_judge(folders, point.views, point.calibrator, folder / "safety", folder / "operating_point.json")
    policy = judge.policy
    if policy.threshold != point.slice_threshold:
        raise ReleaseError(f"safety/policy.json has threshold {policy.threshold}, operating_point.json {point.slice_threshold}")
    models = judge.engine.models
    _check_agreement(policy.models, models)
    metrics, safety, audit = (_read(folder, name) for name in ("metrics.json", "safety.json", "audit.json"))
    created_from = dict(manifest.get("created_from", {}))
    return Release(manifest["version"], created_from, models, point, policy, judge, metrics, safety, audit)


def _verify(folder: Path) -> dict[str, Any]:
    """Check manifest.json against the files, both ways."""
    manifest = _read(folder, "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise ReleaseError(f"manifest.json: schema {found}, this version reads {SCHEMA}: {REBUILD}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not isinstance(manifest.get("version"), str):
        raise ReleaseError(f"manifest.json: no version or no list of files: {REBUILD}")
    present = set(release_files(folder))
    for path in sorted(files.keys() | present):
        if path not in present:
            raise ReleaseError(f"{path} is missing from the release: {REBUILD}")
        if path not in files:
            raise ReleaseError(f"{path} is not in manifest.json: remove it or {REBUILD}")
        if sha256_file(folder / path) != files[path]:
            raise ReleaseError(f"{path} does not match its SHA-256 in manifest.json: {REBUILD}")
    if manifest["version"] != version_of(files):
        raise ReleaseError(f"manifest.json: version {manifest['version']} is not that of these files: {REBUILD}")
    return manifest


def version_of(files: dict[str, str]) -> str:
    """12 hex over the list of files and their SHA-256: the same content is the same version."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]


def _check_agreement(names: Sequence[str], models: Sequence[FoldModel]) -> None:
    first = models[0].sidecar
    for name, model in zip(names, models, strict=True):
        if str(model.sidecar.get("fold")) != name:
            raise ReleaseError(f"folds/{name}/model.json says it is fold {model.sidecar.get('fold')}")
        for key in SHARED_KEYS:
            if model.sidecar.get(key) != first.get(key):
                raise ReleaseError(f"folds/{name}/model.json: {key} differs from fold {names[0]}'s: run `dvc repro export`")
    windows_of(first, f"folds/{names[0]}/model.json")
    crop_of(first, f"folds/{names[0]}/model.json")


def release_files(folder: Path) -> list[str]:
    """Every file of the release except its manifest, as sorted relative paths."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(path for path in paths if path != "manifest.json")


def _read(folder: Path, name: str) -> Any:
    try:
        return read_json(folder / name)
    except DataError:
        raise ReleaseError(f"{name} is missing or not valid JSON: {REBUILD}") from None
