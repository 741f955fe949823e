"""The training loop of one fold: fixed schedule, weight EMA, mixed precision, resumable after any epoch."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from strokect.augment import augment
from strokect.auxiliary import WithHeads, auxiliary_loss
from strokect.batches import Feed, Rows, open_feed
from strokect.bleeds import Bleeds
from strokect.devices import pick_amp, pick_device
from strokect.distributed import GlobalDropout, World, globalise
from strokect.errors import TrainingError
from strokect.files import atomic_path
from strokect.losses import slice_loss
from strokect.mixup import mix
from strokect.network import FoldNet, predict_logits
from strokect.parameter_groups import parameter_groups
from strokect.params import TrainParams

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Task:
    """What one fold learns from. Images are (n, C, S, S) uint8; the held-out part is watched, never learned from."""

    images: NDArray[np.uint8] | Rows
    labels: NDArray[np.int64] | NDArray[np.float32]  # (n,) 0 or 1, or a teacher's probability
    weights: NDArray[np.float32]  # (n,) loss weight of each training slice
    held_out_images: NDArray[np.uint8] | Rows
    held_out_labels: NDArray[np.int64]
    name: str  # for progress lines, e.g. "train_fold@0"
    auxiliary: NDArray[np.float32] | None = None  # (n, A) see auxiliary.py; needed where train.auxiliary is above 0


@dataclass
class Progress:
    """Everything that a resumed run needs besides the weights."""

    epoch: int = 0  # finished epochs
    history: list[dict[str, float]] = field(default_factory=list)
    mined: NDArray[np.float32] | None = None  # (n,) logits of the training part at `mine_epoch`


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """Linear warm-up over `warmup` steps, then half a cosine down to 1 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))


