"""Shortcut probes: a fact that goes with the class stands out, one that goes with slice position or with one patient does not."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from strokect.shortcuts import only_one_class, probe, slice_thirds

PATIENTS, SLICES = 60, 12
PATIENT = np.repeat(np.arange(PATIENTS), SLICES).astype(str)
SLICE = np.tile(np.arange(SLICES), PATIENTS)
THIRDS = SLICE * 3 // SLICES


def labels(rng: np.random.Generator) -> np.ndarray:
    """Half of the patients are positive, mostly in the middle of the head."""
    ill = rng.permutation(PATIENTS) < PATIENTS // 2
    return (np.repeat(ill, SLICES) & (rng.random(len(SLICE)) < np.array([0.1, 0.7, 0.3])[THIRDS])).astype(np.int64)


def test_a_fact_of_the_class_stands_out() -> None:
    rng = np.random.default_rng(0)
    y = labels(rng)
    found = probe(rng.normal(size=len(y)) + y, y, THIRDS, PATIENT)
    assert found.stands_out and found.auc > 0.65 and found.z > 4
    assert probe(-(rng.normal(size=len(y)) + y), y, THIRDS, PATIENT).auc < 0.35


def test_a_fact_of_the_position_does_not() -> None:
    rng = np.random.default_rng(1)
    y = labels(rng)
    size = np.array([0.0, 2.0, 1.0])[THIRDS] + rng.normal(size=len(y)) * 0.3
    assert roc_auc_score(y, size) > 0.7
    assert not probe(size, y, THIRDS, PATIENT).stands_out


def test_chance_is_kept_though_a_patients_slices_are_alike() -> None:
    flagged = 0
    for seed in range(200):
        rng = np.random.default_rng([2, seed])
        of_patient = np.repeat(rng.normal(size=PATIENTS), SLICES)  # each scanner session has its own file size
        flagged += probe(of_patient, labels(rng), THIRDS, PATIENT).stands_out
    assert flagged <= 2


def test_auc_is_that_of_sklearn_in_one_stratum() -> None:
    rng = np.random.default_rng(3)
    y, x = labels(rng), rng.integers(0, 9, len(PATIENT)).astype(float)
    assert probe(x, y, np.zeros(len(y), np.int64), PATIENT).auc == pytest.approx(roc_auc_score(y, x))


def test_unknown_facts_and_single_classes_say_nothing() -> None:
    y = labels(np.random.default_rng(4))
    assert probe(np.full(len(y), np.nan), y, THIRDS, PATIENT) == probe(np.ones(len(y)), 0 * y, THIRDS, PATIENT)
    assert not probe(np.ones(len(y)), y, THIRDS, PATIENT).stands_out


def test_a_rare_mark_of_one_class_only() -> None:
    y = np.r_[np.ones(20, np.int64), np.zeros(80, np.int64)]
    mark = np.zeros(100, bool)
    mark[:4] = True
    assert only_one_class(mark, y) is None  # four are too few to say
    mark[:6] = True
    assert only_one_class(mark, y) == 1
    mark[50] = True
    assert only_one_class(mark, y) is None
    common = np.zeros(100, bool)
    common[90:] = True
    assert only_one_class(common, y) is None  # 0.8 ** 10 is luck


def test_thirds_are_of_each_patients_stack() -> None:
    manifest = pd.DataFrame({"patient": ["a"] * 6 + ["b"] * 3 + ["c"], "slice": [5, 4, 3, 2, 1, 0, 7, 8, 9, 0]})
    assert slice_thirds(manifest).tolist() == [2, 2, 1, 1, 0, 0, 0, 1, 2, 0]
    assert slice_thirds(manifest.drop(columns="slice")).tolist() == [0, 0, 1, 1, 2, 2, 0, 1, 2, 0]
