"""The feature gate's scores against pytorch-ood and direct computation; what cannot be scored is infinitely strange."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_ood.detector import KNN, EnergyBased, Mahalanobis, ViM

from strokect import feature_gate
from strokect.errors import NotEstimableError, ReleaseError
from strokect.feature_gate import SCORES, SHAPES, fit_statistics, score_by
from strokect.gate import Gate, Standard, load_gate, save_gate

N, F, G = 400, 24, 12
BIAS = 0.3


@pytest.fixture(scope="module")
def sample() -> dict[str, np.ndarray]:
    """Two classes with a common, far from round covariance, and test points around and far off them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, N)
    mixing = rng.normal(size=(F, F)) * np.geomspace(2.0, 0.3, F)
    features = rng.normal(size=(N, F)) @ mixing + 2.0 + labels[:, None] * rng.normal(size=F)
    test = np.concatenate([rng.normal(size=(40, F)) @ mixing + 2.0, rng.normal(size=(20, F)) * 8])
    return {
        "features": features.astype(np.float32),
        "stages": (rng.normal(size=(N, G)) @ rng.normal(size=(G, G)) * np.geomspace(100.0, 0.01, G)).astype(np.float32),
        "labels": labels,
        "weight": rng.normal(size=F).astype(np.float32),
        "test": test.astype(np.float32),
    }


def fitted(sample: dict[str, np.ndarray], rank: int | None = None) -> dict[str, np.ndarray]:
    return fit_statistics(sample["features"], sample["stages"], sample["labels"], sample["weight"], BIAS, rank)


