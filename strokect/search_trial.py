"""One trial of the search: a few folds of the tuning split, trained side by side, judged out-of-fold after every epoch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError

from strokect.calibration_fit import CROSS_FIT_GROUPS, cross_fit, log_loss, patient_groups
from strokect.duplicates import linked_rows
from strokect.errors import StrokectError, TrainingError
from strokect.fold import identity, make_task, resume_path
from strokect.losses import class_weights
from strokect.manifest import Prepared
from strokect.network import build_network, predict_logits
from strokect.params import Params
from strokect.search_space import Values, with_values
from strokect.splits import TEST, development_rows, held_out_rows, make_split, training_rows
from strokect.training import Trainer

OBJECTIVE = (
    "mean log loss per slice on the held-out parts of the folds, by the averaged weights after the last epoch, identity view, no "
    "hard-negative fine-tuning, after an affine calibration cross-fitted by patient"
)


class FailedTrialError(StrokectError):
    """A trial's values cannot be trained with (a loss that is not finite, too little memory); others may."""


@dataclass(frozen=True)
class TuningSet:
    """What every trial of a search shares."""

    params: Params
    prepared: Prepared
    split: pd.DataFrame  # file, patient, part; the reported test part stays `test`
    rows: NDArray[np.int64]  # (n,) held out by the folds of the search, fold after fold
    groups: NDArray[np.int64]  # (n,) cross-fitting group of each


def make_tuning_set(params: Params, prepared: Prepared, reported: pd.DataFrame) -> TuningSet:
    """Deal the development patients of the `reported` split anew, by `search.split_seed`; its test part is left alone."""
    rows = development_rows(reported)
    linked = linked_rows(prepared.images[rows, 0])
    again = replace(params.split, seed=params.search.split_seed, test_fraction=0.0)
    dealt = make_split(prepared.manifest.iloc[rows].reset_index(drop=True), linked, again)
    split = reported.assign(part=TEST)
    split.loc[rows, "part"] = dealt["part"].to_numpy()
    held_out = np.concatenate([held_out_rows(split, fold) for fold in params.search.folds])
    labels = prepared.labels[held_out]
    groups = patient_groups(prepared.patients[held_out], labels, CROSS_FIT_GROUPS, params.search.seed)
    return TuningSet(params, prepared, split, held_out, groups)


def calibrated_log_loss(given: TuningSet, logits: NDArray[np.float32]) -> float:
    """`OBJECTIVE` for logits (n,) of `given.rows`.

    Calibrated, because class balancing, smoothing and focal γ shift and stretch logits, which tune_threshold undoes later:
    without it the search would tune how far the logits are from calibrated. Never on a patient's own labels.
    """
    labels = given.prepared.labels[given.rows]
    return log_loss(cross_fit("affine", logits.astype(np.float64), labels, given.groups), labels)


def train_trial(given: TuningSet, values: Values, name: str, report: Callable[[int, float], None]) -> float:
    """Train the folds with `values`; `report` gets each epoch (from 1) and the value so far, and may raise to end the trial.

    All folds do an epoch before any does the next, so that every value is about all of them. A trial that was killed, or broke
    off for another reason than its values, goes on from the folds' checkpoints. Raises FailedTrialError when these values cannot
    be trained with.
    """
    trainers: list[Trainer] = []
    value = np.nan
    try:
        trainers.extend(_trainer(given, values, name, fold) for fold in given.params.search.folds)
        for epoch in range(1, given.params.train.epochs + 1):
            for trainer in trainers:
                _train_until(trainer, epoch)
            if all(trainer.progress.epoch == epoch for trainer in trainers):  # otherwise reported before it was killed
                value = calibrated_log_loss(given, _held_out_logits(given, trainers))
                report(epoch, value)
    except torch.OutOfMemoryError as error:  # wherever: all folds are on the device at once
        _forget(trainers)
        raise FailedTrialError(str(error)) from error
    except (FailedTrialError, TrialPruned, UpdateFinishedTrialError):  # all else says nothing of the values: it is tried again
        _forget(trainers)
        raise
    _forget(trainers)
    return value


def _trainer(given: TuningSet, values: Values, name: str, fold: int) -> Trainer:
    params = given.params
    model, schedule = with_values(params, values)
    labels = given.prepared.labels[training_rows(given.split, fold)]
    task = make_task(given.prepared, given.split, fold, class_weights(labels, schedule.class_balance), name)
    # Nothing to watch: the held-out part is scored here, for all folds at once.
    task = replace(task, held_out_images=task.held_out_images[:0], held_out_labels=task.held_out_labels[:0])
    resume = resume_path("search", fold, *identity(given.prepared, model, schedule, params.search.split_seed))
    torch.manual_seed(schedule.seed * 100 + fold)  # the head starts at random
    net = build_network(model.backbone, model.weights, model.dropout, model.frozen_stages, model.symmetry)
    return Trainer(net, task, schedule, seed=schedule.seed * 100 + fold, mine_epoch=0, resume=resume)


def _train_until(trainer: Trainer, epoch: int) -> None:
    try:
        trainer.run(until=epoch)
    except TrainingError as error:
        raise FailedTrialError(str(error)) from error


def _held_out_logits(given: TuningSet, trainers: list[Trainer]) -> NDArray[np.float32]:
    """(n,) logits of `given.rows`, each by the fold that holds it out."""
    images: Any = given.prepared.images
    parts = [images[held_out_rows(given.split, fold)] for fold in given.params.search.folds]
    return np.concatenate([predict_logits(t.ema.module, part, t.device) for t, part in zip(trainers, parts, strict=True)])


def _forget(trainers: list[Trainer]) -> None:
    for trainer in trainers:
        Path(trainer.resume).unlink(missing_ok=True)
