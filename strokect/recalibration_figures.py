"""What a recalibration for a site changes: figures before and after with paired differences, intervals of the thresholds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.comparison import CANNOT_TELL, NOT_ESTIMABLE, never_differ, patients_behind
from strokect.edges import interval
from strokect.operating_point import patient_labels
from strokect.recalibration import Answers, Cases, Fitted, fit_site
from strokect.release import OperatingPoint
from strokect.statistics import bootstrap_weights, brier, ece, log_loss, resampled, weighted_share

Floats = NDArray[np.float64]
Figure = Callable[[Floats], Floats]  # of weights (R, n)
HIGHER_IS_BETTER = ("sensitivity", "specificity")
THRESHOLD_RESAMPLES = 200  # each fits the calibration and both thresholds again


def paired_figures(cases: Cases, old: Answers, new: Answers, *, resamples: int, seed: int) -> dict[str, Any]:
    """Figures before and after (cross-fitted) on accepted slices and on patients, and their paired difference with interval."""
    kept, truth, names = cases.accepted, patient_labels(cases.labels, cases.patients), np.unique(cases.patients)
    levels = {
        "slice": (cases.labels[kept], cases.patients[kept], [(a.probability[kept], a.decision[kept]) for a in (old, new)]),
        "patient": (truth, names, [(a.patient_probability, a.patient_decision) for a in (old, new)]),
    }
    report: dict[str, Any] = {}
    for level, (labels, patients, answers) in levels.items():
        counts, index = bootstrap_weights(patients, resamples, seed)
        report[level] = {}
        for name in (*HIGHER_IS_BETTER, "log_loss", "brier", "ece"):
            one, two = (_figure(name, labels, *answer) for answer in answers)
            values = [float(figure(np.ones((1, len(labels))))[0]) for figure in (one, two)]

            def change(w: Floats, before: Figure = one, after: Figure = two) -> Floats:
                return after(w) - before(w)

            report[level][name] = _paired(name, values, change, labels, counts, index)
    return report


def _paired(
    name: str,
    values: list[float],
    change: Figure,
    labels: NDArray[np.int64],
    counts: NDArray[np.int64],
    index: NDArray[np.int64],
) -> dict[str, Any]:
    if not np.isfinite(values).all():
        return {"before": None, "after": None, "difference": None, "ci95": None, "verdict": NOT_ESTIMABLE}
    difference = values[1] - values[0]
    drawn, patients = resampled(change, counts, index), patients_behind(name, labels, index)
    ci95 = interval(difference, drawn, patients, "linear")
    said = CANNOT_TELL if never_differ(drawn, patients) else verdict(name, ci95)
    return {"before": values[0], "after": values[1], "difference": difference, "ci95": ci95, "verdict": said}


def verdict(name: str, ci95: list[float] | None) -> str:
    """`better`, `worse`, `cannot tell` where the interval of after − before holds 0, or `not estimable`."""
    if ci95 is None:
        return NOT_ESTIMABLE
    if ci95[0] <= 0 <= ci95[1]:
        return CANNOT_TELL
    return "better" if (ci95[0] > 0) == (name in HIGHER_IS_BETTER) else "worse"


def _figure(name: str, labels: NDArray[np.int64], probability: Floats, decision: NDArray[np.int64]) -> Figure:
    if name in HIGHER_IS_BETTER:
        own = labels == (name == "sensitivity")
        return lambda w: weighted_share(own & (decision == labels), own, w)
    metric = {"log_loss": log_loss, "brier": brier, "ece": ece}[name]
    return lambda w: metric(labels, probability, w)


def threshold_intervals(cases: Cases, point: OperatingPoint, goals: tuple[str, str], fitted: Fitted, seed: int) -> dict[str, Any]:
    """95 % percentile intervals of both thresholds: the chosen method and they are fitted again on resampled patients."""
    names, index = np.unique(cases.patients, return_inverse=True)
    rows = [np.flatnonzero(index == i) for i in range(len(names))]
    rng, found = np.random.default_rng(seed), []
    for _ in range(THRESHOLD_RESAMPLES):
        drawn = rng.integers(len(names), size=len(names))
        chosen = cases.take(np.concatenate([rows[i] for i in drawn]))
        # A patient drawn twice is two patients.
        copies = np.concatenate([np.full(len(rows[i]), f"{number}") for number, i in enumerate(drawn)])
        again = fit_site(replace(chosen, patients=copies), point, goals, seed, fitted.method, judging=True)
        found.append((again.threshold, again.patient_threshold))
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    return {
        "slice": {"value": fitted.threshold, "ci95": [float(low[0]), float(high[0])]},
        "patient": {"value": fitted.patient_threshold, "ci95": [float(low[1]), float(high[1])]},
        "resamples": THRESHOLD_RESAMPLES,
    }
