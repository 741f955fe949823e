"""What each part adds: what must be found where it is planted, and nothing where there is nothing."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from strokect.ablation import ablate_ensemble, ablate_out_of_fold
from strokect.errors import NotEstimableError
from strokect.out_of_fold import OutOfFold

SETTINGS = {"resamples": 200, "seed": 0}


@pytest.fixture
def oof() -> OutOfFold:
    """60 patients × 8 slices; two views with independent noise, so their mean is better than either."""
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{i:02d}" for i in range(60)], 8)
    labels = (np.repeat(np.arange(60) % 2 == 0, 8) & (rng.uniform(size=480) < 0.4)).astype(np.int64)
    views = 2 * labels[:, None] - 1 + rng.normal(0, 2, (480, 2))
    return OutOfFold(
        np.arange(480),
        np.arange(480) % 5,
        views.mean(axis=1),
        labels,
        patients,
        np.tile(np.arange(8), 60),
        views,
        before_mining=views.mean(axis=1) + rng.normal(0, 3, 480),
    )


def by_part(rows: list[dict]) -> dict[tuple[str, str], dict]:
    return {(row["part"], row["figure"]): row for row in rows}


def test_parts_that_help_earn_their_cost(oof: OutOfFold) -> None:
    rows = by_part(ablate_out_of_fold(oof, "affine", **SETTINGS))
    assert rows["views", "log_loss"]["verdict"] == rows["mining", "roc_auc"]["verdict"] == "earns its cost"
    assert rows["views", "roc_auc"]["without"] == pytest.approx(roc_auc_score(oof.labels, oof.views[:, 0]))
    assert rows["views", "roc_auc"]["with"] == pytest.approx(roc_auc_score(oof.labels, oof.logits))
    assert rows["calibration", "log_loss"]["difference"] < 0 and ("calibration", "roc_auc") not in rows


def test_a_part_that_harms_is_said_to(oof: OutOfFold) -> None:
    assert oof.before_mining is not None
    swapped = dataclasses.replace(oof, logits=oof.before_mining, before_mining=oof.logits, views=oof.views[:, :1])
    rows = by_part(ablate_out_of_fold(swapped, "affine", **SETTINGS))
    assert rows["mining", "log_loss"]["verdict"] == "does harm" and ("views", "log_loss") not in rows


def test_a_part_that_changes_nothing_cannot_be_told(oof: OutOfFold) -> None:
    rows = by_part(ablate_out_of_fold(dataclasses.replace(oof, before_mining=oof.logits.copy()), "none", **SETTINGS))
    assert rows["mining", "log_loss"]["difference"] == 0 and rows["mining", "log_loss"]["verdict"] == "cannot tell"
    assert ("calibration", "log_loss") not in rows


def test_the_ensemble_is_compared_with_the_mean_of_single_models(oof: OutOfFold) -> None:
    rng = np.random.default_rng(1)
    each = 1 / (1 + np.exp(-(oof.logits[:, None] + rng.normal(0, 2, (480, 5)))))
    rows = by_part(ablate_ensemble(oof.labels, oof.patients, each, **SETTINGS))
    single = np.mean([roc_auc_score(oof.labels, column) for column in each.T])
    got = rows["ensemble", "roc_auc"]
    assert got["without"] == pytest.approx(single) and got["with"] == pytest.approx(roc_auc_score(oof.labels, each.mean(axis=1)))
    assert got["verdict"] == "earns its cost" and got["judged_on"] == "test"
    assert ablate_ensemble(oof.labels, oof.patients, each[:, :1], **SETTINGS) == []


def test_a_nan_is_refused_and_equal_scores_have_no_order(oof: OutOfFold) -> None:
    each = np.full((480, 2), 0.5)
    rows = by_part(ablate_ensemble(oof.labels, oof.patients, each, **SETTINGS))
    assert rows["ensemble", "roc_auc"]["verdict"] == "not estimable" and rows["ensemble", "roc_auc"]["without"] is None
    each[3, 1] = np.nan
    with pytest.raises(NotEstimableError, match="1 of 480 values of probability are NaN"):
        ablate_ensemble(oof.labels, oof.patients, each, **SETTINGS)
