"""The sequence head: neighbours and place of a slice, its fit against scikit-learn, and that no series leaks into another."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from strokect.calibration import sigmoid
from strokect.calibration_fit import fit_sequence_head
from strokect.errors import NotEstimableError, ReleaseError
from strokect.operating_point import series_probability
from strokect.sequence import REACH, WIDTH, SequenceHead, context


def cohort() -> tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.int64], NDArray[np.int64]]:
    """Logits, patients, order and labels of 40 patients × 12 slices; a bleed goes through three slices of every second one."""
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 12), np.int64)
    for row in labels[::2]:
        start = rng.integers(2, 8)
        row[start : start + 3] = 1
    logits = 1.2 * labels + rng.normal(-1, 1, labels.shape)
    return logits.ravel(), np.repeat([f"p{i:02d}" for i in range(40)], 12), np.tile(np.arange(12), 40), labels.ravel()


def test_context_of_a_worked_series() -> None:
    logits = np.array([30.0, 10.0, 20.0, 5.0, 40.0])
    patients = np.array(["a", "a", "a", "b", "a"])
    order = np.array([3, 1, 2, 7, 4])  # patient a in order: 10, 20, 30, 40
    found = context(logits, patients, order)
    assert found.shape == (5, WIDTH)
    np.testing.assert_allclose(found[1], [10, 10, 10, 10, 20, 30, 40, 0, 0, 0])
    np.testing.assert_allclose(found[4], [10, 20, 30, 40, 40, 40, 40, 1, 1, 0.5])
    np.testing.assert_allclose(found[2, REACH], 20)
    np.testing.assert_allclose(found[2, -3:], [1 / 3, 1 / 9, 0])
    np.testing.assert_allclose(found[3], [5.0] * 7 + [0, 0, 0])  # alone: no other patient's slice is its neighbour


def test_the_order_of_the_rows_does_not_matter() -> None:
    logits, patients, order, _ = cohort()
    shuffled = np.random.default_rng(1).permutation(len(logits))
    found = context(logits[shuffled], patients[shuffled], order[shuffled])
    np.testing.assert_array_equal(found, context(logits, patients, order)[shuffled])


def test_the_fit_is_that_of_scikit_learn_and_pays_where_bleeds_go_through_slices() -> None:
    logits, patients, order, labels = cohort()
    around = context(logits, patients, order)
    head = fit_sequence_head(around, labels)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(around, labels)
    np.testing.assert_allclose(head(around), oracle.predict_proba(around)[:, 1], atol=1e-6)

    train, test = patients < "p20", patients >= "p20"

    def loss(columns: slice) -> float:
        model = LogisticRegression().fit(around[train, columns], labels[train])
        p = model.predict_proba(around[test, columns])[:, 1]
        return float(-np.where(labels[test] == 1, np.log(p), np.log1p(-p)).mean())

    p = fit_sequence_head(around[train], labels[train])(around[test])
    assert -np.where(labels[test] == 1, np.log(p), np.log1p(-p)).mean() < loss(slice(REACH, REACH + 1)) - 0.03


def test_one_class_or_a_number_that_is_not_finite_is_refused() -> None:
    logits, patients, order, labels = cohort()
    around = context(logits, patients, order)
    with pytest.raises(NotEstimableError):
        fit_sequence_head(around, np.zeros_like(labels))
    around[3, 2] = np.nan
    with pytest.raises(NotEstimableError):
        fit_sequence_head(around, labels)


def test_json_there_and_back() -> None:
    head = SequenceHead(tuple(np.linspace(-1, 1, WIDTH)), 0.25)
    assert SequenceHead.from_json(head.to_json()) == head


@pytest.mark.parametrize("value", [{}, {"weights": [1.0], "bias": 0.0}, {"weights": [float("nan")] * WIDTH, "bias": 0.0}, None])
def test_what_is_no_head_is_refused(value: object) -> None:
    with pytest.raises(ReleaseError, match="sequence head"):
        SequenceHead.from_json(value)  # type: ignore[arg-type]


def test_the_ensemble_averages_what_the_head_says_of_each_model() -> None:
    logits, patients, order, _ = cohort()
    both = np.stack([logits, 2 * logits], axis=1)
    head = SequenceHead((0.0,) * REACH + (1.0,) + (0.0,) * (WIDTH - REACH - 1), 0.0)  # the slice's own logit
    rule = {"sequence": head.to_json()}
    expected = (sigmoid(logits) + sigmoid(2 * logits)) / 2
    given = np.full(len(logits), 0.5)
    np.testing.assert_allclose(series_probability(rule, given, both, patients, order), expected)
    np.testing.assert_array_equal(series_probability({"sequence": None}, given, both, patients, order), given)
