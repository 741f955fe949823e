"""A release recalibrated for one site: calibration, two thresholds and the refer limit from a few hundred labelled cases of it.

The cases are judged by the ensemble, which none of their patients was trained into. So, unlike the development calibration, which
is that of single fold models, this is the calibration of what ships: the loss is that of the averaged probability. Models, pixel
checks, texture, feature gate and series rule stay as they are: a site cannot loosen what the service refuses.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from strokect.calibration import Calibrator
from strokect.calibration_fit import CROSS_FIT_GROUPS, fit_calibrator, log_loss, patient_groups
from strokect.errors import DataError, NotEstimableError
from strokect.judge import mean_spread
from strokect.operating_point import patient_labels, patient_scores, series_probability
from strokect.policy import Policy
from strokect.release import OperatingPoint
from strokect.safety_fit import limit_above
from strokect.thresholds import choose_threshold, parse_goal
from strokect.uncertainty import MEASURES

Floats = NDArray[np.float64]
KEEP = "keep"  # the release's own calibration
METHODS = (KEEP, "temperature", "affine", "isotonic")
# Ten patients of the rarer class for each number that is fitted (Peduzzi et al. 1996): affine has two.
MIN_PATIENTS = 20


@dataclass(frozen=True)
class Cases:
    """Labelled slices of a site as the release judged them; n slices in one order, K models, T dropout samples."""

    logits: Floats  # (n, K)
    labels: NDArray[np.int64]  # (n,)
    patients: NDArray[np.str_]  # (n,)
    order: NDArray[np.int64]  # (n,) sorts the slices of a patient
    accepted: NDArray[np.bool_]  # (n,) not rejected by the gate
    gate_score: Floats  # (n,)
    sampled: NDArray[np.float32]  # (n, K, T)

    def take(self, rows: NDArray[Any]) -> "Cases":
        """The slices of `rows`."""
        return Cases(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Fitted:
    """What a site's cases choose."""

    method: str
    calibrator: Calibrator
    threshold: float  # of slices
    patient_threshold: float
    log_loss: dict[str, float]  # cross-fitted, by method


def check_cases(cases: Cases) -> None:
    """Raise DataError or NotEstimableError unless a calibration and thresholds can be fitted."""
    if not np.isfinite(cases.logits).all():
        raise DataError(f"{(~np.isfinite(cases.logits).all(axis=1)).sum()} slices have a logit that is not a number")
    kept = cases.take(cases.accepted)
    if not len(kept.labels):
        raise NotEstimableError(
            f"this release rejects all {len(cases.labels)} slices: it does not accept this site's pictures, there is nothing to "
            "recalibrate on, and more cases like these would not help. The reasons stand in external.html; what is needed is a "
            "model that was trained on pictures like the site's"
        )
    positive = int(patient_labels(kept.labels, kept.patients).sum())
    negative = len(np.unique(kept.patients)) - positive
    if min(positive, negative) < MIN_PATIENTS:
        raise NotEstimableError(
            f"a recalibration needs at least {MIN_PATIENTS} patients with a positive slice and {MIN_PATIENTS} without, of slices "
            f"that the gate accepts; there are {positive} and {negative}: collect {max(0, MIN_PATIENTS - positive)} and "
            f"{max(0, MIN_PATIENTS - negative)} more{_rejected(cases)}"
        )


def _rejected(cases: Cases) -> str:
    """That most slices are rejected, where they are: collecting more is then the smaller half of what is wrong."""
    share = 1 - cases.accepted.mean()
    return f". The release rejects {share:.0%} of these slices: ask first why (external.html)" if share > 0.5 else ""


def fit_ensemble(method: str, logits: Floats, labels: NDArray[np.int64], own: Calibrator) -> Calibrator:
    """One calibrator, applied to each model's logits (n, K) before they are averaged, as the service does.

    temperature, affine: least log loss of that average. isotonic: fitted on the logits of all models, as a step function has no
    gradient; what its average is worth, the cross-fitted log loss decides.
    """
    if method == KEEP:
        return own
    if method == "isotonic":
        return fit_calibrator("isotonic", logits.ravel(), np.repeat(labels, logits.shape[1]))

    def made(theta: Floats) -> Calibrator:
        return Calibrator(method, float(np.exp(theta[0])), float(theta[1]) if method == "affine" else 0.0)

    def loss(theta: Floats) -> float:
        return log_loss(made(theta)(logits).mean(axis=1), labels)

    start = np.zeros(2 if method == "affine" else 1)
    bounds = [(-5.0, 5.0)] + [(-20.0, 20.0)] * (len(start) - 1)
    return made(minimize(loss, start, method="L-BFGS-B", bounds=bounds).x)


