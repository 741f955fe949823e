"""Goals and thresholds: against brute force, Clopper–Pearson's table, and MAPIE."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import BinaryClassificationController
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from scipy.stats import binomtest, norm
from sklearn.metrics import fbeta_score, recall_score, roc_curve

from strokect.errors import NotEstimableError, ParamsError
from strokect.guarantee import allowed_misses, guaranteed_threshold, guarantees, needed_positives, no_promise, sensitivity_bound
from strokect.thresholds import Goal, choose_threshold, parse_goal

F2 = Goal("f2")


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.sampled_from([3, 1000]))
def test_f2_threshold_is_the_best_of_all(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, n)]
    p = rng.integers(0, levels, n + 2) / levels
    best = max(fbeta_score(labels, p >= t, beta=2) for t in np.unique(p))
    assert fbeta_score(labels, p >= choose_threshold(p, labels, F2), beta=2) == pytest.approx(best)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_sensitivity_goal_takes_the_largest_threshold_that_keeps_it(seed: int, n: int, target: float) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, n)]
    p = rng.integers(0, 8, n + 2) / 8
    t = choose_threshold(p, labels, Goal("sensitivity", target))
    assert recall_score(labels, p >= t) >= target
    higher = [u for u in np.unique(p) if u > t and recall_score(labels, p >= u) >= target]
    assert all((p >= u).sum() == (p >= t).sum() for u in higher)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.sampled_from([3, 1000]))
def test_youden_is_the_best_point_of_scikit_learns_roc_curve(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, n)]
    p = rng.integers(0, levels, n + 2) / levels
    fpr, tpr, _ = roc_curve(labels, p, drop_intermediate=False)
    called = p >= choose_threshold(p, labels, Goal("youden"))
    # Without the point at infinity, where nobody is called: it is no threshold of ours.
    assert recall_score(labels, called) - called[labels == 0].mean() == pytest.approx(max((tpr - fpr)[1:]))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.sampled_from([(1.0, 1.0), (10.0, 1.0), (1.0, 7.0)]))
def test_cost_threshold_is_the_cheapest_of_all(seed: int, n: int, costs: tuple[float, float]) -> None:
    rng = np.random.default_rng(seed)
    labels = np.r_[0, 1, rng.integers(0, 2, n)]
    p = rng.integers(0, 8, n + 2) / 8
    missed, alarm = costs

    def cost(t: float) -> float:
        return float(missed * ((p < t) & (labels == 1)).sum() + alarm * ((p >= t) & (labels == 0)).sum())

    chosen = choose_threshold(p, labels, Goal("cost", missed=missed, alarm=alarm))
    assert cost(chosen) == pytest.approx(min(cost(t) for t in (*np.unique(p), 1.0)))  # at 1 nobody is called: no p reaches it


def test_calling_nobody_is_a_threshold_only_where_it_is_cheaper() -> None:
    p, labels = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0, 1, 0, 0])
    assert choose_threshold(p, labels, Goal("cost", missed=1, alarm=1)) == pytest.approx(0.9)  # one miss against two alarms
    assert choose_threshold(p, labels, Goal("cost", missed=2, alarm=1)) == pytest.approx(0.3)  # as dear: somebody is called


def test_goals_are_parsed_or_refused() -> None:
    assert parse_goal("f2") == F2 and parse_goal(" youden ") == Goal("youden")
    assert parse_goal("sensitivity >= 0.95") == Goal("sensitivity", 0.95)
    assert parse_goal("cost fn=10 fp=0.5") == Goal("cost", missed=10, alarm=0.5)
    guaranteed = parse_goal("guaranteed sensitivity >= 0.9 confidence 0.95")
    assert guaranteed == Goal("guaranteed", 0.9, 0.95) and guaranteed.of_slices() == Goal("sensitivity", 0.9)
    refused = ("f1", "sensitivity >= 2", "sensitivity > 0.9", "", "cost fn=0 fp=1", "cost fn=1", "sensitivity >= .0")
    for bad in (*refused, "guaranteed sensitivity >= 1 confidence 0.95", "guaranteed sensitivity >= 0.9"):
        with pytest.raises(ParamsError, match="allowed: f2"):
            parse_goal(bad)


def test_one_class_or_nan_is_not_estimable() -> None:
    for goal in (F2, Goal("youden"), Goal("cost", missed=1, alarm=1), Goal("guaranteed", 0.5, 0.5)):
        with pytest.raises(NotEstimableError):
            choose_threshold(np.array([0.1, 0.9]), np.array([1, 1]), goal)
        with pytest.raises(NotEstimableError):
            choose_threshold(np.array([0.1, np.nan]), np.array([0, 1]), goal)


@pytest.mark.parametrize(("n", "misses", "bound"), [(28, 0, 0.899), (35, 0, 0.918)])
def test_bounds_of_the_protocol(n: int, misses: int, bound: float) -> None:
    assert sensitivity_bound(n, misses, 0.95) == pytest.approx(bound, abs=5e-4)


@settings(deadline=None)
@given(st.integers(1, 300), st.data())
def test_the_bound_is_that_of_scipys_exact_interval(n: int, data: st.DataObject) -> None:
    misses = data.draw(st.integers(0, n))
    exact = binomtest(n - misses, n, alternative="greater").proportion_ci(0.95, method="exact").low
    assert sensitivity_bound(n, misses, 0.95) == pytest.approx(exact, abs=1e-9)


def test_allowed_misses_are_those_whose_bound_holds() -> None:
    assert [allowed_misses(n, 0.95, 0.95) for n in (58, 59, 92, 93)] == [None, 0, 0, 1]
    assert needed_positives(0.95, 0.95) == 59 and needed_positives(0.5, 0.5) == 1
    for n in range(1, 150):
        holding = [m for m in range(n + 1) if sensitivity_bound(n, m, 0.9) >= 0.85]
        assert allowed_misses(n, 0.85, 0.9) == (max(holding) if holding else None)


def test_too_few_patients_is_said_with_the_number_that_would_do() -> None:
    scores, labels = np.linspace(0, 1, 60), np.arange(60) % 2
    with pytest.raises(NotEstimableError, match=r"not available: it needs at least 59 positive patients .* here are 30"):
        choose_threshold(scores, labels, Goal("guaranteed", 0.95, 0.95))
    table = {entry["sensitivity"]: entry for entry in guarantees(scores, labels)}
    assert table[0.95]["needs_positive_patients"] == 59 and "threshold" not in table[0.95]
    assert table[0.8]["available"] and recall_score(labels, scores >= table[0.8]["threshold"]) >= 0.8


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_mapies_but_for_its_looser_test(seed: int) -> None:
    """MAPIE tests by Hoeffding–Bentkus, which is valid for any bounded risk, so it allows fewer misses than the exact test.

    On a grid of all scores it must find the order statistic that its own p-value allows, and never more than ours.
    """
    rng = np.random.default_rng(seed)
    labels = np.r_[np.ones(120, int), np.zeros(80, int)]
    scores = np.round(rng.beta(np.where(labels == 1, 4, 2), np.where(labels == 1, 2, 4)), 4)
    controller = BinaryClassificationController(
        lambda x: np.column_stack([1 - x[:, 0], x[:, 0]]),
        "recall",
        target_level=0.9,
        confidence_level=0.95,
        list_predict_params=np.unique(scores),
        fwer_method="fixed_sequence",
    )
    controller.calibrate(scores[:, None], labels)
    theirs = float(np.max(controller.valid_predict_params))
    positives = np.sort(scores[labels == 1])
    p_values = [compute_hoeffding_bentkus_p_value(np.array([m / 120]), 120, 0.1).item() for m in range(13)]
    assert theirs == positives[max(m for m, p in enumerate(p_values) if p <= 0.05)]
    ours = guaranteed_threshold(scores, labels, 0.9, 0.95)
    assert theirs <= ours and (positives < ours).sum() == allowed_misses(120, 0.9, 0.95) >= (positives < theirs).sum()


def test_the_promise_holds_in_simulation() -> None:
    """2,000 cohorts: the sensitivity on the whole population is below the target in at most 1 − confidence of them."""
    rng = np.random.default_rng(1)
    broken = 0
    for _ in range(2000):
        scores = np.r_[rng.normal(1, 1, 70), rng.normal(-1, 1, 70)]
        threshold = guaranteed_threshold(scores, np.repeat([1, 0], 70), 0.9, 0.9)
        broken += norm.sf(threshold - 1) < 0.9
    assert broken / 2000 <= 0.1 + 2.33 * np.sqrt(0.1 * 0.9 / 2000)  # one-sided 1 % of Monte Carlo error


def test_a_part_that_only_judges_others_takes_the_most_cautious_threshold_where_it_is_too_small() -> None:
    scores, labels = np.linspace(0.1, 1, 100), np.arange(100) % 2  # 50 positives: 59 would do
    with pytest.raises(NotEstimableError):
        guaranteed_threshold(scores, labels, 0.95, 0.95)
    cautious = guaranteed_threshold(scores, labels, 0.95, 0.95, judging=True)
    assert scores[labels == 1].min() >= cautious > scores[0]
    # Where the part is large enough it is the rule itself.
    assert guaranteed_threshold(scores, labels, 0.8, 0.95, judging=True) == guaranteed_threshold(scores, labels, 0.8, 0.95)
    with pytest.raises(NotEstimableError):
        guaranteed_threshold(scores, np.zeros(100, int), 0.95, 0.95, judging=True)


def test_scores_that_are_not_finite_carry_no_promise() -> None:
    scores = np.r_[np.nan, np.linspace(0, 1, 79)]
    for bad in (scores, np.where(np.isnan(scores), np.inf, scores)):
        with pytest.raises(NotEstimableError, match="1 of 80 are not"):
            guarantees(bad, np.arange(80) % 2)


@pytest.mark.parametrize(
    ("changes", "group_by", "reason"),
    [
        ({"labels": "shuffled"}, "patient", "permuted"),
        ({}, "none", "in several parts"),
        ({"patient_level_verifiable": False}, "patient", "name no patients"),
    ],
)
def test_a_run_that_says_nothing_about_new_patients_promises_nothing(changes: dict, group_by: str, reason: str) -> None:
    cohort = {"labels": "slice", "patient_level_verifiable": True}
    assert no_promise(cohort, "patient") is None
    why = no_promise(cohort | changes, group_by)
    assert why is not None and reason in why
    table = guarantees(np.linspace(0, 1, 200), np.arange(200) % 2, why)
    assert all(entry["available"] is False and entry["reason"] == why and "threshold" not in entry for entry in table)
