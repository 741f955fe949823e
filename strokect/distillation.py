"""The distilled student: one small network taught by the fold models, cross-fitted so that it has its own out-of-fold.

Student k learns from the training part of fold k and is taught by fold model k alone. Neither has seen the patients that fold k
holds out, so student k's predictions for them are out-of-fold. Any other teacher has trained on those patients, and its targets
would carry them into student k. The student that ships learns from all development slices, taught by the mean logit of all fold
models; like their average, it has no out-of-fold estimate: the students 0, 1, … stand for it.

The loss is cross-entropy with the teacher's probability at temperature 1 (Hinton et al. 2015) as the only target. Hard labels
are not mixed in: the teacher has learned them already, and with hard labels a student would fit the same label noise again.
Targets are computed once, on the slices as they are: augmentation keeps the label, and a teacher in every step would double the
cost. Class weights stay: where the student equals its teacher the loss is least whatever a slice weighs.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from strokect.calibration import sigmoid
from strokect.devices import pick_device
from strokect.files import sha256_file, write_json
from strokect.fold import RESUME, identity, make_sidecar, make_task, resume_path, save_fold, train
from strokect.losses import class_weights
from strokect.manifest import Prepared, load_prepared
from strokect.network import WEIGHT_PACKAGES, FoldNet, Images, build_network, load_network, predict_logits
from strokect.onnx_export import evenly, export_model
from strokect.params import ModelParams, Params, TrainParams
from strokect.shipping import STUDENT
from strokect.splits import SPLIT, development_rows, read_split, training_rows

TEACHERS = Path("models/hnm")
ALL = "all"  # the student of all development slices: the one that ships


def student_model(params: Params) -> ModelParams:
    """The model section of a student. A file of weights fits the folds' backbone only: another starts from its package."""
    backbone, weights = params.export.student, params.model.weights
    if backbone != params.model.backbone and weights not in ("hub", "none") and backbone in WEIGHT_PACKAGES:
        weights = "package"
    return dataclasses.replace(params.model, backbone=backbone, weights=weights)


def student_schedule(params: Params) -> TrainParams:
    """The folds' schedule with the student's epochs, cross-entropy with the targets as they are, no auxiliary heads, and no
    bleeds: a teacher's answer to the slice is none to the slice with a bleed.
    """
    augment = dataclasses.replace(params.train.augment, bleeds=0.0)
    own: dict[str, Any] = {
        "epochs": params.export.student_epochs,
        "loss": "cross_entropy",
        "label_smoothing": 0.0,
        "auxiliary": 0.0,
    }
    return dataclasses.replace(params.train, augment=augment, **own)


def soft_targets(teachers: Iterable[FoldNet], images: Images, device: torch.device) -> NDArray[np.float32]:
    """Probability (n,) by the mean logit of the teachers on images (n, C, S, S), unaugmented."""
    logits = [predict_logits(teacher.to(device), images, device) for teacher in teachers]
    return sigmoid(np.mean(logits, axis=0, dtype=np.float64)).astype(np.float32)


def teach(folder: Path, number: int, teachers: Sequence[int], prepared: Prepared, split: pd.DataFrame, params: Params) -> Path:
    """Train the student of fold `number`, save it to `folder` and return its checkpoint.

    A `number` that is no fold's holds nobody out: that student learns from the whole development part.
    """
    model, schedule = student_model(params), student_schedule(params)
    labels = prepared.labels[training_rows(split, number)]
    task = make_task(prepared, split, number, class_weights(labels, params.train.class_balance), "student")
    given = [TEACHERS / str(teacher) for teacher in teachers]
    targets = soft_targets((load_network(path)[0] for path in given), task.images, pick_device(schedule))
    task = dataclasses.replace(task, labels=targets, name=f"student@{folder.name}")

    taught_by = [sha256_file(path / "model.safetensors") for path in given]
    resume = resume_path("student", number, *identity(prepared, model, schedule, sha256_file(__file__), *taught_by))
    torch.manual_seed(schedule.seed * 100 + number)  # the head starts at random
    net = build_network(model.backbone, model.weights, model.dropout, model.frozen_stages, model.symmetry)
    net, progress, device = train(net, task, schedule, fold=number, mine_epoch=0, resume=resume)
    name = STUDENT if folder.name == ALL else number
    group_by = params.split.group_by
    sidecar = make_sidecar(net, prepared, model, stage="student", fold=name, group_by=group_by, device=device)
    folder.mkdir()
    save_fold(folder, net, progress.history, sidecar | {"taught_by": list(teachers)})
    return resume


def write_students(folder: Path, params: Params) -> None:
    """Write <k>/ for each fold, all/ (what ships, in torch), release/ (the same, exported) and student.json into `folder`."""
    prepared = load_prepared()
    split = read_split(SPLIT, prepared.manifest)
    folds = params.split.folds
    checkpoints = [teach(folder / str(fold), fold, [fold], prepared, split, params) for fold in folds]
    checkpoints.append(teach(folder / ALL, len(folds), folds, prepared, split, params))

    net, sidecar = load_network(folder / ALL)
    rows = development_rows(split)
    (folder / "release").mkdir()
    sample, calibration = (evenly(rows, n) for n in (params.export.parity_slices, params.export.calibration_slices))
    export_model(net, sidecar, folder / "release", params.export, prepared.images[sample], prepared.images[calibration])
    write_json(folder / "student.json", {"backbone": params.export.student, "epochs": params.export.student_epochs})
    # Finished checkpoints stay: another export.precision runs this stage again, which then has nothing to train.
    for path in RESUME.glob("student-*.pt"):
        if path not in checkpoints:
            path.unlink()