def choose_calibration(cases: Cases, own: Calibrator, seed: int) -> tuple[str, dict[str, float]]:
    """The method with the least log loss cross-fitted by patient, on accepted slices; the first of METHODS among equals."""
    kept = cases.take(cases.accepted)
    groups = patient_groups(kept.patients, kept.labels, CROSS_FIT_GROUPS, seed)
    losses = {}
    for method in METHODS:
        probability = np.empty(len(kept.labels))
        for group in np.unique(groups):
            at = groups == group
            fitted = fit_ensemble(method, kept.logits[~at], kept.labels[~at], own)
            probability[at] = fitted(kept.logits[at]).mean(axis=1)
        losses[method] = log_loss(probability, kept.labels)
    return min(losses, key=losses.__getitem__), losses


def fit_site(
    cases: Cases, point: OperatingPoint, goals: tuple[str, str], seed: int, method: str | None = None, *, judging: bool = False
) -> Fitted:
    """Calibration and both thresholds on these cases; `method` skips the choice, `goals` are those of slices and patients,
    `judging` is explained in `strokect.guarantee`.
    """
    losses: dict[str, float] = {}
    if method is None:
        method, losses = choose_calibration(cases, point.calibrator, seed)
    kept = cases.take(cases.accepted)
    calibrator = fit_ensemble(method, kept.logits, kept.labels, point.calibrator)
    of_slices, of_patients = parse_goal(goals[0]).of_slices(), parse_goal(goals[1])
    threshold = choose_threshold(calibrator(kept.logits).mean(axis=1), kept.labels, of_slices)
    scores, truth = whole_patients(cases, point, calibrator)
    return Fitted(method, calibrator, threshold, choose_threshold(scores, truth, of_patients, judging=judging), losses)


def whole_patients(cases: Cases, point: OperatingPoint, calibrator: Calibrator) -> tuple[Floats, NDArray[np.int64]]:
    """Scores and labels of patients (sorted by id) as the service makes them: rejected slices count. A sequence head stays."""
    probability = calibrator(cases.logits).mean(axis=1)
    in_series = series_probability(point.patient, probability, cases.logits, cases.patients, cases.order)
    _, scores = patient_scores(in_series, cases.patients, int(point.patient["top_k"]))
    return scores, patient_labels(cases.labels, cases.patients)


def refer_limit(cases: Cases, policy: Policy, fitted: Fitted, rate: float) -> float:
    """The policy's measure of uncertainty under the new calibration: at most `rate` of the site's accepted slices lie above."""
    kept = cases.take(cases.accepted)
    spread = np.array([mean_spread(sampled.astype(np.float64), fitted.calibrator) for sampled in kept.sampled])
    probability = fitted.calibrator(kept.logits).mean(axis=1)
    return limit_above(MEASURES[policy.measure](probability, fitted.threshold, spread, kept.gate_score), rate)


def new_policy(policy: Policy, fitted: Fitted, refer_above: float, operating_point_sha256: str) -> Policy:
    """The policy with another threshold and refer limit; all that decides about rejecting is untouched."""
    changed = {"threshold": fitted.threshold, "refer_above": refer_above, "operating_point_sha256": operating_point_sha256}
    policy = replace(policy, **changed)  # type: ignore[arg-type]
    policy.check()
    return policy


@dataclass(frozen=True)
class Answers:
    """Probabilities and decisions of slices (n,) and patients (P,)."""

    probability: Floats
    decision: NDArray[np.int64]
    patient_probability: Floats
    patient_decision: NDArray[np.int64]


def before(cases: Cases, point: OperatingPoint) -> Answers:
    """What the release says, which has seen none of the cases."""
    return _answer(cases, point, Fitted(KEEP, point.calibrator, point.slice_threshold, float(point.patient["threshold"]), {}))


def after(cases: Cases, point: OperatingPoint, goals: tuple[str, str], seed: int) -> Answers:
    """What a recalibration made without each patient says of that patient, the choice of the method included."""
    names = np.unique(cases.patients)
    n, p = len(cases.labels), len(names)
    whole = Answers(np.empty(n), np.empty(n, np.int64), np.empty(p), np.empty(p, np.int64))
    groups = patient_groups(cases.patients, cases.labels, CROSS_FIT_GROUPS, seed)
    for group in np.unique(groups):
        at = groups == group
        part = _answer(cases.take(at), point, fit_site(cases.take(~at), point, goals, seed, judging=True))
        own = np.searchsorted(names, np.unique(cases.patients[at]))
        whole.probability[at], whole.decision[at] = part.probability, part.decision
        whole.patient_probability[own], whole.patient_decision[own] = part.patient_probability, part.patient_decision
    return whole


def _answer(cases: Cases, point: OperatingPoint, by: Fitted) -> Answers:
    probability = by.calibrator(cases.logits).mean(axis=1)
    scores, _ = whole_patients(cases, point, by.calibrator)
    decision = (probability >= by.threshold).astype(np.int64)
    return Answers(probability, decision, scores, (scores >= by.patient_threshold).astype(np.int64))
