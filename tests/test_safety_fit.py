"""Fitting the safety layer: the joint false-reject rate, the refer band, and what is said about them."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from strokect import safety_cross_fit
from strokect.abstention import account, combine
from strokect.calibration import Calibrator
from strokect.errors import NotEstimableError, SafetyError
from strokect.out_of_fold import OutOfFold, SliceRule, slice_rule, tune
from strokect.params import TuneThresholdParams
from strokect.pixel_checks import CHECKS
from strokect.pointing_game import pointing_game
from strokect.safety_cross_fit import HeldOut, cross_fitted, held_out_uncertainties, hold_out
from strokect.safety_fit import (
    GateLimits,
    ReferGoal,
    Scored,
    fit_gate,
    limit_above,
    on_common_scale,
    refer_limit,
    series_share,
    uncertainties,
)
from strokect.safety_report import category, false_rejects, fpr_at_95_tpr, position_thirds, share
from strokect.selective import aurc, choose_measure, compare_measures, risk_coverage
from strokect.texture import DESCRIPTORS, GUARD, Texture


def make_scored(n: int = 600, seed: int = 0, **changes: np.ndarray) -> Scored:
    """30 patients, a probability that knows something, descriptors inside their guards but for one that varies."""
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{i:02d}" for i in range(30)], n // 30)
    labels = ((rng.random(n) < 0.6) & (np.repeat(np.arange(30), n // 30) % 2 == 0)).astype(np.int64)  # every other patient
    probability = np.clip(0.3 + 0.3 * (labels - 0.3) + rng.normal(0, 0.2, n), 0.001, 0.999)
    pixels = {}
    for name, check in CHECKS.items():
        bounds = [bound for bound in (check.low, check.high) if bound is not None]
        pixels[name] = np.full(n, np.mean(bounds) if len(bounds) == 2 else bounds[0])
    free = next(name for name, check in CHECKS.items() if not check.fixed and check.high is not None)
    high = CHECKS[free].high
    assert high is not None
    pixels[free] = high + np.abs(rng.normal(size=n))  # beyond the guard, so the data set the limit
    for name in DESCRIPTORS:
        pixels[name] = pixels[name] * np.exp(0.01 * rng.normal(size=n))
    texture = Texture.of(pixels).distance(pixels)
    arrays = {
        "gate": rng.normal(size=n),
        "logits": np.log(probability / (1 - probability)),
        "sampled": np.log(probability / (1 - probability))[:, None] + rng.normal(0, 0.3, (n, 6)),
        "probability": probability,
        "decision": (probability >= 0.4).astype(np.int64),
        "labels": labels,
        "patients": patients,
    }
    given = arrays | changes
    fold = np.arange(n) // (n // 30) % 3
    # Each fold on a scale of its own; 3.0 and the like are the location and scale that `gate` was standardised with.
    return Scored(pixels, texture, raw_gate=given["gate"] * (1.0 + fold) + 3.0 * fold, fold=fold, **given)  # type: ignore[arg-type]


SETTINGS = TuneThresholdParams("f2", "mean_top_k", 3, "auto", 100, 0)
RAW = SliceRule(Calibrator("none"), 0.4)


def by_one_rule(scored: Scored, rule: SliceRule = RAW) -> list[HeldOut]:
    """Groups whose rule is the same whatever they hold."""
    return hold_out(scored, lambda *_: rule, 0)


def test_all_layers_share_one_false_reject_rate() -> None:
    scored = make_scored()
    limits = fit_gate(scored, 0.02)
    rejected = limits.rejects(scored)
    assert 0.012 <= rejected.mean() <= 0.02 and rejected[scored.labels == 1].mean() <= 0.02
    assert limits.level < 0.02  # two layers that err on different slices must each be more generous than 2 %
    assert 0 < (scored.gate > limits.gate_threshold).sum() < rejected.sum()


def test_texture_is_a_layer_with_a_guard() -> None:
    scored = make_scored()
    assert fit_gate(scored, 0.02).texture >= GUARD
    odd = replace(scored, texture=scored.texture + 50.0 * (np.arange(600) < 2))
    limits = fit_gate(odd, 0.02)
    assert limits.rejects(odd)[:2].all() and limits.texture < 50
    unmeasured = replace(scored, texture=np.where(np.arange(600) < 2, np.inf, scored.texture))
    limits = fit_gate(unmeasured, 0.02)
    assert limits.rejects(unmeasured)[:2].all() and np.isfinite(limits.texture)


def test_positives_have_a_bound_of_their_own() -> None:
    scored = make_scored()
    strange_bleeds = make_scored(gate=scored.gate + 3.0 * scored.labels)
    rejected = fit_gate(strange_bleeds, 0.02).rejects(strange_bleeds)
    assert rejected[strange_bleeds.labels == 1].mean() <= 0.02


def test_a_score_that_is_not_a_number_is_rejected_and_cannot_be_fitted_on() -> None:
    scored = make_scored()
    limits = fit_gate(scored, 0.02)
    broken = make_scored(gate=np.full(600, np.nan))
    assert limits.rejects(broken).all()
    with pytest.raises(SafetyError, match="not finite"):
        fit_gate(broken, 0.02)


def test_slices_that_fail_a_fixed_check_are_named_as_the_reason() -> None:
    scored = make_scored()
    fixed = next(name for name, check in CHECKS.items() if check.fixed and check.high is not None)
    scored.pixels[fixed][:60] = 1e6
    with pytest.raises(SafetyError, match=r"10\.0% .* pixel check at its widest limit"):
        fit_gate(scored, 0.02)


def test_cross_fitting_keeps_each_patient_out_of_its_own_limits() -> None:
    # One patient is far stranger than all others: fitted with it, the limit could spare it; without it, never.
    scored = make_scored()
    odd = scored.patients == "p07"
    strange = make_scored(gate=np.where(odd, 50.0 + np.arange(600), scored.gate))
    fitted = cross_fitted(strange, by_one_rule(strange), "mc_std", 0.05, ReferGoal(0.1))
    assert fitted.rejected[odd].all() and fitted.series_rejected.tolist() == [f"p{i:02d}" == "p07" for i in range(30)]
    assert not (fitted.rejected & fitted.referred).any() and 0.03 < fitted.referred.mean() < 0.2


def test_cross_fitting_learns_nothing_from_the_patient_it_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """One patient's pixels and gate scores are changed: limits fitted without that patient stay what they were."""

    def limits_without(scored: Scored) -> list[GateLimits]:
        kept: list[GateLimits] = []

        def fit(given: Scored, max_false_reject: float) -> GateLimits:
            limits = fit_gate(given, max_false_reject)
            if "p07" not in given.patients:
                kept.append(limits)
            return limits

        monkeypatch.setattr(safety_cross_fit, "fit_gate", fit)
        cross_fitted(scored, by_one_rule(scored), "mc_std", 0.05, ReferGoal(0.1))
        return kept

    scored, own = make_scored(), make_scored().patients == "p07"
    pixels = {**scored.pixels, "fine_noise": np.where(own, scored.pixels["fine_noise"] * 1.5, scored.pixels["fine_noise"])}
    raw = np.where(own, scored.raw_gate + 2.0, scored.raw_gate)
    (before,), (after,) = limits_without(scored), limits_without(replace(scored, pixels=pixels, raw_gate=raw))
    assert after == before


