"""The operating point: each patient is judged by choices that never saw their labels."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from strokect.calibration import sigmoid
from strokect.calibration_fit import patient_groups
from strokect.errors import DataError, NotEstimableError
from strokect.guarantee import guaranteed_threshold
from strokect.operating_point import patient_labels
from strokect.out_of_fold import CROSS_FIT_GROUPS, OutOfFold, load_out_of_fold, operating_point_json, tune
from strokect.params import TuneThresholdParams

PARAMS = TuneThresholdParams(goal="f2", patient_rule="mean_top_k", patient_top_k=3, calibration="affine", resamples=100, seed=0)


@pytest.fixture
def oof() -> OutOfFold:
    """60 patients × 8 slices, half of the patients positive, scores twice too sharp and too high."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i:02d}" for i in range(60)], 8)
    labels = (np.repeat(np.arange(60) % 2 == 0, 8) & (rng.uniform(size=480) < 0.4)).astype(np.int64)
    logits = 2 * (1.5 * labels + rng.normal(-0.7, 1, 480)) + 1
    return OutOfFold(np.arange(480), np.arange(480) % 5, logits, labels, patients, np.tile(np.arange(8), 60), logits[:, None])


@pytest.mark.parametrize(
    "changes", [{"calibration": "affine"}, {"calibration": "isotonic"}, {"calibration": "auto"}, {"patient_rule": "sequence"}]
)
def test_no_label_of_a_patient_reaches_that_patients_figures(oof: OutOfFold, changes: dict[str, str]) -> None:
    params = dataclasses.replace(PARAMS, **changes)
    groups = patient_groups(oof.patients, oof.labels, CROSS_FIT_GROUPS, params.seed)
    before = tune(oof, params)
    # Swap labels within the patients of one group: who is positive, and so the groups, stay as they are.
    changed = oof.labels.copy()
    for patient in np.unique(oof.patients[groups == 3]):
        own = oof.patients == patient
        changed[own] = np.roll(changed[own], 3)
    after = tune(dataclasses.replace(oof, labels=changed), params)
    own = groups == 3
    np.testing.assert_array_equal(before.slices.probability[own], after.slices.probability[own])
    np.testing.assert_array_equal(before.slices.decision[own], after.slices.decision[own])
    np.testing.assert_array_equal(before.in_series[own], after.in_series[own])
    of_patient = np.isin(np.unique(oof.patients), oof.patients[own])
    np.testing.assert_array_equal(before.whole.probability[of_patient], after.whole.probability[of_patient])
    np.testing.assert_array_equal(before.whole.decision[of_patient], after.whole.decision[of_patient])
    assert not np.array_equal(before.slices.probability[~own], after.slices.probability[~own])
    assert before.slices.threshold != after.slices.threshold  # what ships has seen them all


def test_order_is_judged_on_the_raw_scores(oof: OutOfFold) -> None:
    tuned = tune(oof, PARAMS)
    np.testing.assert_array_equal(tuned.slices.ranking, sigmoid(oof.logits))
    top = np.sort(sigmoid(oof.logits[oof.patients == "p07"]))[-3:].mean()
    assert tuned.whole.ranking[7] == pytest.approx(top)
    assert tuned.log_loss_after < tuned.log_loss_before - 0.05


def test_under_the_sequence_rule_patients_are_scored_by_what_was_seen_in_series(oof: OutOfFold) -> None:
    alone, together = tune(oof, PARAMS), tune(oof, dataclasses.replace(PARAMS, patient_rule="sequence"))
    assert alone.sequence is None
    np.testing.assert_array_equal(alone.in_series, alone.slices.probability)
    np.testing.assert_array_equal(alone.slices.probability, together.slices.probability)  # one slice alone is judged as before
    assert together.sequence is not None
    top = np.sort(together.in_series[oof.patients == "p07"])[-3:].mean()
    assert together.whole.probability[7] == pytest.approx(top)
    assert alone.whole.probability[7] != pytest.approx(top)


def write_fold(folder: Path, rows: list[int], views: list[str]) -> None:
    folder.mkdir(parents=True)
    n = len(rows)
    np.savez(folder / "oof.npz", rows=rows, logits=np.zeros((n, len(views)), np.float32), features=0, views=np.array(views))