def rows_for(name: str, sample: dict[str, np.ndarray]) -> np.ndarray:
    """What the score `name` reads: test points (60, F), or stages (60, G), of which the last 20 are shifted."""
    if name != "mahalanobis_stages":
        return sample["test"]
    return sample["stages"][:60] + np.where(np.arange(60) < 40, 0, 5)[:, None].astype(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def two_logits(sample: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """The head as that of a softmax over [-z/2, z/2]: weights (2, F), biases (2,)."""
    weight = torch.from_numpy(sample["weight"])
    return torch.stack([-weight / 2, weight / 2]), torch.tensor([-BIAS / 2, BIAS / 2])


def test_mahalanobis_of_full_rank_is_that_of_pytorch_ood(sample: dict[str, np.ndarray]) -> None:
    for name, change in (("mahalanobis", np.asarray), ("mahalanobis_normalised", unit)):
        oracle = Mahalanobis(None).to("cpu")
        # The distance does not depend on the unit; large numbers make the 1e-6 on its diagonal vanish.
        oracle.fit_features(torch.from_numpy(100 * change(sample["features"])), torch.from_numpy(sample["labels"]))
        want = oracle.predict_features(torch.from_numpy(100 * change(sample["test"]))).numpy()
        # It has half the square, with the sum over slices in place of the mean.
        np.testing.assert_allclose(SCORES[name](sample["test"], fitted(sample, rank=F)), np.sqrt(2 * N * want), rtol=2e-3)


def test_mahalanobis_of_stages_is_that_of_pytorch_ood_on_standardised_channels(sample: dict[str, np.ndarray]) -> None:
    stages = sample["stages"].astype(float)
    standardised = (stages - stages.mean(axis=0)) / stages.std(axis=0)
    oracle = Mahalanobis(None).to("cpu")
    oracle.fit_features(torch.from_numpy(100 * standardised).float(), torch.from_numpy(sample["labels"]))
    test = rows_for("mahalanobis_stages", sample)
    at = torch.from_numpy(100 * (test - stages.mean(axis=0)) / stages.std(axis=0)).float()
    want = np.sqrt(2 * N * oracle.predict_features(at).numpy())
    got = SCORES["mahalanobis_stages"](test, fitted(sample, rank=F))  # a rank above G is G
    np.testing.assert_allclose(got, want, rtol=2e-3)
    assert got[40:].min() > got[:40].max()  # the shift of 5 is far more than the last channels ever vary


def test_each_score_reads_its_own_features(sample: dict[str, np.ndarray]) -> None:
    statistics = fitted(sample)
    for name, score in SCORES.items():
        stages = rows_for("mahalanobis_stages", sample)
        np.testing.assert_array_equal(
            score_by(name, sample["test"], stages, statistics), score(rows_for(name, sample), statistics)
        )


def test_mahalanobis_of_low_rank_is_the_quadratic_form_it_says(sample: dict[str, np.ndarray]) -> None:
    rank, x = 5, sample["features"].astype(float)
    means = [x[sample["labels"] == c].mean(axis=0) for c in (0, 1)]
    within = x - np.array(means)[sample["labels"]]
    _, spread, right = np.linalg.svd(within, full_matrices=False)
    variances = spread**2 / N
    variances[rank:] = variances[rank:].mean()
    precision = np.linalg.inv((right.T * variances) @ right)
    want = [min((t - m) @ precision @ (t - m) for m in means) for t in sample["test"].astype(float)]
    np.testing.assert_allclose(SCORES["mahalanobis"](sample["test"], fitted(sample, rank)), np.sqrt(want), rtol=1e-4)


def test_joint_distance_is_the_root_of_both_squares(sample: dict[str, np.ndarray]) -> None:
    raw, normalised, joint = (
        SCORES[f"mahalanobis{end}"](sample["test"], fitted(sample)) for end in ("", "_normalised", "_joint")
    )
    np.testing.assert_allclose(joint, np.hypot(raw, normalised), rtol=1e-6)


def test_knn_is_that_of_pytorch_ood(sample: dict[str, np.ndarray]) -> None:
    oracle = KNN(None, k=feature_gate.NEIGHBOURS)
    oracle.knn.n_jobs = 1
    oracle.fit_features(torch.from_numpy(sample["features"]), torch.from_numpy(sample["labels"]))
    want = oracle.predict_features(torch.from_numpy(sample["test"])).numpy()
    np.testing.assert_allclose(SCORES["knn"](sample["test"], fitted(sample)), want, atol=1e-3)


def test_knn_bank_is_drawn_evenly(sample: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_gate, "BANK", 5)
    bank = fitted(sample)["bank"]
    np.testing.assert_allclose(bank, unit(sample["features"][[0, 100, 200, 299, 399]]), rtol=1e-5)


@pytest.mark.parametrize("rank", [3, 8, 12])
def test_vim_is_that_of_pytorch_ood(sample: dict[str, np.ndarray], rank: int) -> None:
    oracle = ViM(None, rank, *two_logits(sample))
    oracle.fit_features(torch.from_numpy(sample["features"]), torch.from_numpy(sample["labels"]))
    want = oracle.predict_features(torch.from_numpy(sample["test"])).numpy()
    np.testing.assert_allclose(SCORES["vim"](sample["test"], fitted(sample, rank)), want, rtol=1e-3, atol=1e-3)


def test_energy_is_that_of_pytorch_ood_and_symmetric(sample: dict[str, np.ndarray]) -> None:
    weight, bias = two_logits(sample)
    want = EnergyBased.score(torch.from_numpy(sample["test"]) @ weight.T + bias).numpy()
    got = SCORES["energy"](sample["test"], fitted(sample))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    mirrored = fit_statistics(sample["features"], sample["stages"], sample["labels"], -sample["weight"], -BIAS)
    np.testing.assert_allclose(got, SCORES["energy"](sample["test"], mirrored), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(set(SCORES) - {"energy"}))
def test_points_off_the_training_slices_are_stranger(sample: dict[str, np.ndarray], name: str) -> None:
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(200, 10)))[0]  # the slices vary in 10 of 200 directions, and are fewer than these
    draw = lambda n: ((rng.normal(size=(n, 10)) + 3) @ basis.T + rng.normal(size=(n, 200)) * 0.05).astype(np.float32)  # noqa: E731
    seen, labels = draw(120), np.arange(120) % 2
    statistics = fit_statistics(seen, seen, labels, (0.1 * rng.normal(size=200)).astype(np.float32), 0.0)
    inside = SCORES[name](draw(50), statistics)
    outside = SCORES[name](draw(50) + rng.normal(size=(50, 200)).astype(np.float32) * 0.5, statistics)
    assert np.isfinite(inside).all()
    assert outside.min() > inside.max()


