"""Calibrators: fitted against known distortions, applied without scipy, cross-fitted without touching a held-out label."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from strokect.calibration import Calibrator, sigmoid
from strokect.calibration_fit import choose_method, cross_fit, fit_calibrator, log_loss, patient_groups
from strokect.errors import NotEstimableError, ReleaseError


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits that are twice too sharp and 1.5 too high, labels, patients."""
    rng = np.random.default_rng(0)
    true = rng.normal(-1, 1.5, 4000)
    labels = (rng.uniform(size=4000) < sigmoid(true)).astype(np.int64)
    return 2 * true + 1.5, labels, np.array([f"p{i // 10}" for i in range(4000)])


def test_affine_undoes_a_scale_and_a_prior_shift(sample: tuple[np.ndarray, ...]) -> None:
    logits, labels, _ = sample
    got = fit_calibrator("affine", logits, labels)
    assert got.scale == pytest.approx(0.5, rel=0.1)
    assert got.shift == pytest.approx(-0.75, abs=0.12)
    oracle = LogisticRegression(C=1e9).fit(logits[:, None], labels)
    np.testing.assert_allclose(got(logits), oracle.predict_proba(logits[:, None])[:, 1], atol=1e-3)


def test_temperature_cannot_shift(sample: tuple[np.ndarray, ...]) -> None:
    logits, labels, _ = sample
    got = fit_calibrator("temperature", logits, labels)
    assert got.shift == 0
    assert log_loss(got(logits), labels) > log_loss(fit_calibrator("affine", logits, labels)(logits), labels) + 0.02


def test_isotonic_applied_by_numpy_equals_scikit_learn(sample: tuple[np.ndarray, ...]) -> None:
    logits, labels, _ = sample
    oracle = IsotonicRegression(y_min=1e-3, y_max=1 - 1e-3, out_of_bounds="clip").fit(logits, labels)
    z = np.linspace(-20, 20, 500)
    np.testing.assert_allclose(fit_calibrator("isotonic", logits, labels)(z), oracle.predict(z), atol=1e-9)


def test_order_is_never_turned_round() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 200)
    got = fit_calibrator("affine", rng.normal(size=200) - 2.0 * labels, labels)  # scores worse than chance
    assert got.scale > 0


def test_choice_is_by_cross_fitted_log_loss(sample: tuple[np.ndarray, ...]) -> None:
    logits, labels, patients = sample
    method, losses = choose_method(logits, labels, patient_groups(patients, labels, 5, 0))
    assert method in ("affine", "isotonic")
    assert losses[method] == min(losses.values()) < losses["none"]


def test_cross_fitting_never_uses_a_held_out_label(sample: tuple[np.ndarray, ...]) -> None:
    logits, labels, patients = sample
    groups = patient_groups(patients, labels, 5, 0)
    assert all(len(set(groups[patients == patient])) == 1 for patient in ("p0", "p17"))
    for method in ("temperature", "affine", "isotonic"):
        flipped = labels.copy()
        flipped[groups == 2] = 1 - flipped[groups == 2]
        before, after = cross_fit(method, logits, labels, groups), cross_fit(method, logits, flipped, groups)
        np.testing.assert_array_equal(before[groups == 2], after[groups == 2])
        assert not np.array_equal(before[groups == 1], after[groups == 1])


@pytest.mark.parametrize("method", ["none", "temperature", "affine", "isotonic"])
def test_json_round_trip_and_nan(sample: tuple[np.ndarray, ...], method: str) -> None:
    logits, labels, _ = sample
    got = fit_calibrator(method, logits, labels)
    again = Calibrator.from_json(got.to_json())
    np.testing.assert_array_equal(got(logits), again(logits))
    assert np.isnan(again(np.array([np.nan]))).all()
    assert ((again(np.array([-1e9, 1e9])) >= 0) & (again(np.array([-1e9, 1e9])) <= 1)).all()


def test_malformed_json_is_refused() -> None:
    good = Calibrator("affine", 1.0, 0.0).to_json()
    for bad in ({}, {**good, "method": "magic"}, {**good, "scale": float("inf")}, {**good, "knots": 3}):
        with pytest.raises(ReleaseError):
            Calibrator.from_json(bad)


def test_one_class_is_not_estimable() -> None:
    with pytest.raises(NotEstimableError):
        fit_calibrator("affine", np.zeros(5), np.zeros(5, np.int64))
    with pytest.raises(NotEstimableError):
        patient_groups(np.array(["a", "b"]), np.array([0, 1]), 5, 0)
