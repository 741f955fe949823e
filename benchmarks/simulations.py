"""Do the intervals and promises of the metrics hold? Simulated cohorts whose truth is known: `python -m benchmarks.simulations`.

Coverage: the share of cohorts whose 95 % interval holds the true figure, by resampled patients, by Obuchowski's error, and by
resampled slices, which forgets that slices of a patient are alike. Promises: how often the promised sensitivity is not reached
(`benchmarks.promises`). Time: the seconds that the figures take. Writes metrics/bench/simulations.json and
docs/results/statistics.md.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import sklearn
from numpy.typing import NDArray
from scipy.stats import binom, norm
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from tqdm import tqdm

from benchmarks import machine
from benchmarks.promises import as_made, ideal
from strokect.calibration import METHODS
from strokect.delong import analytic_auc
from strokect.errors import run_stage
from strokect.files import write_json, write_text
from strokect.statistics import bootstrap_weights, estimate, roc_auc, summarise, weighted_share

Floats = NDArray[np.float64]
BENCH, PAGE = Path("metrics/bench/simulations.json"), Path("docs/results/statistics.md")
COHORTS, PATIENTS, SLICES, RESAMPLES = 500, 60, 30, 400
SHIFT = 1.0  # of a positive slice's score; the noise of slice and of patient have the standard deviations below
SLICE_SD, PATIENT_SD = 1.0, 0.8
POSITIVE_SHARE = 0.3  # of the slices of a positive patient, who is every second one
DRAWS = 1000
SPEED_SLICES, SPEED_RESAMPLES = 10_000, 2000
Cohort = tuple[NDArray[np.int64], Floats, NDArray[np.int64]]


def cohort(rng: np.random.Generator, patients: int = PATIENTS, slices: int = SLICES) -> Cohort:
    """Labels, scores and patients (n,) each: scores share an offset within the patient, labels lie in positive patients."""
    who = np.repeat(np.arange(patients), slices)
    labels = (rng.random(len(who)) < np.repeat(np.arange(patients) % 2 * POSITIVE_SHARE, slices)).astype(np.int64)
    offset = np.repeat(rng.normal(0, PATIENT_SD, patients), slices)
    return labels, SHIFT * labels + offset + rng.normal(0, SLICE_SD, len(who)), who


def truth() -> dict[str, float]:
    """The figures over infinitely many patients, in closed form; pairs within one patient then have no weight."""
    total = np.hypot(SLICE_SD, PATIENT_SD)
    return {
        "roc_auc": float(norm.cdf(SHIFT / (np.sqrt(2) * total))),
        "sensitivity": float(norm.cdf((SHIFT - SHIFT / 2) / total)),
        "specificity": float(norm.cdf(SHIFT / 2 / total)),
    }


def coverage(cohorts: int, resamples: int, seed: int) -> dict[str, Any]:
    """Share of cohorts whose interval holds the truth, by figure and kind of interval."""
    rng, true = np.random.default_rng(seed), truth()
    hits: dict[str, dict[str, int]] = {
        name: dict.fromkeys(("patients", "slices", *(("obuchowski",) if name == "roc_auc" else ())), 0) for name in true
    }
    for number in tqdm(range(cohorts), desc="coverage", unit="cohort", mininterval=1):
        y, score, who = cohort(rng)
        d = (score >= SHIFT / 2).astype(np.int64)
        for kind, clusters in (("patients", who), ("slices", np.arange(len(who)))):
            counts, index = bootstrap_weights(clusters, resamples, number)
            found = {
                "roc_auc": estimate(lambda w, y=y, score=score: roc_auc(y, score, w), counts, index),  # type: ignore[misc]
                "sensitivity": estimate(lambda w, y=y, d=d: weighted_share(y * d, y, w), counts, index),  # type: ignore[misc]
                "specificity": estimate(
                    lambda w, y=y, d=d: weighted_share((1 - y) * (1 - d), 1 - y, w),  # type: ignore[misc]
                    counts,
                    index,
                ),
            }
            for name, figure in found.items():
                hits[name][kind] += _holds(figure["ci95"], true[name])
        hits["roc_auc"]["obuchowski"] += _holds(analytic_auc(y, score, who)["ci95"], true["roc_auc"])
    shares = {name: {kind: count / cohorts for kind, count in kinds.items()} for name, kinds in hits.items()}
    return {"cohorts": cohorts, "patients": PATIENTS, "slices": SLICES, "resamples": resamples, "truth": true, "coverage": shares}


def _holds(interval: Any, true: float) -> bool:
    return interval is not None and interval[0] <= true <= interval[1]


def speed(slices: int, resamples: int) -> dict[str, Any]:
    """Seconds for all figures of so many slices, and for three of them in a plain loop over scikit-learn, extrapolated."""
    y, score, who = cohort(np.random.default_rng(0), patients=slices // 50, slices=50)
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


def render(result: dict[str, Any]) -> str:
    """docs/results/statistics.md."""
    covered, kept, fast = result["coverage"], result["promise"], result["speed"]
    rows = [
        f"| {name.replace('_', ' ')} | {covered['truth'][name]:.3f} | {kinds['patients']:.1%} | "
        f"{kinds['obuchowski']:.1%} | {kinds['slices']:.1%} |"
        if "obuchowski" in kinds
        else f"| {name} | {covered['truth'][name]:.3f} | {kinds['patients']:.1%} | – | {kinds['slices']:.1%} |"
        for name, kinds in covered["coverage"].items()
    ]
    low, high = (binom.ppf(tail, covered["cohorts"], 0.95) / covered["cohorts"] for tail in (0.025, 0.975))
    met = "met" if fast["all_figures_s"] <= 20 else "**missed**"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join(
        [
            "# Do the intervals and promises hold?",
            "",
            f"Written by `python -m benchmarks.simulations`, {result['date']}, {result['cpu']}, {result['cores']} cores, load "
            f"{result['load_before']:g}; {versions}.",
            "",
            "## Coverage of the 95 % intervals",
            "",
            f"{covered['cohorts']} simulated cohorts of {covered['patients']} patients with {covered['slices']} slices each, "
            f"{covered['resamples']} resamples; slices of a patient share an offset. A right interval holds the truth in 95 % "
            f"of the cohorts; with this many, {low:.1%} to {high:.1%} are what chance leaves. Resampling slices forgets that "
            "slices of a patient are alike.",
            "",
            "| figure | truth | patients resampled (ours) | Obuchowski (ours) | slices resampled (wrong) |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "## The promised sensitivity",
            "",
            f"A sensitivity of {kept['sensitivity']:g} is promised with confidence {kept['confidence']:g} on "
            f"{kept['positive_patients']} positive patients; how often is it not reached for new ones, in {kept['draws']:,} "
            f"simulated draws? {kept['allowed_share']:.0%} may be: up to {kept['tolerated']} draws are within Monte Carlo error "
            "of that (99 %). The theorem is about scores that exist before the patients are drawn. `tune_threshold` does more: "
            "each patient is scored by one of five models, and the calibration is fitted on slices of the patients that then "
            "promise.",
            "",
            "| patient scores | not reached | |",
            "|---|---|---|",
            *(
                f"| {name} | {found['broken']} ({found['broken_share']:.1%}) | "
                f"{'kept' if found['within_monte_carlo_error'] else '**broken**'} |"
                for name, found in {
                    "given beforehand": kept,
                    **{f"as tune_threshold makes them, {method}": made for method, made in result["promise_as_made"].items()},
                }.items()
            ),
            "",
            "## Time",
            "",
            f"All figures of {fast['slices']:,} slices with {fast['resamples']:,} resamples of patients: "
            f"{fast['all_figures_s']:g} s (target: 20 s or less, {met}). ROC AUC, average precision and Brier score alone in a "
            f"loop over scikit-learn: {fast['three_by_loop_s']:g} s (extrapolated from 20 resamples).",
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Run all three, write the JSON and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=COHORTS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args(arguments)
    result = machine.facts("cpu", [np, scipy, sklearn]) | {
        "coverage": coverage(given.cohorts, RESAMPLES, 0),
        "promise": ideal(given.draws, 0),
        "promise_as_made": {method: as_made(method, given.draws, 1) for method in METHODS},
        "speed": speed(SPEED_SLICES, SPEED_RESAMPLES),
    }
    write_json(BENCH, result)
    write_text(PAGE, render(result))
    print(render(result))


if __name__ == "__main__":
    run_stage(main)