@pytest.mark.parametrize("name", sorted(SCORES))
def test_what_is_not_finite_is_infinitely_strange_and_no_neighbour_suffers(sample: dict[str, np.ndarray], name: str) -> None:
    statistics, rows = fitted(sample), rows_for(name, sample)[:6].copy()
    clean = SCORES[name](rows, statistics)
    rows[1, 3], rows[2, 0], rows[3, 5], rows[4] = np.nan, np.inf, -np.inf, 3e38
    scores = SCORES[name](rows, statistics)
    assert np.isposinf(scores[1:4]).all()
    assert scores[4] > clean.max() or name in ("energy", "knn", "mahalanobis_normalised")  # these look at directions or logits
    np.testing.assert_allclose(scores[[0, 5]], clean[[0, 5]], rtol=1e-5)
    assert not np.isnan(SCORES[name](np.zeros_like(rows[:1]), statistics)).any()
    with np.errstate(all="raise"):
        assert np.isposinf(Gate(name, statistics, Standard(1.0, 2.0))(np.full((1, F), np.nan), np.full((1, G), np.nan)))


def test_what_lies_inside_all_directions_has_nothing_outside(sample: dict[str, np.ndarray]) -> None:
    basis = np.linalg.qr(sample["features"][:F])[0]
    rows = sample["test"]
    square = np.square(rows.astype(float)).sum(axis=1)
    assert (feature_gate._outside(rows, rows @ basis, basis) < 1e-11 * square).all()
    half = basis[:, : F // 2]
    want = np.square(rows.astype(float) @ basis[:, F // 2 :].astype(float)).sum(axis=1)
    np.testing.assert_allclose(feature_gate._outside(rows, rows @ half, half), want, rtol=1e-4)


@pytest.mark.parametrize("rank", [6, F])
def test_a_slice_is_scored_alike_alone_and_among_others(sample: dict[str, np.ndarray], rank: int) -> None:
    statistics = fitted(sample, rank)
    for name, score in SCORES.items():
        rows = rows_for(name, sample)
        together, alone = score(rows, statistics), np.concatenate([score(row[None], statistics) for row in rows])
        np.testing.assert_allclose(alone, together, rtol=0, atol=1e-4 * together.std(), err_msg=name)


def test_features_that_teach_nothing_are_refused(sample: dict[str, np.ndarray]) -> None:
    broken = sample["features"].copy()
    broken[7, 7] = np.nan
    good, alike = sample["features"], np.ones((N, F), np.float32)
    for features, stages in ((broken, good), (alike, good), (good, broken), (good, alike)):
        with pytest.raises(NotEstimableError, match=f"{N} training slices"):
            fit_statistics(features, stages, sample["labels"], sample["weight"], BIAS)


def test_a_dead_feature_is_no_division_by_zero() -> None:
    rng = np.random.default_rng(2)
    features = np.maximum(rng.normal(size=(40, 8)), 0).astype(np.float32)
    features[:, 4:] = 0
    statistics = fit_statistics(features, features, np.arange(40) % 2, np.ones(8, np.float32), 0.0)
    alive = features[:1].copy()
    alive[0, 5] = 1.0
    for name, score in SCORES.items():
        calm, strange = score(features, statistics), score(alive, statistics)
        assert np.isfinite(strange).all()
        assert calm.max() < 10  # rounding is not blown up
        assert strange[0] > calm.max() or not name.startswith("mahalanobis")


def test_a_dead_channel_of_a_stage_is_no_division_by_zero() -> None:
    rng = np.random.default_rng(2)
    stages = rng.normal(size=(80, 6)).astype(np.float32)
    stages[:, 3:] = 0.25  # a ReLU that never opens
    stages[:40, 3] += np.float32(1e-7)  # rounding
    statistics = fit_statistics(stages, stages, np.arange(80) % 2, np.ones(6, np.float32), 0.0)
    score, other = SCORES["mahalanobis_stages"], stages[:1].copy()
    other[0, 3:] += np.float32(2e-7)
    assert score(stages, statistics).max() < 6 and score(other, statistics)[0] < 6  # rounding is not blown up
    other[0, 4] += 1.0
    assert np.isfinite(score(other, statistics)).all() and score(other, statistics)[0] > 6


def test_standard_is_of_the_median_and_the_upper_tail_and_brings_folds_together() -> None:
    scores = np.random.default_rng(3).normal(5.0, 2.0, 20_000)
    standard = Standard.of(scores)
    assert standard.location == np.median(scores)
    assert standard.scale == pytest.approx(2.0, rel=0.03)
    spoiled = np.r_[scores, np.full(200, 1e6)]  # one in a hundred far off
    assert Standard.of(spoiled).scale == pytest.approx(standard.scale, rel=0.08)
    below = np.where(scores < 4, scores - 50, scores)  # what is unusually near is no concern of the gate
    assert Standard.of(below) == standard
    np.testing.assert_allclose(Standard.of(10 * scores - 3)(10 * scores - 3), standard(scores), rtol=1e-9, atol=1e-9)
    assert np.isposinf(standard(np.inf))


@pytest.mark.parametrize("scores", [[], [1.0], [2.0, 2.0, 2.0], [1.0, 2.0, np.inf], [1.0, 2.0, np.nan]])
def test_scores_without_a_scale_are_refused(scores: list[float]) -> None:
    with pytest.raises(NotEstimableError, match="no scale"):
        Standard.of(scores)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_round_trip_keeps_only_what_the_score_needs(sample: dict[str, np.ndarray], name: str, tmp_path: Path) -> None:
    gate = Gate(name, fitted(sample), Standard(1.5, 0.5))
    save_gate(tmp_path / "gate.npz", gate)
    again = load_gate(tmp_path / "gate.npz", F, G)
    test, stages = sample["test"], rows_for("mahalanobis_stages", sample)
    assert (again.score, again.standard, set(again.statistics)) == (name, gate.standard, set(SHAPES[name]))
    np.testing.assert_array_equal(again(test, stages), gate(test, stages))
    np.testing.assert_allclose(again(test, stages), (score_by(name, test, stages, gate.statistics) - 1.5) / 0.5)
    first = (tmp_path / "gate.npz").read_bytes()
    save_gate(tmp_path / "gate.npz", gate)
    assert (tmp_path / "gate.npz").read_bytes() == first  # DVC compares hashes


def test_damaged_gates_name_the_file(sample: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "3.npz"
    save_gate(path, Gate("mahalanobis_joint", fitted(sample), Standard(0.0, 1.0)))
    good = dict(np.load(path))
    spoiled = good["raw_basis"].copy()
    spoiled[0, 0] = np.nan
    damage = {
        "unknown score": {"score": np.array("other")},
        "not a finite number": {"raw_basis": spoiled},
        "raw_means has shape": {"raw_means": good["raw_means"][:, :-1]},
        "raw_variances has shape": {"raw_variances": good["raw_variances"][:-1]},
        "unit_means has shape": {"unit_means": good["unit_means"][:1]},
        "raw_residual": {"raw_residual": np.float32(0)},
        "unit_variances": {"unit_variances": -good["unit_variances"]},
        "scale": {"scale": np.float64(-1.0)},
        "location": {"location": np.float64(np.inf)},
        "needs": {"bank": np.zeros((3, F), np.float32)},
        "cannot be read": {"raw_means": np.array([[{}]], dtype=object)},
    }
    for message, change in damage.items():
        np.savez(path, **(good | change))
        with pytest.raises(ReleaseError, match=rf"3\.npz.*{message}"):
            load_gate(path, F, G)
    np.savez(path, **{key: value for key, value in good.items() if key != "unit_basis"})
    with pytest.raises(ReleaseError, match=r"3\.npz.*needs"):
        load_gate(path, F, G)
    np.savez(path, **good)
    with pytest.raises(ReleaseError, match=rf"3\.npz.*{F + 1} features and {G} stage features"):
        load_gate(path, F + 1, G)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ReleaseError, match=r"3\.npz"):
        load_gate(path, F, G)
    path.unlink()
    with pytest.raises(ReleaseError, match=r"3\.npz"):
        load_gate(path, F, G)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_a_gate_for_a_b3_is_small(name: str, tmp_path: Path) -> None:
    lengths = {"F": 1536, "G": 624, "K": 2, "R": feature_gate.RANK, "B": feature_gate.BANK}
    statistics = {key: np.ones([lengths[a] for a in axes], np.float32) for key, axes in SHAPES[name].items()}
    save_gate(tmp_path / "gate.npz", Gate(name, statistics, Standard(0.0, 1.0)))
    load_gate(tmp_path / "gate.npz", 1536, 624)
    assert (tmp_path / "gate.npz").stat().st_size <= 3_000_000