class Trainer:
    """Trains one FoldNet on one Task. After `run` the averaged weights are in `ema.module`.

    Where `world` has several processes, each has its own Trainer and does its share of every batch. `feed` replaces the way the
    slices come to the device.
    """

    def __init__(
        self,
        net: FoldNet,
        task: Task,
        params: TrainParams,
        *,
        seed: int,
        mine_epoch: int,
        resume: Path,
        world: World | None = None,
        feed: Feed | None = None,
    ):
        self.world = world or World()
        self.device = pick_device(params)
        self.amp = pick_amp(params, self.device)
        self.layout = torch.channels_last
        torch.backends.cudnn.benchmark = True  # on a GPU: shapes repeat, so the fastest kernels are looked for once
        self.net = net.to(self.device).to(memory_format=self.layout)
        if self.world.size > 1:
            globalise(self.net, self.world, self.device)
        self.ema = ModelEmaV3(self.net, decay=params.ema_decay, use_warmup=True)
        self.task, self.params, self.seed, self.mine_epoch, self.resume = task, params, seed, mine_epoch, resume
        targets = task.auxiliary if params.auxiliary else None
        self.targets = (torch.zeros(len(task.labels), 0) if targets is None else torch.from_numpy(targets)).to(self.device)
        self.heads = WithHeads(self.net, self.targets).to(self.device) if params.auxiliary else None
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.net, params.weight_decay, params.layer_decay, self.heads and self.heads.heads),
            lr=params.learning_rate,
            fused=True,  # also on a CPU, where it takes a third of the time
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp is torch.float16)
        self.steps_per_epoch = math.ceil(len(task.labels) / params.batch_size)
        self.steps_done = 0
        self.progress = Progress()
        self.feed = feed or open_feed(task.images, self.device, task.name, tell=self.world.is_main)
        self.labels = torch.from_numpy(task.labels).float().to(self.device)
        self.weights = torch.from_numpy(task.weights).to(self.device)
        share = params.augment.bleeds * (params.augment.strength > 0)
        self.bleeds = Bleeds(task.images, task.labels, share, self.device) if share else None
        self._load_checkpoint()
        self.forward = self.world.wrap(self.heads or self.net, self.device)

    def run(
        self, report: Report = lambda row: None, on_step: Report | None = None, *, every: int = 1, until: int | None = None
    ) -> Progress:
        """Train the epochs that are left, or those up to `until`.

        `report` gets the row of each epoch, `on_step` that of each `every`th step: reading its loss waits for the device and for
        the other processes, so all of them give an `on_step` or none.
        """
        for epoch in range(self.progress.epoch, self.params.epochs if until is None else until):
            row = self.train_epoch(epoch, on_step, every)
            if epoch + 1 == self.mine_epoch:
                self.progress.mined = self._predict(self.task.images)
            self.progress.history.append(row)
            self.progress.epoch = epoch + 1
            self._save_checkpoint()
            report(row)
        return self.progress

    def train_epoch(self, epoch: int, on_step: Report | None = None, every: int = 1) -> dict[str, float]:
        """One pass over the training part, `epoch` counted from 0; returns its row of the history."""
        # Seeding by epoch, not by run, makes a resumed run draw what an uninterrupted one would have drawn.
        torch.manual_seed(self.seed * 10_000 + epoch)
        self.net.train()
        params, steps, size = self.params, self.steps_per_epoch, self.params.batch_size
        order = torch.randperm(len(self.labels))
        # Summed on the device: reading a number there waits for everything before it.
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # losses of this process's share, gradient norms
        started, lr = time.perf_counter(), 0.0
        title = f"{self.task.name} epoch {epoch + 1}/{params.epochs}"
        with tqdm(total=len(order), desc=title, unit="img", mininterval=2, disable=not self.world.is_main) as bar:
            painted = self.bleeds.choose(order) if self.bleeds else torch.zeros(len(order), dtype=torch.bool)
            batches = zip(order.to(self.device).split(size), painted.split(size), self.feed.batches(order, size), strict=True)
            for step, (positions, chosen, images) in enumerate(batches, epoch * steps):
                lr = learning_rate(step, params.epochs * steps, round(params.warmup_epochs * steps), params.learning_rate)
                figures = self._step(positions, chosen.nonzero()[:, 0], images, lr)
                sums += figures
                if on_step and (step + 1) % every == 0:
                    self.world.total(figures[:1])
                    loss, norm = figures.tolist()
                    on_step({"step": step + 1, "loss": loss / len(positions), "grad_norm": norm, "learning_rate": lr})
                bar.update(len(positions))
        total, norms = self.world.total(sums[:1]).item(), sums[1].item()
        seconds = time.perf_counter() - started
        if not math.isfinite(total):
            raise TrainingError(f"{self.task.name}: the loss is not finite in epoch {epoch + 1}; lower train.learning_rate")
        return {
            "epoch": epoch + 1,
            "loss": total / len(order),
            "held_out_log_loss": self._watch(),
            "learning_rate": lr,
            "grad_norm": norms / steps,
            "images_per_s": len(order) / seconds,
            "seconds": seconds,
        }

    def _step(self, positions: Tensor, chosen: Tensor, images: Tensor, lr: float) -> Tensor:
        """One optimiser step on the slices `images` (B, C, S, S) uint8, numbered `positions` (B,), of the global batch.

        The `chosen` (k,) among them, numbered on the CPU, are given a synthetic bleed. Returns (2,) the summed loss of this
        process's share and the gradient norm before clipping, on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        whole, (mine, counts) = len(positions), self.world.portion(len(positions))
        labels, weights, targets = self.labels[positions], self.weights[positions], self.targets[positions]
        if self.bleeds:
            images, labels, weights = self.bleeds(images, positions, chosen.to(self.device, non_blocking=True), labels, weights)
            targets = targets.masked_fill((labels != self.labels[positions])[:, None], torch.nan)  # a painted bleed has no type
        # Like augmentation, of the whole batch in every process: whose slices meet must not depend on how many there are.
        images, parts = mix(augment(images, self.params.augment), self.params.mixup_alpha, labels, weights, targets)
        if isinstance(self.net.dropout, GlobalDropout):
            self.net.dropout.whole = whole
        with torch.autocast(self.device.type, dtype=self.amp, enabled=self.amp is not None):
            logits = self.forward(images[mine].contiguous(memory_format=self.layout))
        losses = [share * self._losses(logits, *(given[mine] for given in of_slices)) for share, *of_slices in parts]
        loss = sum(losses[1:], losses[0]).sum() * counts
        self.optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes, and the mean is one over the whole batch.
        self.scaler.scale(loss * (self.world.size / whole)).backward()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_((self.heads or self.net).parameters(), self.params.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.net, step=int(self.steps_done))
        self.steps_done += 1
        return torch.stack([loss.detach(), norm.detach()])

    def _losses(self, output: Any, labels: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
        """(b,) weighted loss of each slice. It is taken in float32: focal terms underflow in half precision."""
        logits, others = output if self.heads else (output, None)
        losses = slice_loss(logits.float(), labels, self.params)
        if others is not None:
            losses = losses + self.params.auxiliary * auxiliary_loss(others.float(), targets)
        return losses * weights

    def _predict(self, images: NDArray[np.uint8] | Rows) -> NDArray[np.float32]:
        """Logits (n,) of the averaged weights; every process does its share."""
        mine = self.world.share(len(images))
        logits = torch.zeros(len(images), device=self.device)
        part = Rows(images, np.arange(mine.start, mine.stop))
        if len(part):
            logits[mine] = torch.from_numpy(predict_logits(self.ema.module, part, self.device)).to(self.device)
        return self.world.total(logits).cpu().numpy()

    def _watch(self) -> float:
        """Log loss of the averaged weights on the held-out part, uncalibrated, NaN without one: nothing is chosen by it."""
        if not len(self.task.held_out_labels):
            return math.nan
        logits = self._predict(self.task.held_out_images)
        return float(np.logaddexp(0.0, np.where(self.task.held_out_labels == 1, -logits, logits)).mean())

    def _save_checkpoint(self) -> None:
        if not self.world.is_main:
            return
        state: dict[str, Any] = {
            "net": self.net.state_dict(),
            "heads": self.heads.heads.state_dict() if self.heads else None,
            "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "steps_done": self.steps_done,
            "epoch": self.progress.epoch,
            "history": self.progress.history,
            "mined": None if self.progress.mined is None else torch.from_numpy(self.progress.mined),
        }
        with atomic_path(self.resume) as path:
            torch.save(state, path)

    def _load_checkpoint(self) -> None:
        given = self.world.is_main and self.resume.is_file()
        state = self.world.from_main(torch.load(self.resume, map_location="cpu", weights_only=True) if given else None)
        if state is None:
            return
        self.net.load_state_dict(state["net"])
        self.ema.module.load_state_dict(state["ema"])
        if self.heads:
            self.heads.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.steps_done = state["steps_done"]
        mined = None if state["mined"] is None else state["mined"].numpy()
        self.progress = Progress(state["epoch"], state["history"], mined)
