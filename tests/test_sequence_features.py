"""The comparison of sequence heads with and without features: it must find features that say something, and no others."""

import numpy as np
from numpy.typing import NDArray

from benchmarks.sequence_features import around, judge
from strokect.calibration_fit import log_loss
from strokect.out_of_fold import OutOfFold


def cohort(patients: int = 40, slices: int = 12) -> OutOfFold:
    """Logits that say a little of labels that come in runs."""
    rng = np.random.default_rng(0)
    n = patients * slices
    labels = np.zeros((patients, slices), np.int64)
    for patient in range(0, patients, 2):
        start = rng.integers(0, slices - 3)
        labels[patient, start : start + 4] = 1
    flat = labels.ravel()
    logits = rng.normal(0, 1, n) + flat
    names = np.repeat([f"p{k:02}" for k in range(patients)], slices)
    return OutOfFold(
        rows=np.arange(n), fold=np.arange(n) % 5, logits=logits, labels=flat, patients=names,
        order=np.tile(np.arange(slices), patients), views=logits[:, None],
    )  # fmt: skip


def test_the_neighbourhood_of_a_worked_series() -> None:
    oof = cohort(2, 4)
    columns: NDArray[np.float64] = np.arange(8, dtype=np.float64)[:, None]
    found = around(columns, oof)
    np.testing.assert_allclose(found[:, 0], columns[:, 0])
    # Of slice 0 the three below are itself again: (0, 0, 0, 0, 1, 2, 3) / 7.
    np.testing.assert_allclose(found[:4, 1], [6 / 7, 9 / 7, 12 / 7, 15 / 7])
    np.testing.assert_allclose(found[4:, 1], found[:4, 1] + 4)


def test_features_that_say_something_beat_logits_and_noise_does_not() -> None:
    oof, rng = cohort(), np.random.default_rng(1)
    noise = rng.normal(size=(len(oof.labels), 80))
    telling = noise.copy()
    telling[:, :8] += 6.0 * oof.labels[:, None]
    losses = [{name: log_loss(p, oof.labels) for name, p in judge(oof, features, 0).items()} for features in (noise, telling)]
    logits = losses[0].pop("logits")
    assert losses[1].pop("logits") == logits
    assert min(losses[0].values()) > logits - 0.02
    assert min(losses[1].values()) < logits / 2
