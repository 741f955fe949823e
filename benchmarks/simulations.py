"""Do the intervals and promises of the metrics hold? Simulated cohorts whose truth is known: `python -m benchmarks.simulations`.

Coverage: the share of cohorts whose 95 % interval holds the true figure, by resampled patients, analytic, and by resampled
slices, which forgets that slices of a patient are alike. Promises: how often the promised sensitivity is not reached
(`benchmarks.promises`). Time: the seconds that the figures take. Writes metrics/bench/simulations.json and
docs/results/statistics.md.
"""

import argparse
import time
from collections.abc import Callable
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
from strokect.edges import wilson
from strokect.errors import run_stage
from strokect.files import write_json, write_text
from strokect.statistics import bootstrap_weights, estimate_auc, estimate_share, summarise

Floats = NDArray[np.float64]
BENCH, PAGE = Path("metrics/bench/simulations.json"), Path("docs/results/statistics.md")
COHORTS, PATIENTS, SLICES, RESAMPLES = 500, 60, 30, 400
ASKED = (0.92, 0.98)  # of the coverage of a 95 % interval
SLICE_SD, PATIENT_SD = 1.0, 0.8  # of the noise in the scores
SHIFT, FAR = 1.0, 3.0  # how far apart the classes are: slices, and slices that are easy to tell apart
PATIENT_SHIFT = 2.2  # the same where patients have one score each, whose noise is 1
POSITIVE_SHARE = 0.3  # of the slices of a positive patient, who is every second one
DRAWS = 1000
SPEED_SLICES, SPEED_RESAMPLES = 10_000, 2000
TOTAL_SD = float(np.hypot(SLICE_SD, PATIENT_SD))
Cohort = tuple[NDArray[np.int64], Floats, NDArray[np.int64]]


def cohort(rng: np.random.Generator, shift: float, patients: int = PATIENTS, slices: int = SLICES) -> Cohort:
    """Labels, scores and patients (n,) each: scores share an offset within the patient, labels lie in positive patients."""
    who = np.repeat(np.arange(patients), slices)
    labels = (rng.random(len(who)) < np.repeat(np.arange(patients) % 2 * POSITIVE_SHARE, slices)).astype(np.int64)
    offset = np.repeat(rng.normal(0, PATIENT_SD, patients), slices)
    return labels, shift * labels + offset + rng.normal(0, SLICE_SD, len(who)), who


def whole_patients(rng: np.random.Generator, shift: float, patients: int = PATIENTS) -> Cohort:
    """One score for each patient, every second of whom is positive."""
    labels = np.arange(patients) % 2
    return labels, shift * labels + rng.normal(0, 1, patients), np.arange(patients)


def truth(shift: float, sd: float) -> dict[str, float]:
    """The figures over infinitely many patients, in closed form; pairs within one patient then have no weight."""
    return {
        "roc_auc": float(norm.cdf(shift / (np.sqrt(2) * sd))),
        "sensitivity": float(norm.cdf(shift / 2 / sd)),
        "specificity": float(norm.cdf(shift / 2 / sd)),
    }


def coverage(
    make: Callable[[np.random.Generator], Cohort], shift: float, sd: float, cohorts: int, resamples: int
) -> dict[str, Any]:
    """Share of cohorts whose interval holds the truth, by figure and kind of interval."""
    rng, true = np.random.default_rng(0), truth(shift, sd)
    hits: dict[str, dict[str, int]] = {}
    for number in tqdm(range(cohorts), desc="coverage", unit="cohort", mininterval=1):
        y, score, who = make(rng, shift)
        d = (score >= shift / 2).astype(np.int64)
        kinds = {"patients": who} if len(np.unique(who)) == len(who) else {"patients": who, "slices": np.arange(len(who))}
        for kind, clusters in kinds.items():
            counts, index = bootstrap_weights(clusters, resamples, number)
            found = {
                "roc_auc": estimate_auc(y, score, counts, index),
                "sensitivity": estimate_share(y * d, y, counts, index),
                "specificity": estimate_share((1 - y) * (1 - d), 1 - y, counts, index),
            }
            for name, figure in found.items():
                _count(hits, name, kind, figure["ci95"], true[name])
        _count(hits, "roc_auc", "analytic", analytic_auc(y, score, who)["ci95"], true["roc_auc"])
        if "slices" not in kinds:
            for name, label in (("sensitivity", 1), ("specificity", 0)):
                right = int((d[y == label] == label).sum())
                _count(hits, name, "analytic", wilson(right, int((y == label).sum())), true[name])
    shares = {name: {kind: count / cohorts for kind, count in kinds.items()} for name, kinds in hits.items()}
    size = {"patients": len(np.unique(who)), "slices": len(who) // len(np.unique(who))}
    return {"cohorts": cohorts, **size, "resamples": resamples, "truth": true, "coverage": shares}


def _count(hits: dict[str, dict[str, int]], name: str, kind: str, interval: Any, true: float) -> None:
    own = hits.setdefault(name, {})
    own[kind] = own.get(kind, 0) + (interval is not None and interval[0] <= true <= interval[1])


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


def render(result: dict[str, Any]) -> str:
    """docs/results/statistics.md."""
    covered, of_patients = result["coverage"], result["coverage_of_patients"]
    kept, fast = result["promise"], result["speed"]
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
            *_coverage_table(covered),
            "",
            "The same with classes that are easier to tell apart:",
            "",
            *_coverage_table(result["coverage_far"]),
            "",
            f"And {of_patients['patients']} patients with one score each, every second one positive:",
            "",
            *_coverage_table(of_patients),
            "",
            f"Bold: outside of the {ASKED[0]:.0%} to {ASKED[1]:.0%} that is asked of our intervals. Percentile intervals of "
            "figures near 1 are too narrow at this size. Of patients, the analytic ones that stand beside them in the metrics "
            "(DeLong's error on the logit scale, Wilson's interval) cover better; of slices, Obuchowski's is no remedy.",
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


def _coverage_table(covered: dict[str, Any]) -> list[str]:
    lines = ["| figure | truth | patients resampled | analytic | slices resampled (wrong) |", "|---|---|---|---|---|"]
    for name, found in covered["coverage"].items():
        cells = [_cell(found[kind]) if kind in found else "–" for kind in ("patients", "analytic", "slices")]
        lines.append("| " + " | ".join([name.replace("_", " "), f"{covered['truth'][name]:.3f}", *cells]) + " |")
    return lines


def _cell(share: float) -> str:
    return f"{share:.1%}" if ASKED[0] <= share <= ASKED[1] else f"**{share:.1%}**"


def main(arguments: list[str] | None = None) -> None:
    """Run all three, write the JSON and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohorts", type=int, default=COHORTS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args(arguments)
    result = machine.facts("cpu", [np, scipy, sklearn]) | {
        "coverage": coverage(cohort, SHIFT, TOTAL_SD, given.cohorts, RESAMPLES),
        "coverage_far": coverage(cohort, FAR, TOTAL_SD, given.cohorts, RESAMPLES),
        "coverage_of_patients": coverage(whole_patients, PATIENT_SHIFT, 1.0, given.cohorts, RESAMPLES),
        "promise": ideal(given.draws, 0),
        "promise_as_made": {method: as_made(method, given.draws, 1) for method in METHODS},
        "speed": speed(SPEED_SLICES, SPEED_RESAMPLES),
    }
    write_json(BENCH, result)
    write_text(PAGE, render(result))
    print(render(result))


if __name__ == "__main__":
    run_stage(main)
