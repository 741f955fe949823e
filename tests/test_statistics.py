"""Every figure against scikit-learn, weighted and unweighted, and the bootstrap against what clustering must do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logit
from scipy.stats import binomtest, t
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from strokect.edges import all_or_none, f2_of_shares, interval, least_precision, wilson
from strokect.errors import NotEstimableError
from strokect.figures import summarise
from strokect.statistics import (
    average_precision,
    bootstrap_weights,
    brier,
    ece,
    estimate_auc,
    estimate_precision,
    estimate_share,
    log_loss,
    predictive_values,
    roc_auc,
)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = draw(st.integers(4, 60))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    labels[:2] = [0, 1]
    score = np.array(draw(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 1.0]), min_size=n, max_size=n)))  # many ties
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), float)
    weights[:2] = 1
    return labels, score, weights


@settings(deadline=None)
@given(scored())
def test_auc_ap_brier_equal_scikit_learn_with_weights(case: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    labels, score, weights = case
    both = np.stack([weights, np.ones_like(weights)])
    for w, got_auc, got_ap, got_brier in zip(
        both, roc_auc(labels, score, both), average_precision(labels, score, both), brier(labels, score, both), strict=True
    ):
        assert got_auc == pytest.approx(oracle.roc_auc_score(labels, score, sample_weight=w))
        assert got_ap == pytest.approx(oracle.average_precision_score(labels, score, sample_weight=w))
        assert got_brier == pytest.approx(oracle.brier_score_loss(labels, score, sample_weight=w))


def test_ece_of_a_worked_case() -> None:
    # Ten bins of ten equal scores; in each the observed share is the score minus 0.1, so every gap is 0.1.
    score = np.repeat(np.linspace(0.1, 1.0, 10), 10)
    labels = np.concatenate([np.r_[np.ones(k), np.zeros(10 - k)] for k in range(10)]).astype(int)
    assert ece(labels, score, np.ones((1, 100)))[0] == pytest.approx(0.1)
    assert ece(labels, score - 0.1, np.ones((1, 100)))[0] == pytest.approx(0.0)


def test_summary_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    score = np.clip(0.5 * labels + rng.uniform(0, 0.7, 300), 0, 1)
    decisions = (score >= 0.6).astype(int)
    got = summarise(
        labels, score, score, decisions, np.repeat(np.arange(30), 10), threshold=0.6, prevalence=(0.05,), resamples=200, seed=0
    )
    assert got["f2"]["value"] == pytest.approx(oracle.fbeta_score(labels, decisions, beta=2))
    assert got["sensitivity"]["value"] == pytest.approx(oracle.recall_score(labels, decisions))
    assert got["specificity"]["value"] == pytest.approx(oracle.recall_score(1 - labels, 1 - decisions))
    assert got["accuracy"]["value"] == pytest.approx(oracle.accuracy_score(labels, decisions))
    tn, fp, fn, tp = oracle.confusion_matrix(labels, decisions).ravel()
    assert got["confusion_matrix"] == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    precision, recall, f1, support = oracle.precision_recall_fscore_support(labels, decisions)
    for i, name in enumerate(("normal", "stroke")):
        assert got["per_class"][name] == pytest.approx(
            {"precision": precision[i], "recall": recall[i], "f1": f1[i], "support": support[i]}
        )
    for name in ("roc_auc", "average_precision", "f2", "ece", "brier"):
        low, high = got[name]["ci95"]
        assert low <= high
        assert name == "ece" or low <= got[name]["value"] <= high  # resampling adds to a calibration error


def test_patients_are_drawn_whole_and_clustering_widens_the_interval() -> None:
    patients = np.repeat(np.arange(20), 15)
    counts, index = bootstrap_weights(patients, 500, 0)
    assert (counts.sum(axis=1) == 20).all()
    assert (index == patients).all()
    # All slices of a patient are right or wrong together: 20 independent facts, not 300.
    labels = np.ones(300, int)
    labels[0] = 0
    decisions = np.repeat(np.random.default_rng(1).integers(0, 2, 20), 15)
    widths = []
    for clusters in (patients, np.arange(300)):
        got = summarise(
            labels,
            decisions.astype(float),
            decisions.astype(float),
            decisions,
            clusters,
            threshold=0.5,
            prevalence=(),
            resamples=1000,
            seed=0,
        )
        low, high = got["sensitivity"]["ci95"]
        widths.append(high - low)
    assert widths[0] > 2.5 * widths[1]


def test_undefined_figures_are_null_and_nan_is_refused() -> None:
    arguments = {"threshold": 0.5, "prevalence": (), "resamples": 100, "seed": 0}
    got = summarise(np.zeros(6, int), np.linspace(0, 1, 6), np.linspace(0, 1, 6), np.zeros(6, int), np.arange(6), **arguments)
    assert got["roc_auc"] == {"value": None, "ci95": None}
    assert got["sensitivity"] == {"value": None, "ci95": None}
    assert got["specificity"]["value"] == 1.0
    with pytest.raises(NotEstimableError):
        summarise(np.array([0, 1]), np.array([0.1, np.nan]), np.array([0.1, 0.2]), np.array([0, 1]), np.arange(2), **arguments)


def test_constant_scores_rank_nothing_and_one_patient_has_no_interval() -> None:
    arguments = {"threshold": 0.5, "prevalence": (0.1,), "resamples": 100, "seed": 0}
    labels, half = np.array([0, 1, 0, 1]), np.full(4, 0.5)
    got = summarise(labels, half, half, np.ones(4, int), np.arange(4), **arguments)
    assert got["roc_auc"]["value"] is None and got["average_precision"]["value"] is None
    assert got["roc_auc_analytic"]["value"] is None
    assert got["at_prevalence"][0]["npv"]["value"] is None  # nothing is called negative
    with pytest.raises(NotEstimableError, match="at least two"):
        summarise(labels, half, half, np.ones(4, int), np.zeros(4), **arguments)


def test_predictive_values_are_bayes_rule() -> None:
    """0.98 and 0.93 at 5 %: a PPV of only 42 %."""
    ppv, npv = predictive_values(np.array([0.98]), np.array([0.93]), 0.05)
    assert ppv[0] == pytest.approx(0.42, abs=0.005) and npv[0] == pytest.approx(0.9989, abs=5e-5)
    # At the share of positives in the sample they are the shares of right calls.
    rng = np.random.default_rng(0)
    labels, decisions = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    score = decisions.astype(float)
    share = float(labels.mean())
    got = summarise(labels, score, score, decisions, np.arange(400), threshold=0.5, prevalence=(share,), resamples=50, seed=0)
    (entry,) = got["at_prevalence"]
    assert entry["ppv"]["value"] == pytest.approx(oracle.precision_score(labels, decisions))
    assert entry["npv"]["value"] == pytest.approx(oracle.precision_score(1 - labels, 1 - decisions))


def test_log_loss_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels, score, weights = rng.integers(0, 2, 50), rng.uniform(0.01, 0.99, 50), rng.integers(0, 3, 50).astype(float)
    assert log_loss(labels, score, weights[None])[0] == pytest.approx(oracle.log_loss(labels, score, sample_weight=weights))


@pytest.mark.parametrize("trials", [1, 6, 35])
def test_all_or_none_is_scipys_exact_interval(trials: int) -> None:
    for successes in (0, trials):
        exact = binomtest(successes, trials).proportion_ci(0.95, method="exact")
        assert all_or_none(successes == trials, trials) == pytest.approx((exact.low, exact.high))


def test_six_of_six_is_not_certain() -> None:
    """Patients are the trials, however many slices they have; the values at a prevalence follow."""
    labels = np.repeat([1, 0], 30)
    decisions = labels.copy()
    decisions[-3:] = 1
    patients = np.repeat(np.arange(12), 5)
    score = decisions.astype(float)
    got = summarise(labels, score, score, decisions, patients, threshold=0.5, prevalence=(0.1,), resamples=200, seed=0)
    assert got["sensitivity"] == {"value": 1.0, "ci95": [pytest.approx(0.5407, abs=1e-4), 1.0]}
    npv = got["at_prevalence"][0]["npv"]
    assert npv["value"] == 1.0 and npv["ci95"] == [pytest.approx(0.9 * 0.9 / (0.9 * 0.9 + 0.1 * (1 - 0.5407)), abs=1e-4), 1.0]
    none = estimate_share(np.zeros(60), labels, *bootstrap_weights(patients, 50, 0))
    assert none["value"] == 0.0 and none["ci95"] == [0.0, pytest.approx(1 - 0.5407, abs=1e-4)]


def test_ece_is_that_of_scikit_learns_quantile_bins() -> None:
    rng = np.random.default_rng(0)
    score = rng.beta(1, 3, 504)  # no score lies on an edge
    labels = (rng.random(504) < score**1.5).astype(int)
    share, mean = calibration_curve(labels, score, n_bins=10, strategy="quantile")
    n = np.histogram(score, np.quantile(score, np.linspace(0, 1, 11)))[0]
    assert ece(labels, score, np.ones((1, 504)))[0] == pytest.approx((n * np.abs(share - mean)).sum() / 504)


def test_a_perfect_order_is_not_certain_either() -> None:
    """Six positive and six negative patients are six independent pairs: six successes of six, whatever the resamples say."""
    labels = np.repeat([1, 0], 30)
    patients, score = np.repeat(np.arange(12), 5), np.linspace(1, 0, 60)
    arguments = {"threshold": 0.5, "prevalence": (), "resamples": 200, "seed": 0}
    got = summarise(labels, score, score, labels, patients, **arguments)
    low = pytest.approx(0.5407, abs=1e-4)
    assert got["roc_auc"] == {"value": 1.0, "ci95": [low, 1.0]}
    wrong_way_round = estimate_auc(labels, -score, *bootstrap_weights(patients, 200, 0))
    assert wrong_way_round == {"value": 0.0, "ci95": [0.0, pytest.approx(1 - 0.5407, abs=1e-4)]}
    assert got["average_precision"]["ci95"] == [pytest.approx(least_precision(0.5407, 0.5), abs=1e-4), 1.0]
    assert got["f2"]["ci95"] == [pytest.approx(f2_of_shares(0.5407, 0.5407, 0.5), abs=1e-4), 1.0]
    # Patients who give both kinds of slices make half as many pairs that share nobody.
    mixed = estimate_auc(np.tile([1, 0], 12), np.tile([1.0, 0.0], 12), *bootstrap_weights(np.repeat(np.arange(12), 2), 200, 0))
    assert mixed["ci95"] == [low, 1.0]


def test_none_of_six_is_not_certain_either() -> None:
    labels, patients = np.repeat([1, 0], 6), np.arange(12)
    decisions = np.r_[np.zeros(6), 1, np.zeros(5)].astype(int)  # every hit missed, one false alarm
    score = decisions.astype(float)
    got = summarise(labels, score, score, decisions, patients, threshold=0.5, prevalence=(0.5,), resamples=200, seed=0)
    high = 1 - 0.5407
    assert got["sensitivity"] == {"value": 0.0, "ci95": [0.0, pytest.approx(high, abs=1e-4)]}
    assert got["f2"]["value"] == 0.0 and got["f2"]["ci95"][0] == 0.0 < high * 0.8 < got["f2"]["ci95"][1] < 0.6
    ppv = got["at_prevalence"][0]["ppv"]
    assert ppv == {"value": 0.0, "ci95": [0.0, pytest.approx(high / (high + 1 / 6), abs=1e-4)]}


def test_f2_of_two_shares_is_that_of_their_counts() -> None:
    labels = np.repeat([1, 0], [50, 200])
    decisions = np.r_[np.ones(40), np.zeros(10), np.ones(20), np.zeros(180)].astype(int)
    assert f2_of_shares(0.8, 0.9, 0.2) == pytest.approx(oracle.fbeta_score(labels, decisions, beta=2))


@settings(deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 30), st.integers(1, 60), st.floats(-2, 6))
def test_no_order_with_that_auc_has_a_lower_average_precision(seed: int, positives: int, negatives: int, shift: float) -> None:
    labels = np.repeat([1, 0], [positives, negatives])
    score = np.random.default_rng(seed).standard_t(1, positives + negatives) + shift * labels  # heavy tails: odd curves, too
    area, precision = oracle.roc_auc_score(labels, score), oracle.average_precision_score(labels, score)
    assert precision >= least_precision(area, float(labels.mean())) - 1e-9


@pytest.mark.parametrize("area", [0.5, 0.8, 0.97, 0.999])
def test_the_least_average_precision_is_reached(area: float) -> None:
    """Minimised on a grid of recalls by scipy: the closed form is no loose bound."""
    share, recall = 0.3, (np.arange(400) + 0.5) / 400

    def precision(rate: np.ndarray) -> float:
        return float((recall * share / (recall * share + (1 - share) * rate)).mean())

    found = minimize(
        precision,
        np.full(400, 1 - area),
        bounds=[(0, None)] * 400,
        constraints={"type": "eq", "fun": lambda rate: rate.mean() - (1 - area)},
        method="SLSQP",
    )
    assert least_precision(area, share) == pytest.approx(found.fun, abs=0.01)


@pytest.mark.parametrize("figure", ["roc_auc", "average_precision"])
def test_a_score_that_is_nan_is_not_ranked(figure: str) -> None:
    labels, ranking = np.array([0, 1, 0, 1]), np.array([0.1, 0.2, np.nan, 0.9])
    given = {"roc_auc": estimate_auc, "average_precision": estimate_precision}[figure]
    with pytest.raises(NotEstimableError, match="1 of 4 scores are NaN"):
        given(labels, ranking, *bootstrap_weights(np.arange(4), 20, 0))
    constant = given(labels, np.ones(4), *bootstrap_weights(np.arange(4), 20, 0))
    assert constant == {"value": None, "ci95": None}


@pytest.mark.parametrize(("successes", "trials"), [(0, 6), (3, 10), (27, 30), (30, 30)])
def test_wilsons_interval_is_scipys(successes: int, trials: int) -> None:
    found = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((found.low, found.high), abs=1e-12)


def test_patients_have_analytic_shares_and_slices_which_are_not_independent_have_none() -> None:
    labels, decisions = np.tile([0, 1], 15), np.tile([0, 1, 1], 10)
    arguments = {"threshold": 0.5, "prevalence": (), "resamples": 50, "seed": 0}
    given = (labels, decisions / 2, decisions / 2, decisions)
    whole = summarise(*given, np.arange(30), **arguments)
    assert whole["sensitivity_analytic"]["ci95"] == pytest.approx(list(wilson(int((labels * decisions).sum()), 15)))
    assert whole["sensitivity_analytic"]["value"] == whole["sensitivity"]["value"]
    assert not any(name.endswith("_analytic") for name in summarise(*given, np.arange(30) // 2, **arguments) if name[:3] != "roc")
    none = summarise(np.zeros(30, int), *given[1:], np.arange(30), **arguments)
    assert none["sensitivity_analytic"] == {"value": None, "ci95": None, "method": "Wilson"}


def test_intervals_on_each_scale_by_hand() -> None:
    drawn = np.array([0.6, 0.7, 0.8, 0.9])
    half = t.ppf(0.975, 4) * drawn.std(ddof=1)
    low, high = interval(0.8, drawn, 5, "share")
    assert logit(high) - logit(0.8) == pytest.approx(half / (0.8 * 0.2)) == pytest.approx(logit(0.8) - logit(low))
    assert interval(0.8, drawn, 5, "linear") == pytest.approx([0.8 - half, 0.8 + half])
    assert interval(2.0, drawn, 5, "positive") == pytest.approx([2 * np.exp(-half / 2), 2 * np.exp(half / 2)])
    # What resampling adds is taken off: the highest resample gives the lowest end, and no error is below 0.
    assert interval(0.1, np.linspace(0.12, 0.32, 201), 5, "reflected") == pytest.approx([0.0, 0.1])
    assert interval(0.3, np.linspace(0.2, 0.5, 301), 5, "reflected") == pytest.approx([0.6 - 0.4925, 0.6 - 0.2075])


@pytest.mark.parametrize("scale", ["share", "positive", "linear", "reflected"])
def test_there_is_no_interval_of_one_patient_nor_of_resamples_that_agree_or_are_undefined(scale: str) -> None:
    drawn = np.linspace(0.4, 0.6, 50)
    assert interval(0.5, drawn, 2, scale) is not None and interval(0.5, drawn, 1, scale) is None
    assert interval(0.5, np.full(50, 0.5), 9, scale) is None and interval(0.5, np.full(50, np.nan), 9, scale) is None


def test_the_reported_interval_of_few_patients_near_one_covers_where_percentiles_do_not() -> None:
    """Sensitivity 0.864 of 30 positive patients, 400 cohorts: 92 to 98 % are asked."""
    rng, hits, narrow = np.random.default_rng(0), 0, 0
    for seed in range(400):
        right = (rng.random(30) < 0.864).astype(int)
        counts, index = bootstrap_weights(np.arange(30), 200, seed)
        low, high = estimate_share(right, np.ones(30, int), counts, index)["ci95"]
        hits += low <= 0.864 <= high
        low, high = np.percentile(counts @ right / 30, [2.5, 97.5])
        narrow += low <= 0.864 <= high
    assert 0.92 <= hits / 400 <= 0.98 and narrow / 400 < 0.92


def test_figures_before_calibration_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, raw = rng.integers(0, 2, 200), rng.random(200)
    given = (labels, np.full(200, 0.5) + 0.1 * raw, raw, (raw > 0.5).astype(int), np.arange(200) // 5)
    arguments = {"threshold": 0.5, "prevalence": (), "resamples": 100, "seed": 0}
    found = summarise(*given, uncalibrated=raw, **arguments)
    before = found["before_calibration"]
    assert before["brier"]["value"] == pytest.approx(oracle.brier_score_loss(labels, raw)) != found["brier"]["value"]
    assert before["log_loss"]["value"] == pytest.approx(oracle.log_loss(labels, raw))
    assert before["ece"]["value"] == pytest.approx(ece(labels, raw, np.ones((1, 200)))[0])
    assert all(figure["ci95"][0] < figure["value"] <= figure["ci95"][1] for figure in before.values())
    assert summarise(*given, **arguments)["before_calibration"] is None
    with pytest.raises(NotEstimableError, match="before calibration"):
        summarise(*given, uncalibrated=np.where(np.arange(200) == 3, np.nan, raw), **arguments)