@pytest.mark.parametrize("refer", [ReferGoal(0.1), ReferGoal(0.1, error_rate=0.2)])
@pytest.mark.parametrize("measure", ["nearness", "mc_std"])
def test_no_label_of_a_patient_reaches_what_the_gate_and_the_refer_band_do_with_that_patient(
    measure: str, refer: ReferGoal
) -> None:
    """Labels of a positive patient's slices are turned round, all but one, so that the cross-fitting groups stay the same.

    Calibration and threshold are fitted as `tune_threshold` does it, so each group has its own, and they move with the labels.
    """
    scored = make_scored()
    own = scored.patients == "p04"
    turned = np.where(own, 1 - scored.labels, scored.labels)
    turned[np.flatnonzero(own)[0]] = 1
    both = scored, replace(scored, labels=turned)
    held = [hold_out(given, partial(slice_rule, params=SETTINGS), 0) for given in both]
    for one, other in zip(*held, strict=True):
        np.testing.assert_array_equal(one.own, other.own)
        assert (one.rule == other.rule) == bool(one.own[own].all())  # only the group that holds the patient out keeps its rule
    assert len({group.rule.threshold for group in held[0]}) > 1
    one, other = (cross_fitted(given, groups, measure, 0.05, refer) for given, groups in zip(both, held, strict=True))
    for name in ("decision", "rejected", "referred"):
        np.testing.assert_array_equal(getattr(one, name)[own], getattr(other, name)[own])
    assert not np.array_equal(one.referred[~own], other.referred[~own])  # the labels do reach the band of the others
    measured = [held_out_uncertainties(given, groups)[0] for given, groups in zip(both, held, strict=True)]
    assert all(np.array_equal(measured[0][name][own], measured[1][name][own]) for name in measured[0])


