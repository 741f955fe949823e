"""How external slices differ from the development slices: intensity, what the gate refuses, calibration, the figures themselves.

Every comparison ends in a verdict, and where the interval holds "no change" it is "cannot tell".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.calibration_drift import calibration_figures
from strokect.comparison import CANNOT_TELL, NOT_ESTIMABLE
from strokect.edges import all_or_none
from strokect.shift_reference import BIN_WIDTH, HEAD, cells, chance_at, cumulative, distance, per_patient
from strokect.statistics import CHUNK, bootstrap_weights, estimate_share

Floats = NDArray[np.float64]
SMALLEST = 0.0005  # distance that three decimals show: below it no row
FIGURES = ("roc_auc", "sensitivity", "specificity", "brier", "ece")
PARTS = {
    "oof": "The figures beside are out-of-fold, of single fold models",
    "test": "The figures beside are those of the test part, of what ships",
}
NOTES = [
    "Rates and calibration beside are out-of-fold, of single fold models. External slices are judged by what ships, and an "
    "average of models is less sure of itself than each of them: a part of each difference may be that and not the data.",
    "Rates and figures: interval of external − development by Newcombe's square-and-add of the two patient-clustered intervals.",
    "Grey levels are those of the head on the picture shrunk to 128 pixels, as the service sees them (a DICOM file "
    "in the brain window). Chance: as far as so many development patients are from their own cohort in 19 of 20 draws, and "
    "never less than what so many development patients leave unseen. A distance of 0 has no row.",
    "ECE is never 0 in a sample and larger in a smaller one: no verdict is made of it.",
    "Many figures are looked at: at 95 %, one in twenty of them differs by chance.",
]


@dataclass(frozen=True)
class External:
    """External slices as they were judged and measured; n slices in one order."""

    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    probability: Floats  # of the ensemble
    decision: NDArray[np.str_]  # one of abstention.DECISIONS
    flags: Sequence[Sequence[str]]  # what the gate objects to
    pixels: dict[str, Floats]  # descriptor → (n,)
    heads: Floats  # (n, GREY_BINS) of shift_reference.head_levels


def shift_report(
    found: External, metrics: dict[str, Any], release: dict[str, Any], safety: dict[str, Any], *, resamples: int, seed: int
) -> dict[str, Any]:
    """`metrics` are the external figures, `release` and `safety` metrics.json and safety.json of the release."""
    counts, index = bootstrap_weights(found.patients, resamples, seed)
    known = safety.get("reference")
    n = len(np.unique(found.patients))
    return {
        "intensity": _intensity(found, known, counts, n) if known else None,
        "rates": _rates(found, safety, known, counts, index),
        "calibration": _calibration(found, metrics, known, counts, index),
        "figures": {
            f"{level} {name}": difference(metrics[level].get(name), release.get(level, {}).get(name), judge=name != "ece")
            for level in ("slice", "patient")
            for name in FIGURES
        },
        "development_part": release.get("part"),
        "development_patients": known["n_patients"] if known else None,
        "notes": [
            f"{PARTS.get(release.get('part', ''), 'The figures beside are of an unknown part')}.",
            *NOTES,
            *([] if known else ["This release carries no reference of its development slices: make it again."]),
        ],
    }


def difference(external: dict[str, Any] | None, development: dict[str, Any] | None, *, judge: bool = True) -> dict[str, Any]:
    """External − development of two independent estimates `{"value", "ci95"}` with an interval and a verdict.

    Square-and-add (Newcombe 1998, method 10; Zou & Donner 2008): each limit is as far from the difference as the two limits that
    matter there are from their values, added as independent errors are.
    """
    entry: dict[str, Any] = {"external": external, "development": development, "difference": None, "ci95": None}
    estimates = (external, development)
    if any(e is None or e["value"] is None or e["ci95"] is None for e in estimates):
        return entry | {"verdict": NOT_ESTIMABLE}
    assert external is not None and development is not None
    e, (e_low, e_high) = external["value"], external["ci95"]
    d, (d_low, d_high) = development["value"], development["ci95"]
    low = e - d - math.hypot(e - e_low, d_high - d)
    high = e - d + math.hypot(e_high - e, d - d_low)
    return entry | {"difference": e - d, "ci95": [low, high], "verdict": direction(low, high) if judge else "not judged"}


def direction(low: float, high: float, at: float = 0.0) -> str:
    """`higher` or `lower` than `at`, or that the interval does not tell."""
    return "higher" if low > at else "lower" if high < at else CANNOT_TELL


def _intensity(found: External, known: dict[str, Any], counts: NDArray[np.int64], n: int) -> dict[str, Any]:
    """Distance of each distribution to the development slices', with interval, chance and verdict."""
    report: dict[str, Any] = {}
    for name, stored in known["described"].items():
        rows = found.heads if name == HEAD else cells(found.pixels[name], np.array(stored["edges"]))
        sums, there = per_patient(rows, found.patients), np.array(stored["cumulative"])
        value, limit = float(distance(name, cumulative(sums.sum(axis=0)), there)), chance_at(stored["chance"], n)
        if name != HEAD:
            # Resamples of a cohort in which all slices agree agree too. It leaves so many others unseen all the same.
            limit = max(limit, all_or_none(False, known["n_patients"])[1])
        blocks = (counts[i : i + CHUNK] @ sums for i in range(0, len(counts), CHUNK))
        drawn = np.concatenate([distance(name, cumulative(block), there) for block in blocks])
        interval = [float(x) for x in np.nanpercentile(drawn, [2.5, 97.5])] if np.isfinite(drawn).any() else None
        verdict = NOT_ESTIMABLE if not math.isfinite(value) else "differs" if value > limit else CANNOT_TELL
        kind = "Wasserstein, grey levels" if name == HEAD else "Kolmogorov–Smirnov"
        report[name] = {"distance": kind, "value": value if math.isfinite(value) else None, "ci95": interval, "chance": limit}
        report[name]["verdict"] = verdict
    middle = BIN_WIDTH * (np.arange(found.heads.shape[1]) + 0.5)
    here, there = found.heads.mean(axis=0), np.diff(known["described"][HEAD]["cumulative"], prepend=0.0)
    report[HEAD]["mean_grey"] = {"external": float(here @ middle / max(here.sum(), 1e-12)), "development": float(there @ middle)}
    report[HEAD]["histogram"] = {"external": here.tolist(), "development": there.tolist()}
    return report


