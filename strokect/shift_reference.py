"""What development slices look like, in numbers that show nobody: histograms, quantiles and rates of the whole cohort.

`safety` writes them into metrics/safety.json, the release carries them, and `strokect.shift` compares external slices with them
on a machine that has none of the development data.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.calibration_drift import calibration_figures
from strokect.images import Picture
from strokect.morphology import find_head, shrink
from strokect.pixel_checks import CHECKS
from strokect.policy import UNLIKE, Policy
from strokect.safety_fit import Scored, outside
from strokect.statistics import bootstrap_weights, ece, estimate, estimate_share, patients_of_rarer
from strokect.texture import TEXTURE

Floats = NDArray[np.float64]
HEAD = "head_grey_levels"
GREY_BINS = 64
BIN_WIDTH = 256 // GREY_BINS  # grey levels
QUANTILES = (0.01, 0.025, 0.05, *(i / 10 for i in range(1, 10)), 0.95, 0.975, 0.99)  # no extremes: they are single slices
COHORTS = (2, 5, 10, 20, 50, 100, 200, 500, 1000)  # patients
DRAWS = 400
DIGITS = 6


def head_levels(picture: Picture) -> Floats:
    """(GREY_BINS,) share of the head's pixels at each grey level; all 0 where no head is found."""
    small = shrink(picture.grey)
    inside = small[find_head(small)]
    return np.bincount(inside // BIN_WIDTH, minlength=GREY_BINS) / max(1, inside.size)


def cells(values: Floats, edges: Floats) -> Floats:
    """Values (n,) → (n, E + 1), 1 in the cell edges[i-1] < value ≤ edges[i]; NaN is in the last one, above everything."""
    return (np.searchsorted(edges, values, side="left")[:, None] == np.arange(len(edges) + 1)).astype(float)


def per_patient(rows: Floats, patients: NDArray[np.str_]) -> Floats:
    """(n, B) of slices → (P, B) sums, patients sorted by id."""
    names, index = np.unique(patients, return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, index, rows)
    return sums


def cumulative(sums: Floats) -> Floats:
    """Sums (..., B) of cells → share of the slices up to the end of each."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.cumsum(sums, axis=-1) / sums.sum(axis=-1, keepdims=True)


def distance(name: str, a: Floats, b: Floats) -> Floats:
    """Distance (...) of cumulative shares (..., B).

    Of grey levels the first Wasserstein distance, in grey levels; of a descriptor Kolmogorov–Smirnov's at the stored quantiles.
    """
    gap = np.abs(a - b)
    return np.asarray(BIN_WIDTH * gap.sum(axis=-1) if name == HEAD else gap.max(axis=-1))


def chance(name: str, sums: Floats, seed: int) -> list[float]:
    """For each size in COHORTS: how far so many patients of this very cohort are from it in 19 of 20 draws.

    Both sides are drawn anew from the development patients (P, B), because the cohort itself is a sample.
    """
    rng, n = np.random.default_rng(seed), len(sums)
    even = np.full(n, 1 / n)
    whole = cumulative(rng.multinomial(n, even, DRAWS) @ sums)
    return [
        round(float(np.nanquantile(distance(name, cumulative(rng.multinomial(size, even, DRAWS) @ sums), whole), 0.95)), DIGITS)
        for size in COHORTS
    ]


def chance_at(limits: list[float], patients: int) -> float:
    """`chance` for so many external patients, between the sizes that were drawn."""
    return float(np.interp(np.log(patients), np.log(COHORTS), limits))


def reference(
    scored: Scored, heads: Floats, referred: NDArray[np.bool_], policy: Policy, refer_rate: float, *, resamples: int, seed: int
) -> dict[str, Any]:
    """The `reference` of metrics/safety.json.

    `heads` (n, GREY_BINS) is `head_levels` of each slice of `scored`, `referred` (n,) what a cross-fitted refer band refers.
    """
    counts, index = bootstrap_weights(scored.patients, resamples, seed)
    sums = per_patient(heads, scored.patients)
    described = {HEAD: {"cumulative": _rounded(cumulative(sums.sum(axis=0))), "chance": chance(HEAD, sums, seed)}}
    for name, values in scored.pixels.items():
        known = values[np.isfinite(values)]
        edges = np.unique(np.round(np.quantile(known, QUANTILES), DIGITS)) if len(known) else np.zeros(1)
        sums = per_patient(cells(values, edges), scored.patients)
        described[name] = {
            "edges": edges.tolist(),
            "cumulative": _rounded(cumulative(sums.sum(axis=0))),
            "chance": chance(name, sums, seed),
        }
    everything = np.ones(len(scored.labels))

    def rate(of: NDArray[np.bool_]) -> dict[str, Any]:
        return estimate_share(of, everything, counts, index)

    calibration = calibration_figures(scored.labels, scored.probability, counts, index)
    fewer = patients_of_rarer(scored.labels, index)
    of_ece = estimate(lambda w: ece(scored.labels, scored.probability, w), counts, index, patients=fewer, scale="reflected")
    calibration["ece"] = of_ece
    return {
        "n_slices": len(scored.labels),
        "n_patients": len(np.unique(scored.patients)),
        "cohorts": list(COHORTS),
        "refer_rate": refer_rate,
        "referred": rate(referred),
        "described": described,
        "rejected_by_reason": {code: rate(of) for code, of in objections(scored, policy).items()},
        "calibration": calibration,
    }


def objections(scored: Scored, policy: Policy) -> Mapping[str, NDArray[np.bool_]]:
    """Code → (n,) whether the policy's limits object to each slice for that reason."""
    codes: dict[str, NDArray[np.bool_]] = {}
    for name, limit in policy.limits.items():
        code = CHECKS[name].code
        codes[code] = codes.get(code, np.zeros(len(scored.labels), bool)) | outside(scored.pixels, {name: limit})
    return codes | {TEXTURE: ~(scored.texture <= policy.texture_limit), UNLIKE: scored.gate > policy.gate_threshold}


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), DIGITS) for value in values]