def test_groups_and_rules_are_those_that_tune_judges_by() -> None:
    """With one seed, decisions under the refer band are the out-of-fold decisions of metrics/oof.json."""
    scored = make_scored()
    n = len(scored.labels)
    oof = OutOfFold(
        np.arange(n), scored.fold, scored.logits, scored.labels, scored.patients, np.arange(n), scored.logits[:, None]
    )
    held = hold_out(scored, partial(slice_rule, params=SETTINGS), SETTINGS.seed)
    found = cross_fitted(scored, held, "nearness", 0.05, ReferGoal(0.1))
    np.testing.assert_array_equal(found.decision, tune(oof, SETTINGS).slices.decision)


def test_cross_fitting_fits_the_texture_again() -> None:
    scored = make_scored()
    wrong = replace(
        scored, texture=np.full(600, 1e6)
    )  # of all slices, so of no use for a patient that must not have a part in it
    one, other = (cross_fitted(given, by_one_rule(given), "mc_std", 0.05, ReferGoal(0.1)) for given in (scored, wrong))
    assert np.array_equal(one.rejected, other.rejected) and one.rejected.mean() < 0.1


def test_folds_share_a_scale_that_the_unseen_have_no_part_in() -> None:
    scored = make_scored(seed=3)
    everything = on_common_scale(scored.raw_gate, scored.fold, np.ones(600, bool))
    for fold in range(3):
        own = everything[scored.fold == fold]
        assert np.median(own) == pytest.approx(0.0) and np.quantile(own, 0.95) == pytest.approx(1.645)
    seen = scored.patients != "p07"
    before = on_common_scale(scored.raw_gate, scored.fold, seen)
    changed = np.where(seen, scored.raw_gate, scored.raw_gate + 100.0)
    after = on_common_scale(changed, scored.fold, seen)
    np.testing.assert_allclose(after[seen], before[seen])


def test_a_limit_lies_between_two_values() -> None:
    assert limit_above(np.arange(100.0), 0.02) == 97.5 and limit_above(np.arange(100.0), 0.0) == 99.0
    assert limit_above(np.array([1.0, 1.0, 1.0, 5.0]), 0.25) == 3.0


def test_the_refer_band_refers_the_stated_share() -> None:
    values, rejected = np.arange(1000.0), np.arange(1000) >= 900
    wrong = np.zeros(1000, bool)
    assert (values[~rejected] > refer_limit(values, wrong, rejected, ReferGoal(0.1))).mean() == pytest.approx(0.1, abs=0.002)
    assert not (values[~rejected] > refer_limit(values, wrong, rejected, ReferGoal(0.0))).any()
    with pytest.raises(SafetyError):
        refer_limit(values, wrong, np.ones(1000, bool), ReferGoal(0.1))


@pytest.mark.parametrize("seed", range(5))
def test_the_refer_band_for_an_error_rate_refers_as_few_as_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, rejected = rng.integers(0, 30, 400).astype(float), rng.random(400) < 0.1  # many ties
    wrong = rng.random(400) < values / 60
    limit = refer_limit(values, wrong, rejected, ReferGoal(0.1, error_rate=0.15))

    def risk(at: float) -> float:
        return float(wrong[~rejected & (values <= at)].mean())

    assert risk(limit) <= 0.15
    assert all(risk(at) > 0.15 for at in np.unique(values) if at > limit)
    with pytest.raises(SafetyError, match="out of reach: the best band leaves an error rate of 1"):
        refer_limit(values, np.ones(400, bool), rejected, ReferGoal(0.1, error_rate=0.15))


def test_error_detection_agrees_with_scikit_learn_and_the_best_measure_wins() -> None:
    scored = make_scored()
    errors = scored.decision != scored.labels
    noise = (errors + np.linspace(0, 0.1, 600))[:, None] * np.array([-1.0, 1.0]) * 0.1
    knows = make_scored(sampled=noise)  # around 0, where a logit's spread is the probability's four times
    measures = uncertainties(knows, RAW, knows.probability)
    comparison = compare_measures(measures, errors, knows.patients, resamples=100, seed=0)
    assert choose_measure(comparison) == "mc_std" and comparison["n_errors"] == errors.sum()
    for name, values in measures.items():
        figure = comparison["measures"][name]["error_detection_auroc"]
        assert figure["value"] == pytest.approx(roc_auc_score(errors, values))
        assert figure["ci95"][0] <= figure["value"] <= figure["ci95"][1]
    assert comparison["measures"]["mc_std"]["aurc"] == pytest.approx(comparison["perfect_aurc"])


