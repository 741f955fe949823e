"""The steps of docs/results/training.md: what each changes, and which earlier step it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROFILE = "ct_ich"
BEST = {"profile": "ct_ich_best", "model": "lite0_phantom"}  # the first of HEADLINES as the choices of a `dvc exp run`
TUNING_SEED = 100  # of the split on which steps are chosen; never a seed of the headline
HEADLINE_SEEDS = (1, 2, 3)
IN_SERIES = {"tune_threshold.patient_rule": "sequence"}  # judged by slices seen in series: for whole series only


@dataclass(frozen=True)
class Step:
    """One change of params; all of `overrides` are given to the run, also those of earlier steps that were kept."""

    change: str  # in words
    against: str | None  # the step that differs by this change only
    overrides: Mapping[str, Any]
    kept_for: str | None = None  # why later steps stand on it although its log loss is not lower
    before: tuple[str, ...] = ()  # commands that make what the overrides name
    needs_gpu: bool = False  # runs only when it is asked for by name

    @property
    def in_series(self) -> bool:
        """Whether slices are judged with their neighbours."""
        return self.overrides.items() >= IN_SERIES.items()


def with_neighbours(against: str, overrides: Mapping[str, Any], before: tuple[str, ...] = ()) -> Step:
    """The step from slices that are judged alone to the same slices judged in series."""
    return Step("slices judged with their neighbours: for whole series only", against, {**overrides, **IN_SERIES}, before=before)


SMALL = {"data.image_size": 96, "train.epochs": 8, "hnm.enabled": "false", "train.augment.bleeds": 0, "model.frozen_stages": 0}
FROZEN = SMALL | {"model.frozen_stages": 2}
BLEEDS = FROZEN | {"train.augment.bleeds": 0.25}
CROPPED = BLEEDS | {"data.crop": "head"}
LARGER = CROPPED | {"data.image_size": 128}
AS_TRAINED = "-S data.crop=head -S train.epochs=4 -S train.augment.strength=2 -S train.augment.bleeds=0.25"
# DVC knows a weights file by its name only: other commands below, another name.
WEIGHTS = {name: f".strokect/phantom-{name}.safetensors" for name in ("200", "800", "3200", "lite2")}
PRETRAIN = {
    name: (
        f"dvc exp run train_fold@0 -S profile=phantom {network} -S split.test_fraction=0 -S model.frozen_stages=2{more}",
        f"cp models/folds/0/model.safetensors {WEIGHTS[name]}",
    )
    for name, network, more in (
        ("200", "-S data.image_size=96 -S data.phantom.patients=200", ""),
        ("800", "-S data.image_size=96 -S data.phantom.patients=800", " -S data.crop=head"),
        ("3200", "-S data.image_size=128 -S data.phantom.patients=3200", f" {AS_TRAINED}"),
        ("lite2", "-S model=lite2 -S data.phantom.patients=3200", f" {AS_TRAINED}"),
    )
}
PRETRAINED = CROPPED | {"model.weights": WEIGHTS["200"]}
PRETRAINED_800 = CROPPED | {"model.weights": WEIGHTS["800"]}
TOGETHER = PRETRAINED | {"data.image_size": 128, "train.augment.strength": 2}
TOGETHER_800 = TOGETHER | {"model.weights": WEIGHTS["800"]}
TOGETHER_3200 = TOGETHER | {"model.weights": WEIGHTS["3200"]}
TOGETHER_160 = TOGETHER_3200 | {"data.image_size": 160}
FOUR_VIEWS = TOGETHER_160 | {"export.views": "[identity,mirror,shift_left,shift_right]"}
STEPS = {
    "base": Step("Lite0 at 96 px, 8 epochs, no mining", None, SMALL),
    "frozen": Step("stem and first two stages keep their ImageNet weights", "base", FROZEN, kept_for="its time"),
    "bleeds": Step("a quarter of the negative training slices gets a synthetic bleed", "frozen", BLEEDS),
    "sequence": with_neighbours("bleeds", BLEEDS),
    "head-crop": Step("each slice cut to its head", "bleeds", CROPPED),
    "head-crop-sequence": with_neighbours("head-crop", CROPPED),
    "128-px": Step("128 px", "head-crop", LARGER),
    "hnm": Step("mining of hard slices after training", "head-crop", CROPPED | {"hnm.enabled": "true"}),
    "one-view": Step("the slice alone, without its mirror image", "head-crop", CROPPED | {"export.views": "[identity]"}),
    "mixup": Step("slices blended in pairs (mixup, α 0.2)", "head-crop", CROPPED | {"train.mixup_alpha": 0.2}),
    "symmetry": Step("the mirrored slice as a second input", "head-crop", CROPPED | {"model.symmetry": "true"}),
    "auxiliary": Step(
        "haemorrhage types and fractures learned beside the label", "head-crop", CROPPED | {"train.auxiliary": 0.3}
    ),
    "augment-2": Step("augmentation of twice the strength", "head-crop", CROPPED | {"train.augment.strength": 2}),
    "phantom-pretrained": Step(
        "trained on 160 patients of the phantom first (a fold of 200)",
        "head-crop",
        PRETRAINED,
        before=PRETRAIN["200"],
    ),
    "phantom-800": Step(
        "on 640 patients of the phantom (a fold of 800), their slices cut to the head, too",
        "phantom-pretrained",
        PRETRAINED_800,
        before=PRETRAIN["800"],
    ),
    **{
        name: Step(change, "phantom-800", PRETRAINED_800 | overrides, before=PRETRAIN["800"])
        for name, change, overrides in (
            ("half-rate", "learning rate 0.0003 in place of 0.0006", {"train.learning_rate": 0.0003}),
            ("epochs-16", "twice the epochs", {"train.epochs": 16}),
            ("bleeds-half", "synthetic bleeds in half of the negative slices", {"train.augment.bleeds": 0.5}),
            ("layer-decay", "each block learns at 0.9 of the rate of the next", {"train.layer_decay": 0.9}),
            ("cross-entropy", "cross-entropy in place of focal loss", {"train.loss": "cross_entropy"}),
            ("gamma-2", "focal loss of γ 2 in place of 1", {"train.focal_gamma": 2}),
            ("no-smoothing", "no label smoothing in place of 0.05", {"train.label_smoothing": 0}),
            ("no-averaging", "the last weights in place of their moving average", {"train.ema_decay": 0}),
        )
    },
    "pretrained-sequence": with_neighbours("phantom-pretrained", PRETRAINED, before=PRETRAIN["200"]),
    "together": Step(
        "128 px and augmentation of twice the strength, too",
        "phantom-pretrained",
        TOGETHER,
        before=PRETRAIN["200"],
    ),
    "together-800": Step(
        "pretrained on 640 patients of the phantom, their slices cut to the head",
        "together",
        TOGETHER_800,
        before=PRETRAIN["800"],
    ),
    "together-800-sequence": with_neighbours("together-800", TOGETHER_800, before=PRETRAIN["800"]),
    "together-3200": Step(
        "pretrained on 2,560 patients of the phantom, at 128 px, 4 epochs in place of 8, augmented like CT-ICH",
        "together-800",
        TOGETHER_3200,
        before=PRETRAIN["3200"],
    ),
    "160-px": Step("160 px", "together-3200", TOGETHER_160, before=PRETRAIN["3200"]),
    "160-px-sequence": with_neighbours("160-px", TOGETHER_160, before=PRETRAIN["3200"]),
    "four-views": Step("two shifted views beside the slice and its mirror image", "160-px", FOUR_VIEWS, before=PRETRAIN["3200"]),
    "four-views-sequence": with_neighbours("four-views", FOUR_VIEWS, before=PRETRAIN["3200"]),
    "192-px": Step("192 px", "160-px", TOGETHER_160 | {"data.image_size": 192}, before=PRETRAIN["3200"]),
    "lite2-300": Step(
        "Lite2 at 300 px, 20 epochs: for a GPU, as is its pretraining",
        "160-px",
        TOGETHER_160 | {"model": "lite2", "data.image_size": 300, "train.epochs": 20, "model.weights": WEIGHTS["lite2"]},
        before=PRETRAIN["lite2"],
        needs_gpu=True,
    ),
}
# Of slices that come alone, and of whole series by the same networks; the first is BEST.
HEADLINES = ("four-views", "four-views-sequence", "160-px", "160-px-sequence", "together-800", "together-800-sequence")
# Run on headline seeds, too (figures: the history of docs/results/training), until others did better on the tuning seed.
SUPERSEDED = ("bleeds", "sequence", "together-3200")
