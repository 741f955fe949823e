"""DeLong's and Obuchowski's standard errors: published figures, the definition by double sums, and the bootstrap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from strokect.delong import analytic_auc, auc_standard_error, structural_components
from strokect.statistics import bootstrap_weights, roc_auc


def test_the_published_example() -> None:
    """Hanley & McNeil 1982, table I: 109 CT images rated 1 to 5; Stata's manual (roctab) gives DeLong's 0.0307 for it."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    score = np.repeat([1, 2, 3, 4, 5] * 2, normal + abnormal).astype(float)
    labels = np.repeat([0, 1], [sum(normal), sum(abnormal)])
    got = analytic_auc(labels, score, np.arange(109))
    assert got["method"] == "DeLong"
    assert got["value"] == pytest.approx(0.8932, abs=5e-5) and got["se"] == pytest.approx(0.0307, abs=5e-5)
    half = 1.959964 * got["se"]
    assert [got["value"] - half, got["value"] + half] == pytest.approx([0.83295, 0.95339], abs=5e-5)
    low, high = got["ci95"]  # ours is the same on the logit scale: as wide in logits, and lower
    assert logit(high) - logit(0.8932) == pytest.approx(logit(0.8932) - logit(low), abs=2e-3)
    assert logit(high) - logit(low) == pytest.approx(2 * half / (0.8932 * (1 - 0.8932)), abs=2e-3)


def test_the_interval_stays_within_one_near_a_perfect_order() -> None:
    labels = np.repeat([0, 1], 30)
    got = analytic_auc(labels, np.r_[np.arange(30.0), 28.5, np.arange(31.0, 60.0)], np.arange(60))
    assert got["value"] > 0.998 and got["value"] + 1.96 * got["se"] > 1 > got["ci95"][1] > got["value"] > got["ci95"][0] > 0.95


def by_definition(labels: np.ndarray, score: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Obuchowski 1997, equations 2 to 6, by loops over clusters and pairs."""
    x, y = score[labels == 1], score[labels == 0]
    psi = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    auc, m, n = psi.mean(), len(x), len(y)
    v10, v01 = psi.mean(axis=1), psi.mean(axis=0)
    names = np.unique(clusters)
    of_x, of_y = clusters[labels == 1], clusters[labels == 0]
    dx = [(v10[of_x == c] - auc).sum() for c in names]
    dy = [(v01[of_y == c] - auc).sum() for c in names]
    i10, i01, i = len(np.unique(of_x)), len(np.unique(of_y)), len(names)
    s10 = i10 / ((i10 - 1) * m) * sum(d**2 for d in dx)
    s01 = i01 / ((i01 - 1) * n) * sum(d**2 for d in dy)
    s11 = i / (i - 1) * sum(a * b for a, b in zip(dx, dy, strict=True))
    return auc, s10 / m + s01 / n + 2 * s11 / (m * n)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.sampled_from([4, 1000]))
def test_midranks_give_what_the_definition_gives(seed: int, clusters: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    who = np.r_[np.arange(clusters), np.arange(clusters), rng.integers(0, clusters, 20)]
    labels = np.r_[np.zeros(clusters, int), np.ones(clusters, int), rng.integers(0, 2, 20)]
    score = rng.integers(0, levels, len(who)).astype(float) + labels
    auc, variance = by_definition(labels, score, who)
    got, error = auc_standard_error(labels, score, who)
    assert got == pytest.approx(auc) == pytest.approx(roc_auc_score(labels, score))
    assert error is None if variance <= 1e-15 else error == pytest.approx(np.sqrt(variance))


def test_components_are_the_shares_of_the_other_class() -> None:
    labels, score = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.3, 0.3, 0.1, 0.5])
    np.testing.assert_allclose(structural_components(labels, score), [1, 0.5, 0.75, 1, 0.5])


def clustered(rng: np.random.Generator, patients: int, slices: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half of the patients have positive slices; slices of a patient share an offset as large as their own noise."""
    who = np.repeat(np.arange(patients), slices)
    labels = (rng.random(len(who)) < np.repeat(np.arange(patients) % 2 * 0.5, slices)).astype(int)
    score = labels + np.repeat(rng.normal(0, 1, patients), slices) + rng.normal(0, 1, len(who))
    return labels, score, who


def test_clusters_agree_with_the_bootstrap_of_patients_and_widen_the_error() -> None:
    labels, score, who = clustered(np.random.default_rng(0), 80, 12)
    counts, index = bootstrap_weights(who, 1500, 0)
    drawn = roc_auc(labels, score, counts[:, index].astype(float))
    _, error = auc_standard_error(labels, score, who)
    _, naive = auc_standard_error(labels, score, np.arange(len(who)))
    assert error == pytest.approx(drawn.std(), rel=0.1)
    assert error is not None and naive is not None and error > 1.5 * naive


def test_what_is_not_estimable_is_not_a_number() -> None:
    one_class = analytic_auc(np.zeros(5, int), np.arange(5.0), np.arange(5))
    assert one_class == {"value": None, "se": None, "ci95": None, "method": "DeLong"}
    one_patient = analytic_auc(np.array([0, 1, 0, 1]), np.arange(4.0), np.zeros(4))
    assert one_patient["se"] is None and one_patient["ci95"] is None and one_patient["value"] == 0.75
    perfect = analytic_auc(np.array([0, 0, 1, 1]), np.arange(4.0), np.arange(4))
    assert perfect["value"] == 1.0 and perfect["ci95"] is None
    constant = analytic_auc(np.array([0, 0, 1, 1]), np.ones(4), np.arange(4))
    assert constant["value"] is None and constant["ci95"] is None
