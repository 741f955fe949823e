"""The decision curve on a worked case and against its definition."""

import numpy as np
import pytest

from strokect.errors import NotEstimableError
from strokect.net_benefit import net_benefit


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
