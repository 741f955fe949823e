"""docs/results/statistics.md: the simulations of `benchmarks.simulations` in tables and sentences."""

from typing import Any

from scipy.stats import binom

from strokect.sequence import WIDTH

ASKED = (0.92, 0.98)  # of the coverage of a 95 % interval


def render(result: dict[str, Any]) -> str:
    """docs/results/statistics.md."""
    covered = result["coverage"]["slices"]
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
            f"of the cohorts; with this many, {low:.1%} to {high:.1%} are what chance leaves. Reported: `ci95` as the metrics "
            "have it, Student's t with the standard error of the resamples on the logit scale. Percentiles of the same resamples "
            "are too narrow near 1. Resampling slices forgets that slices of a patient are alike.",
            "",
            *_coverage_table(covered),
            "",
            "The same with classes that are easier to tell apart:",
            "",
            *_coverage_table(result["coverage"]["slices_far"]),
            "",
            *(line for name in ("patients", "patients_far", "patients_few") for line in _of_patients(result["coverage"][name])),
            f"Bold: outside of the {ASKED[0]:.0%} to {ASKED[1]:.0%} that is asked. {_verdict(result['coverage'])}",
            "",
            "## The promised sensitivity",
            "",
            f"A sensitivity of {kept['sensitivity']:g} is promised with confidence {kept['confidence']:g} on "
            f"{kept['positive_patients']} positive patients; how often is it not reached for new ones, in {kept['draws']:,} "
            f"simulated draws? {kept['allowed_share']:.0%} may be: up to {kept['tolerated']} draws are within Monte Carlo error "
            "of that (99 %). The theorem is about scores that exist before the patients are drawn. `tune_threshold` does more: "
            "each patient is scored by one of five models, and the calibration is fitted on slices of the patients that then "
            f"promise. With `tune_threshold.patient_rule: sequence` a sequence head, {WIDTH + 1} numbers fitted on the slices of "
            "these same patients, takes the place of the calibration.",
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


def _of_patients(covered: dict[str, Any]) -> list[str]:
    return [
        f"{covered['patients']} patients with one score each, about every second one positive:",
        "",
        *_coverage_table(covered),
        "",
    ]


def outside(regimes: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The figures whose reported interval covers less, and those that it covers more often than is asked, in any regime."""
    shares = [(name, kinds["reported"]) for covered in regimes.values() for name, kinds in covered["coverage"].items()]
    less, more = {name for name, share in shares if share < ASKED[0]}, {name for name, share in shares if share > ASKED[1]}
    return sorted(less), sorted(more)


def _verdict(regimes: dict[str, Any]) -> str:
    """Which reported intervals do not cover as asked, in words, and what is known of them."""
    less, more = (", ".join(names).replace("_", " ") or "none" for names in outside(regimes))
    return (
        f"Reported intervals that cover too rarely in one of the tables or more: {less}; that are wider than need be: {more}. "
        "A calibration error is never negative and larger in every sample than in truth, most of all where it is small: there "
        "its interval proves nothing, and no verdict is made of it against other data. With 20 patients a share takes few "
        "values, and intervals err on the wide side."
    )


def _coverage_table(covered: dict[str, Any]) -> list[str]:
    lines = ["| figure | truth | reported | percentiles | analytic | slices resampled (wrong) |", "|---|---|---|---|---|---|"]
    for name, found in covered["coverage"].items():
        cells = [_cell(found[kind]) if kind in found else "–" for kind in ("reported", "percentile", "analytic", "slices")]
        lines.append("| " + " | ".join([name.replace("_", " "), f"{covered['truth'][name]:.3f}", *cells]) + " |")
    return lines


def _cell(share: float) -> str:
    return f"{share:.1%}" if ASKED[0] <= share <= ASKED[1] else f"**{share:.1%}**"
