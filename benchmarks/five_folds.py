"""Five whole folds, as `train_fold` trains them: loading, augmentation, weight averaging, watching, mining, checkpoints."""

import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain_loop import DROPOUT
from benchmarks.rivals import make_task
from benchmarks.training_set import make_set
from strokect.errors import TrainingError
from strokect.network import build_network, packaged_weights
from strokect.params import TrainParams
from strokect.training import Trainer

FOLDS, MINE_EPOCH = 5, 3


def five_folds(backbone: str, size: int, slices: int, params: TrainParams, scratch: Path) -> dict[str, Any]:
    """Train each fold on four fifths of the patients; `seconds` is the wall time of all, making the slices not counted."""
    data = make_set(slices, size)
    weights = _weights(backbone)
    start, folds = time.perf_counter(), []
    for fold in range(FOLDS):
        begin = time.perf_counter()
        held_out = data.patients % FOLDS == fold
        task = make_task(data.part(~held_out), data.part(held_out), f"five folds@{fold}")
        torch.manual_seed(fold)
        net = build_network(backbone, weights, DROPOUT)
        trainer = Trainer(net, task, params, seed=fold, mine_epoch=min(MINE_EPOCH, params.epochs), resume=scratch / f"{fold}.pt")
        last = trainer.run().history[-1]
        took = time.perf_counter() - begin
        rates = [row["images_per_s"] for row in trainer.progress.history]
        fold_row = {"seconds": took, "images_per_s": max(rates), "held_out_log_loss": last["held_out_log_loss"]}
        folds.append({key: round(value, 4) for key, value in fold_row.items()})
    whole = {"slices": slices, "epochs": params.epochs, "batch_size": params.batch_size, "weights": weights}
    return {**whole, "seconds": round(time.perf_counter() - start, 1), "folds": folds}


def _weights(backbone: str) -> str:
    try:
        packaged_weights(backbone)
    except TrainingError:
        return "none"
    return "package"
