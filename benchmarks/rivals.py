"""Our training loop in the forms that the benchmark compares, and whole short runs of it."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torchvision import transforms

from benchmarks.plain_loop import DROPOUT, Pictures, pillow_augmentation
from benchmarks.training_set import TrainingSet
from strokect.network import build_network
from strokect.params import TrainParams
from strokect.training import Task, Trainer

SEEDS, LOG_LOSS_EPOCHS = (0, 1, 2), 12
ENDLESS = 100_000  # epochs of a schedule that a benchmark never gets to the end of


@dataclasses.dataclass(frozen=True)
class OurForm:
    """What is switched on; the pipeline has AMP (on CUDA) and channels_last, and slices on the device."""

    amp: bool
    channels_last: bool = True
    workers: int = 0  # above 0: Pillow, torchvision and that many processes instead of slices and augmentation on the device
    compiled: bool = False

    @property
    def name(self) -> str:
        """What the table calls it."""
        extras = [
            "AMP" if self.amp else "fp32",
            "channels_last" if self.channels_last else "contiguous",
            f"loader with {self.workers} workers" if self.workers else "",
            "compiled" if self.compiled else "",
        ]
        return "ours, " + ", ".join(filter(None, extras))


def our_forms(device: torch.device, workers: int, compiled: bool) -> list[OurForm]:
    """The pipeline's form first, then that with one thing changed."""
    if device.type == "cpu":
        return [OurForm(False), OurForm(False, channels_last=False)]
    forms = [OurForm(True), OurForm(False), OurForm(True, channels_last=False), OurForm(True, workers=workers)]
    return [*forms, OurForm(True, compiled=True)] if compiled else forms


class LoaderFeed:
    """A `strokect.batches.Feed` that decodes and augments in worker processes."""

    def __init__(self, paths: Sequence[Path], params: TrainParams, device: torch.device, workers: int):
        transform = transforms.Compose([*pillow_augmentation(params.augment), transforms.PILToTensor()])
        self.order, self.device = _Order(), device
        self.loader = DataLoader(
            Pictures(paths, [0] * len(paths), "L", transform),
            batch_size=params.batch_size,
            sampler=self.order,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=True,
        )

    def batches(self, order: Tensor, size: int) -> Iterator[Tensor]:
        """See Feed; `size` is that of the params."""
        self.order.positions = order.tolist()
        for images, _ in self.loader:
            yield images.to(self.device, non_blocking=True)


class _Order(Sampler):  # type: ignore[type-arg]
    """The order of this epoch."""

    positions: list[int] = []  # noqa: RUF012 replaced, never changed

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


class Ours:
    """strokect's Trainer in one of the forms; `epoch` trains once over the slices."""

    def __init__(
        self, backbone: str, data: TrainingSet, paths: Sequence[Path], params: TrainParams, form: OurForm, device: torch.device
    ):
        torch.manual_seed(0)
        feed = LoaderFeed(paths, params, device, form.workers) if form.workers else None
        augmentation = dataclasses.replace(params.augment, strength=0.0) if form.workers else params.augment
        amp = "auto" if form.amp else "off"
        schedule = dataclasses.replace(params, amp=amp, epochs=ENDLESS, augment=augmentation)
        net = build_network(backbone, "none", DROPOUT)
        task = make_task(data, data.part(np.zeros(len(data.labels), bool)))
        self.trainer = Trainer(net, task, schedule, seed=0, mine_epoch=0, resume=Path("never written"), feed=feed)
        if not form.channels_last:
            self.trainer.layout = torch.contiguous_format
            self.trainer.net.to(memory_format=torch.contiguous_format)
        if form.compiled:
            self.trainer.forward = torch.compile(self.trainer.net)
        self.done = 0

    def epoch(self) -> None:
        """Train one epoch."""
        self.trainer.train_epoch(self.done)
        self.done += 1


def make_task(train: TrainingSet, held_out: TrainingSet, name: str = "benchmark@0") -> Task:
    """A task of two parts, every slice weighing the same."""
    weights = np.ones(len(train.labels), np.float32)
    return Task(train.images, train.labels, weights, held_out.images, held_out.labels, name)


def log_losses(backbone: str, data: TrainingSet, params: TrainParams, scratch: Path) -> dict[str, list[float]]:
    """Log loss on a fifth of the patients after a short whole run, with AMP and without, for each seed."""
    held_out = data.patients % 5 == 0
    task = make_task(data.part(~held_out), data.part(held_out), "log loss@0")
    found: dict[str, list[float]] = {"AMP": [], "fp32": []}
    for seed in SEEDS:
        for name, amp in (("AMP", "auto"), ("fp32", "off")):
            schedule = dataclasses.replace(params, amp=amp, epochs=LOG_LOSS_EPOCHS, loss="cross_entropy", label_smoothing=0.0)
            torch.manual_seed(seed)
            net, resume = build_network(backbone, "none", DROPOUT), scratch / f"{name}-{seed}.pt"
            history = Trainer(net, task, schedule, seed=seed, mine_epoch=0, resume=resume).run().history
            found[name].append(round(history[-1]["held_out_log_loss"], 4))
            resume.unlink()
    return found
