"""The shuffle control: can labels that mean nothing be predicted across this split? Then it leaks, and so would every figure.

Labels are permuted between patients, a cheap probe learns them on the slices that a fold trains on, and is judged on those that
the fold holds out. Above chance it can only be because it knows held-out patients again.

It tests the split against the patient ids that the data give. One person under two ids is two patients to it: that is for the
audit's near-duplicates to find.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from strokect.errors import DataError
from strokect.splits import TEST

PERMUTATIONS = 200
MAX_P = 0.01  # of the one-sided test; below it, twice, the split leaks
MAX_SLICES = 4000  # of the patients drawn for the control; the probe's time grows with the cube of it
MIN_PER_CLASS = 5  # patients; with fewer, most folds would hold one class only and say nothing
THUMBNAIL = 16  # pixels a side; enough to tell people apart, too few to see most lesions
RIDGE = 0.01
# Squared distances between standardised thumbnails are around 2 · 16²; a kernel this narrow reaches a patient's other slices.
KERNEL_GAMMA = 2 / THUMBNAIL**2

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Control:
    """What the control found. AUCs are between patients: 0.5 on average where nobody is on both sides."""

    auc_mean: float
    auc_ci95: tuple[float, float]  # of the mean over permutations, on this split
    auc_sd: float  # between permutations
    p: float  # one-sided, of a mean of 0.5 or less; the larger one where a second set of permutations was drawn
    permutations: int
    labels: str  # what was permuted
    probe: str
    patients: int  # looked at
    slices: int
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded to what they are good for."""
        return {key: _rounded(value) for key, value in asdict(self).items()}

    def message(self) -> str:
        """The finding in words."""
        low, high = self.auc_ci95
        return (
            f"labels permuted between patients are predicted across the split with an AUC of {self.auc_mean:.3f} "
            f"[{low:.3f}, {high:.3f}] over {self.permutations} permutations ({self.p_text()}): slices of one patient are on both "
            "sides, and no figure from this split says anything about patients the model has not seen"
        )

    def p_text(self) -> str:
        """p as a person writes it: its far digits mean nothing."""
        return f"p = {self.p:.2g}" if self.p >= 1e-6 else "p < 1e-6"


