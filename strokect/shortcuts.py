"""Can the label be read off something that is no anatomy? Each fact is tested at the same height of the head.

Position alone predicts a bleed (protocol of CT-ICH: AUC 0.72), and file size goes with position, so slices are compared within
thirds of their patients' stacks only. The slices of a patient are one cluster.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

THIRDS = 3
MIN_Z = 3.3  # two-sided p < 0.001: a dozen facts are tested
MIN_EFFECT = 0.02  # of the AUC beyond 0.5: a large cohort finds differences that nothing could be learned from
MIN_FILES = 5  # that carry a fact which is there or not
CHANCE = 1e-3  # that all files with a rare mark have one class by luck


@dataclass(frozen=True)
class Probe:
    """How well one fact predicts label 1 at the same slice position: AUC (0.5 = not) and z of the clustered score test."""

    auc: float
    z: float

    @property
    def stands_out(self) -> bool:
        """Whether the fact goes with the class beyond chance, and enough to matter."""
        return abs(self.z) >= MIN_Z and abs(self.auc - 0.5) >= MIN_EFFECT


def slice_thirds(manifest: pd.DataFrame) -> NDArray[np.int64]:
    """(N,) 0, 1 or 2: which third of the patient's stack each slice lies in."""
    order = manifest["slice"] if "slice" in manifest else pd.Series(0, index=manifest.index)
    groups = order.groupby(manifest["patient"])
    rank = groups.rank(method="first").to_numpy() - 1
    return np.asarray(rank * THIRDS // groups.transform("size").to_numpy(), np.int64)


def probe(values: NDArray[np.float64], labels: NDArray[np.int64], thirds: NDArray[np.int64], patients: NDArray[np.str_]) -> Probe:
    """Facts (N,), labels (N,) 0 or 1, slice thirds (N,), patient ids (N,) → Probe; NaN facts are left out.

    AUC: Mann–Whitney's within each third, weighted by its pairs. z: Σ over slices of (rank − mean)(label − mean) within thirds,
    over the root of the sum of its patients' squares: the score test of a logistic regression with an intercept for each third
    and a cluster-robust variance (Rotnitzky & Jewell 1990).
    """
    score = np.zeros(len(values))
    wins = pairs = 0.0
    for third in np.unique(thirds):
        rows = np.flatnonzero((thirds == third) & np.isfinite(values))
        positive = labels[rows] == 1
        ones, zeros = int(positive.sum()), int((~positive).sum())
        if not ones or not zeros:
            continue
        ranks = rankdata(values[rows])
        wins += ranks[positive].sum() - ones * (ones + 1) / 2
        pairs += ones * zeros
        score[rows] = (ranks - ranks.mean()) / len(rows) * (positive - positive.mean())
    if not pairs:
        return Probe(0.5, 0.0)
    clusters = np.bincount(np.unique(patients, return_inverse=True)[1], score)
    spread = float(np.sqrt(np.square(clusters).sum()))
    return Probe(wins / pairs, float(clusters.sum()) / spread if spread > 0 else 0.0)


def only_one_class(marked: NDArray[np.bool_], labels: NDArray[np.int64]) -> int | None:
    """The one class in which a rare mark (N,) occurs, where luck does not explain that; else None."""
    classes = np.unique(labels[marked])
    if np.count_nonzero(marked) < MIN_FILES or len(classes) != 1:
        return None
    share = float(np.mean(labels == classes[0]))
    return int(classes[0]) if share ** np.count_nonzero(marked) < CHANCE else None
