"""A trained fold out of torch: `model.onnx` (slice → pooled features, last feature map) and `head.npz`."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from strokect.calibration import sigmoid
from strokect.engine import FoldModel
from strokect.errors import TrainingError
from strokect.files import atomic_path
from strokect.network import FoldNet, predict_logits

OPSET = 20


class _Features(nn.Module):
    """The exported part of a FoldNet: normalisation is inside the graph, so the service cannot get it wrong."""

    def __init__(self, net: FoldNet):
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.features(image)


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
            output_names=["features", "map"],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    with atomic_path(folder / "head.npz") as path:
        weight = net.head.weight.detach().numpy()[0]
        np.savez(path, weight=weight, bias=net.head.bias.detach().numpy()[0], dropout=np.float32(net.dropout.p))


def check_parity(net: FoldNet, exported: FoldModel, images: NDArray[np.uint8], tolerance: float) -> float:
    """Largest |Δ probability| between torch and the exported fold on images (n, C, S, S).

    Raises TrainingError when it is not below `tolerance`.
    """
    by_torch = sigmoid(predict_logits(net, images, torch.device("cpu")))
    by_onnx = sigmoid([exported.logit(exported.run(image)[0]) for image in images])
    worst = float(np.abs(by_torch - by_onnx).max())
    if not worst < tolerance:
        raise TrainingError(
            f"the exported model differs from torch by {worst:.2e} in probability; export.parity_tolerance is {tolerance:g}"
        )
    return worst
