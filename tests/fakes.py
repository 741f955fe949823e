"""Fake folds and releases: tiny ONNX graphs of the real interface, so that service tests need neither torch nor training."""

import io
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from strokect.calibration import Calibrator
from strokect.ct_slice import ct_slice
from strokect.feature_gate import fit_statistics
from strokect.files import sha256_file, write_json
from strokect.gate import Gate, Standard, save_gate
from strokect.head_crop import Crop, crop_to_json
from strokect.hounsfield import BRAIN_ONLY, Window, Windows, windows_to_json
from strokect.judge import model_hashes
from strokect.pixel_checks import CHECKS, Limit
from strokect.policy import Policy
from strokect.release import version_of
from strokect.release_writer import write_release
from strokect.texture import Texture

REFERENCE = {  # of a CT slice that others can refer to
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "SOPInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2",
    "StudyInstanceUID": "1.2.4",
}
SIZE, FEATURES, STAGES = 32, 6, 4
COMPRESSED = ("1.2.840.10008.1.2.5", *(f"1.2.840.10008.1.2.4.{n}" for n in (57, 70, 80, 90)))
THREE: Windows = (Window(40, 80), Window(80, 200), Window(40, 40))
TARGET = "intracranial haemorrhage on this slice"


def fake_graph(path: Path, seed: int, size: int = SIZE, features: int = FEATURES, work: int = 0, channels: int = 1) -> None:
    """Grey levels (1, C, S, S) → average pooling, fixed 1×1 convolution, position weights → map (1, F, 4, 4), features (1, F).

    Stages (1, STAGES): the pooled picture by another convolution, averaged. `work`: so many matrix products of 3.5 GFLOP, which
    change nothing, so that a pass takes its time.
    """
    rng = np.random.default_rng(seed)
    constants = {
        "kernel": rng.normal(size=(features, channels, 1, 1)) / 255,
        "place": rng.uniform(0.5, 1.5, size=(1, 1, 4, 4)),  # breaks the symmetry, so that a mirror view differs
        "stem": rng.normal(size=(STAGES, channels, 1, 1)) / 255,
    }
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[size // 4] * 2, strides=[size // 4] * 2),
        helper.make_node("Conv", ["pooled", "kernel"], ["convolved"]),
        helper.make_node("Mul", ["convolved", "place"], ["map"]),
        helper.make_node("ReduceMean", ["map"], ["features" if not work else "bare"], axes=[2, 3], keepdims=0),
        helper.make_node("Conv", ["pooled", "stem"], ["stem_map"]),
        helper.make_node("ReduceMean", ["stem_map"], ["stages"], axes=[2, 3], keepdims=0),
    ]
    if work:  # begins with the picture, or it would be computed once, when the graph is loaded
        constants |= {"square": np.full((1200, 1200), 1 / 1200), "none": np.zeros(1)}
        nodes += [
            helper.make_node("ReduceMean", ["image"], ["grey"], keepdims=0),
            helper.make_node("Mul", ["square", "grey"], ["w0"]),
        ]
        nodes += [helper.make_node("MatMul", [f"w{i}", "square"], [f"w{i + 1}"]) for i in range(work)]
        nodes += [helper.make_node("ReduceMean", [f"w{work}"], ["worked"], keepdims=0)]
        nodes += [helper.make_node("Mul", ["worked", "none"], ["nothing"])]
        nodes += [helper.make_node("Add", ["bare", "nothing"], ["features"])]
    graph = helper.make_graph(
        nodes,
        "fake",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, size, size])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, features]),
            helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, features, 4, 4]),
            helper.make_tensor_value_info("stages", TensorProto.FLOAT, [1, STAGES]),
        ],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def fake_export(folder: Path, fold: int, work: int = 0, **changes: Any) -> Path:
    """One exported fold; `changes` override keys of its model.json."""
    folder.mkdir(parents=True)
    fake_graph(folder / "model.onnx", seed=fold, work=work, channels=changes.get("channels", 1))
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


def open_limits() -> dict[str, Limit]:
    """Pixel checks that object to colour only: fakes are no heads."""
    wide = {n: Limit(None if c.low is None else -1e9, None if c.high is None else 1e9) for n, c in CHECKS.items()}
    return wide | {"chroma": Limit(None, 16.0)}


