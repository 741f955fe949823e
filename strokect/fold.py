"""What the training stages share: reading what a fold needs, assembling its task, resuming it and describing its model."""

import argparse
import hashlib
import json
import math
import os
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from numpy.typing import NDArray

from strokect.augment import augment
from strokect.auxiliary import auxiliary_targets
from strokect.batches import Rows
from strokect.devices import device_name, pick_amp, pick_device
from strokect.distributed import World
from strokect.files import atomic_path, sha256_file
from strokect.head_crop import crop_to_json
from strokect.manifest import Prepared, load_prepared
from strokect.network import FoldNet, describe_network, packaged_weights, save_network
from strokect.params import ModelParams, Params, TrainParams, load_params
from strokect.sidecar import CLASSES, SCHEMA
from strokect.splits import SPLIT, held_out_rows, read_split, training_rows
from strokect.tracking import Tracker, start_tracker
from strokect.training import Progress, Task, Trainer

# Outside every stage's outputs: DVC deletes those before it runs a stage again.
RESUME = Path(os.environ.get("STROKECT_RESUME_DIR", ".strokect/resume"))
# What shapes a fold's weights. A checkpoint of other code is not gone on with: DVC would record the new code for it.
MODULES = (
    *("augment", "auxiliary", "batches", "bleeds", "devices", "distributed", "fold", "losses", "mining", "mixup", "network"),
    *("parameter_groups", "splits", "symmetry", "training"),
)
CODE = (*(f"strokect/{name}" for name in MODULES), "stages/train_fold", "stages/hnm")
TRACKED_STEPS = 1000  # as many points as a curve of the steps of a fold gets at most
NO_TRACKER = Tracker()
HISTORY_COLUMNS = ["epoch", "loss", "held_out_log_loss", "learning_rate", "grad_norm", "images_per_s", "seconds"]


@dataclass(frozen=True)
class FoldInputs:
    """What a stage of one fold starts from."""

    fold: int
    params: Params
    prepared: Prepared
    split: pd.DataFrame
    rows: NDArray[np.int64]  # manifest rows of its training part
    labels: NDArray[np.int64]  # of those rows


def read_inputs(description: str | None) -> FoldInputs:
    """Params, cohort and split for the fold that `--fold` names; `description` is for `--help`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--fold", type=int, required=True)
    fold = parser.parse_args().fold
    prepared = load_prepared()
    split = read_split(SPLIT, prepared.manifest)
    rows = training_rows(split, fold)
    return FoldInputs(fold, load_params(), prepared, split, rows, prepared.labels[rows])


def make_task(prepared: Prepared, split: pd.DataFrame, fold: int, weights: NDArray[np.float32], stage: str) -> Task:
    """The task of one fold; `weights` (n,) are those of its training rows."""
    train, held_out = training_rows(split, fold), held_out_rows(split, fold)
    labels, images = prepared.labels, prepared.images
    beside, name = auxiliary_targets(prepared.manifest)[train], f"{stage}@{fold}"
    return Task(Rows(images, train), labels[train], weights, Rows(images, held_out), labels[held_out], name, beside)


def resume_path(stage: str, fold: int, *identity: Any) -> Path:
    """A checkpoint file that only a run with the same `identity` finds again."""
    key = hashlib.sha256(json.dumps([stage, fold, *identity], sort_keys=True).encode()).hexdigest()
    return RESUME / f"{stage}-{fold}-{key[:16]}.pt"


def train(
    net: FoldNet,
    task: Task,
    params: TrainParams,
    *,
    fold: int,
    mine_epoch: int,
    resume: Path,
    world: World | None = None,
    tracker: Tracker = NO_TRACKER,
) -> tuple[FoldNet, Progress, str]:
    """Run or resume a fold, with one line per epoch. Returns the averaged network, its progress and the device's name."""
    trainer = Trainer(net, task, params, seed=params.seed * 100 + fold, mine_epoch=mine_epoch, resume=resume, world=world)
    if trainer.progress.epoch and trainer.world.is_main:
        print(f"{task.name}: resuming after epoch {trainer.progress.epoch} of {params.epochs}", flush=True)

    def report(row: dict[str, float]) -> None:
        if not trainer.world.is_main:
            return
        left = (params.epochs - row["epoch"]) * row["seconds"]
        watched = (
            f"held-out log loss {row['held_out_log_loss']:.4f} (watched only)"
            if len(task.held_out_labels)
            else "no held-out part"
        )
        print(
            f"{task.name}: epoch {row['epoch']:.0f}/{params.epochs}  loss {row['loss']:.4f}  {watched}  "
            f"{row['images_per_s']:.0f} images/s  {left:.0f} s left",
            flush=True,
        )
        tracker.epoch(row | gpu_memory(trainer.device))

    every = max(1, math.ceil(params.epochs * trainer.steps_per_epoch / TRACKED_STEPS))
    tracker.slices("augmented training slices", lambda: some_augmented(task, params))
    listens = trainer.world.from_main(tracker.listens)  # the loss of a step is summed over the processes
    progress = trainer.run(report, tracker.step if listens else None, every=every)
    name, together = device_name(trainer.device), trainer.world.size
    return trainer.ema.module, progress, name if together == 1 else f"{together} × {name}"


