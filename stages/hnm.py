"""hnm@k: fine-tune fold k with its own hard negatives and missed positives weighted up, or hand it on (hnm.enabled: false)."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.batches import Rows
from strokect.devices import pick_device
from strokect.distributed import World, joined, spread
from strokect.errors import DataError, run_stage
from strokect.files import atomic_folder, sha256_file, write_json
from strokect.fold import FoldInputs, identity, make_sidecar, make_task, read_inputs, resume_path, save_fold, track_fold, train
from strokect.losses import class_weights
from strokect.mining import HardSet, mine
from strokect.network import FoldNet, load_network, predict_logits
from strokect.params import HnmParams, TrainParams


def fine_tune_params(train_params: TrainParams, hnm: HnmParams) -> TrainParams:
    """The schedule of the fine-tuning: train's, with hnm's epochs and learning rate and no warm-up."""
    own: dict[str, Any] = {"epochs": hnm.epochs, "learning_rate": hnm.learning_rate, "warmup_epochs": 0.0}
    return dataclasses.replace(train_params, auxiliary=0.0, **own)  # the heads are gone, and new ones would start at random


def raised_weights(weights: NDArray[np.float32], hard: HardSet, factor: float) -> NDArray[np.float32]:
    """Loss weights (n,), those of the hard slices times `factor`, scaled to a mean of 1."""
    raised = weights.copy()
    raised[np.concatenate([hard.negatives, hard.positives])] *= factor
    return (raised / raised.mean()).astype(np.float32)


def describe_change(
    hard: HardSet,
    before: NDArray[np.float32] | None,
    after: NDArray[np.float32] | None,
    labels: NDArray[np.int64],
    params: HnmParams,
) -> dict[str, Any]:
    """hnm.json: how many slices of each kind, and their mean log loss before and after; all on the training part.

    The log losses are null where nothing was tuned (no logits (n,) given) and where there is no slice of a kind.
    """

    def log_loss(logits: NDArray[np.float32] | None, positions: NDArray[np.int64]) -> float | None:
        if logits is None or not len(positions):
            return None
        sign = np.where(labels[positions] == 1, -1.0, 1.0)
        return float(np.logaddexp(0.0, sign * logits[positions]).mean())

    groups = {"hard_negatives": hard.negatives, "missed_positives": hard.positives, "all": np.arange(len(labels))}
    return {
        "enabled": params.enabled,
        "mine_epoch": params.mine_epoch,
        "weight": params.weight,
        "part": "the fold's training part",
        **{
            name: {
                "n": len(positions),
                "log_loss_before": log_loss(before, positions),
                "log_loss_after": log_loss(after, positions),
            }
            for name, positions in groups.items()
        },
    }


def read_train_scores(folder: Path, files: pd.Series) -> NDArray[np.float32]:
    """The early logits (n,) of the training part, checked to be those of this split."""
    scores = pd.read_csv(folder / "train_scores.csv", dtype={"file": str})
    if list(scores["file"]) != list(files):
        raise DataError(f"{folder}/train_scores.csv belongs to another split: run `dvc repro train_fold`")
    return scores["logit"].to_numpy(np.float32)


def tune(inputs: FoldInputs, world: World) -> None:
    """Write models/hnm/<k>/: model.safetensors, model.json, history.csv, hnm.json."""
    fold, params, prepared, labels = inputs.fold, inputs.params, inputs.prepared, inputs.labels
    images = Rows(prepared.images, inputs.rows)
    given = Path(f"models/folds/{fold}")
    hard = mine(read_train_scores(given, prepared.manifest["file"].iloc[inputs.rows]), labels, params.hnm)
    net, given_sidecar = load_network(given)
    net.freeze(params.model.frozen_stages)
    device = pick_device(params.train)

    history: list[dict[str, float]] = []
    before = after = None
    tuned: FoldNet = net
    name = given_sidecar["device"]
    hnm_identity = [dataclasses.asdict(params.hnm), sha256_file(given / "model.safetensors")]
    resume = resume_path("hnm", fold, *identity(prepared, params.model, params.train, *hnm_identity))
    if params.hnm.enabled:
        before = predict_logits(net.to(device), images, device)
        weights = raised_weights(class_weights(labels, params.train.class_balance), hard, params.hnm.weight)
        task = make_task(prepared, inputs.split, fold, weights, "hnm")
        schedule = fine_tune_params(params.train, params.hnm)
        with track_fold(inputs, "hnm", resume, world) as tracker:
            tuned, progress, name = train(
                net, task, schedule, fold=fold, mine_epoch=0, resume=resume, world=world, tracker=tracker
            )
        history = progress.history
    if not world.is_main:
        return
    if params.hnm.enabled:
        after = predict_logits(tuned, images, device)
    report = describe_change(hard, before, after, labels, params.hnm)
    found = f"{report['hard_negatives']['n']} hard negatives, {report['missed_positives']['n']} missed positives"
    if params.hnm.enabled:
        found += f"; training log loss {report['all']['log_loss_before']:.4f} → {report['all']['log_loss_after']:.4f}"
    else:
        found += "; not tuned on them (hnm.enabled: false)"
    print(f"hnm@{fold}: {found}")

    sidecar = make_sidecar(tuned, prepared, params.model, stage="hnm", fold=fold, group_by=params.split.group_by, device=name)
    with atomic_folder(f"models/hnm/{fold}") as folder:
        save_fold(folder, tuned, history, sidecar)
        write_json(folder / "hnm.json", report)
    resume.unlink(missing_ok=True)


def main() -> None:
    """Fine-tune the fold that --fold names, on train.devices devices."""
    inputs = read_inputs(__doc__)
    if inputs.params.hnm.enabled and spread("stages.hnm", inputs.params.train):
        return
    with joined(pick_device(inputs.params.train)) as world:
        tune(inputs, world)


if __name__ == "__main__":
    run_stage(main)