def fake_policy(point: Path, **changes: Any) -> Policy:
    """The policy of an operating point that rejects colour, refers nothing and lets everything else pass; `changes` override."""
    content = json.loads(point.read_text())
    names = tuple(content["exports"])
    policy = Policy(
        models=names,
        threshold=content["slice"]["threshold"],
        limits=open_limits(),
        texture=Texture((0.0, 0.0, 0.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))),
        texture_limit=1e9,
        gate="mahalanobis",
        gate_threshold=1e9,
        measure="mc_std",
        refer_above=1e9,
        samples=20,
        series_share=0.5,
        operating_point_sha256=sha256_file(point),
        sha256={name: dict.fromkeys(("model.onnx", "head.npz", "model.json", "gate"), "0" * 64) for name in names},
    )
    return replace(policy, **changes)


def fake_safety(folder: Path, exports: dict[str, Path], policy: Policy) -> None:
    """models/safety of fake exports: policy.json and a gate fitted on random features."""
    (folder / "gates").mkdir(parents=True)
    for seed, (name, export) in enumerate(exports.items()):
        rng = np.random.default_rng(seed)
        with np.load(export / "head.npz") as head:
            weight, bias = head["weight"], float(head["bias"])
        features, stages = (rng.normal(size=(60, n)).astype(np.float32) for n in (FEATURES, STAGES))
        statistics = fit_statistics(features, stages, np.arange(60) % 2, weight, bias)
        save_gate(folder / "gates" / f"{name}.npz", Gate(policy.gate, statistics, Standard(1.0, 2.0)))
    hashes = {name: model_hashes(export, folder / "gates" / f"{name}.npz") for name, export in exports.items()}
    write_json(folder / "policy.json", replace(policy, sha256=hashes).to_json())


def fake_inputs(
    folder: Path,
    folds: int = 2,
    policy: dict[str, Any] | None = None,
    work: int = 0,
    windows: Windows = BRAIN_ONLY,
    crop: Crop = "none",
    **point_changes: Any,
) -> dict[str, Any]:
    """The keyword arguments of `write_release` after its target; `policy` and `point_changes` override keys of the two files."""
    seen = {"channels": len(windows), "windows": windows_to_json(windows), **crop_to_json(crop)}
    exports = {str(k): fake_export(folder / "export" / str(k), k, work, **seen) for k in range(folds)}
    point = {
        "schema": 2,
        "calibration": Calibrator("affine", 0.8, -0.1).to_json(),
        "views": ["identity", "mirror"],
        "slice": {"threshold": 0.5, "goal": "f2"},
        "patient": {"threshold": 0.4, "goal": "f2", "rule": "mean_top_k", "top_k": 3, "sequence": None},
        "group_by": "patient",
        "folds": list(range(folds)),
        "exports": {name: sha256_file(export / "model.onnx") for name, export in exports.items()},
    }
    write_json(folder / "operating_point.json", point | point_changes)
    fake_safety(folder / "safety", exports, fake_policy(folder / "operating_point.json", **(policy or {})))
    level = {"roc_auc": {"value": 0.8, "ci95": [0.7, 0.9]}}
    metrics = {"part": "oof", "slice": level, "patient": level, "group_by": "patient", "target": TARGET, "interval": "95 %"}
    metrics |= {"n_slices": 20, "n_patients": 4, "n_positive_patients": 2}
    write_json(folder / "evaluate.json", metrics)
    some = {"value": 0.01, "ci95": [0.0, 0.03]}
    safety = {"false_rejects": {"all": some, "stroke": some}, "outliers": {"noise": {"n": 5, "rejected": some}}}
    write_json(folder / "safety.json", safety | {"policy": {"refer": {"measure": "mc_std", "above": 0.1}}})
    write_json(folder / "audit.json", {"passed": True, "allowed": ["near_duplicates"], "findings": []})
    files = {
        "operating_point.json": folder / "operating_point.json",
        "safety/policy.json": folder / "safety" / "policy.json",
        "metrics.json": folder / "evaluate.json",
        "safety.json": folder / "safety.json",
        "audit.json": folder / "audit.json",
    }
    return {
        "models": exports,
        "gates": folder / "safety" / "gates",
        "files": files,
        "card": "# Model card",
        "test_slice": encode(grey_slice()) if windows == BRAIN_ONLY else ct_slice(slice_hu()),
    }


def fake_release(folder: Path, folds: int = 2, policy: dict[str, Any] | None = None, work: int = 0, **changes: Any) -> Path:
    """A complete release under `folder`; with `work`, a slow one (see `fake_graph`). `changes` as in `fake_inputs`."""
    write_release(folder / "release", **fake_inputs(folder / "inputs", folds, policy, work, **changes))
    return folder / "release"