def test_a_measure_that_never_varies_finds_nothing_and_nan_is_refused() -> None:
    errors, patients = np.arange(40) % 4 == 0, np.repeat([f"p{i}" for i in range(10)], 4)
    measures = {"constant": np.ones(40), "knows": errors.astype(float)}
    comparison = compare_measures(measures, errors, patients, resamples=50, seed=0)
    assert comparison["measures"]["constant"]["error_detection_auroc"] == {"value": None, "ci95": None}
    assert comparison["measures"]["constant"]["aurc"] == pytest.approx(0.25)
    assert comparison["measures"]["knows"]["error_detection_auroc"]["ci95"][0] < 0.6 and choose_measure(comparison) == "knows"
    with pytest.raises(NotEstimableError, match="1 of 40 scores are NaN"):
        compare_measures({"broken": np.r_[np.nan, np.ones(39)]}, errors, patients, resamples=50, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_risk_coverage_is_that_of_a_loop_and_no_order_is_better_than_the_perfect_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors, uncertainty = (rng.random(200) < 0.2).astype(int), rng.random(200)
    surest = errors[np.argsort(uncertainty)]
    assert risk_coverage(errors, uncertainty) == pytest.approx([surest[: k + 1].mean() for k in range(200)])
    # Geifman, Uziel & El-Yaniv 2019, equation 4: with an error rate r the best area is r + (1 − r)·ln(1 − r), for n → ∞.
    many, r = (rng.random(100_000) < 0.2).astype(int), 0.2
    assert risk_coverage(many, many.astype(float)).mean() == pytest.approx(r + (1 - r) * np.log(1 - r), abs=2e-3)
    assert risk_coverage(errors, uncertainty).mean() > risk_coverage(errors, errors.astype(float)).mean()


def test_risk_coverage_worked_example() -> None:
    errors = np.array([0, 1, 0, 1])
    assert risk_coverage(errors, np.array([0.1, 0.2, 0.3, 0.4])).tolist() == [0.0, 0.5, pytest.approx(1 / 3), 0.5]
    assert risk_coverage(errors, np.zeros(4)).tolist() == [0.5] * 4  # no ranking: the error rate everywhere


@pytest.mark.parametrize("levels", [5, 10_000])
def test_the_weighted_aurc_is_that_of_slices_repeated_as_often(levels: int) -> None:
    rng = np.random.default_rng(0)
    errors, uncertainty = (rng.random(80) < 0.3).astype(int), rng.integers(0, levels, 80).astype(float)  # with and without ties
    weights = rng.integers(0, 4, (6, 80)).astype(float)
    for got, row in zip(aurc(errors, uncertainty, weights), weights.astype(int), strict=True):
        assert got == pytest.approx(risk_coverage(np.repeat(errors, row), np.repeat(uncertainty, row)).mean())
    patients = np.repeat([f"p{i}" for i in range(20)], 4)
    entry = compare_measures({"m": uncertainty}, errors == 1, patients, resamples=100, seed=0)["measures"]["m"]
    assert entry["aurc_ci95"][0] < entry["aurc"] < entry["aurc_ci95"][1]


def test_the_series_share_is_never_below_a_half_and_never_everything() -> None:
    patients = np.repeat(["a", "b"], 10)
    assert series_share(np.zeros(20, bool), patients, 0.02) == 0.5
    assert series_share(np.arange(20) < 8, patients, 0.02) == 0.8
    assert series_share(np.arange(20) < 10, patients, 0.02) == 0.9  # a patient that is rejected as a whole is no excuse


def test_abstentions_are_counted_in_three_ways() -> None:
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    decision = np.array([1, 1, 0, 1, 0, 0, 1, 1])
    rejected = np.array([0, 0, 0, 1, 0, 0, 0, 1], bool)
    referred = np.array([0, 1, 0, 1, 1, 0, 0, 0], bool)
    answers = combine(decision, rejected, referred)
    assert answers.tolist() == ["stroke", "refer", "normal", "reject", "refer", "normal", "stroke", "reject"]
    counted = account(labels, answers, np.arange(8).astype(str), resamples=100, seed=0)
    assert counted["counts"]["stroke"] == {"stroke": 1, "normal": 1, "refer": 1, "reject": 1}
    assert [counted[way]["sensitivity"]["value"] for way in ("as_errors", "to_a_human", "answered_only")] == [0.25, 0.75, 0.5]
    assert [counted[way]["specificity"]["value"] for way in ("as_errors", "to_a_human", "answered_only")] == [0.25, 0.75, 0.5]
    assert counted["answered_only"]["coverage"]["value"] == 0.5


def test_false_rejects_by_class_and_position() -> None:
    patients, order = np.repeat(["a", "b"], 6), np.tile(np.arange(6)[::-1], 2)
    assert position_thirds(patients, order).tolist() == [2, 2, 1, 1, 0, 0] * 2
    labels = np.array([1, 0, 0, 0, 0, 0] * 2)
    rates = false_rejects(order == 0, labels, patients, order, resamples=100, seed=0)
    assert rates["all"]["value"] == pytest.approx(1 / 6) and rates["stroke"]["value"] == 0.0
    exact = pytest.approx(1 - 0.025**0.5)  # none of two patients
    without_order = false_rejects(order == 0, labels, patients, None, resamples=100, seed=0)
    assert set(without_order) == {"all", "normal", "stroke"}  # clusters that stand in for patients have no positions
    assert rates["lowest third"]["value"] == 0.5 and rates["highest third"] == {"n": 4, "value": 0.0, "ci95": [0.0, exact]}


def test_shares_have_exact_intervals() -> None:
    # Clopper–Pearson for 0 of 20: 1 − 0.025^(1/20)
    assert share(0, 20) == {"value": 0.0, "ci95": [0.0, pytest.approx(1 - 0.025 ** (1 / 20))]}
    assert share(20, 20)["ci95"] == [pytest.approx(0.025 ** (1 / 20)), 1.0]
    assert share(0, 0) == {"value": None, "ci95": None}


def test_pointing_game_worked_example() -> None:
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[:, :4, :4] = 1
    head = np.ones((2, 8, 8), bool)
    hit, miss = np.zeros((2, 2), np.float32), np.zeros((2, 2), np.float32)
    hit[0, 0] = miss[1, 1] = 1.0
    game = pointing_game([hit, miss], masks, head)
    assert (game["n"], game["hit"]["value"], game["chance"], game["map_size"]) == (2, 0.5, 0.25, [2, 2])
    head[:, 4:] = head[:, :, 4:] = False  # what the map says of the air does not count, for hit as for chance
    game = pointing_game([hit, miss], masks, head)
    assert (game["hit"]["value"], game["chance"]) == (1.0, 1.0)


def test_fpr_at_95_tpr_worked_example() -> None:
    inside, outside = np.arange(1.0, 101.0), np.array([50.0, 95.0, 96.0, np.inf])
    labels, scores = np.repeat([0, 1], [100, 4]), np.concatenate([inside, outside])
    even, first_counts = np.ones((1, 104)), np.r_[np.full(100, 1.0), 3.0, 1.0, 0.0, 0.0][None]
    assert fpr_at_95_tpr(labels, scores, even).tolist() == [0.5]  # 95 of 100 slices score at most 95
    assert fpr_at_95_tpr(labels, scores, first_counts).tolist() == [1.0]


def test_a_category_counts_each_layer() -> None:
    rng = np.random.default_rng(0)
    inside, patients = rng.normal(size=200), np.repeat([f"p{i}" for i in range(20)], 10)
    objections = [["unlike_training"], ["colour", "unlike_training"], ["colour"], [], ["unreadable"]]
    scores = np.array([9.0, 8.0, 0.0, 0.5, np.nan])
    entry = category(scores, objections, inside, patients, resamples=100, seed=0)
    assert entry["n"] == 5 and entry["rejected"]["value"] == 0.8 and entry["rejected_by_pixel_checks"]["value"] == 0.4
    assert entry["feature_gate"]["rejected"]["value"] == 0.4
    assert entry["by_reason"] == {"colour": 2, "unlike_training": 2, "unreadable": 1}
    broken = category(np.array([0.0]), [["no_result"]], inside, patients, resamples=100, seed=0)
    assert broken["rejected"]["value"] == 0.0 and broken["by_reason"] == {"no_result": 1}  # a failure is no virtue of the gate
    labels = np.repeat([0, 1], [200, 4])
    assert entry["feature_gate"]["auroc"]["value"] == pytest.approx(roc_auc_score(labels, np.r_[inside, scores[:4]]))
    nothing = category(np.full(1, np.nan), [["unreadable"]], inside, patients, resamples=100, seed=0)
    assert nothing["rejected"]["value"] == 1.0 and nothing["feature_gate"]["auroc"] == {"value": None, "ci95": None}
