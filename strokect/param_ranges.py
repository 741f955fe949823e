"""Values of params.yaml that type-check but cannot work; each rule says what would."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from strokect.errors import ImageError, ParamsError
from strokect.hounsfield import BRAIN_ONLY, COUNTS, LEVELS_HU, WIDTHS_HU, Window, check_window, in_words
from strokect.reader_params import reader_rules
from strokect.run_params import run_rules
from strokect.thresholds import parse_goal

if TYPE_CHECKING:
    from strokect.params import Params

MIN_RESAMPLES = 100  # fewer give no usable interval
EIGHT_BIT = ("kaggle_ct_ich", "teknofest")  # sources of pictures, without Hounsfield units


def _is_window(window: Window) -> bool:
    try:
        check_window(window.level_hu, window.width_hu)
    except ImageError:
        return False
    return True


def check_ranges(params: Params, file: str) -> None:
    """Raise ParamsError naming file, key, value and what it must be."""
    parse_goal(params.tune_threshold.goal)
    p = params
    rules = [
        (not (p.evaluate.open_test is True and p.split.test_fraction == 0), "evaluate.open_test", "false without a test part"),
        *reader_rules(p.data),
        (
            48 <= p.data.image_size <= 1024,
            "data.image_size",
            "between 48 and 1024: smaller, a batch of one slice leaves BatchNorm a single value",
        ),
        (len(p.data.windows) in COUNTS, "data.windows", "a list of one window or of three"),
        (all(map(_is_window, p.data.windows)), "data.windows", f"of levels in {LEVELS_HU} and widths in {WIDTHS_HU} HU"),
        (
            p.data.windows == BRAIN_ONLY or p.data.source not in EIGHT_BIT,
            "data.windows",
            f"the one window {in_words(BRAIN_ONLY)} with data.source {p.data.source}: 8-bit pictures have it baked in, and no "
            "Hounsfield units to make another of; DICOM has",
        ),
        (p.data.max_unreadable >= 0, "data.max_unreadable", "0 or more"),
        (p.data.phantom.patients >= 1, "data.phantom.patients", "1 or more"),
        (p.data.phantom.slices >= 4, "data.phantom.slices", "4 or more"),
        (0 <= p.split.test_fraction < 0.9, "split.test_fraction", "at least 0 and below 0.9"),
        (len(p.split.folds) >= 2, "split.folds", "a list of at least 2 folds"),
        (p.split.folds == tuple(range(len(p.split.folds))), "split.folds", "0, 1, 2, … in order"),
        (0 <= p.model.dropout < 1, "model.dropout", "at least 0 and below 1"),
        (p.model.frozen_stages >= 0, "model.frozen_stages", "0 or more"),
        (
            p.model.frozen_stages == 0 or p.model.weights != "none",
            "model.frozen_stages",
            "0 with model.weights none: random weights would stay random",
        ),
        (p.train.epochs >= 1, "train.epochs", "1 or more"),
        (p.train.batch_size >= 2, "train.batch_size", "2 or more"),
        (1 <= p.train.devices <= p.train.batch_size, "train.devices", "between 1 and train.batch_size, which they share"),
        (p.train.learning_rate > 0, "train.learning_rate", "above 0"),
        (0 <= p.train.warmup_epochs < p.train.epochs, "train.warmup_epochs", "at least 0 and below train.epochs"),
        (p.train.weight_decay >= 0, "train.weight_decay", "0 or more"),
        (p.train.focal_gamma >= 0, "train.focal_gamma", "0 or more"),
        (0 <= p.train.label_smoothing < 0.5, "train.label_smoothing", "at least 0 and below 0.5"),
        (0 <= p.train.ema_decay < 1, "train.ema_decay", "at least 0 and below 1"),
        (0 <= p.train.augment.bleeds <= 1, "train.augment.bleeds", "between 0 and 1"),
        (p.train.mixup_alpha >= 0, "train.mixup_alpha", "0 or more"),
        (p.train.auxiliary >= 0, "train.auxiliary", "0 or more"),
        (
            p.train.auxiliary == 0 or p.data.labels == "slice",
            "train.auxiliary",
            "0 unless data.labels is slice: types and fractures are those of slices, whatever the labels are",
        ),
        (0 < p.train.layer_decay <= 1, "train.layer_decay", "above 0 and at most 1"),
        (
            p.train.augment.bleeds == 0 or p.data.windows == BRAIN_ONLY,
            "train.augment.bleeds",
            f"0 unless data.windows is the one window {in_words(BRAIN_ONLY)}, whose grey levels it paints",
        ),
        (p.train.clip_norm > 0, "train.clip_norm", "above 0"),
        (1 <= p.hnm.mine_epoch <= p.train.epochs, "hnm.mine_epoch", "between 1 and train.epochs"),
        (0 <= p.hnm.negative_fraction <= 1, "hnm.negative_fraction", "between 0 and 1"),
        (0 <= p.hnm.positive_fraction <= 1, "hnm.positive_fraction", "between 0 and 1"),
        (p.hnm.weight >= 1, "hnm.weight", "1 or more"),
        (p.hnm.learning_rate > 0, "hnm.learning_rate", "above 0"),
        (p.hnm.epochs >= 1, "hnm.epochs", "1 or more (hnm.enabled: false switches the stage off)"),
        (p.export.views[:1] == ("identity",), "export.views", "a list that starts with identity: gate and map use that view"),
        (p.export.parity_slices >= 1, "export.parity_slices", "1 or more"),
        (p.export.calibration_slices >= 1, "export.calibration_slices", "1 or more"),
        (p.export.student_epochs >= 1, "export.student_epochs", "1 or more (export.student: none switches the student off)"),
        (
            p.export.student == "none" or p.export.student_epochs > p.train.warmup_epochs,
            "export.student_epochs",
            "above train.warmup_epochs",
        ),
        (min(dataclasses.astuple(p.export.tolerance)) >= 0, "export.tolerance", "0 or more in each figure"),
        (
            p.tune_threshold.patient_rule == "mean_top_k" or p.split.group_by == "patient",
            "tune_threshold.patient_rule",
            "mean_top_k where split.group_by is none: a series would be pieced together from several folds",
        ),
        (p.tune_threshold.patient_top_k >= 1, "tune_threshold.patient_top_k", "1 or more"),
        (p.tune_threshold.resamples >= MIN_RESAMPLES, "tune_threshold.resamples", f"{MIN_RESAMPLES} or more"),
        (0 < p.safety.max_false_reject <= 0.2, "safety.max_false_reject", "above 0 and at most 0.2"),
        (0 <= p.safety.refer_rate <= 0.9, "safety.refer_rate", "between 0 and 0.9"),
        (0 <= p.safety.refer_error_rate < 1, "safety.refer_error_rate", "at least 0 (0: refer_rate decides) and below 1"),
        (all(0 < share < 1 for share in p.evaluate.prevalence), "evaluate.prevalence", "a list of shares between 0 and 1"),
        (2 <= p.safety.mc_samples <= 200, "safety.mc_samples", "between 2 and 200"),
        (p.safety.outliers_per_category >= 1, "safety.outliers_per_category", "1 or more"),
        (p.safety.proxies_per_kind >= 1, "safety.proxies_per_kind", "1 or more"),
        (p.safety.resamples >= MIN_RESAMPLES, "safety.resamples", f"{MIN_RESAMPLES} or more"),
        (p.evaluate.resamples >= MIN_RESAMPLES, "evaluate.resamples", f"{MIN_RESAMPLES} or more"),
        *run_rules(p),
    ]
    for holds, key, expected in rules:
        if not holds:
            value: Any = p
            for part in key.split("."):
                value = getattr(value, part)
            raise ParamsError(f"{file}: {key} is {value!r}; it must be {expected}")
