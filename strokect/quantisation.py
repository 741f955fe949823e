"""An exported float model to int8: static, calibrated on training slices, for CPUs with and without VNNI."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from strokect.engine import FoldModel
from strokect.files import atomic_path

# The stem and the first blocks: few channels of very different range, and a small share of the time. On an EfficientNet-Lite0
# trained on CT the logits of int8 correlate with the float ones at 0.94 with none of them in float, 0.984 with 3, 0.995 with 6.
FLOAT_CONVOLUTIONS = 6


class _Slices(CalibrationDataReader):
    """Calibration slices (n, C, S, S) uint8, one at a time as the graph's input."""

    def __init__(self, images: NDArray[np.uint8]):
        self._inputs: Iterator[dict[str, NDArray[np.float32]]] = ({"image": image[None].astype(np.float32)} for image in images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._inputs, None)


def quantise(folder: Path, images: NDArray[np.uint8]) -> None:
    """Replace model.onnx of an exported fold by its int8 form, and move the head's bias by what that does to the mean logit.

    `images` (n, C, S, S) uint8 are slices the model was trained on. Weights are signed and per output channel, activations
    unsigned between the extremes seen on `images`. Weights keep 7 bits: with 8, AVX2's 16-bit sums saturate, and the same slice
    would get another answer than on a CPU with VNNI. The head is outside the graph and stays in float. The shift of its bias is
    the empirical bias correction of Nagel et al. 2019, for the last layer only.
    """
    plain = FoldModel(folder)
    with tempfile.TemporaryDirectory() as scratch, atomic_path(folder / "model.onnx") as target:
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(folder / "model.onnx", prepared, skip_optimization=True, skip_symbolic_shape=True)  # shapes only
        quantize_static(
            prepared,
            target,
            _Slices(images),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=float_nodes(onnx.load(prepared)),
        )
    quantised = FoldModel(folder)
    shift = np.mean([plain.logit(plain.run(image)) - quantised.logit(quantised.run(image)) for image in images])
    with atomic_path(folder / "head.npz") as path:
        np.savez(path, weight=plain.weight, bias=plain.bias + np.float32(shift), dropout=np.float32(plain.dropout))


def float_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes of a graph with shapes that stay in float: all up to the first convolutions, and squeeze-excite.

    What lies between those convolutions is a few activations, and with `model.symmetry` also what joins slice and mirror, whose
    rounding all that follows would see. Squeeze-excite is what works on 1×1 maps: next to no arithmetic, and its gates multiply
    whole channels.
    """
    nodes = list(model.graph.node)  # in the order of their computation
    shapes = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in model.graph.value_info}
    convolutions = [number for number, node in enumerate(nodes) if node.op_type == "Conv"][:FLOAT_CONVOLUTIONS]
    first = [node.name for node in nodes[: convolutions[-1] + 1]]
    pooled = [node.name for node in nodes if any(shapes.get(out, [])[2:] == [1, 1] for out in node.output)]
    return list(dict.fromkeys([*first, *pooled]))
