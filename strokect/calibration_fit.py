"""Fitting calibrators and the sequence head on out-of-fold logits. Needs scipy and scikit-learn; not in the service."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from strokect.calibration import METHODS, Calibrator
from strokect.errors import NotEstimableError
from strokect.sequence import SequenceHead

Floats = NDArray[np.float64]
PROBABILITY_FLOOR = 1e-3  # isotonic steps reach 0 and 1, whose log loss is infinite


def fit_calibrator(method: str, logits: Floats, labels: NDArray[np.int64]) -> Calibrator:
    """Fit `method` on logits (n,) and labels (n,).

    temperature (Guo et al. 2017) has a scale; affine (Platt 1999) also a shift, which undoes the prior shift of class
    balancing. The scale is kept positive, so that calibration never turns the order of the scores round.
    """
    if len(np.unique(labels)) < 2 or not np.isfinite(logits).all():
        raise NotEstimableError("calibration needs finite logits and both classes")
    if method == "none":
        return Calibrator("none")
    if method == "isotonic":
        model = IsotonicRegression(y_min=PROBABILITY_FLOOR, y_max=1 - PROBABILITY_FLOOR, out_of_bounds="clip").fit(logits, labels)
        return Calibrator("isotonic", knots=tuple(zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)))
    free_shift = method == "affine"

    def loss(theta: Floats) -> float:
        z = np.exp(theta[0]) * logits + (theta[1] if free_shift else 0.0)
        return float(np.logaddexp(0.0, np.where(labels == 1, -z, z)).mean())

    start = np.zeros(2 if free_shift else 1)
    bounds = [(-5.0, 5.0)] + [(-20.0, 20.0)] * (len(start) - 1)
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    return Calibrator(method, scale=float(np.exp(found[0])), shift=float(found[1]) if free_shift else 0.0)


def fit_sequence_head(given: Floats, labels: NDArray[np.int64]) -> SequenceHead:
    """Fit the head on contexts (n, WIDTH) and slice labels (n,): logistic regression on standardised columns, L2 with C = 1."""
    if len(np.unique(labels)) < 2 or not np.isfinite(given).all():
        raise NotEstimableError("a sequence head needs finite logits and both classes")
    mean, spread = given.mean(axis=0), given.std(axis=0)
    spread[spread == 0] = 1.0  # series of one slice have no place
    model = LogisticRegression(max_iter=1000).fit((given - mean) / spread, labels)
    weights = model.coef_[0] / spread
    return SequenceHead(tuple(weights.tolist()), float(model.intercept_[0] - weights @ mean))


def log_loss(probability: Floats, labels: NDArray[np.int64]) -> float:
    """Mean negative log likelihood; probabilities are kept 1e-7 away from 0 and 1."""
    p = np.clip(probability, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(labels == 1, np.log(p), np.log1p(-p))))


CROSS_FIT_GROUPS = 5


def patient_groups(patients: NDArray[np.str_], labels: NDArray[np.int64], groups: int, seed: int) -> NDArray[np.int64]:
    """(n,) number of the cross-fitting group of each slice; no patient is in two. Strata are patients with a positive slice."""
    names, index = np.unique(patients, return_inverse=True)
    positive = np.zeros(len(names), int)
    np.maximum.at(positive, index, labels)
    groups = min(groups, int(np.bincount(positive, minlength=2).min()))
    if groups < 2:
        raise NotEstimableError("cross-fitting needs at least two patients of each class")
    of_patient = np.zeros(len(names), int)
    splitter = StratifiedGroupKFold(groups, shuffle=True, random_state=seed)
    for group, (_, held_out) in enumerate(splitter.split(names, positive, names)):
        of_patient[held_out] = group
    return of_patient[index]


def cross_fit(method: str, logits: Floats, labels: NDArray[np.int64], groups: NDArray[np.int64]) -> Floats:
    """Probability (n,) of each slice by the calibrator fitted on the other groups' slices."""
    probability = np.empty(len(logits))
    for group in np.unique(groups):
        own = groups == group
        probability[own] = fit_calibrator(method, logits[~own], labels[~own])(logits[own])
    return probability


def choose_method(logits: Floats, labels: NDArray[np.int64], groups: NDArray[np.int64]) -> tuple[str, dict[str, float]]:
    """The method with the lowest cross-fitted log loss, and the log loss of each."""
    losses = {method: log_loss(cross_fit(method, logits, labels, groups), labels) for method in METHODS}
    return min(losses, key=losses.__getitem__), losses
