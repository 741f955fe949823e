"""What the engine is compared with: the folds in eager torch, Monte Carlo dropout by running the network again, and arithmetic.

The eager loop is the common design at its best: warm, inference mode, on all cores, in the faster memory format, with the views
as one batch where that is faster.
"""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from strokect.network import FoldNet, build_network
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
        nn.init.normal_(fold.head.weight, std=0.1)
    return nets


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

    def prepare(self) -> None:
        """Bring the weights into this form's memory format."""
        for net in self.nets:
            net.to(memory_format=FORMATS[self.format])

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


def fastest(nets: Sequence[FoldNet], views: Sequence[str], image: NDArray[np.uint8]) -> tuple[Eager, dict[str, float]]:
    """The fastest form of the eager loop at T = 1 and the seconds of each, the better of two warm runs."""
    forms = [Eager(nets, views, format, batched) for format in FORMATS for batched in (False, True)]
    took: dict[str, float] = {}
    for form in forms:
        form.prepare()
        form.run(image, 1)
        took[form.name] = min(seconds(lambda form=form: form.run(image, 1)) for _ in range(2))  # type: ignore[misc]
    best = min(forms, key=lambda form: took[form.name])
    best.prepare()
    best.run(image, 1)
    return best, {name: round(value, 3) for name, value in took.items()}


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
