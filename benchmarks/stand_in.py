"""A whole release around folds with random weights: what a load costs does not depend on what the networks have learned.

The gates are fitted on random features and every limit is open, so each picture takes the whole way to a label.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.build_bento import self_test_slice
from strokect.calibration import Calibrator
from strokect.engine import FoldModel
from strokect.feature_gate import fit_statistics
from strokect.files import read_json, sha256_file, write_json
from strokect.gate import Gate, Standard, save_gate
from strokect.judge import model_hashes
from strokect.pixel_checks import CHECKS, Limit
from strokect.policy import Policy
from strokect.release_writer import write_release
from strokect.texture import Texture

FITTED_ON = 400  # random slices behind a gate: about what one fold of the phantom has
GATE, OPEN = "mahalanobis", 1e9


def stand_in_release(exports: Path, views: Sequence[str], target: Path) -> Path:
    """Wrap the exported folds `exports`/0, 1, … (as `benchmarks.eager.write_folds` leaves them) into the release `target`."""
    folders = {folder.name: folder for folder in sorted(exports.iterdir())}
    for name, folder in folders.items():
        write_json(folder / "model.json", read_json(folder / "model.json") | {"fold": int(name), "group_by": "patient"})
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Path(scratch)
        for name, folder in folders.items():
            save_gate(inputs / f"{name}.npz", random_gate(FoldModel(folder), seed=int(name)))
        files = write_files(folders, views, inputs)
        size = read_json(folders["0"] / "model.json")["image_size"]
        write_release(
            target, folders, inputs, files, "# A stand-in for benchmarks: its answers mean nothing", self_test_slice(size)
        )
    return target


def random_gate(model: FoldModel, seed: int) -> Gate:
    """A gate of the right shapes."""
    rng = np.random.default_rng(seed)
    features, stages = (rng.normal(size=(FITTED_ON, n)).astype(np.float32) for n in (len(model.weight), model.num_stage_features))
    labels = np.arange(FITTED_ON) % 2
    return Gate(GATE, fit_statistics(features, stages, labels, model.weight, float(model.bias)), Standard(0.0, 1.0))


def write_files(folders: dict[str, Path], views: Sequence[str], inputs: Path) -> dict[str, Path]:
    """Operating point, policy and the three reports → {path in the release: file}."""
    hashes = {name: sha256_file(folder / "model.onnx") for name, folder in folders.items()}
    point: dict[str, Any] = {
        "schema": 2,
        "calibration": Calibrator("affine", 1.0, 0.0).to_json(),
        "views": list(views),
        "slice": {"threshold": 0.5, "goal": "f2"},
        "patient": {"threshold": 0.5, "goal": "f2", "rule": "mean_top_k", "top_k": 3, "sequence": None},
        "group_by": "patient",
        "folds": [int(name) for name in folders],
        "exports": hashes,
    }
    write_json(inputs / "operating_point.json", point)
    policy = Policy(
        models=tuple(folders),
        threshold=0.5,
        limits={n: Limit(None if c.low is None else -OPEN, None if c.high is None else OPEN) for n, c in CHECKS.items()},
        texture=Texture((0.0, 0.0, 0.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))),
        texture_limit=OPEN,
        gate=GATE,
        gate_threshold=OPEN,
        measure="mc_std",
        refer_above=OPEN,
        samples=20,
        series_share=0.5,
        operating_point_sha256=sha256_file(inputs / "operating_point.json"),
        sha256={name: model_hashes(folder, inputs / f"{name}.npz") for name, folder in folders.items()},
    )
    write_json(inputs / "policy.json", policy.to_json())
    nothing = {"metrics.json": {}, "safety.json": {}, "audit.json": {"passed": True, "allowed": [], "findings": []}}
    for name, content in nothing.items():
        write_json(inputs / name, content)
    paths = {name: inputs / name for name in ("operating_point.json", *nothing)}
    return {**paths, "safety/policy.json": inputs / "policy.json"}
