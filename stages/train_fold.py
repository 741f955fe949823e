"""train_fold@k: train the network of fold k on every development patient that fold k does not hold out."""

import pandas as pd
import torch

from strokect.devices import pick_device
from strokect.distributed import World, joined, spread
from strokect.errors import run_stage
from strokect.files import atomic_folder
from strokect.fold import FoldInputs, identity, make_sidecar, make_task, read_inputs, resume_path, save_fold, track_fold, train
from strokect.losses import class_weights
from strokect.network import build_network


def train_one(given: FoldInputs, world: World) -> None:
    """Write models/folds/<k>/: model.safetensors, model.json, history.csv, train_scores.csv."""
    fold, params, prepared = given.fold, given.params, given.prepared
    weights = class_weights(given.labels, params.train.class_balance)
    task = make_task(prepared, given.split, fold, weights, "train_fold")
    resume = resume_path("train_fold", fold, *identity(prepared, params.model, params.train, params.hnm.mine_epoch))
    torch.manual_seed(params.train.seed * 100 + fold)  # the head starts at random
    model = params.model
    net = build_network(model.backbone, model.weights, model.dropout, model.frozen_stages, model.symmetry)
    schedule, early = params.train, params.hnm.mine_epoch
    with track_fold(given, "train_fold", resume, world) as tracker:
        net, progress, device = train(
            net, task, schedule, fold=fold, mine_epoch=early, resume=resume, world=world, tracker=tracker
        )
    if not world.is_main:
        return
    sidecar = make_sidecar(
        net, prepared, params.model, stage="train_fold", fold=fold, group_by=params.split.group_by, device=device
    )
    with atomic_folder(f"models/folds/{fold}") as folder:
        save_fold(folder, net, progress.history, sidecar)
        files = prepared.manifest["file"].iloc[given.rows]
        scores = pd.DataFrame({"file": files, "label": given.labels, "logit": progress.mined})
        scores.to_csv(folder / "train_scores.csv", index=False)
    resume.unlink(missing_ok=True)


def main() -> None:
    """Train the fold that --fold names, on train.devices devices."""
    given = read_inputs(__doc__)
    if spread("stages.train_fold", given.params.train):
        return
    with joined(pick_device(given.params.train)) as world:
        train_one(given, world)


if __name__ == "__main__":
    run_stage(main)
