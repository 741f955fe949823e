"""One fold on several devices: who takes which share of a batch, and what the processes tell each other.

The run must not depend on how many there are. So a batch is the *global* one, whatever `train.devices` says:

- every process draws the same order and augments the whole batch, then keeps its share. Augmenting is cheap beside the network,
  and so nothing that is drawn, nor what is mixed with what, depends on the number of processes;
- BatchNorm takes mean and variance of the whole batch, and the head's dropout mask is drawn for the whole batch;
- each process divides the loss of its share by the size of the whole batch, so that a last, uneven batch weighs as it should;
- gradients are summed by DistributedDataParallel; weights, averaged weights and optimiser then step alike everywhere;
- process 0 alone writes and prints, and what it reads of a checkpoint it sends to all.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from strokect.errors import TrainingError
from strokect.params import TrainParams

SILENCE = timedelta(minutes=10)  # without a word from the others after which a process gives up


@dataclass(frozen=True)
class World:
    """The processes that train a fold together; by default this one alone."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of `n` items: together the shares cover each item once, and differ by one at most."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def total(self, values: Tensor) -> Tensor:
        """`values` summed over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def from_main(self, value: Any) -> Any:
        """What process 0 passes in, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def wrap(self, net: nn.Module, device: torch.device) -> nn.Module:
        """`net` such that its backward pass averages gradients over the processes."""
        if self.size == 1:
            return net
        ids = [torch.cuda.current_device()] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(net, ids, gradient_as_bucket_view=True)


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that `torchrun` started this process in, or this process alone.

    Raises TrainingError when the others are lost, or when there are more processes than GPUs.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield World()
        return
    if device.type == "cuda":
        _check_gpus(int(os.environ["LOCAL_WORLD_SIZE"]))
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=SILENCE)
    world = World(dist.get_rank(), dist.get_world_size())
    try:
        yield world
    except RuntimeError as error:  # gloo raises no type of its own
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise TrainingError(
            f"process {world.rank} of {world.size} has lost the others ({str(error).splitlines()[0][:120]})"
        ) from error
    dist.destroy_process_group()


def spread(module: str, params: TrainParams) -> bool:
    """Run the stage `module` again as `train.devices` processes of this machine, and return True.

    False where one process is enough, or where this is one of several. Raises TrainingError when they fail.
    """
    if params.devices == 1 or dist.is_torchelastic_launched():
        return False
    if params.device != "cpu" and torch.cuda.is_available():
        _check_gpus(params.devices)
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={params.devices}"]
    command = [sys.executable, "-m", *launcher, "-m", module, *sys.argv[1:]]
    with subprocess.Popen(command) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())  # the launcher then ends its processes
        try:
            code = process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if code:
        raise TrainingError(
            f"{module}: one of its {params.devices} processes ended before its time (see above) and the others were stopped. "
            "Finished epochs are kept: give the command again, with this or another train.devices"
        )
    return True


def _check_gpus(wanted: int) -> None:
    if wanted > torch.cuda.device_count():
        raise TrainingError(
            f"{wanted} processes on a machine where torch sees {torch.cuda.device_count()} CUDA device(s): "
            "lower train.devices (or torchrun's --nproc-per-node), or set train.device to cpu"
        )


def globalise(net: Any, world: World, device: torch.device) -> None:
    """Let BatchNorm and the head's dropout of a FoldNet, in place, work on the global batch. Its state keeps its names.

    torch's own conversion would drop the activation that timm's BatchNorm carries; timm's keeps it. On a CPU torch's
    SyncBatchNorm does not run, so ours stands in.
    """
    if device.type == "cuda":
        convert_sync_batchnorm(net)
    else:
        for name, module in list(net.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                parent, _, last = name.rpartition(".")
                setattr(net.get_submodule(parent), last, GlobalBatchNorm(module))
    net.dropout = GlobalDropout(net.dropout.p, world)


class GlobalDropout(nn.Dropout):
    """Dropout that draws its mask for the global batch of `whole` slices and applies this process's share of it."""

    def __init__(self, p: float, world: World):
        super().__init__(p)
        self.world, self.whole = world, 0

    def forward(self, x: Tensor) -> Tensor:
        """(b, F) → (b, F)."""
        if not self.training:
            return x
        mask = super().forward(torch.ones(self.whole, x.shape[1], device=x.device, dtype=x.dtype))
        return x * mask[self.world.share(self.whole)]


class GlobalBatchNorm(nn.BatchNorm2d):
    """BatchNorm with the statistics of the global batch, on a CPU; then the activation that timm's carries, if any."""

    def __init__(self, given: nn.BatchNorm2d):
        super().__init__(given.num_features, given.eps, given.momentum, given.affine, given.track_running_stats)
        self.weight, self.bias = given.weight, given.bias
        self.running_mean, self.running_var = given.running_mean, given.running_var
        self.num_batches_tracked = given.num_batches_tracked
        self.drop, self.act = getattr(given, "drop", nn.Identity()), getattr(given, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """(b, C, h, w) → (b, C, h, w)."""
        return self.act(self.drop(self._normalised(x) if self.training else super().forward(x)))

    def _normalised(self, x: Tensor) -> Tensor:
        # True of every BatchNorm in timm's networks; torch's own allows for networks without.
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        across = (0, 2, 3)
        n = float(_Total.apply(torch.tensor(float(x.numel() // x.shape[1]))))
        mean = _Total.apply(x.sum(across)) / n
        centred = x - mean.view(1, -1, 1, 1)
        variance = _Total.apply(centred.square().sum(across)) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (n / max(n - 1, 1)), self.momentum)  # unbiased, as in torch
            self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class _Total(torch.autograd.Function):
    """Sum over the processes. What one process's input does to every process's loss is the sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