def shuffle_control(
    images: NDArray[np.uint8], manifest: pd.DataFrame, split: pd.DataFrame, seed: int, permutations: int = PERMUTATIONS
) -> Control:
    """Test images (N, C, S, S) uint8 under the row-aligned `split` (column part) with the row-aligned manifest (patient, label).

    Why the test is valid: given the labels of the patients trained on, the probe's scores are fixed, and a permutation deals the
    remaining labels to the held-out patients at random. With every held-out patient weighing the same, AUC(a above b) and
    AUC(b above a) then add up to 1, so the mean is 0.5 exactly, whatever the pictures, the split and the probe. Permutations are
    drawn independently of each other, so the AUC of each (averaged over the parts) is an independent sample given pictures and
    split; a one-sided t-test of their mean needs no more. Slices of a patient cluster, and may: they are never samples.

    One honest split in a hundred has p < 0.01 by chance, and must not stop a pipeline: below it, as many new permutations are
    drawn, and the larger p counts. A leak of patients passes both with p far below 1e-6.
    """
    rows = _drawn_rows(manifest, np.random.default_rng([seed, 1]))
    names, who = np.unique(manifest["patient"].to_numpy(str)[rows], return_inverse=True)
    positive = np.zeros(len(names), np.int64)
    np.maximum.at(positive, who, manifest["label"].to_numpy(np.int64)[rows])
    meaning = "patient labels (any positive slice), permuted"
    if min(positive.sum(), len(names) - positive.sum()) < MIN_PER_CLASS:
        positive = (np.arange(len(names)) < len(names) // 2).astype(np.int64)
        meaning = "dealt half and half: too few patients of one class"
    pictures, part = thumbnails(images, rows), split["part"].to_numpy(str)[rows]

    def draw(number: int) -> Floats:
        rng = np.random.default_rng([seed, 2, number])
        labels = np.stack([rng.permutation(positive) for _ in range(permutations)], axis=1)[who]  # (n, permutations)
        return permuted_aucs(pictures, who, labels, part)

    aucs = draw(0)
    if len(aucs) < 2:
        raise DataError(f"the shuffle control needs held-out parts with two patients or more; the cohort has {len(names)}")
    mean, ci95, p = chance_test(aucs)
    if p < MAX_P:
        again = draw(1)
        p = max(p, chance_test(again)[2])
        aucs = np.concatenate([aucs, again])
        mean, ci95, _ = chance_test(aucs)
    return Control(
        auc_mean=mean,
        auc_ci95=ci95,
        auc_sd=float(aucs.std(ddof=1)),
        p=p,
        permutations=len(aucs),
        labels=meaning,
        probe=f"kernel ridge on {THUMBNAIL} px thumbnails",
        patients=len(names),
        slices=len(rows),
        passed=bool(p >= MAX_P),
    )


def chance_test(aucs: Floats) -> tuple[float, tuple[float, float], float]:
    """(B,) independent AUCs → mean, its 95 % t interval, one-sided p of a mean of at most 0.5 (Student's t)."""
    from scipy.stats import ttest_1samp

    mean = float(aucs.mean())
    if np.ptp(aucs) < 1e-12:  # a perfect probe, or one that says nothing: t is not defined
        return mean, (mean, mean), float(mean <= 0.5 + 1e-12)
    low, high = ttest_1samp(aucs, 0.5).confidence_interval(0.95)
    return mean, (float(low), float(high)), float(ttest_1samp(aucs, 0.5, alternative="greater").pvalue)


def permuted_aucs(pictures: Floats, who: NDArray[np.int64], labels: NDArray[np.int64], part: NDArray[np.str_]) -> Floats:
    """(n, F) pictures, (n,) patient numbers, (n, B) labels, (n,) part → (≤ B,) AUC of each permutation, averaged over the parts.

    Each fold is predicted from the other folds, the test part from all folds, as the pipeline does. A part in which a permutation
    left one class says nothing about it; a permutation of which no part says anything is left out.
    """
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.preprocessing import StandardScaler

    aucs = []
    for held_out in np.unique(part):
        judged, trained = part == held_out, (part != held_out) & (part != TEST)
        scaler = StandardScaler().fit(pictures[trained])
        # One factorisation serves all permutations: the probe is linear in the labels.
        probe = KernelRidge(alpha=RIDGE, kernel="rbf", gamma=KERNEL_GAMMA)
        targets = labels[trained] - labels[trained].mean(axis=0)
        scores = probe.fit(scaler.transform(pictures[trained]), targets).predict(scaler.transform(pictures[judged]))
        aucs.append(_patient_aucs(scores, labels[judged], who[judged]))
    stacked = np.stack(aucs)  # (parts, B)
    return np.nanmean(stacked[:, ~np.isnan(stacked).all(axis=0)], axis=0)


def thumbnails(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> Floats:
    """(N, C, S, S) uint8 → (n, 256) grey levels of the first channel of `rows`, averaged down; reads only those rows."""
    size = (THUMBNAIL, THUMBNAIL)
    small = [np.asarray(Image.fromarray(images[row, 0]).resize(size, Image.Resampling.BOX), np.float64).ravel() for row in rows]
    return np.stack(small)


def _patient_aucs(scores: Floats, labels: NDArray[np.int64], who: NDArray[np.int64]) -> Floats:
    """(n, B) scores and labels → (B,) AUC over pairs of slices, every patient weighing the same; NaN with one class only."""
    weight = (1 / np.bincount(who)[who])[:, None]
    # Equal scores rank by row; with the rows in both orders, each counts as half above and half below the other.
    both = [_ranked_aucs(scores[::step], labels[::step], weight[::step]) for step in (1, -1)]
    return (both[0] + both[1]) / 2


def _ranked_aucs(scores: Floats, labels: NDArray[np.int64], weight: Floats) -> Floats:
    order = np.argsort(scores, axis=0, kind="stable")
    ranked = np.take_along_axis(np.broadcast_to(weight, scores.shape), order, axis=0)  # (n, B), as the next
    positive = ranked * np.take_along_axis(labels, order, axis=0)
    negative = ranked - positive
    below = np.cumsum(negative, axis=0)  # at a positive: the weight of all negatives ranked below it
    with np.errstate(invalid="ignore"):
        return (positive * below).sum(axis=0) / (positive.sum(axis=0) * negative.sum(axis=0))


def _drawn_rows(manifest: pd.DataFrame, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of so many randomly drawn whole patients as fit into MAX_SLICES; all rows of a cohort that small."""
    if len(manifest) <= MAX_SLICES:
        return np.arange(len(manifest))
    patients = manifest["patient"].to_numpy(str)
    names, who, counts = np.unique(patients, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    drawn = order[np.cumsum(counts[order]) <= MAX_SLICES]
    return np.flatnonzero(np.isin(who, drawn))


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
