"""recalibrate: a release with new calibration and thresholds for one site; a command, not a stage of `dvc repro`.

`python -m stages.recalibrate --scores reports/external/folder --site NAME` reads what stages.external wrote about labelled cases
of the site, and writes a complete new release beside the old one, which is not touched; STROKECT_RELEASE says which is served.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

from strokect.comparison import difference_text
from strokect.errors import DataError, NotEstimableError, run_stage
from strokect.guarantee import no_promise
from strokect.operating_point import patient_labels
from strokect.params import load_params
from strokect.recalibration import (
    MIN_PATIENTS,
    Cases,
    after,
    before,
    check_cases,
    fit_site,
    refer_limit,
)
from strokect.recalibration_figures import paired_figures, threshold_intervals
from strokect.release import Release, load_release
from strokect.site_release import read_cases, write_site_release
from strokect.thresholds import parse_goal

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NOTES = [
    "These cases chose the calibration and thresholds, so they are no external data any more. Figures `after` are cross-fitted: "
    "each patient is judged by a recalibration made without that patient.",
    "Calibration is that of the average of the models that ship, on slices that the gate accepts. A sequence head, if there is "
    "one, stays as it is; the patient threshold is chosen on its scores.",
    "What is rejected does not change: pixel checks, texture, feature gate and series rule are the parent's.",
]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, required=True, help="the folder that stages.external wrote")
    parser.add_argument("--site", required=True, help="name of the site, for GET /model and the card: letters, digits, . _ -")
    parser.add_argument("--release", type=Path, default=Path("models/release"), help="the release that judged the cases")
    parser.add_argument("--goal", help="of both thresholds (default: those of the release)")
    parser.add_argument("--refer-rate", type=float, help="share of accepted slices to refer (default: the release's)")
    parser.add_argument("--out", type=Path, help="default: models/site_releases/SITE")
    given = parser.parse_args(arguments)
    if not NAME.fullmatch(given.site):
        parser.error("--site must be of letters, digits, '.', '_' and '-', and not longer than 64")
    if given.refer_rate is not None and not 0 <= given.refer_rate < 1:
        parser.error("--refer-rate must be from 0 to below 1")
    return given


def rate_of(release: Release, given: float | None) -> float:
    """The refer rate that is asked for, or that the release was made with."""
    rate = given if given is not None else release.safety.get("reference", {}).get("refer_rate")
    if rate is None:
        raise DataError("this release does not say for which refer rate it was made: give --refer-rate")
    return float(rate)


def describe(cases: Cases, release: Release, name: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """The `site` of operating_point.json: whose cases, how many, and what the release was before."""
    return {
        "name": name,
        "parent": release.version,
        "n_slices": len(cases.labels),
        "n_accepted_slices": int(cases.accepted.sum()),
        "n_patients": len(np.unique(cases.patients)),
        "n_positive_patients": int(patient_labels(cases.labels, cases.patients).sum()),
        "data_sha256": metrics["data_sha256"],
        "overlap_checked": metrics["overlap"]["checked"],
        "target_differs": metrics["target_differs"],
    }


def main(arguments: list[str] | None = None) -> None:
    """Write the new release; print figures before and after."""
    given = parse(arguments)
    out, p = given.out or Path("models/site_releases") / given.site, load_params().evaluate
    if out.exists():
        raise DataError(f"{out} is there already: a release is never overwritten; remove it, or choose another --site or --out")
    release = load_release(given.release)
    point = release.operating_point
    goals = (given.goal or str(point.slice["goal"]), given.goal or str(point.patient["goal"]))
    for goal in goals:
        parse_goal(goal)
    cases, metrics = read_cases(given.scores, release)
    impossible = no_promise(metrics, "patient")  # no fold is involved: the release has seen none of the site's patients
    if impossible and parse_goal(goals[1]).kind == "guaranteed":
        raise NotEstimableError(f"--goal asks for a guarantee, which is not available: {impossible}")
    rate = rate_of(release, given.refer_rate)
    check_cases(cases)
    fitted = fit_site(cases, point, goals, p.seed)
    figures = paired_figures(cases, before(cases, point), after(cases, point, goals, p.seed), resamples=p.resamples, seed=p.seed)
    figures["thresholds"] = threshold_intervals(cases, point, goals, fitted, p.seed)
    figures["calibration"] = {"method": fitted.method, "cross_fitted_log_loss": fitted.log_loss}
    limit = refer_limit(cases, release.policy, fitted, rate)
    figures["refer"] = {"measure": release.policy.measure, "rate": rate, "before": release.policy.refer_above, "after": limit}
    figures["notes"] = NOTES
    site = describe(cases, release, given.site, metrics)
    version = write_site_release(out, given.release, release, fitted, goals, limit, site, figures)
    print_figures(figures, release)
    print(f"release {version} for {given.site}, from {release.version}, in {out}; serve it with STROKECT_RELEASE={out}")


def print_figures(figures: dict[str, Any], release: Release) -> None:
    """Before and after as aligned text."""
    print(f"{'':28}{'before':>8}{'after':>8}   {'after − before':26}")
    for level in ("slice", "patient"):
        for name, f in figures[level].items():
            if f["difference"] is None:
                print(f"{level + ' ' + name:28}not estimable")
                continue
            print(f"{level + ' ' + name:28}{f['before']:8.4f}{f['after']:8.4f}   {difference_text(f):26} {f['verdict']}")
    old = {"slice": release.operating_point.slice_threshold, "patient": release.operating_point.patient["threshold"]}
    for level, t in ((level, figures["thresholds"][level]) for level in old):
        print(f"{level} threshold {old[level]:.4f} → {t['value']:.4f} [{t['ci95'][0]:.4f}, {t['ci95'][1]:.4f}]")
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in figures["calibration"]["cross_fitted_log_loss"].items())
    print(f"calibration: {figures['calibration']['method']} (cross-fitted log loss: {losses})")
    refer = figures["refer"]
    print(f"refer above {refer['measure']} {refer['before']:.4g} → {refer['after']:.4g}, for {refer['rate']:.0%} of the slices")
    print(f"at least {MIN_PATIENTS} patients of each class were needed")
    for note in figures["notes"]:
        print(f"note: {note}")


if __name__ == "__main__":
    run_stage(main)
