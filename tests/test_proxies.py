"""Proxy outliers: deterministic, of the right shape, each what its name says; and the choice of a score on them."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from strokect.errors import NotEstimableError
from strokect.proxies import choose_score, proxy_outliers

SIZE, COUNT = 48, 8
MADE_OF_SLICES = ("shuffled", "turned", "foreign_window", "blurred", "zoomed", "mixed")


def heads(count: int = 5, channels: int = 1, size: int = SIZE) -> np.ndarray:
    """(count, channels, size, size) uint8: discs with a bright rim, a dark mark at the top and a brightness of their own."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x, y)
    plain = np.where(radius < 0.6, 100, np.where(radius < 0.75, 250, 0))
    plain[(np.abs(x) < 0.15) & (np.abs(y + 0.4) < 0.15)] = 20
    made = np.stack([np.where(plain == 100, 90 + 10 * i, plain) for i in range(count)]).astype(np.uint8)
    return np.repeat(made[:, None], channels, axis=1)


def make(images: np.ndarray | None = None, seed: int = 0, count: int = COUNT, phantom: bool = True) -> dict[str, np.ndarray]:
    given = heads() if images is None else images
    return proxy_outliers(given, np.random.default_rng(seed), count, with_phantom=phantom)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_has_the_shape_of_the_slices(channels: int) -> None:
    made = make(heads(channels=channels))
    assert list(made) == ["photo", "smooth_noise", *MADE_OF_SLICES, "phantom"]
    for kind, pictures in made.items():
        assert (pictures.shape, pictures.dtype) == ((COUNT, channels, SIZE, SIZE), np.uint8), kind
        assert len({picture.tobytes() for picture in pictures}) > COUNT // 2, kind
        assert all(picture.std() > 5 for picture in pictures), kind


def test_the_generator_decides_and_slices_stay_as_they_are() -> None:
    images = heads()
    first, again, other = make(images), make(images), make(images, seed=1)
    np.testing.assert_array_equal(images, heads())
    for kind in first:
        np.testing.assert_array_equal(first[kind], again[kind])
        assert not np.array_equal(first[kind], other[kind]), kind
    for kind, pictures in make(images, phantom=False).items():
        np.testing.assert_array_equal(pictures, first[kind])


def test_no_proxy_is_a_slice_or_its_mirror_image() -> None:
    images = heads()
    known = {view.tobytes() for image in images for view in (image, image[..., ::-1])}
    for kind, pictures in make(images, count=20).items():
        assert not known & {picture.tobytes() for picture in pictures}, kind


def test_every_slice_serves_once_before_any_serves_twice() -> None:
    marked = np.stack([np.full((1, SIZE, SIZE), 10 * i + 10, np.uint8) for i in range(5)])
    turned = make(marked, count=12)["turned"][:, 0, 0, 0]
    assert len(set(turned[:5])) == 5
    np.testing.assert_array_equal(turned[5:10], turned[:5])


def test_shuffled_keeps_the_pixels_and_moves_the_patches() -> None:
    images = heads()[:1]
    for picture in make(images)["shuffled"]:
        np.testing.assert_array_equal(np.sort(picture, axis=None), np.sort(images[0], axis=None))


def test_turned_slices_are_turns_that_no_head_is_scanned_in() -> None:
    image = heads()[0]
    turns = {part.tobytes() for part in (image[:, ::-1], *(np.rot90(image, k, axes=(1, 2)) for k in (1, 2, 3)))}
    assert {picture.tobytes() for picture in make(image[None], count=30)["turned"]} == turns


def test_foreign_window_maps_levels_one_to_one_in_order() -> None:
    image = heads()[0]
    for picture in make(image[None], count=20)["foreign_window"]:
        pairs = sorted(set(zip(image.ravel().tolist(), picture.ravel().tolist(), strict=True)))
        levels = [after for _, after in pairs]
        assert len(pairs) == len(np.unique(image))
        assert levels == sorted(levels)
        assert max(abs(before - after) for before, after in pairs) > 40


def test_blur_removes_detail_and_zoom_changes_the_share_of_the_head() -> None:
    images = heads()
    made = make(images, count=20)
    sharp = np.abs(np.diff(images.astype(int), axis=-1)).max()
    assert all(np.abs(np.diff(picture.astype(int), axis=-1)).max() < 0.5 * sharp for picture in made["blurred"])
    inside = (images > 0).mean()
    shares = (made["zoomed"] > 0).mean(axis=(1, 2, 3))
    assert ((shares < 0.45 * inside) | (shares > 1.3 * inside)).all()
    assert shares.min() < inside < shares.max()


def test_mixed_slices_hold_two_different_ones() -> None:
    flat = np.stack([np.full((1, SIZE, SIZE), level, np.uint8) for level in (0, 200)])
    levels = make(flat, count=20)["mixed"][:, 0, 0, 0]
    assert ((levels >= 70) & (levels <= 130)).all()
    assert len(set(levels)) > 5


def test_smooth_noise_has_the_spectrum_of_scenes() -> None:
    pictures = proxy_outliers(heads(size=128), np.random.default_rng(0), 10, with_phantom=False)["smooth_noise"][:, 0].astype(
        float
    )
    power = (np.abs(np.fft.fft2(pictures - pictures.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)[0, 1:40]
    slope = np.polyfit(np.log(np.arange(1, 40)), np.log(power), 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.5)  # white noise: 0


def test_choice_is_the_highest_mean_auroc_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    held_out = {name: rng.normal(size=60).round(1) for name in ("alpha", "beta", "gamma")}  # rounded: with ties
    shift = {"alpha": (0.2, 2.0), "beta": (1.5, 1.5), "gamma": (0.1, 0.1)}
    scores = {
        kind: {name: rng.normal(shift[name][i], 1, size=30 + i).round(1) for name in held_out}
        for i, kind in enumerate(("one", "two"))
    }
    scores["two"]["gamma"][:4] = np.inf
    name, table = choose_score(held_out, scores)
    assert name == "beta"
    for kind, row in table.items():
        for score, value in row.items():
            both = np.r_[held_out[score], np.minimum(scores[kind][score], 1e9)]
            labels = np.r_[np.zeros(60), np.ones(len(scores[kind][score]))]
            assert value == pytest.approx(roc_auc_score(labels, both), abs=1e-12)


def test_the_first_name_wins_a_tie_and_lower_scores_of_outliers_are_bad() -> None:
    inside, outside = np.arange(10.0), np.arange(10.0) + 20
    equal = {"b": inside, "a": inside, "0": inside}
    assert choose_score(equal, {"kind": {"b": outside, "a": outside, "0": -outside}})[0] == "a"


def test_each_kind_counts_the_same_whatever_its_size() -> None:
    inside = {"a": np.arange(10.0), "b": np.arange(10.0)}
    far, near = np.full(5, 99.0), np.full(500, -1.0)
    kinds = {
        "many": {"a": -near + 98, "b": near},
        "few": {"a": np.full(5, -1.0), "b": far},
        "fewer": {"a": far[:2] * -1, "b": far[:2]},
    }
    assert choose_score(inside, kinds)[0] == "b"


@pytest.mark.parametrize("broken", ["empty", "nan", "no kinds", "no scores"])
def test_what_cannot_be_ranked_is_refused(broken: str) -> None:
    outlier = {"empty": np.zeros(0), "nan": np.array([1.0, np.nan])}.get(broken, np.ones(3))
    held_out = {} if broken == "no scores" else {"knn": np.arange(5.0)}
    with pytest.raises(NotEstimableError):
        choose_score(held_out, {} if broken == "no kinds" else {"photo": {"knn": outlier}})
