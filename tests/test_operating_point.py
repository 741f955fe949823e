"""Thresholds against brute force; the patient rule on a worked case."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score, recall_score

from strokect.errors import NotEstimableError, ParamsError
from strokect.operating_point import choose_threshold, parse_goal, patient_labels, patient_scores


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.sampled_from([3, 1000]))
def test_f2_threshold_is_the_best_of_all(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, n)]
    p = rng.integers(0, levels, n + 2) / levels
    best = max(fbeta_score(labels, p >= t, beta=2) for t in np.unique(p))
    assert fbeta_score(labels, p >= choose_threshold(p, labels, "f2"), beta=2) == pytest.approx(best)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_sensitivity_goal_takes_the_largest_threshold_that_keeps_it(seed: int, n: int, target: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, n)]
    p = rng.integers(0, 8, n + 2) / 8
    t = choose_threshold(p, labels, f"sensitivity >= {target}")
    assert recall_score(labels, p >= t) >= target
    higher = [u for u in np.unique(p) if u > t and recall_score(labels, p >= u) >= target]
    assert all((p >= u).sum() == (p >= t).sum() for u in higher)


def test_goal_is_parsed_or_refused() -> None:
    assert parse_goal("f2") is None
    assert parse_goal("sensitivity >= 0.95") == 0.95
    for bad in ("f1", "sensitivity >= 2", "sensitivity > 0.9", ""):
        with pytest.raises(ParamsError, match="allowed: f2"):
            parse_goal(bad)


def test_patient_score_is_the_mean_of_the_top_slices() -> None:
    patients = np.array(["b", "a", "b", "b", "b", "a"])
    p = np.array([0.1, 0.6, 0.9, 0.5, 0.7, 0.2])
    names, scores = patient_scores(p, patients, 3)
    assert names.tolist() == ["a", "b"]
    np.testing.assert_allclose(scores, [0.4, 0.7])
    assert patient_labels(np.array([0, 0, 1, 0, 0, 0]), patients).tolist() == [0, 1]


def test_one_class_or_nan_is_not_estimable() -> None:
    with pytest.raises(NotEstimableError):
        choose_threshold(np.array([0.1, 0.9]), np.array([1, 1]), "f2")
    with pytest.raises(NotEstimableError):
        choose_threshold(np.array([0.1, np.nan]), np.array([0, 1]), "f2")
