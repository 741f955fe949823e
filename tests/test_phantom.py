"""The synthetic cohort: reproducible, in Hounsfield units, with visible lesions that brightness alone does not give away."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from strokect import phantom
from strokect.phantom import LESIONS, MIN_LESION_FRACTION, PhantomSlice, make_cohort, make_patient, window

SIZE = 96


@pytest.fixture(scope="module")
def cohort() -> list[PhantomSlice]:
    return list(make_cohort(patients=60, slices=10, size=SIZE, seed=0))


def by_patient(cohort: list[PhantomSlice]) -> dict[str, list[PhantomSlice]]:
    heads: dict[str, list[PhantomSlice]] = {}
    for part in cohort:
        heads.setdefault(part.patient, []).append(part)
    return heads


def without_lesion(monkeypatch: pytest.MonkeyPatch, patient: int) -> list[PhantomSlice]:
    """The same head, noise and midline shift, with tissue where the lesion is."""
    with monkeypatch.context() as patch:
        patch.setattr(phantom, "_add_lesion", lambda *_: None)
        return make_patient(patient, seed=0, slices=10, size=SIZE)


def test_patient_does_not_depend_on_the_cohort(cohort: list[PhantomSlice]) -> None:
    alone = make_patient(7, seed=0, slices=10, size=SIZE)
    for one, other in zip(alone, cohort[70:80], strict=True):
        assert (one.patient, one.slice, one.lesion) == (other.patient, other.slice, other.lesion)
        np.testing.assert_array_equal(one.hu, other.hu)
        np.testing.assert_array_equal(one.mask, other.mask)


def test_seed_and_patient_change_the_head() -> None:
    first, second, third = (make_patient(p, seed=s, slices=4, size=48)[2].hu for p, s in ((0, 0), (1, 0), (0, 1)))
    assert np.abs(first - second).mean() > 5
    assert np.abs(first - third).mean() > 5


def test_order_types_and_names(cohort: list[PhantomSlice]) -> None:
    assert [(part.patient, part.slice) for part in cohort] == [(f"p{p:03d}", s) for p in range(60) for s in range(10)]
    for part in cohort[::50]:
        assert part.hu.shape == part.mask.shape == (SIZE, SIZE)
        assert (part.hu.dtype, part.mask.dtype) == (np.float32, np.uint8)


def test_mask_and_label_agree(cohort: list[PhantomSlice]) -> None:
    for part in cohort:
        codes = set(np.unique(part.mask)) - {0}
        if part.lesion:
            assert codes == {LESIONS.index(part.lesion) + 1}
            assert np.count_nonzero(part.mask) >= MIN_LESION_FRACTION * SIZE**2
        else:
            assert not codes


def test_class_balance(cohort: list[PhantomSlice]) -> None:
    assert {part.lesion for part in cohort} == {"", *LESIONS}
    assert 0.25 <= np.mean([part.lesion != "" for part in cohort]) <= 0.35
    assert len({part.patient for part in cohort if part.lesion}) == 30


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_small_cohort_has_both_classes(seed: int) -> None:
    positive = {part.patient for part in make_cohort(patients=12, slices=10, size=48, seed=seed) if part.lesion}
    assert 5 <= len(positive) <= 7


def test_lesion_is_one_run_of_overlapping_slices(cohort: list[PhantomSlice]) -> None:
    overlaps = []
    for head in by_patient(cohort).values():
        kinds = {part.lesion for part in head} - {""}
        indices = [part.slice for part in head if part.lesion]
        if not kinds:
            continue
        assert len(kinds) == 1
        assert len(indices) >= 3
        assert indices[-1] - indices[0] + 1 - len(indices) <= 1  # fluid spaces may interrupt a run once
        for one, other in pairwise([part.mask > 0 for part in head if part.lesion]):
            overlaps.append((one & other).sum() / min(one.sum(), other.sum()))
    assert np.mean(overlaps) > 0.5  # two unrelated lesions of this size overlap by less than a tenth


def test_tissues_lie_in_their_hu_range(cohort: list[PhantomSlice]) -> None:
    for head in by_patient(cohort).values():
        for part in head[3:8]:
            assert -1024 <= part.hu.min() < -950  # air
            assert np.median(part.hu[:3]) < -950  # the head is inside the picture
            assert 900 < part.hu.max() < 1700  # bone
        if not any(part.lesion for part in head):
            middle = head[6].hu[SIZE // 3 : 2 * SIZE // 3, SIZE // 3 : 2 * SIZE // 3]
            assert 20 < np.median(middle) < 45  # brain, ± 4 HU of calibration
            assert np.percentile(gaussian_filter(middle, 0.7), 1) < 24  # ventricles


def test_blood_and_infarct_hu(cohort: list[PhantomSlice], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for patient, head in enumerate(by_patient(cohort).values()):
        if patient >= 20 or not any(part.lesion for part in head):
            continue
        for part, plain in zip(head, without_lesion(monkeypatch, patient), strict=True):
            core = binary_erosion(part.mask > 0)
            if core.sum() < 12:
                continue
            seen.add(part.lesion)
            if part.lesion == "infarct":
                assert 5 <= (plain.hu - part.hu)[core].mean() <= 12
            else:
                assert 50 <= np.median(part.hu[core]) <= 95  # 50–90 and the scanner's offset
                assert np.median((part.hu - plain.hu)[core]) > 15
    assert seen == set(LESIONS)


def test_lesion_differs_from_its_surroundings(cohort: list[PhantomSlice]) -> None:
    """An oracle that knows the place sees the lesion on nearly every positive slice."""
    visible = []
    for part in cohort:
        lesion = part.mask > 0
        brain = (part.hu > 0) & (part.hu < 95)
        ring = binary_dilation(lesion, iterations=4) & ~binary_dilation(lesion) & brain
        if lesion.any() and ring.sum() >= 12:
            contrast = np.median(part.hu[lesion]) - np.median(part.hu[ring])
            visible.append(contrast < -4 if part.lesion == "infarct" else contrast > 12)
    assert len(visible) > 150
    assert np.mean(visible) > 0.9


def histogram_auc(cohort: list[PhantomSlice]) -> float:
    """Out-of-fold AUC of a logistic regression on the histogram of the brain window, patients kept together."""
    counts = np.stack([np.histogram(window(part.hu), 32, (0, 256))[0] for part in cohort])  # (N, 32)
    labels = np.array([part.lesion != "" for part in cohort])
    groups = [part.patient for part in cohort]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    scores = cross_val_predict(model, counts, labels, groups=groups, cv=GroupKFold(5), method="predict_proba")[:, 1]
    return float(roc_auc_score(labels, scores))


def test_brightness_does_not_give_the_label_away(cohort: list[PhantomSlice]) -> None:
    assert histogram_auc(cohort) < 0.75


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_brightness_does_not_give_the_label_away_for_other_seeds(seed: int) -> None:
    assert histogram_auc(list(make_cohort(patients=60, slices=10, size=SIZE, seed=seed))) < 0.75


@pytest.mark.parametrize(("size", "slices"), [(48, 4), (64, 7), (256, 4)])
def test_other_sizes(size: int, slices: int) -> None:
    parts = list(make_cohort(patients=2, slices=slices, size=size, seed=3))
    assert len(parts) == 2 * slices
    assert {bool(part.lesion) for part in parts} == {True, False}
    for part in parts:
        assert part.hu.shape == (size, size)
        assert np.isfinite(part.hu).all()
        assert (part.mask > 0).any() == (part.lesion != "")


def test_window_is_linear_and_clipped() -> None:
    hu = np.array([[-1000.0, -20.0], [40.0, 100.0], [160.0, 70.0]], np.float32)
    np.testing.assert_array_equal(window(hu), [[0, 0], [128, 255], [255, 191]])
    np.testing.assert_array_equal(window(hu, level_hu=50, width_hu=100)[1], [102, 255])
    assert window(hu).dtype == np.uint8
