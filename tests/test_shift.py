"""How external slices differ: calibration slope against scikit-learn, distances against scipy, intervals and verdicts."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp, wasserstein_distance
from sklearn.linear_model import LogisticRegression

from strokect.calibration import sigmoid
from strokect.calibration_drift import calibration_figures, estimate_where_defined, in_the_large, logit_of, slope
from strokect.shift import External, difference, direction, shift_report, shift_rows, verdict_lines
from strokect.shift_reference import COHORTS, HEAD, cells, chance, chance_at, cumulative, distance, head_levels, per_patient
from strokect.slices import Picture
from strokect.statistics import bootstrap_weights


def drawn(n: int = 400, patients: int = 40, intercept: float = -0.7, steep: float = 0.6, seed: int = 0):
    """Labels whose log odds are intercept + steep · logit."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 2, n)
    labels = (rng.random(n) < sigmoid(intercept + steep * logit)).astype(np.int64)
    return labels, logit, np.repeat(np.arange(patients), n // patients).astype(str)


def test_slope_is_that_of_an_unpenalised_logistic_regression() -> None:
    labels, logit, _ = drawn()
    weights = np.random.default_rng(1).integers(0, 4, (5, len(labels))).astype(float)
    expected = [
        LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], labels, sample_weight=w).coef_[0, 0]
        for w in weights
    ]
    assert slope(labels, logit, weights) == pytest.approx(expected, rel=1e-4)


def test_in_the_large_makes_the_mean_probability_the_share_of_positives() -> None:
    labels, logit, _ = drawn()
    weights = np.random.default_rng(1).integers(0, 4, (5, len(labels))).astype(float)
    shifts = in_the_large(labels, logit, weights)
    for shift, w in zip(shifts, weights, strict=True):
        assert np.average(sigmoid(logit + shift), weights=w) == pytest.approx(np.average(labels, weights=w), abs=1e-8)


def test_good_probabilities_are_not_accused_and_bad_ones_are() -> None:
    labels, logit, patients = drawn(4000, 200, intercept=0.0, steep=1.0)
    counts, index = bootstrap_weights(patients, 300, 0)
    good = calibration_figures(labels, sigmoid(logit), counts, index)
    assert good["slope"]["ci95"][0] < 1 < good["slope"]["ci95"][1] and good["in_the_large"]["ci95"][0] < 0
    bad = calibration_figures(labels, sigmoid(2 * logit + 1), counts, index)
    assert bad["slope"]["value"] == pytest.approx(0.5, abs=0.05) and bad["slope"]["ci95"][1] < 1
    assert bad["in_the_large"]["ci95"][1] < 0


def test_separated_classes_one_class_and_constant_scores_have_no_slope() -> None:
    labels, logit = np.repeat([0, 1], 10), np.linspace(-2, 2, 20)
    one = np.ones((1, 20))
    assert np.isnan(slope(labels, logit, one)).all()
    assert np.isnan(slope(np.zeros(20, np.int64), logit, one)).all() and np.isnan(in_the_large(labels * 0, logit, one)).all()
    assert np.isnan(slope(labels, np.full(20, 0.3), one)).all()
    assert np.isfinite(logit_of(np.array([0.0, 1.0]))).all()


def test_there_is_no_interval_where_many_resamples_have_no_value() -> None:
    labels, logit, patients = drawn(20, 4, intercept=0, steep=3.0)
    counts, index = bootstrap_weights(patients, 200, 0)
    figure = estimate_where_defined(lambda w: slope(labels, logit, w), counts, index, patients=20)
    assert figure["ci95"] is None and (figure["value"] is None or np.isfinite(figure["value"]))


def test_distances_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 64, 500), rng.integers(10, 64, 300)
    shares = [np.bincount(x, minlength=64) / len(x) for x in (a, b)]
    found = distance(HEAD, cumulative(shares[0]), cumulative(shares[1]))
    assert found == pytest.approx(wasserstein_distance(4 * a, 4 * b))
    edges = np.unique(np.concatenate([a, b])).astype(float)  # at every value, Kolmogorov–Smirnov is exact
    exact = [cumulative(cells(x.astype(float), edges).sum(axis=0)) for x in (a, b)]
    assert distance("contrast", *exact) == pytest.approx(ks_2samp(a, b).statistic)


