"""Two runs judged on the same patients: paired differences with patient-clustered intervals, and what they allow to say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.edges import MIN_PATIENTS, interval
from strokect.errors import DataError, NotEstimableError
from strokect.statistics import (
    average_precision,
    bootstrap_weights,
    brier,
    log_loss,
    patients_of_rarer,
    resampled,
    roc_auc,
    weighted_share,
)

Floats = NDArray[np.float64]
Metric = Callable[[pd.DataFrame, Floats], Floats]  # a run's table and weights (R, n) → (R,)
PRIMARY = ("slice", "log_loss")  # by which this project chooses between models; every other figure is a second look
LOWER_IS_BETTER = ("log_loss", "brier", "ece")
CANNOT_TELL, NOT_ESTIMABLE = "cannot tell", "not estimable"
COLUMNS = ("patient", "label", "probability", "ranking", "decision")


@dataclass(frozen=True)
class Run:
    """Out-of-fold scores of one run.

    `slices` is models/oof.csv and `patients` models/oof_patients.csv: a row for each, with `patient`, `label` (0 | 1),
    `probability` (calibrated, cross-fitted), `ranking` (what ROC AUC orders by) and `decision` (0 | 1); slices also have `file`.
    """

    name: str
    slices: pd.DataFrame
    patients: pd.DataFrame


def compare(first: Run, second: Run, *, resamples: int, seed: int) -> dict[str, Any]:
    """Every figure of both runs, their difference (second − first) and its 95 % interval.

    The same resampled patients judge both runs, so what makes a cohort hard cancels out. Raises DataError unless both runs judged
    the same slices under the same labels.
    """
    levels = {"slice": _aligned(first, second, "slices", "file"), "patient": _aligned(first, second, "patients", "patient")}
    result: dict[str, Any] = {"first": first.name, "second": second.name}
    for level, (a, b) in levels.items():
        counts, index = bootstrap_weights(a["patient"].to_numpy(str), resamples, seed)
        result[level] = {name: paired_difference(name, [a], [b], counts, index) for name in _METRICS}
    result |= {
        "n_slices": len(first.slices),
        "n_patients": len(first.patients),
        "n_positive_patients": int(first.patients["label"].sum()),
        "compared": 2 * len(_METRICS),
        "primary": list(PRIMARY),
        "verdict": result[PRIMARY[0]][PRIMARY[1]]["verdict"],
        "interval": f"95 % interval of the paired difference by Student's t, from {resamples} bootstrap resamples of patients",
    }
    return result


def verdict(name: str, ci95: list[float] | None) -> str:
    """`first better`, `second better`, `cannot tell` where the interval of second − first holds 0, or `not estimable`."""
    if ci95 is None:
        return NOT_ESTIMABLE
    if ci95[0] <= 0 <= ci95[1]:
        return CANNOT_TELL
    second_is_better = (ci95[1] < 0) == (name in LOWER_IS_BETTER)
    return "second better" if second_is_better else "first better"


def difference_text(found: dict[str, Any], digits: int = 4) -> str:
    """A difference with its sign and interval; the interval is missing where it is not estimable."""
    if found["ci95"] is None:
        return f"{found['difference']:+.{digits}f}"
    low, high = found["ci95"]
    return f"{found['difference']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _ranked(metric: Callable[[NDArray[np.int64], Floats, Floats], Floats], column: str) -> Metric:
    def figure(frame: pd.DataFrame, weights: Floats) -> Floats:
        score = frame[column].to_numpy(float)
        if np.isnan(score).any():
            raise NotEstimableError(f"{int(np.isnan(score).sum())} of {len(score)} values of {column} are NaN")
        if column == "ranking" and len(np.unique(score)) < 2:  # equal scores rank nothing
            return np.full(len(weights), np.nan)
        return metric(frame["label"].to_numpy(np.int64), score, weights)

    return figure


def _share(frame: pd.DataFrame, weights: Floats, label: int) -> Floats:
    own = frame["label"].to_numpy(np.int64) == label
    return weighted_share(own & (frame["decision"].to_numpy(np.int64) == label), own, weights)


_METRICS: dict[str, Metric] = {
    "log_loss": _ranked(log_loss, "probability"),
    "brier": _ranked(brier, "probability"),
    "roc_auc": _ranked(roc_auc, "ranking"),
    "average_precision": _ranked(average_precision, "ranking"),
    "sensitivity": lambda frame, weights: _share(frame, weights, 1),
    "specificity": lambda frame, weights: _share(frame, weights, 0),
}


def paired_difference(
    name: str, first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame], counts: NDArray[np.int64], index: NDArray[np.int64]
) -> dict[str, Any]:
    """The figure `name` of two sides on the same rows: {"first", "second", "difference", "ci95", "verdict"}.

    A side of several tables is their mean figure. Tables have the columns `label`, `probability`, `ranking`, `decision` that the
    figure needs; `counts` (R, P) and `index` (n,) are those of `bootstrap_weights`. There is no interval with fewer than two
    patients of a class that the figure needs.
    """
    metric = _METRICS[name]

    def figures(weights: Floats) -> list[Floats]:
        return [np.mean([metric(table, weights) for table in side], axis=0) for side in (first, second)]

    values = [float(figure[0]) for figure in figures(np.ones((1, len(index))))]

    def change(weights: Floats) -> Floats:
        one, other = figures(weights)
        return other - one

    return judged_change(name, values, change, first[0]["label"].to_numpy(np.int64), counts, index)


def judged_change(
    name: str,
    values: Sequence[float],
    change: Callable[[Floats], Floats],
    labels: NDArray[np.int64],
    counts: NDArray[np.int64],
    index: NDArray[np.int64],
) -> dict[str, Any]:
    """What `paired_difference` gives, from both `values` of the figure `name`; `change` maps weights (R, n) to second − first."""
    if not np.isfinite(values).all():
        return {"first": None, "second": None, "difference": None, "ci95": None, "verdict": NOT_ESTIMABLE}
    label = {"sensitivity": 1, "specificity": 0}.get(name)
    patients = patients_of_rarer(labels, index) if label is None else len(np.unique(index[labels == label]))
    difference, drawn = values[1] - values[0], resampled(change, counts, index)
    ci95 = interval(difference, drawn, patients, "linear")
    # Two sides that are the same in every resample leave no interval, and no difference to be seen either.
    same = patients >= MIN_PATIENTS and not np.nan_to_num(drawn).any()
    said = CANNOT_TELL if same else verdict(name, ci95)
    return {"first": values[0], "second": values[1], "difference": difference, "ci95": ci95, "verdict": said}


def _aligned(first: Run, second: Run, table: str, key: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables in one order of `key`."""
    frames = []
    for run in (first, second):
        frame: pd.DataFrame = getattr(run, table)
        if missing := [name for name in (key, *COLUMNS) if name not in frame.columns]:
            raise DataError(f"{run.name}: the scores of {table} lack the column {', '.join(missing)}")
        if frame[key].duplicated().any():
            raise DataError(f"{run.name}: {frame[key].duplicated().sum()} {table} occur twice")
        bad = ~np.isfinite(frame[["probability", "ranking"]].to_numpy(float)).all(axis=1)
        if bad.any():
            raise DataError(f"{run.name}: {bad.sum()} of {len(frame)} {table} have a score that is not a number")
        frames.append(frame.set_index(key, drop=False).sort_index())
    a, b = frames
    if not a.index.equals(b.index):
        only = len(a.index.difference(b.index)), len(b.index.difference(a.index))
        raise DataError(
            f"{first.name} and {second.name} did not judge the same {table}: {only[0]} only in the first, {only[1]} only in the "
            "second. A difference between other cohorts is not one between models: give both the same data and test part"
        )
    differ = int((a["label"].to_numpy() != b["label"].to_numpy()).sum())
    if differ:
        raise DataError(
            f"{first.name} and {second.name} have different labels for {differ} {table}: data.labels or the data changed"
        )
    if (a["patient"].to_numpy() != b["patient"].to_numpy()).any():
        raise DataError(f"{first.name} and {second.name} give the same slices to different patients")
    return a, b