def track_fold(given: FoldInputs, stage: str, resume: Path, world: World) -> Tracker:
    """The tracker of one fold's stage, in the first process only; its run keeps its id while there is the checkpoint `resume`."""
    if not world.is_main:
        return NO_TRACKER
    name, run_file = f"{stage}@{given.fold}", resume.with_suffix(".wandb")
    return start_tracker(
        given.params, stage, name, given.prepared.cohort, sha256_file(SPLIT), config={"fold": given.fold}, run_file=run_file
    )


def gpu_memory(device: torch.device) -> dict[str, float]:
    """The most memory that tensors have taken on the GPU so far, in GB; nothing on a CPU."""
    return {"gpu_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {}


def some_augmented(task: Task, params: TrainParams, n: int = 16) -> NDArray[np.uint8]:
    """(n, C, S, S) uint8 training slices as the network may see them; the generators that training draws from are untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        given = np.array(task.images[np.linspace(0, len(task.images) - 1, n).astype(int)])
        return augment(torch.from_numpy(given), params.augment).byte().numpy()


def save_fold(folder: Path, net: FoldNet, history: list[dict[str, float]], sidecar: dict[str, Any]) -> None:
    """Write model.safetensors, model.json and history.csv into an existing folder."""
    save_network(net, folder, sidecar)
    with atomic_path(folder / "history.csv") as path:
        pd.DataFrame(history, columns=HISTORY_COLUMNS).to_csv(path, index=False)


def make_sidecar(
    net: FoldNet, prepared: Prepared, model: ModelParams, *, stage: str, fold: int | str, group_by: str, device: str
) -> dict[str, Any]:
    """model.json: what rebuilds the network, and what its numbers may be called."""
    cohort = prepared.cohort
    return {
        "schema": SCHEMA,
        "stage": stage,
        "fold": fold,
        "backbone": model.backbone,
        "weights": model.weights_kind,
        "weights_sha256": weights_sha256(model),
        "image_size": cohort["image_size"],
        **crop_to_json(cohort.get("crop", "none")),
        "channels": cohort["channels"],
        "windows": cohort["windows"],
        **describe_network(net),
        "classes": CLASSES,
        "target": cohort["target"],
        "source": cohort["source"],
        "synthetic": cohort["synthetic"],
        "labels": cohort["labels"],
        "label_unit": cohort["label_unit"],
        "patient_level_verifiable": cohort["patient_level_verifiable"],
        "group_by": group_by,
        "patient_independent": group_by == "patient" and cohort["patient_level_verifiable"],
        "data_sha256": cohort["data_sha256"],
        "split_sha256": sha256_file(SPLIT),
        "device": device,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
    }


def identity(prepared: Prepared, model: ModelParams, train_params: TrainParams, *others: Any) -> list[Any]:
    """What a checkpoint belongs to: data, split, params, starting weights, code, library versions, device and precision."""
    device = pick_device(train_params)
    root = Path(__file__).parent.parent
    code = [sha256_file(root / f"{module}.py") for module in CODE]
    machine = [device_name(device), str(pick_amp(train_params, device)), torch.__version__, timm.__version__]
    # Not how many devices: a run may go on with more or fewer.
    sections = [asdict(section) for section in (model, replace(train_params, devices=1))]
    return [prepared.cohort["data_sha256"], sha256_file(SPLIT), weights_sha256(model), code, machine, *sections, *others]


def weights_sha256(model: ModelParams) -> str | None:
    """SHA-256 of the file that the starting weights come from, None for the hub and for random weights."""
    if model.weights == "package":
        return sha256_file(packaged_weights(model.backbone))
    path = Path(model.weights)
    return sha256_file(path) if model.weights_kind == "file" and path.is_file() else None