def _rates(
    found: External, safety: dict[str, Any], known: dict[str, Any] | None, counts: NDArray[np.int64], index: NDArray[np.int64]
) -> dict[str, Any]:
    """Reject rate, by class and reason, and refer rate, against the out-of-fold ones."""

    def rate(of: NDArray[np.bool_], development: dict[str, Any] | None) -> dict[str, Any]:
        return difference(estimate_share(of, np.ones(len(of)), counts, index), development)

    rejected = found.decision == "reject"
    reasons = known["rejected_by_reason"] if known else {}
    seen = sorted({*reasons, *(flag for flags in found.flags for flag in flags)})
    by_reason = {code: rate(np.array([code in flags for flags in found.flags]), reasons.get(code)) for code in seen}
    return {
        "reject": rate(rejected, safety.get("false_rejects", {}).get("all")),
        "refer": rate(found.decision == "refer", known["referred"] if known else None),
        "reject_by_reason": {code: e for code, e in by_reason.items() if e["external"]["value"] or code not in reasons},
        "reject_by_class": {
            name: estimate_share(rejected & (found.labels == y), found.labels == y, counts, index)
            for y, name in enumerate(("normal", "stroke"))
        },
    }


def _calibration(
    found: External,
    metrics: dict[str, Any],
    known: dict[str, Any] | None,
    counts: NDArray[np.int64],
    index: NDArray[np.int64],
) -> dict[str, Any]:
    """Calibration in the large and slope against what they should be, ECE beside that of the development slices."""
    report: dict[str, Any] = {}
    development = known["calibration"] if known else {}
    for name, figure in calibration_figures(found.labels, found.probability, counts, index).items():
        should_be = 0.0 if name == "in_the_large" else 1.0
        verdict = NOT_ESTIMABLE if figure["value"] is None else CANNOT_TELL
        if figure["ci95"]:
            verdict = direction(figure["ci95"][0], figure["ci95"][1], at=should_be)
        report[name] = {**figure, "should_be": should_be, "development": development.get(name), "verdict": verdict}
    report["ece"] = {**metrics["slice"]["ece"], "development": development.get("ece"), "verdict": "not judged"}
    return report