def reseal(release: Path) -> None:
    """Write every hash of a release anew, as somebody would who edits it and knows how it is sealed."""
    policy = json.loads((release / "safety" / "policy.json").read_text())
    policy["operating_point_sha256"] = sha256_file(release / "operating_point.json")
    for name in policy["sha256"]:
        policy["sha256"][name] = model_hashes(release / "folds" / name, release / "safety" / "gates" / f"{name}.npz")
    write_json(release / "safety" / "policy.json", policy)
    reseal_manifest(release)


def reseal_manifest(release: Path) -> None:
    """Write manifest.json's hashes and version anew, and leave the policy as it is."""
    manifest = json.loads((release / "manifest.json").read_text())
    files = {path: sha256_file(release / path) for path in manifest["files"]}
    write_json(release / "manifest.json", manifest | {"files": files, "version": version_of(files)})


def grey_slice(size: int = 64, seed: int = 0) -> np.ndarray:
    """(size, size) uint8: a bright ring around noise, roughly a head."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x, y)
    noise = np.random.default_rng(seed).integers(80, 140, (size, size))
    return np.where(radius < 0.7, noise, np.where(radius < 0.8, 255, 0)).astype(np.uint8)


def slice_hu(size: int = 64, seed: int = 0) -> np.ndarray:
    """(size, size) float32: `grey_slice` in Hounsfield units, with air at −1000 and bone at 900."""
    grey = grey_slice(size, seed).astype(np.float32)
    return np.select([grey == 0, grey == 255], [-1000, 900], grey / 2).round().astype(np.float32)


def encode(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    """An array as the bytes of a picture file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def bombs() -> dict[str, bytes]:
    """CT slices of 5 to 10 MB that hide in the patient's name, or in the slice's UID, what no name and no UID is."""
    items, end = b"\xfe\xff\x00\xe0\0\0\0\0" * 10**6, b"\xfe\xff\xdd\xe0\0\0\0\0"
    nested = (b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x10\0\x10\0SQ\0\0\xff\xff\xff\xff") * 300_000
    unknown = 2**32 - 1  # a length that the file does not say
    return {
        "sequence": _with_name(b"SQ\0\0" + struct.pack("<I", len(items)) + items),
        "open_sequence": _with_name(b"SQ\0\0" + struct.pack("<I", unknown) + items + end),
        "unknown": _with_name(b"UN\0\0" + struct.pack("<I", len(items)) + items),
        "open_unknown": _with_name(b"UN\0\0" + struct.pack("<I", unknown) + items + end),
        "nested": _with_name(b"SQ\0\0" + struct.pack("<I", unknown) + nested),
        "long_name": _with_name(struct.pack("<I", 5_000_000) + b"x" * 5_000_000, syntax=ImplicitVRLittleEndian),
        "long_explicit_name": _with_name(b"PN" + struct.pack("<H", 65_000) + b"x" * 65_000),
        "uid": _with_name(
            b"SQ\0\0" + struct.pack("<I", len(items)) + items, tag=b"\x08\0\x18\0", SOPInstanceUID="NAME^OF^NOBODY"
        ),
        "character_set": _with_name(
            b"SQ\0\0" + struct.pack("<I", len(items)) + items, tag=b"\x08\0\x05\0", SpecificCharacterSet="NAME^OF^NOBODY"
        ),
    }


def _with_name(element: bytes, tag: bytes = b"\x10\0\x10\0", syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """A CT slice with `element` (VR, length, value) in the place of the one whose value is NAME^OF^NOBODY."""
    name = {} if elements else {"PatientName": "NAME^OF^NOBODY"}
    data = dicom_bytes(grey_slice().astype(np.int16) + 1000, syntax, **(REFERENCE | name | elements))
    start, stop = data.index(tag), data.index(b"NAME^OF^NOBODY") + len(b"NAME^OF^NOBODY")
    return data[:start] + tag + element + data[stop:]


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
    if syntax in COMPRESSED and elements.get("PixelData") is not None:
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    if "PixelData" not in elements:
        dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    stream = io.BytesIO()
    implicit = syntax == "1.2.840.10008.1.2"
    # Straight to the writer: `save_as` would refuse an encapsulated syntax over plain bytes, which is what some tests want.
    dataset.save_as(stream, implicit_vr=implicit, little_endian=True, enforce_file_format=False, overwrite=True)
    return stream.getvalue()
