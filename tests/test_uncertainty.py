"""Monte Carlo dropout on the heads against enumeration and loops, and which way each measure of uncertainty points."""

import itertools

import numpy as np
import pytest
from scipy import stats

from strokect.calibration import Calibrator
from strokect.errors import NoResultError
from strokect.files import sha256_bytes
from strokect.uncertainty import (
    MEASURES,
    dropout_masks,
    entropy,
    logit_variance,
    mc_std,
    measure_uncertainty,
    nearness,
    sample_logits,
)

SHA = sha256_bytes(b"a slice")


def test_masks_keep_their_share_of_every_feature() -> None:
    masks = dropout_masks(SHA, fold=0, views=2, samples=4000, features=8, rate=0.3)
    assert masks.shape == (2, 4000, 8) and masks.dtype == bool
    share = masks.mean(axis=1)  # (V, F)
    assert np.allclose(share, 0.7, atol=5 * np.sqrt(0.3 * 0.7 / 4000))
    assert dropout_masks(SHA, 0, 1, 5, 8, rate=0.0).all()


def test_masks_depend_on_bytes_and_fold_and_on_nothing_else() -> None:
    masks = dropout_masks(SHA, 1, 2, 20, 64, 0.5)
    np.random.default_rng(0).random(1000)  # other draws in between
    assert np.array_equal(masks, dropout_masks(SHA, 1, 2, 20, 64, 0.5))
    others = [dropout_masks(SHA, 2, 2, 20, 64, 0.5), dropout_masks(sha256_bytes(b"another"), 1, 2, 20, 64, 0.5)]
    # Bytes that agree in the first or the last 32 bits of their hash are still other bytes.
    others += [dropout_masks(sha, 1, 2, 20, 64, 0.5) for sha in ("0" * 8 + SHA[8:], SHA[:-8] + "0" * 8)]
    assert all(not np.array_equal(masks, other) for other in others)
    assert not np.array_equal(masks[0], masks[1])  # each view has its own


def test_masks_are_those_of_earlier_versions() -> None:
    """The answer to the same bytes must not change with an upgrade: a stored draw."""
    masks = dropout_masks("0123456789abcdef" * 4, 3, 1, 2, 16, 0.3)
    assert [row.tobytes().hex() for row in np.packbits(masks[0], axis=1)] == ["2e7e", "eedd"]


def test_sampled_logits_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    features, weight = rng.normal(size=(2, 7)).astype(np.float32), rng.normal(size=7).astype(np.float32)
    masks = dropout_masks(SHA, 0, 2, 5, 7, 0.4)
    sampled = sample_logits(features, weight, 0.25, 0.4, masks)
    assert sampled.shape == (2, 5) and sampled.dtype == np.float32
    for view, sample in itertools.product(range(2), range(5)):
        kept = [float(features[view, i]) / 0.6 if masks[view, sample, i] else 0.0 for i in range(7)]
        assert sampled[view, sample] == pytest.approx(
            sum(k * float(w) for k, w in zip(kept, weight, strict=True)) + 0.25, abs=1e-5
        )


def test_logit_variance_is_that_over_all_masks() -> None:
    """Ten features have 1,024 masks: their exact mean and variance, each mask weighted by its probability."""
    rng = np.random.default_rng(2)
    features, weight, rate = rng.normal(size=(1, 10)), rng.normal(size=10), 0.3
    masks = np.array(list(itertools.product([False, True], repeat=10)))  # (1024, F)
    probability = np.prod(np.where(masks, 1 - rate, rate), axis=1)
    logits = sample_logits(features.astype(np.float32), weight.astype(np.float32), 0.0, rate, masks[None])[0].astype(np.float64)
    mean = (probability * logits).sum()
    assert mean == pytest.approx(float(features[0] @ weight), abs=1e-5)
    assert logit_variance(features, weight, rate)[0] == pytest.approx((probability * (logits - mean) ** 2).sum(), rel=1e-5)
    assert logit_variance(features, weight, 0.0)[0] == 0


def test_mc_std_averages_views_before_it_calibrates() -> None:
    sampled = np.array([[0.0, 4.0], [2.0, 2.0]], np.float32)  # (V, T): means over views 1 and 3
    calibrator = Calibrator("affine", scale=2.0, shift=-1.0)
    low, high = 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-5.0))
    assert mc_std(sampled, calibrator) == pytest.approx((high - low) / 2)


def test_entropy_is_that_of_scipy() -> None:
    probability = np.array([0.01, 0.2, 0.5, 0.93])
    assert np.allclose(entropy(probability), stats.entropy([probability, 1 - probability], base=2))
    assert entropy(0.0) == pytest.approx(0, abs=1e-4) and entropy(1.0) == pytest.approx(0, abs=1e-4)


def test_nearness_is_highest_on_the_threshold() -> None:
    assert nearness(0.2, 0.2) == 0
    assert nearness(0.8, 0.5) == pytest.approx(-np.log(4)) == nearness(0.2, 0.5)
    assert np.isfinite(nearness([0.0, 1.0], 0.5)).all()


@pytest.mark.parametrize(
    ("name", "unsure", "sure"),
    [
        ("nearness", (0.3, 0.3, 0.0, 0.0), (0.6, 0.3, 0.0, 0.0)),
        ("entropy", (0.5, 0.3, 0.0, 0.0), (0.3, 0.3, 0.0, 0.0)),
        ("mc_std", (0.3, 0.3, 0.2, 0.0), (0.3, 0.3, 0.1, 0.0)),
        ("feature_distance", (0.3, 0.3, 0.0, 5.0), (0.3, 0.3, 0.0, 1.0)),
    ],
)
def test_higher_is_less_sure(name: str, unsure: tuple[float, ...], sure: tuple[float, ...]) -> None:
    assert name in MEASURES
    assert measure_uncertainty(name, *unsure) > measure_uncertainty(name, *sure)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("nearness", (np.nan, 0.5, 0.1, 1.0)),
        ("entropy", (np.nan, 0.5, 0.1, 1.0)),
        ("mc_std", (0.3, 0.5, np.nan, 1.0)),
        ("mc_std", (0.3, 0.5, np.inf, 1.0)),
        ("feature_distance", (0.3, 0.5, 0.1, np.nan)),
        ("feature_distance", (0.3, 0.5, 0.1, -np.inf)),
    ],
)
def test_a_measure_that_is_not_finite_is_no_result(name: str, values: tuple[float, ...]) -> None:
    with pytest.raises(NoResultError, match=name):
        measure_uncertainty(name, *values)
