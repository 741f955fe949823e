"""What a recalibration for a site changes: figures before and after with paired differences, intervals of the thresholds."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.comparison import judged_change
from strokect.operating_point import patient_labels
from strokect.recalibration import Answers, Cases, Fitted, fit_site
from strokect.release import OperatingPoint
from strokect.statistics import bootstrap_weights, brier, ece, log_loss, weighted_share

Floats = NDArray[np.float64]
Figure = Callable[[Floats], Floats]  # of weights (R, n)
FIGURES = ("sensitivity", "specificity", "log_loss", "brier", "ece")
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
        for name in FIGURES:
            one, two = (_figure(name, labels, *answer) for answer in answers)
            values = [float(figure(np.ones((1, len(labels))))[0]) for figure in (one, two)]

            def change(w: Floats, before: Figure = one, after: Figure = two) -> Floats:
                return after(w) - before(w)

            found = judged_change(name, values, change, labels, counts, index)
            report[level][name] = {
                "before": found["first"],
                "after": found["second"],
                "difference": found["difference"],
                "ci95": found["ci95"],
                "verdict": of_the_second(found["verdict"]),
            }
    return report


def of_the_second(verdict: str) -> str:
    """`comparison.verdict` as it is said of the second side, the one after: `better`, `worse`, `cannot tell`, `not estimable`."""
    return {"second better": "better", "first better": "worse"}.get(verdict, verdict)


def _figure(name: str, labels: NDArray[np.int64], probability: Floats, decision: NDArray[np.int64]) -> Figure:
    if name in ("sensitivity", "specificity"):
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
