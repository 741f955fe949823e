"""The decision curve on a worked case and against its definition."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from strokect import plots
from strokect.errors import NotEstimableError
from strokect.net_benefit import LISTED, net_benefit, net_benefit_figures
from strokect.statistics import bootstrap_weights


def test_a_worked_case() -> None:
    labels, probability = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.4, 0.6, 0.2, 0.1])
    got = net_benefit(labels, probability, np.array([0.25, 0.5])).set_index("threshold")
    # At 0.25: two hits, one false alarm, odds 1/3. At 0.5: one hit, one false alarm, odds 1.
    assert got.loc[0.25, "model"] == pytest.approx(2 / 5 - 1 / 5 / 3)
    assert got.loc[0.5, "model"] == pytest.approx(0)
    assert got.loc[0.25, "everybody"] == pytest.approx(2 / 5 - 3 / 5 / 3)
    assert got.loc[0.5, "everybody"] == pytest.approx(2 / 5 - 3 / 5)
    assert (got["nobody"] == 0).all()


def test_a_calibrated_model_is_never_worse_than_either_rule() -> None:
    rng = np.random.default_rng(0)
    probability = rng.beta(1, 3, 200_000)
    table = net_benefit((rng.random(200_000) < probability).astype(int), probability)
    assert (table["model"] >= np.maximum(table["everybody"], 0) - 0.003).all()
    assert (table["model"] > np.maximum(table["everybody"], 0) + 0.01).any()


def test_nothing_and_nan_have_no_curve() -> None:
    with pytest.raises(NotEstimableError, match="1 of 3 are"):
        net_benefit(np.array([0, 1, 1]), np.array([0.1, np.nan, 0.9]))
    with pytest.raises(NotEstimableError, match="0 of 0 are"):
        net_benefit(np.array([], int), np.array([]))


def test_figures_with_intervals_are_those_of_the_curve_and_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i:02d}" for i in range(30)], 5)
    labels = (np.repeat(np.arange(30) % 2, 5) * (rng.random(150) < 0.6)).astype(int)
    probability = np.clip(0.3 + 0.3 * labels + rng.normal(0, 0.2, 150), 0, 1)
    found = net_benefit_figures(labels, probability, patients, resamples=150, seed=3)
    curve = net_benefit(labels, probability, np.array(LISTED)).set_index("threshold")
    counts, index = bootstrap_weights(patients, 150, 3)
    for entry in found:
        row = curve.loc[entry["threshold"]]
        assert entry["model"]["value"] == pytest.approx(row["model"])
        assert entry["gain"]["value"] == pytest.approx(row["model"] - max(row["everybody"], 0))
        drawn = []
        for count in counts:
            rows = np.repeat(np.arange(150), count[index])
            again = net_benefit(labels[rows], probability[rows], np.array([entry["threshold"]])).iloc[0]
            drawn.append(again["model"] - max(again["everybody"], 0))
        half = t.ppf(0.975, 15 - 1) * np.std(drawn, ddof=1)  # 15 patients have a positive slice
        assert entry["gain"]["ci95"] == pytest.approx([entry["gain"]["value"] - half, entry["gain"]["value"] + half])
    assert found[1]["gain"]["ci95"][1] > 0


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The figures that would have been saved."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    yield figures
    for figure in figures:
        plots.plt.close(figure)


def test_the_decision_curve_is_drawn_with_the_intervals_of_the_metrics(drawn: list[Any]) -> None:
    curve = pd.DataFrame({"threshold": [0.1, 0.9], "model": [0.3, 0.1], "everybody": [0.25, -4.0]})
    ends = {0.1: [0.2, 0.5], 0.3: None, 0.5: [-0.1, 0.3]}
    worth = [{"threshold": at, "model": {"value": 0.2, "ci95": ci95}} for at, ci95 in ends.items()]
    plots._draw_net_benefit({"oof": {"net_benefit": curve}}, {"oof": 0.3}, {"oof": worth}, Path("x.png"), "t")
    (axes,) = drawn[0].axes
    bars = [segment for lines in axes.collections for segment in lines.get_segments()]
    assert [pytest.approx(bar[:, 1].tolist()) for bar in bars] == [ends[0.1], ends[0.5]]  # what is not estimable has no bar
    assert [bar[0, 0] for bar in bars] == pytest.approx([0.1, 0.5], abs=0.01) and axes.get_ylim()[1] > 0.5
    without = [{"threshold": 0.1, "model": {"value": 0.2, "ci95": None}}]
    plots._draw_net_benefit({"oof": {"net_benefit": curve}}, {"oof": 0.3}, {"oof": without}, Path("x.png"), "t")


def test_risk_and_coverage_are_drawn_with_the_area_and_its_interval(drawn: list[Any]) -> None:
    measure = {"aurc": 0.1234, "error_rate_at_coverage": {"1": 0.3, "0.5": 0.1}}
    plots._draw_risk_coverage(
        {"mc_std": measure | {"aurc_ci95": [0.05, 0.2]}, "entropy": measure | {"aurc_ci95": None}}, Path("x"), "t"
    )
    said = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert said == ["mc std: 0.123 [0.050, 0.200]", "entropy: 0.123 [interval not estimable]"]
