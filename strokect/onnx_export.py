"""A trained fold out of torch: `model.onnx` (slice → pooled features, last feature map, pooled stages) and `head.npz`."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from strokect.calibration import sigmoid
from strokect.engine import FoldModel
from strokect.errors import TrainingError
from strokect.files import atomic_path, sha256_file, write_json
from strokect.network import FoldNet, predict_logits
from strokect.params import ExportParams
from strokect.quantisation import quantise

OPSET = 20


class _Features(nn.Module):
    """The exported part of a FoldNet: normalisation is inside the graph, so the service cannot get it wrong."""

    def __init__(self, net: FoldNet):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.net.all_features(image)


def export_fold(net: FoldNet, folder: Path, *, channels: int, size: int) -> None:
    """Write model.onnx (input `image` (1, C, S, S) float32 grey levels 0–255) and head.npz into an existing folder."""
    net = net.cpu().eval()
    example = torch.zeros(1, channels, size, size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.inference_mode(), atomic_path(folder / "model.onnx") as path:
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Features(net).eval(),
            (example,),
            path,
            input_names=["image"],
            output_names=["features", "map", "stages"],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        path.write_bytes(without_metadata(onnx.load(path)).SerializeToString(deterministic=True))
    with atomic_path(folder / "head.npz") as path:
        weight = net.head.weight.detach().numpy()[0]
        np.savez(path, weight=weight, bias=net.head.bias.detach().numpy()[0], dropout=np.float32(net.dropout.p))


def without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without torch's notes, which hold stack traces: the file must not say, nor depend on, where it was made."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
    return model


def export_model(
    net: FoldNet,
    sidecar: dict[str, Any],
    folder: Path,
    params: ExportParams,
    sample: NDArray[np.uint8],
    calibration: NDArray[np.uint8],
) -> float:
    """Write model.onnx, head.npz and model.json in the precision of `params` into an existing folder.

    The float graph is checked against torch on `sample` (n, C, S, S), whatever the precision; int8 is calibrated on
    `calibration` (m, C, S, S), slices of the training part. Returns the largest |Δ probability| between torch and what was
    written. Raises TrainingError where the float graph differs.
    """
    export_fold(net, folder, channels=sidecar["channels"], size=sidecar["image_size"])
    described = {**sidecar, "stage": "export", "precision": params.precision}
    write_json(folder / "model.json", described)
    worst = check_parity(net, FoldModel(folder), sample, params.parity_tolerance)
    if params.precision == "int8":
        quantise(folder, calibration)
        worst = difference_from_torch(net, FoldModel(folder), sample)
        described["largest_difference_from_torch"] = worst  # in probability
    write_json(folder / "model.json", {**described, "onnx_sha256": sha256_file(folder / "model.onnx")})
    return worst


def evenly(rows: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """At most `n` of `rows` (m,), evenly spaced."""
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)]


def check_parity(net: FoldNet, exported: FoldModel, images: NDArray[np.uint8], tolerance: float) -> float:
    """`difference_from_torch`; raises TrainingError when it is not below `tolerance`."""
    worst = difference_from_torch(net, exported, images)
    if not worst < tolerance:
        raise TrainingError(
            f"the exported model differs from torch by {worst:.2e} in probability; export.parity_tolerance is {tolerance:g}"
        )
    return worst


def difference_from_torch(net: FoldNet, exported: FoldModel, images: NDArray[np.uint8]) -> float:
    """Largest |Δ probability| between torch and the exported fold on images (n, C, S, S)."""
    by_torch = sigmoid(predict_logits(net, images, torch.device("cpu")))
    by_onnx = sigmoid([exported.logit(exported.run(image)) for image in images])
    return float(np.abs(by_torch - by_onnx).max())
