"""What training is compared with: the common design around timm, written as its users write it, and nothing left out to slow it.

Pictures are files that worker processes decode with Pillow, augment with torchvision and stack into pinned batches; the network
is timm's with its own head; autocast and GradScaler on CUDA, gradient clipping, weight averaging. In its favour: the files are of
the network's size already, no noise is added, and the loss is read once per epoch, not in every step.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from strokect.params import AugmentParams, TrainParams

DROPOUT = 0.3


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to write the plain loop."""

    amp: bool
    channels_last: bool
    workers: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"plain, {'AMP' if self.amp else 'fp32'}, {layout}, {self.workers} workers"


class Pictures(Dataset):  # type: ignore[type-arg]
    """PNG files with their labels, opened in Pillow's `mode` and augmented one by one."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], mode: str, transform: transforms.Compose):
        self.paths, self.labels, self.mode, self.transform = list(paths), list(labels), mode, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        with Image.open(self.paths[index]) as picture:
            return self.transform(picture.convert(self.mode)), float(self.labels[index])


def pillow_augmentation(p: AugmentParams) -> list[nn.Module]:
    """torchvision's counterpart of strokect.augment on Pillow pictures, as far as it goes there."""
    k = p.strength
    return [
        transforms.RandomAffine(
            p.rotate_deg * k,
            translate=(p.shift * k, p.shift * k),
            scale=(1 - p.scale * k, 1 + p.scale * k),
            interpolation=transforms.InterpolationMode.BILINEAR,
        ),
        transforms.RandomHorizontalFlip(0.5 if p.mirror else 0.0),
        transforms.ColorJitter(brightness=p.brightness * k, contrast=p.contrast * k),
    ]


class PlainLoop:
    """The loop in one of its forms; `epoch` trains once over the pictures."""

    def __init__(
        self, backbone: str, paths: Sequence[Path], labels: NDArray, params: TrainParams, device: torch.device, form: Form
    ):
        torch.manual_seed(0)
        self.device, self.form, self.params = device, form, params
        net = timm.create_model(backbone, num_classes=1, drop_rate=DROPOUT).to(device)
        self.layout = torch.channels_last if form.channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self.layout)
        self.ema = ModelEmaV3(self.net, decay=params.ema_decay, use_warmup=True)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
        self.scaler = torch.amp.GradScaler(device.type, enabled=form.amp)
        config = timm.data.resolve_data_config({}, model=net)
        erase = transforms.RandomErasing(params.augment.erase * params.augment.strength, scale=(0.01, 0.06), ratio=(1.0, 1.0))
        last = [transforms.ToTensor(), transforms.Normalize(config["mean"], config["std"]), erase]
        transform = transforms.Compose([*pillow_augmentation(params.augment), *last])
        pictures = Pictures(paths, labels.tolist(), "RGB", transform)
        self.loader = DataLoader(
            pictures,
            batch_size=params.batch_size,
            shuffle=True,
            num_workers=form.workers,
            pin_memory=device.type == "cuda",
            persistent_workers=form.workers > 0,
        )
        self.steps = 0

    def epoch(self) -> float:
        """Train one epoch and return its mean loss."""
        self.net.train()
        losses = []
        for images, labels in self.loader:
            images = images.to(self.device, non_blocking=True, memory_format=self.layout)
            labels = labels.to(self.device, torch.float32, non_blocking=True)
            with torch.autocast(self.device.type, torch.float16, enabled=self.form.amp):
                logits = self.net(images).squeeze(1)
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.net.parameters(), self.params.clip_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.ema.update(self.net, step=self.steps)
            self.steps += 1
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()
