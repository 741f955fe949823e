"""What the engine is compared with: the folds in eager torch, Monte Carlo dropout by running the network again, and arithmetic.

The eager loop is the common design at its best: warm, inference mode, on all cores, in the faster memory format, with the views
as one batch where that is faster.
"""

import copy
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from strokect.files import write_json
from strokect.network import FoldNet, build_network, describe_network
from strokect.onnx_export import export_fold
from strokect.views import make_views

DROPOUT = 0.3
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_networks(backbone: str, folds: int, images: NDArray[np.uint8]) -> list[FoldNet]:
    """Folds with random weights, alike but for their heads. BatchNorm statistics are those of `images` (n, 1, S, S): at their
    initial zeros and ones, activations could fade into denormal numbers, which are slow."""
    torch.manual_seed(0)
    net = build_network(backbone, "none", DROPOUT)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one batch sets the statistics
    with torch.no_grad():
        net.train()(torch.from_numpy(images))
    nets = [copy.deepcopy(net.eval()) for _ in range(folds)]
    for fold in nets:
        nn.init.normal_(fold.head.weight, std=fold.head.in_features**-0.5)  # logits of order one
    return nets


def write_folds(nets: Sequence[FoldNet], folder: Path, size: int) -> None:
    """Export networks that differ in their heads only into `folder`/0, 1, …"""
    sidecar = {"schema": 1, "image_size": size, "channels": 1, "classes": ["normal", "stroke"], "target": "none"}
    for k, net in enumerate(nets):
        fold = folder / str(k)
        fold.mkdir(parents=True)
        write_json(fold / "model.json", {**sidecar, **describe_network(net)})
        if k == 0:
            export_fold(net, fold, channels=1, size=size)
        else:
            shutil.copyfile(folder / "0" / "model.onnx", fold / "model.onnx")
            weight, bias = net.head.weight.detach().numpy()[0], net.head.bias.detach().numpy()[0]
            np.savez(fold / "head.npz", weight=weight, bias=bias, dropout=np.float32(net.dropout.p))


@dataclass(frozen=True)
class Eager:
    """The eager loop in one of its forms."""

    nets: Sequence[FoldNet]
    views: Sequence[str]
    format: str
    batched: bool  # the views of a slice as one batch

    @property
    def name(self) -> str:
        """What the table calls this form."""
        return f"{self.format}, {'views as one batch' if self.batched else 'view by view'}"

    def run(self, image: NDArray[np.uint8], samples: int) -> Tensor:
        """(1, S, S) uint8 → logits (K, T, V): one pass with dropout off for T = 1, else T full passes with it on."""
        views = torch.from_numpy(np.stack(make_views(image, self.views)))  # (V, 1, S, S)
        views = views.to(memory_format=FORMATS[self.format])
        batches = [views] if self.batched else list(views.split(1))
        logits = []
        with torch.inference_mode():
            for net in self.nets:
                net.dropout.train(samples > 1)  # the head's alone: BatchNorm stays as it is
                logits += [
                    torch.cat([net(batch.to(memory_format=FORMATS[self.format])) for batch in batches]) for _ in range(samples)
                ]
                net.dropout.eval()
        return torch.stack(logits).unflatten(0, (len(self.nets), samples))


def eager_forms(nets: Sequence[FoldNet], views: Sequence[str]) -> list[Eager]:
    """Every form of the loop, each with its own copy of the weights; the first is how it is commonly written."""
    return [
        Eager([copy.deepcopy(net).to(memory_format=layout) for net in nets], views, format, batched)
        for format, layout in FORMATS.items()
        for batched in (False, True)
    ]


def race(forms: Sequence[Eager], image: NDArray[np.uint8], rounds: int = 3) -> list[float]:
    """Seconds of each form at T = 1: the best of `rounds`, in turns, after a warm-up."""
    best = [float("inf")] * len(forms)
    for turn in range(rounds + 1):
        for i, form in enumerate(forms):
            took = seconds(partial(form.run, image, 1))
            best[i] = min(best[i], took) if turn else best[i]
    return best


def count_macs(net: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers in one pass over `example`."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    hooks = [module.register_forward_hook(count) for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    with torch.inference_mode():
        net(example)
    for hook in hooks:
        hook.remove()
    return total


def matmul_gflops(size: int = 3072) -> float:
    """GFLOP/s of a float32 matrix product on all cores, by numpy's or torch's BLAS, whichever is faster."""
    a, b = np.random.default_rng(0).random((2, size, size), np.float32)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    return 2 * size**3 / min(seconds(lambda: a @ b), seconds(lambda: torch.mm(x, y))) / 1e9
