"""What the safety layer does to each patient when everything that saw labels or scores was fitted without that patient.

Calibration, threshold, texture, the gate's common scale, limits, refer band and series rule: each group of patients is judged by
those that the others gave. Pure functions on arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from strokect.calibration_fit import CROSS_FIT_GROUPS, patient_groups
from strokect.out_of_fold import SliceRule
from strokect.safety_fit import ReferGoal, Scored, fit_gate, on_common_scale, refer_limit, series_share, uncertainties
from strokect.texture import Texture
from strokect.uncertainty import MEASURES

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
FitRule = Callable[[Floats, NDArray[np.int64], NDArray[np.str_]], SliceRule]  # of logits, labels and patients (n,)


@dataclass(frozen=True)
class HeldOut:
    """A group of patients, and the rule that was fitted on the slices of all others."""

    own: Bools  # (n,)
    rule: SliceRule


def hold_out(scored: Scored, fit_rule: FitRule, seed: int) -> list[HeldOut]:
    """The cross-fitting groups, those of `tune` where the seed is the same, each with calibration and threshold of the others."""
    held = []
    groups = patient_groups(scored.patients, scored.labels, CROSS_FIT_GROUPS, seed)
    for group in np.unique(groups):
        rest = groups != group
        held.append(HeldOut(~rest, fit_rule(scored.logits[rest], scored.labels[rest], scored.patients[rest])))
    return held


def held_out_uncertainties(scored: Scored, held: Sequence[HeldOut]) -> tuple[dict[str, Floats], Bools]:
    """Each admissible measure (n,) of every slice, and whether it is decided wrongly (n,), by rules made without its patient."""
    measures = {name: np.empty(len(scored.labels)) for name in MEASURES}
    wrong = np.zeros(len(scored.labels), bool)
    for group in held:
        probability = group.rule.calibrator(scored.logits)
        again = replace(scored, gate=on_common_scale(scored.raw_gate, scored.fold, ~group.own))
        for name, values in uncertainties(again, group.rule, probability).items():
            measures[name][group.own] = values[group.own]
        wrong[group.own] = ((probability >= group.rule.threshold) != scored.labels)[group.own]
    return measures, wrong


@dataclass(frozen=True)
class CrossFitted:
    """What happens to each patient under a rule and limits that were fitted without that patient."""

    decision: NDArray[np.int64]  # (n,)
    rejected: Bools  # (n,)
    referred: Bools  # (n,)
    series_rejected: Bools  # (P,) patients sorted by id


def cross_fitted(scored: Scored, held: Sequence[HeldOut], measure: str, max_false_reject: float, refer: ReferGoal) -> CrossFitted:
    """Rule, limits, texture, common scale of the gate, refer band and series rule, each without the patients that it judges."""
    n, names = len(scored.labels), np.unique(scored.patients)
    decision, rejected, referred = np.zeros(n, np.int64), np.zeros(n, bool), np.zeros(n, bool)
    series = np.zeros(len(names), bool)
    for group in held:
        own, rest = group.own, ~group.own
        texture = Texture.of({name: values[rest] for name, values in scored.pixels.items()}).distance(scored.pixels)
        again = replace(scored, texture=texture, gate=on_common_scale(scored.raw_gate, scored.fold, rest))
        probability = group.rule.calibrator(scored.logits)
        decided = (probability >= group.rule.threshold).astype(np.int64)
        uncertainty = uncertainties(again, group.rule, probability)[measure]
        outside_limits = fit_gate(again.take(rest), max_false_reject).rejects(again)
        band = refer_limit(uncertainty[rest], (decided != scored.labels)[rest], outside_limits[rest], refer)
        share = series_share(outside_limits[rest], scored.patients[rest], max_false_reject)
        decision[own], rejected[own] = decided[own], outside_limits[own]
        referred[own] = ~rejected[own] & (uncertainty[own] > band)
        for patient in np.unique(scored.patients[own]):
            series[names == patient] = outside_limits[scored.patients == patient].mean() > share
    return CrossFitted(decision, rejected, referred, series)
