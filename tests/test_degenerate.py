"""Every statistic on input that cannot carry it: an error for people, or None where a number would stand; never a NaN, never an
interval without width.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from strokect.ablation import ablate_ensemble
from strokect.abstention import account
from strokect.calibration_drift import calibration_figures
from strokect.calibration_fit import fit_calibrator, patient_groups
from strokect.comparison import Run, compare
from strokect.delong import analytic_auc
from strokect.errors import StrokectError
from strokect.figures import summarise
from strokect.guarantee import guaranteed_threshold, guarantees
from strokect.net_benefit import net_benefit, net_benefit_figures
from strokect.reporting import figure_text
from strokect.safety_report import category, false_rejects
from strokect.selective import compare_measures
from strokect.statistics import bootstrap_weights, estimate_auc, estimate_precision, estimate_share
from strokect.subgroups import subgroups
from strokect.thresholds import choose_threshold, parse_goal

DRAW = {"resamples": 100, "seed": 0}
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels, probabilities, patients (n,)


def slices(patients: int = 12, positive: int = 6) -> Arrays:
    """Six slices of each patient, two of them positive in the first `positive` patients; scores that know a little."""
    who = np.repeat([f"p{i:02d}" for i in range(patients)], 6)
    labels = ((np.repeat(np.arange(patients), 6) < positive) & (np.tile(np.arange(6), patients) < 2)).astype(np.int64)
    score = np.clip(0.35 + 0.2 * labels + np.random.default_rng(0).normal(0, 0.15, len(who)), 0.01, 0.99)
    return labels, score, who


def _decided(score: np.ndarray) -> np.ndarray:
    return (score >= 0.5).astype(np.int64)


def _run(name: str, labels: np.ndarray, score: np.ndarray, who: np.ndarray) -> Run:
    table = pd.DataFrame({"file": np.arange(len(who)).astype(str), "patient": who, "label": labels, "probability": score})
    table = table.assign(ranking=score, decision=_decided(score))
    return Run(name, table, table.groupby("patient", as_index=False)[["label", "probability", "ranking", "decision"]].max())


def _rates(labels: np.ndarray, score: np.ndarray, who: np.ndarray) -> Any:
    answers = np.where(score > 0.7, "refer", np.where(score >= 0.5, "stroke", "normal"))
    return account(labels, answers, who, **DRAW)


def _table(labels: np.ndarray, score: np.ndarray, who: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"patient": who, "slice": np.arange(len(who)), "label": labels, "ranking": score})
    return table.assign(decision=_decided(score), gender=np.where(np.arange(len(who)) % 12 < 6, "female", "male"))


STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Any]] = {
    "summarise": lambda y, s, w: summarise(y, s, s, _decided(s), w, threshold=0.5, prevalence=(0.1,), uncalibrated=s, **DRAW),
    "estimate_auc": lambda y, s, w: estimate_auc(y, s, *bootstrap_weights(w, 100, 0)),
    "estimate_precision": lambda y, s, w: estimate_precision(y, s, *bootstrap_weights(w, 100, 0)),
    "estimate_share": lambda y, s, w: estimate_share(y * _decided(s), y, *bootstrap_weights(w, 100, 0)),
    "analytic_auc": analytic_auc,
    "compare": lambda y, s, w: compare(_run("a", y, s, w), _run("b", y, s[::-1].copy(), w), **DRAW),
    "ablate_ensemble": lambda y, s, w: ablate_ensemble(y, w, np.stack([s, s[::-1]], axis=1), **DRAW),
    "account": _rates,
    "compare_measures": lambda y, s, w: compare_measures({"measure": s}, _decided(s) != y, w, **DRAW),
    "subgroups": lambda y, s, w: subgroups(_table(y, s, w), verifiable=True, **DRAW),
    "net_benefit": lambda y, s, w: net_benefit(y, s).to_dict("list"),
    "net_benefit_figures": lambda y, s, w: net_benefit_figures(y, s, w, **DRAW),
    "calibration_figures": lambda y, s, w: calibration_figures(y, s, *bootstrap_weights(w, 100, 0)),
    "false_rejects": lambda y, s, w: false_rejects(s > 0.7, y, w, np.arange(len(y)), **DRAW),
    "gate_of_outliers": lambda y, s, w: category(s[y == 1], [["x"]] * int(y.sum()), s[y == 0], w[y == 0], **DRAW),
    "guarantees": lambda y, s, w: guarantees(s, y),
    "guaranteed_threshold": lambda y, s, w: guaranteed_threshold(s, y, 0.5, 0.5),
    "patient_groups": lambda y, s, w: patient_groups(w, y, 5, 0).tolist(),
    **{
        f"threshold, {goal}": lambda y, s, w, goal=goal: choose_threshold(s, y, parse_goal(goal))
        for goal in ("f2", "youden", "sensitivity >= 0.9", "cost fn=3 fp=1")
    },
    **{
        f"calibration, {method}": lambda y, s, w, method=method: fit_calibrator(method, np.log(s / (1 - s)), y).to_json()
        for method in ("none", "temperature", "affine", "isotonic")
    },
}
LABELS, SCORE, WHO = slices()
INPUTS: dict[str, Arrays] = {
    "one class": (LABELS * 0, SCORE, WHO),
    "all positive": (LABELS * 0 + 1, SCORE, WHO),
    "one patient": (LABELS, SCORE, np.full(len(WHO), "p00")),
    "constant scores": (LABELS, np.full(len(SCORE), 0.5), WHO),
    "NaN": (LABELS, np.where(np.arange(len(SCORE)) == 7, np.nan, SCORE), WHO),
    "nothing": (LABELS[:0], SCORE[:0], WHO[:0]),
    "one positive patient": slices(positive=1),
}
READS_NO_SCORE = {"patient_groups", "account", "estimate_share", "false_rejects"}
# What says None of scores that are NaN, each with a reason of its own; all others raise.
NONE_OF_NAN = {"analytic_auc", "calibration_figures", "guarantees", "subgroups", "gate_of_outliers"}
NONE_OF_NOTHING = {"analytic_auc", "guarantees", "subgroups", "gate_of_outliers"}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, text or None with its dotted path; an interval as a whole."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple) and not path.endswith("ci95"):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{number}")
    else:
        yield path, value


def intervals(found: Any) -> dict[str, Any]:
    """Path → interval of every figure that has a value."""
    every = dict(leaves(found))
    ends = (path for path in every if path.endswith("ci95"))
    return {path: every[path] for path in ends if every.get(f"{path[:-4]}value", 0) is not None}


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("given", INPUTS)
def test_no_statistic_makes_a_number_of_what_it_cannot_know(given: str, name: str) -> None:
    try:
        found = STATISTICS[name](*INPUTS[given])
    except StrokectError as error:
        assert len(str(error)) > 20  # a sentence
        return
    assert given != "nothing" or name in NONE_OF_NOTHING
    assert given != "NaN" or name in READS_NO_SCORE | NONE_OF_NAN
    for path, value in leaves(found):
        if path.endswith("ci95") and value is not None:
            assert np.isfinite(value).all() and value[0] < value[1], (path, value)
        elif isinstance(value, float):
            assert np.isfinite(value), (path, value)
    if given == "one patient" and name != "gate_of_outliers":  # whose outliers are no patients
        assert not any(intervals(found).values())


@pytest.mark.parametrize("name", ["estimate_auc", "estimate_precision", "analytic_auc"])
def test_equal_scores_rank_nothing(name: str) -> None:
    found = STATISTICS[name](*INPUTS["constant scores"])
    assert found["value"] is None and found["ci95"] is None


WAYS = ("as_errors", "to_a_human", "answered_only")
# Which intervals are left where one patient has all the positive slices: those of figures that need none of them.
LEFT = {
    "summarise": {".accuracy.ci95", ".specificity.ci95"},
    "compare": {f".{level}.specificity.ci95" for level in ("slice", "patient")},
    "account": {".answered_only.coverage.ci95", *(f".{way}.specificity.ci95" for way in WAYS)},
    "false_rejects": {f".{group}.ci95" for group in ("all", "normal", "lowest third", "middle third", "highest third")},
    "subgroups": set(),
    "ablate_ensemble": set(),
    "net_benefit_figures": set(),
    "calibration_figures": set(),
    "estimate_auc": set(),
    "estimate_precision": set(),
    "estimate_share": set(),
    "analytic_auc": set(),
}


@pytest.mark.parametrize("name", LEFT)
def test_one_positive_patient_leaves_no_interval_of_the_positives(name: str) -> None:
    """A bootstrap would draw that patient once, twice or not at all, and call the figure all but certain."""
    found = intervals(STATISTICS[name](*INPUTS["one positive patient"]))
    kept = {path for path, value in found.items() if value}
    assert {path for path in kept if name != "subgroups" or not path.endswith("specificity.ci95")} == LEFT[name]


@pytest.mark.parametrize("name", ["summarise", "compare", "account"])
def test_one_negative_patient_leaves_no_interval_of_the_negatives(name: str) -> None:
    labels, score, who = INPUTS["one positive patient"]
    left = {path.replace("specificity", "sensitivity") for path in LEFT[name] if not path.startswith(".patient")}
    kept = {path for path, value in intervals(STATISTICS[name](1 - labels, score, who)).items() if value}
    # Every patient has a positive slice: of patients there is one class, and Brier score and log loss are left of it.
    assert {path for path in kept if not path.startswith(".patient")} == {
        path for path in left if not path.startswith(".patient")
    }


def test_a_comparison_without_interval_is_not_estimable_and_a_figure_says_so() -> None:
    found = STATISTICS["compare"](*INPUTS["one positive patient"])
    assert found["slice"]["sensitivity"]["verdict"] == found["slice"]["roc_auc"]["verdict"] == found["verdict"] == "not estimable"
    assert found["slice"]["sensitivity"]["difference"] is not None
    level = STATISTICS["summarise"](*INPUTS["one positive patient"])
    assert figure_text(level["sensitivity"]).endswith("[interval not estimable]")