def test_folds_must_cover_development_once_with_the_same_views(tmp_path: Path) -> None:
    manifest = pd.DataFrame({"label": [0, 1, 0, 1], "patient": list("abcd"), "slice": 0})
    split = pd.DataFrame({"part": ["0", "1", "test", "0"]})
    write_fold(tmp_path / "good/0", [0, 3], ["identity"])
    write_fold(tmp_path / "good/1", [1], ["identity"])
    assert load_out_of_fold(tmp_path / "good", (0, 1), manifest, split).rows.tolist() == [0, 1, 3]
    write_fold(tmp_path / "twice/0", [0, 3], ["identity"])
    write_fold(tmp_path / "twice/1", [3], ["identity"])
    with pytest.raises(DataError, match="do not cover"):
        load_out_of_fold(tmp_path / "twice", (0, 1), manifest, split)
    write_fold(tmp_path / "views/0", [0, 3], ["identity"])
    write_fold(tmp_path / "views/1", [1], ["identity", "mirror"])
    with pytest.raises(DataError, match="different views"):
        load_out_of_fold(tmp_path / "views", (0, 1), manifest, split)


def test_a_guaranteed_goal_sets_the_patient_threshold_and_nothing_is_promised_for_slices(oof: OutOfFold) -> None:
    tuned = tune(oof, dataclasses.replace(PARAMS, goal="guaranteed sensitivity >= 0.8 confidence 0.9"))
    truth = patient_labels(oof.labels, oof.patients)
    assert tuned.whole.threshold == guaranteed_threshold(tuned.patient_scores, truth, 0.8, 0.9)
    empirical = tune(oof, dataclasses.replace(PARAMS, goal="sensitivity >= 0.8"))
    assert tuned.slices.threshold == empirical.slices.threshold and tuned.whole.threshold < empirical.whole.threshold


def test_a_promise_that_the_cohort_cannot_carry_stops_the_stage_and_says_how_many_would(oof: OutOfFold) -> None:
    with pytest.raises(NotEstimableError, match=r"not available: it needs at least 59 positive patients"):
        tune(oof, dataclasses.replace(PARAMS, goal="guaranteed sensitivity >= 0.95 confidence 0.95"))


def made_cohort(patients: int) -> OutOfFold:
    """Like `oof`, of any size."""
    rng, n = np.random.default_rng(0), 8 * patients
    who = np.repeat([f"p{i:03d}" for i in range(patients)], 8)
    labels = (np.repeat(np.arange(patients) % 2 == 0, 8) & (rng.uniform(size=n) < 0.4)).astype(np.int64)
    logits = 2 * (1.5 * labels + rng.normal(-0.7, 1, n))
    return OutOfFold(np.arange(n), np.arange(n) % 5, logits, labels, who, np.tile(np.arange(8), patients), logits[:, None])


def test_a_cohort_that_carries_a_promise_is_not_refused_because_four_fifths_of_it_would_not() -> None:
    """About 66 positive patients: 59 are enough, the 53 that a fifth is judged by are not."""
    cohort = made_cohort(134)
    truth = patient_labels(cohort.labels, cohort.patients)
    assert 59 <= truth.sum() < 59 / 0.8
    params = dataclasses.replace(PARAMS, goal="guaranteed sensitivity >= 0.95 confidence 0.95")
    tuned = tune(cohort, params)
    assert (tuned.patient_scores[truth == 1] < tuned.whole.threshold).sum() == 0
    described = {"folds": [0, 1], "views": ["identity"], "exports": {}, "group_by": "patient"}
    point = operating_point_json(tuned, params, **described)
    assert point["patient"]["promise"] == {
        "sensitivity": 0.95,
        "confidence": 0.95,
        "positive_patients": int(truth.sum()),
        "misses_allowed": 0,
        "models": "single fold models",
    }
    assert "a sensitivity is promised, of them and not of their average" in point["chosen_on"]
    empirical = operating_point_json(tune(cohort, PARAMS), PARAMS, **described)
    assert empirical["patient"]["promise"] is None and "no guarantee" in empirical["chosen_on"]
