"""Texture of the brain: three descriptors that are usual each on its own, judged together."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from strokect.errors import ReleaseError, SafetyError
from strokect.phantom import make_cohort, window
from strokect.pixel_checks import measure
from strokect.slices import Picture
from strokect.texture import BETWEEN_SCANNERS, DESCRIPTORS, Texture


def slices(n: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise that grows with the spread, as it does where the kernel is sharper."""
    rng = np.random.default_rng(seed)
    spread = 25 * np.exp(0.3 * rng.normal(size=n))
    noise = 4 * (spread / 25) * np.exp(0.05 * rng.normal(size=n))
    return {"fine_noise": noise, "brain_level": 120 * np.exp(0.1 * rng.normal(size=n)), "brain_spread": spread}


def test_distance_is_scipys_of_the_logarithms() -> None:
    seen, other = slices(), slices(5, seed=1)
    points = np.log(np.stack([seen[name] for name in DESCRIPTORS], axis=1))
    precision = np.linalg.inv(np.cov(points, rowvar=False) + np.diag(np.square(BETWEEN_SCANNERS)))
    want = [mahalanobis(np.log([other[name][i] for name in DESCRIPTORS]), points.mean(axis=0), precision) for i in range(5)]
    np.testing.assert_allclose(Texture.of(seen).distance(other), want)


def test_what_is_usual_one_by_one_can_be_strange_together() -> None:
    seen = slices()
    texture = Texture.of(seen)
    sharp, flat = np.quantile(seen["fine_noise"], 0.98), np.quantile(seen["brain_spread"], 0.02)
    usual = {"fine_noise": sharp, "brain_level": 120.0, "brain_spread": np.quantile(seen["brain_spread"], 0.98)}
    assert texture.distance(usual) < 2.5
    assert texture.distance(usual | {"brain_spread": flat}) > 4


def test_what_cannot_be_measured_is_infinitely_far_and_teaches_nothing() -> None:
    seen = slices()
    broken = {name: np.r_[values, np.nan] for name, values in seen.items()}
    again = Texture.of(broken)
    np.testing.assert_allclose(again.centre, Texture.of(seen).centre)
    assert again.distance(broken)[-1] == np.inf and np.isfinite(again.distance(broken)[:-1]).all()
    for value in (np.nan, np.inf):
        assert again.distance({"fine_noise": 4.0, "brain_level": value, "brain_spread": 20.0}) == np.inf
    assert np.isfinite(again.distance({"fine_noise": 0.0, "brain_level": 120.0, "brain_spread": 0.0}))
    with pytest.raises(SafetyError, match="on 1 development slices"):
        Texture.of({name: values[:1] for name, values in seen.items()})


def test_slices_that_do_not_vary_give_a_distance_still() -> None:
    alike = {name: np.full(10, 20.0) for name in DESCRIPTORS}
    texture = Texture.of(alike)
    assert texture.distance(alike) == pytest.approx(np.zeros(10))
    noisier = alike | {"fine_noise": np.full(10, 20.0 * np.exp(3 * BETWEEN_SCANNERS[0]))}
    assert texture.distance(noisier) == pytest.approx(np.full(10, 3.0))


def test_a_phantom_of_another_grain_is_strange_to_its_own_kind() -> None:
    pieces = list(make_cohort(patients=12, slices=6, size=128, seed=0))
    rows = [measure(Picture(window(piece.hu), 0)) for piece in pieces]
    texture = Texture.of({name: np.array([row[name] for row in rows]) for name in DESCRIPTORS})
    own = [
        float(texture.distance(measure(Picture(window(p.hu), 0)))) for p in make_cohort(patients=6, slices=6, size=128, seed=9)
    ]
    noisy = [
        float(texture.distance(measure(Picture(window(p.hu + np.random.default_rng(i).normal(0, 9, p.hu.shape)), 0))))
        for i, p in enumerate(pieces[:12])
    ]
    assert np.median(own) < 2 < 3.5 < np.median(noisy)


def test_round_trip_and_damage() -> None:
    texture = Texture.of(slices())
    form = json.loads(json.dumps(texture.to_json()))
    again = Texture.from_json(form)
    assert again == texture
    spoiled = [
        {"centre": [1.0, 2.0]},
        {"centre": [1.0, 2.0, float("nan")]},
        {"precision": (-np.array(texture.precision)).tolist()},
        {"precision": np.triu(texture.precision).tolist()},
        {"precision": np.zeros((3, 3)).tolist()},
        {"descriptors": ["brain_level", "fine_noise", "brain_spread"]},
    ]
    for change in spoiled:
        with pytest.raises(ReleaseError, match="texture"):
            Texture.from_json(form | change)
