"""Do the intervals and promises of the metrics hold? Simulated cohorts whose truth is known: `python -m benchmarks.simulations`.

Coverage: the share of cohorts whose 95 % interval holds the true figure: as the metrics report it, by percentiles of the same
resamples, analytic, and by resampled slices, which forgets that slices of a patient are alike. Promises: how often the promised
sensitivity is not reached (`benchmarks.promises`). Time: the seconds that the figures take, beside a loop over scikit-learn.
Writes metrics/bench/simulations.json and docs/results/statistics.md; `--quick` tries everything on few draws and writes nothing.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from tqdm import tqdm

from benchmarks import machine
from benchmarks.promises import as_made, as_made_in_series, ideal
from benchmarks.simulations_page import render
from strokect.calibration import METHODS
from strokect.delong import analytic_auc
from strokect.edges import wilson
from strokect.engine import available_cores
from strokect.errors import run_stage
from strokect.figures import summarise
from strokect.files import write_json, write_text
from strokect.statistics import bootstrap_weights, estimate_auc, estimate_share, resampled, roc_auc, weighted_share

Floats = NDArray[np.float64]
BENCH, PAGE = Path("metrics/bench/simulations.json"), Path("docs/results/statistics.md")
COHORTS, PATIENTS, SLICES, RESAMPLES = 500, 60, 30, 400
SLICE_SD, PATIENT_SD = 1.0, 0.8  # of the noise in the scores
SHIFT, FAR = 1.0, 3.0  # how far apart the classes are: slices, and slices that are easy to tell apart
PATIENT_SHIFT = 2.2  # the same where patients have one score each, whose noise is 1
POSITIVE_SHARE = 0.3  # of the slices of a positive patient, who is every second one
LARGE = 900_000  # slices, of the cohort whose figures are the truth
PREVALENCE = 0.1  # that PPV and NPV are given for
FIGURES = ("roc_auc", "average_precision", "accuracy", "sensitivity", "specificity", "f2", "brier", "log_loss", "ece")
MORE, FEW = 80, 20  # patients
QUICK = 20
DRAWS = 1000
SPEED_SLICES, SPEED_RESAMPLES = 10_000, 2000
Cohort = tuple[NDArray[np.int64], Floats, NDArray[np.int64]]


def cohort(rng: np.random.Generator, shift: float, patients: int = PATIENTS, slices: int = SLICES) -> Cohort:
    """Labels, scores and patients (n,) each: scores share an offset within the patient, labels lie in positive patients."""
    who = np.repeat(np.arange(patients), slices)
    share = np.repeat(POSITIVE_SHARE * (rng.random(patients) < 0.5), slices)
    labels = (rng.random(len(who)) < share).astype(np.int64)
    offset = np.repeat(rng.normal(0, PATIENT_SD, patients), slices)
    return labels, shift * labels + offset + rng.normal(0, SLICE_SD, len(who)), who


def whole_patients(rng: np.random.Generator, shift: float, patients: int = PATIENTS) -> Cohort:
    """One score for each patient; one in two is positive, by chance."""
    labels = (rng.random(patients) < 0.5).astype(np.int64)
    return labels, shift * labels + rng.normal(0, 1, patients), np.arange(patients)


REGIMES: dict[str, tuple[Callable[..., Cohort], float, int]] = {
    "slices": (cohort, SHIFT, PATIENTS),
    "slices_far": (cohort, FAR, PATIENTS),
    "patients": (whole_patients, PATIENT_SHIFT, PATIENTS),
    "patients_far": (whole_patients, FAR, MORE),
    "patients_few": (whole_patients, PATIENT_SHIFT, FEW),
}


def figures(made: Cohort, shift: float, clusters: NDArray[np.int64], resamples: int, seed: int) -> dict[str, Any]:
    """The figures of one cohort by name as metrics/evaluate.json has them, resampled by `clusters` (n,)."""
    labels, score, _ = made
    probability, decision = norm.cdf(score - shift / 2), (score >= shift / 2).astype(np.int64)
    settings: dict[str, Any] = {"threshold": 0.5, "prevalence": (PREVALENCE,), "resamples": resamples, "seed": seed}
    found = summarise(labels, probability, score, decision, clusters, **settings)
    (at,) = found["at_prevalence"]
    return {name: found[name] for name in FIGURES} | {"ppv": at["ppv"], "npv": at["npv"]}


def truth(make: Callable[..., Cohort], shift: float) -> dict[str, float]:
    """The figures of a cohort so large that pairs of slices within one patient have no weight."""
    slices = len(make(np.random.default_rng(1), shift, patients=1)[0])
    made = make(np.random.default_rng(1), shift, patients=LARGE // slices)
    return {name: float(found["value"]) for name, found in figures(made, shift, made[2], 2, 0).items()}


def coverage(make: Callable[..., Cohort], shift: float, cohorts: int, resamples: int, patients: int = PATIENTS) -> dict[str, Any]:
    """Share of cohorts whose interval holds the truth, by figure and kind of interval."""
    rng, true = np.random.default_rng(0), truth(make, shift)
    hits: dict[str, dict[str, int]] = {name: {} for name in true}
    for number in tqdm(range(cohorts), desc="coverage", unit="cohort", mininterval=1):
        made = make(rng, shift, patients=patients)
        y, score, who = made
        kinds = {"reported": figures(made, shift, who, resamples, number)}
        kinds["percentile"] = by_hand(made, shift, who, resamples, number, percentiles=True)
        kinds["analytic"] = {"roc_auc": analytic_auc(y, score, who)}
        if patients == len(who):
            right = (score >= shift / 2) == y
            for name, label in (("sensitivity", 1), ("specificity", 0)):
                kinds["analytic"][name] = {"ci95": wilson(int(right[y == label].sum()), int((y == label).sum()))}
        else:
            kinds["slices"] = by_hand(made, shift, np.arange(len(who)), resamples, number)
        for kind, found in kinds.items():
            for name, figure in found.items():
                hit = figure["ci95"] is not None and figure["ci95"][0] <= true[name] <= figure["ci95"][1]
                hits[name][kind] = hits[name].get(kind, 0) + hit
    shares = {name: {kind: count / cohorts for kind, count in kinds.items()} for name, kinds in hits.items()}
    size = {"patients": patients, "slices": len(who) // patients}
    return {"cohorts": cohorts, **size, "resamples": resamples, "truth": true, "coverage": shares}


def by_hand(
    made: Cohort, shift: float, clusters: NDArray[np.int64], resamples: int, seed: int, *, percentiles: bool = False
) -> dict[str, Any]:
    """Three of the figures, resampled by `clusters` (n,); with plain percentiles of the resamples where that is asked for."""
    y, score, _ = made
    right, of_class = (score >= shift / 2) == y, {"sensitivity": y == 1, "specificity": y == 0}
    counts, index = bootstrap_weights(clusters, resamples, seed)
    if not percentiles:
        shares = {name: estimate_share(right & own, own, counts, index) for name, own in of_class.items()}
        return {"roc_auc": estimate_auc(y, score, counts, index), **shares}
    drawn = {name: resampled(partial(weighted_share, right & own, own), counts, index) for name, own in of_class.items()}
    drawn["roc_auc"] = resampled(partial(roc_auc, y, score), counts, index)
    return {name: {"ci95": np.nanpercentile(values, [2.5, 97.5]).tolist()} for name, values in drawn.items()}


def speed(slices: int, resamples: int) -> dict[str, Any]:
    """Seconds for all figures of so many slices, and for three of them in a plain loop over scikit-learn, extrapolated."""
    y, score, who = cohort(np.random.default_rng(0), SHIFT, patients=slices // 50, slices=50)
    probability = norm.cdf(score - SHIFT / 2)
    started = time.perf_counter()
    decision = (probability >= 0.5).astype(np.int64)
    summarise(y, probability, score, decision, who, threshold=0.5, prevalence=(0.05, 0.2), resamples=resamples, seed=0)
    ours = time.perf_counter() - started
    counts, index = bootstrap_weights(who, 20, 0)
    started = time.perf_counter()
    for row in counts:
        drawn = np.repeat(np.arange(len(y)), row[index])
        for metric in (roc_auc_score, average_precision_score, brier_score_loss):
            metric(y[drawn], probability[drawn])
    loop = (time.perf_counter() - started) / 20 * resamples
    return {"slices": len(y), "resamples": resamples, "all_figures_s": round(ours, 2), "three_by_loop_s": round(loop, 2)}


def main(arguments: list[str] | None = None) -> None:
    """Run all three, write the JSON and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=COHORTS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--quick", action="store_true", help="20 cohorts and draws; nothing is written")
    given = parser.parse_args(arguments)
    cohorts, draws = (QUICK, QUICK) if given.quick else (given.cohorts, given.draws)
    result = machine.facts("cpu", [np, scipy, sklearn]) | {"speed": speed(SPEED_SLICES, SPEED_RESAMPLES)}
    with ProcessPoolExecutor(min(len(REGIMES), available_cores())) as pool:
        jobs = {
            name: pool.submit(coverage, make, shift, cohorts, RESAMPLES, patients)
            for name, (make, shift, patients) in REGIMES.items()
        }
        result["coverage"] = {name: job.result() for name, job in jobs.items()}
    result["promise"] = ideal(draws, 0)
    result["promise_as_made"] = {method: as_made(method, draws, 1) for method in METHODS}
    result["promise_as_made"]["sequence head"] = as_made_in_series(draws, 1)
    if not given.quick:
        write_json(BENCH, result)
        write_text(PAGE, render(result))
    print(render(result))


if __name__ == "__main__":
    run_stage(main)