def _text(figure: dict[str, Any] | None) -> str:
    if figure is None or figure.get("value") is None:
        return "–"
    interval = f" [{figure['ci95'][0]:.3f}, {figure['ci95'][1]:.3f}]" if figure.get("ci95") else " [interval not estimable]"
    return f"{figure['value']:.3f}{interval}"


def shift_rows(shift: dict[str, Any]) -> list[list[str]]:
    """The report as rows of what it is about, external, development (of a distance: chance) and verdict."""

    def row(name: str, external: dict[str, Any], development: dict[str, Any] | None, verdict: str) -> list[str]:
        return [name.replace("_", " "), _text(external), _text(development), verdict]

    rates = shift["rates"]
    rows = [row(name, e["external"], e["development"], e["verdict"]) for name, e in shift["figures"].items()]
    rows += [row(f"calibration {name}", e, e["development"], e["verdict"]) for name, e in shift["calibration"].items()]
    named = {"reject rate": rates["reject"], "refer rate": rates["refer"]}
    named |= {f"reject: {code}": e for code, e in rates["reject_by_reason"].items()}
    rows += [row(name, e["external"], e["development"], e["verdict"]) for name, e in named.items()]
    distances: dict[str, Any] = shift["intensity"] or {}
    for name in sorted(distances, key=lambda name: (name != HEAD, -(distances[name]["value"] or 0.0))):
        e = distances[name]
        if e["value"] is not None and e["value"] < SMALLEST:
            continue
        rows.append([f"distance of {name}".replace("_", " "), _text(e), f"by chance ≤ {e['chance']:.3f}", e["verdict"]])
    return rows


def shift_table(shift: dict[str, Any]) -> str:
    """`shift_rows` as aligned text."""
    head = ["", "external", "development", "verdict"]
    return "\n".join(f"{a:30}{b:>26}{c:>26}   {d}".rstrip() for a, b, c, d in [head, *shift_rows(shift)])


def verdict_lines(shift: dict[str, Any]) -> list[str]:
    """The report in a few sentences."""
    rates, calibration, figures = shift["rates"], shift["calibration"], shift["figures"]
    words = {"higher": "more positive than the probabilities say", "lower": "fewer positive than the probabilities say"}
    slopes = {"higher": "the probabilities are not sure enough", "lower": "the probabilities are too sure of themselves"}
    grey = shift["intensity"][HEAD]["verdict"] if shift["intensity"] else "not available, the release carries no reference"
    large, slope = calibration["in_the_large"]["verdict"], calibration["slope"]["verdict"]
    share = rates["reject"]["external"]["value"]
    gated = [f"{share:.1%} of these slices are rejected"] if share is not None else []
    if share is not None and share > 0.5:  # figures are of all slices, and would be read as those of answers
        gated[0] += ": in use most would get no label, and the figures are of models that the gate keeps from answering"
    return [
        *gated,
        f"slice ROC AUC against development: {figures['slice roc_auc']['verdict']}",
        f"patient ROC AUC against development: {figures['patient roc_auc']['verdict']}",
        f"grey levels of the head: {grey}",
        f"reject rate: {rates['reject']['verdict']}; refer rate: {rates['refer']['verdict']}",
        f"calibration in the large: {words.get(large, large)}",
        f"calibration slope: {slopes.get(slope, slope)}",
    ]
