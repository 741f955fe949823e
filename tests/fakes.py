"""Fake folds and releases: tiny ONNX graphs of the real interface, so that service tests need neither torch nor training."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from strokect.calibration import Calibrator
from strokect.files import sha256_file, write_json
from strokect.release import write_release

SIZE, FEATURES = 32, 6
TARGET = "intracranial haemorrhage on this slice"


def fake_graph(path: Path, seed: int, size: int = SIZE, features: int = FEATURES) -> None:
    """Grey levels (1, 1, S, S) → average pooling, fixed 1×1 convolution, position weights → map (1, F, 4, 4), features (1, F)."""
    rng = np.random.default_rng(seed)
    constants = {
        "kernel": rng.normal(size=(features, 1, 1, 1)) / 255,
        "place": rng.uniform(0.5, 1.5, size=(1, 1, 4, 4)),  # breaks the symmetry, so that a mirror view differs
    }
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[size // 4] * 2, strides=[size // 4] * 2),
        helper.make_node("Conv", ["pooled", "kernel"], ["convolved"]),
        helper.make_node("Mul", ["convolved", "place"], ["map"]),
        helper.make_node("ReduceMean", ["map"], ["features"], axes=[2, 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "fake",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, size, size])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, features]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, features, 4, 4]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def fake_export(folder: Path, fold: int, **changes: Any) -> Path:
    """One exported fold; `changes` override keys of its model.json."""
    folder.mkdir(parents=True)
    fake_graph(folder / "model.onnx", seed=fold)
    weight = np.random.default_rng(100 + fold).normal(size=FEATURES).astype(np.float32)
    np.savez(folder / "head.npz", weight=weight, bias=np.float32(0.1 * fold), dropout=np.float32(0.2))
    sidecar = {
        "schema": 1,
        "fold": fold,
        "backbone": "fake",
        "weights": "none",
        "image_size": SIZE,
        "channels": 1,
        "mean": [0.0],
        "std": [1.0],
        "num_features": FEATURES,
        "dropout": 0.2,
        "classes": ["normal", "stroke"],
        "target": TARGET,
        "labels": "slice",
        "label_unit": "slice",
        "source": "phantom",
        "group_by": "patient",
        "data_sha256": "d" * 64,
        "split_sha256": "5" * 64,
        "device": "cpu",
        "versions": {},
    }
    write_json(folder / "model.json", sidecar | changes)
    return folder


def fake_inputs(folder: Path, folds: int = 2, **point_changes: Any) -> dict[str, Any]:
    """The keyword arguments of `write_release` after its target; `point_changes` override keys of operating_point.json."""
    exports = [fake_export(folder / "export" / str(k), k) for k in range(folds)]
    point = {
        "schema": 1,
        "calibration": Calibrator("affine", 0.8, -0.1).to_json(),
        "views": ["identity", "mirror"],
        "slice": {"threshold": 0.5, "goal": "f2"},
        "patient": {"threshold": 0.4, "goal": "f2", "rule": "mean_top_k", "top_k": 3},
        "group_by": "patient",
        "folds": list(range(folds)),
        "exports": {str(k): sha256_file(export / "model.onnx") for k, export in enumerate(exports)},
    }
    write_json(folder / "operating_point.json", point | point_changes)
    metrics = {"part": "oof", "slice": {"roc_auc": {"value": 0.8, "ci95": [0.7, 0.9]}}, "group_by": "patient", "target": TARGET}
    write_json(folder / "evaluate.json", metrics)
    write_json(folder / "audit.json", {"passed": True, "allowed": ["near_duplicates"], "findings": []})
    files = {"operating_point": "operating_point.json", "metrics": "evaluate.json", "audit": "audit.json"}
    return {"exports": exports, **{key: folder / name for key, name in files.items()}}


def fake_release(folder: Path, folds: int = 2, **point_changes: Any) -> Path:
    """A complete release under `folder`."""
    write_release(folder / "release", **fake_inputs(folder / "inputs", folds, **point_changes))
    return folder / "release"


def reseal(release: Path) -> None:
    """Write the manifest's hashes anew, as somebody would who edits a release and its manifest."""
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["files"] = {path: sha256_file(release / path) for path in manifest["files"]}
    write_json(release / "manifest.json", manifest)


def grey_slice(size: int = 64, seed: int = 0) -> np.ndarray:
    """(size, size) uint8: a bright ring around noise, roughly a head."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x, y)
    noise = np.random.default_rng(seed).integers(80, 140, (size, size))
    return np.where(radius < 0.7, noise, np.where(radius < 0.8, 255, 0)).astype(np.uint8)


def encode(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    """An array as the bytes of a picture file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def dicom_bytes(stored: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """A CT slice as DICOM bytes. `stored` is (H, W) int16 or uint16; an element given as None is left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    defaults = {
        "PatientName": "Nobody^Test",
        "Modality": "CT",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    for name, value in (defaults | elements).items():
        if value is not None:
            setattr(dataset, name, value)
    if "PixelData" not in elements:
        dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    stream = io.BytesIO()
    implicit = syntax == "1.2.840.10008.1.2"
    # Straight to the writer: `save_as` would refuse an encapsulated syntax over plain bytes, which is what some tests want.
    dataset.save_as(stream, implicit_vr=implicit, little_endian=True, enforce_file_format=False, overwrite=True)
    return stream.getvalue()