def test_a_value_that_could_not_be_measured_is_above_all() -> None:
    assert cells(np.array([np.nan, -5.0, 1.0]), np.array([0.0, 1.0])).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_chance_is_exceeded_by_one_cohort_in_twenty() -> None:
    """Of 400 external cohorts of the same kind, 5 % differ by the rule; more than 9 % or less than 2 % is not chance."""
    rng = np.random.default_rng(0)

    def patients(n: int) -> np.ndarray:
        return rng.multinomial(30, rng.dirichlet(np.full(8, 3.0), n)).astype(float)  # (n, 8): cells of 30 slices each

    development = patients(400)
    limit = chance_at(chance("contrast", development, 0), 20)
    own = cumulative(development.sum(axis=0))
    beyond = np.mean([distance("contrast", cumulative(patients(20).sum(axis=0)), own) > limit for _ in range(400)])
    assert 0.02 <= beyond <= 0.09
    assert np.all(np.diff(chance("contrast", development, 0)) < 0) and len(COHORTS) > 5


def test_grey_levels_of_the_head_only() -> None:
    grey = np.zeros((64, 64), np.uint8)
    grey[16:48, 16:48] = 120
    levels = head_levels(Picture(grey, 0))
    assert levels.sum() == pytest.approx(1) and levels[30] > 0.9  # bin of 120–123; the background is not in it
    assert head_levels(Picture(np.zeros((64, 64), np.uint8), 0)).sum() == 0


def test_sums_by_patient() -> None:
    assert per_patient(np.eye(3), np.array(["b", "a", "b"])).tolist() == [[0, 1, 0], [1, 0, 1]]


def test_difference_and_its_verdict() -> None:
    here, there = {"value": 0.8, "ci95": [0.7, 0.9]}, {"value": 0.5, "ci95": [0.4, 0.55]}
    found = difference(here, there)
    assert found["difference"] == pytest.approx(0.3) and found["verdict"] == "higher"
    assert found["ci95"] == pytest.approx([0.3 - np.hypot(0.1, 0.05), 0.3 + np.hypot(0.1, 0.1)])
    assert difference(there, here)["verdict"] == "lower" and difference(here, here)["verdict"] == "cannot tell"
    assert difference(here, {"value": None, "ci95": None})["verdict"] == "not estimable"
    assert difference(here, None)["difference"] is None and difference(here, there, judge=False)["verdict"] == "not judged"
    assert direction(0.9, 1.1, at=1.0) == "cannot tell" and direction(1.01, 1.1, at=1.0) == "higher"


def test_a_cohort_that_is_mostly_rejected_is_said_to_get_no_answers() -> None:
    verdicts = {"verdict": "cannot tell"}
    shift: dict[str, Any] = {
        "figures": {"slice roc_auc": verdicts, "patient roc_auc": verdicts},
        "calibration": {"in_the_large": verdicts, "slope": verdicts},
        "intensity": None,
        "rates": {"reject": {"external": {"value": 0.996}, **verdicts}, "refer": verdicts},
    }
    assert verdict_lines(shift)[0].startswith("99.6% of these slices are rejected: in use most would get no label")
    shift["rates"]["reject"]["external"]["value"] = 0.02
    assert verdict_lines(shift)[0] == "2.0% of these slices are rejected"


def test_a_measurement_that_is_the_same_in_all_development_slices_is_held_against_what_they_leave_unseen() -> None:
    """40 patients of whom none has a feature leave up to 1 − 0.025^(1/40) = 8.8 % of patients who do: 4 % more is no finding."""
    n, labels = 100, np.arange(100) % 2
    patients = np.repeat([f"p{i:02d}" for i in range(50)], 2)
    heads = np.full((n, 64), 1 / 64)
    pixels = {"never": np.zeros(n), "seldom": (np.arange(n) < 4).astype(float), "often": (np.arange(n) < 30).astype(float)}
    alike = {"edges": [0.0], "cumulative": [1.0, 1.0], "chance": [0.0] * len(COHORTS)}
    described = dict.fromkeys(pixels, alike)
    described[HEAD] = {"cumulative": (np.arange(1, 65) / 64).tolist(), "chance": [0.5] * len(COHORTS)}
    known = {"n_patients": 40, "described": described, "rejected_by_reason": {}, "referred": None, "calibration": {}}
    found = External(labels, patients, np.full(n, 0.5), np.full(n, "normal"), [[]] * n, pixels, heads)
    figures = {level: dict.fromkeys(("roc_auc", "sensitivity", "specificity", "brier")) for level in ("slice", "patient")}
    figures["slice"]["ece"] = {"value": 0.1, "ci95": None}
    shift = shift_report(found, figures, {"part": "oof"}, {"reference": known}, resamples=50, seed=0)
    verdicts = {name: shift["intensity"][name]["verdict"] for name in pixels}
    assert verdicts == {"never": "cannot tell", "seldom": "cannot tell", "often": "differs"}
    assert shift["intensity"]["seldom"]["chance"] == pytest.approx(1 - 0.025 ** (1 / 40))
    rows = {row[0]: row for row in shift_rows(shift)}
    assert "distance of seldom" in rows and "distance of never" not in rows
    assert not any("≤ 0.000" in cell for row in rows.values() for cell in row)
