"""Which parts of the pipeline earn their cost: each part left out, on the same slices, with the paired difference.

A part is judged by log loss after cross-fitted calibration and by ROC AUC; what is left out, `without`, and the whole, `with`,
are resampled together, by patient.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.calibration import sigmoid
from strokect.calibration_fit import CROSS_FIT_GROUPS, cross_fit, patient_groups
from strokect.comparison import paired_difference
from strokect.out_of_fold import OutOfFold
from strokect.statistics import bootstrap_weights

Floats = NDArray[np.float64]
FIGURES = ("log_loss", "roc_auc")
WHATS = {
    "views": "the mean over all views, against the slice as it is",
    "mining": "fine-tuned on hard slices, against the weights before",
    "calibration": "calibrated, against the raw probabilities",
    "ensemble": "the average of all models, against one of them (mean over the models)",
}


def ablate_out_of_fold(oof: OutOfFold, method: str, *, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Views, mining and calibration, out-of-fold, where the run has them; `method` is the calibration that ships."""
    groups = patient_groups(oof.patients, oof.labels, CROSS_FIT_GROUPS, seed)

    def calibrated(logits: Floats) -> pd.DataFrame:
        return _frame(oof, cross_fit(method, logits, oof.labels, groups), sigmoid(logits))

    whole = calibrated(oof.logits)
    pairs = {}
    if oof.views.shape[1] > 1:
        pairs["views"] = calibrated(oof.views[:, 0])
    if oof.before_mining is not None:
        pairs["mining"] = calibrated(oof.before_mining)
    if method != "none":
        pairs["calibration"] = _frame(oof, sigmoid(oof.logits), sigmoid(oof.logits))
    return [row for part, without in pairs.items() for row in _rows("oof", part, [without], whole, resamples, seed)]


def ablate_ensemble(
    labels: NDArray[np.int64], patients: NDArray[np.str_], probabilities: Floats, *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The average of the calibrated probabilities (n, models) against single models, on slices that none of them has seen."""
    if probabilities.shape[1] < 2:
        return []

    def frame(column: Floats) -> pd.DataFrame:
        return pd.DataFrame({"label": labels, "patient": patients, "probability": column, "ranking": column})

    single = [frame(column) for column in probabilities.T]
    return _rows("test", "ensemble", single, frame(probabilities.mean(axis=1)), resamples, seed)


def _frame(oof: OutOfFold, probability: Floats, ranking: Floats) -> pd.DataFrame:
    return pd.DataFrame({"label": oof.labels, "patient": oof.patients, "probability": probability, "ranking": ranking})


def _rows(
    judged_on: str, part: str, without: Sequence[pd.DataFrame], whole: pd.DataFrame, resamples: int, seed: int
) -> list[dict[str, Any]]:
    counts, index = bootstrap_weights(whole["patient"].to_numpy(str), resamples, seed)
    rows = []
    for name in FIGURES:
        if part == "calibration" and name == "roc_auc":
            continue  # an order-preserving map leaves it as it is
        found = paired_difference(name, without, [whole], counts, index)
        verdict = {"second better": "earns its cost", "first better": "does harm"}.get(found["verdict"], found["verdict"])
        rows.append(
            {
                "part": part,
                "what": WHATS[part],
                "judged_on": judged_on,
                "figure": name,
                "without": found["first"],
                "with": found["second"],
                **{key: found[key] for key in ("difference", "ci95")},
                "verdict": verdict,
            }
        )
    return rows
