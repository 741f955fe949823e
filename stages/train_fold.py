"""train_fold@k: train the network of fold k on every development patient that fold k does not hold out."""

import argparse

import pandas as pd
import torch

from strokect.errors import run_stage
from strokect.files import atomic_folder
from strokect.fold import SPLIT, identity, make_sidecar, make_task, resume_path, save_fold, train
from strokect.manifest import load_prepared
from strokect.network import build_network
from strokect.params import load_params
from strokect.splits import read_split, training_rows
from strokect.training import class_weights


def main() -> None:
    """Write models/folds/<k>/: model.safetensors, model.json, history.csv, train_scores.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fold", type=int, required=True)
    fold = parser.parse_args().fold
    params = load_params()
    prepared = load_prepared()
    split = read_split(SPLIT, prepared.manifest)
    rows = training_rows(split, fold)
    labels = prepared.labels[rows]

    task = make_task(prepared, split, fold, class_weights(labels, params.train.class_balance), "train_fold")
    resume = resume_path("train_fold", fold, *identity(prepared, params.model, params.train, params.hnm.mine_epoch))
    torch.manual_seed(params.train.seed * 100 + fold)  # the head starts at random
    net = build_network(params.model.backbone, params.model.weights, params.model.dropout)
    net, progress, device = train(net, task, params.train, fold=fold, mine_epoch=params.hnm.mine_epoch, resume=resume)

    sidecar = make_sidecar(
        net, prepared, params.model, stage="train_fold", fold=fold, group_by=params.split.group_by, device=device
    )
    with atomic_folder(f"models/folds/{fold}") as folder:
        save_fold(folder, net, progress.history, sidecar)
        scores = pd.DataFrame({"file": prepared.manifest["file"].iloc[rows], "label": labels, "logit": progress.mined})
        scores.to_csv(folder / "train_scores.csv", index=False)
    resume.unlink(missing_ok=True)


if __name__ == "__main__":
    run_stage(main)
