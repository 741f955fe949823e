"""How often is a promised sensitivity not reached? Draws of patients from populations in which it can be looked up."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm
from tqdm import tqdm

from strokect.calibration_fit import fit_calibrator, fit_sequence_head
from strokect.guarantee import guaranteed_threshold
from strokect.operating_point import patient_scores
from strokect.sequence import context

Floats = NDArray[np.float64]
POSITIVES, TARGET, CONFIDENCE = 70, 0.9, 0.9
SLICES, TOP_K, POSITIVE_SHARE = 10, 3, 0.3
SCALES, SHIFTS = np.linspace(1.2, 2.8, 5), np.linspace(-0.5, 1.5, 5)  # of five fold models, none of them calibrated
SHIFT, SLICE_SD, PATIENT_SD = 2.0, 1.0, 0.8
POPULATION = 100_000  # positive patients among whom the true sensitivity is counted
BLOCK = 200  # patients whose series are laid out at a time


def ideal(draws: int, seed: int) -> dict[str, Any]:
    """Scores that exist beforehand, one a patient: the case that the theorem is about; the true sensitivity in closed form."""
    rng, broken = np.random.default_rng(seed), 0
    labels = np.repeat([1, 0], POSITIVES)
    for _ in range(draws):
        scores = np.r_[rng.normal(1, 1, POSITIVES), rng.normal(-1, 1, POSITIVES)]
        broken += norm.sf(guaranteed_threshold(scores, labels, TARGET, CONFIDENCE) - 1) < TARGET
    return verdict(int(broken), draws)


def as_made(method: str, draws: int, seed: int) -> dict[str, Any]:
    """Scores as tune_threshold makes them: a calibration by `method` fitted on the slices of the patients that then promise."""
    rng, broken = np.random.default_rng(seed), 0
    logits, _ = patients_of(rng, np.ones(POPULATION, bool))
    highest = np.sort(logits, axis=1)[:, -TOP_K:]  # no calibration changes which they are
    positive = np.repeat([True, False], POSITIVES)
    who = np.repeat(np.arange(2 * POSITIVES).astype(str), SLICES)
    truth = positive[np.unique(who).astype(int)].astype(np.int64)
    for _ in tqdm(range(draws), desc=f"promise, {method}", unit="draw", mininterval=1):
        logits, labels = patients_of(rng, positive)
        calibrator = fit_calibrator(method, logits.ravel(), labels.ravel())
        _, scores = patient_scores(calibrator(logits.ravel()), who, TOP_K)
        threshold = guaranteed_threshold(scores, truth, TARGET, CONFIDENCE)
        broken += (calibrator(highest).mean(axis=1) >= threshold).mean() < TARGET
    return verdict(int(broken), draws)


def as_made_in_series(draws: int, seed: int, population: int = POPULATION // 5) -> dict[str, Any]:
    """The same under `tune_threshold.patient_rule: sequence`: the scores are those of a sequence head, fitted on the slices of
    the patients that then promise; it takes the place of the calibration.
    """
    rng, broken = np.random.default_rng(seed), 0
    # Fewer than in `as_made`, as every draw judges them anew: a true sensitivity of 0.9 is counted to within 0.002.
    around = _contexts(patients_of(rng, np.ones(population, bool))[0])
    positive = np.repeat([True, False], POSITIVES)
    who = np.repeat(np.arange(2 * POSITIVES).astype(str), SLICES)
    truth = positive[np.unique(who).astype(int)].astype(np.int64)
    for _ in tqdm(range(draws), desc="promise, sequence head", unit="draw", mininterval=1):
        logits, labels = patients_of(rng, positive)
        given = _contexts(logits)
        head = fit_sequence_head(given, labels.ravel())
        _, scores = patient_scores(head(given), who, TOP_K)
        threshold = guaranteed_threshold(scores, truth, TARGET, CONFIDENCE)
        theirs = np.partition(head(around).reshape(-1, SLICES), -TOP_K, axis=1)[:, -TOP_K:].mean(axis=1)
        broken += (theirs >= threshold).mean() < TARGET
    return verdict(int(broken), draws)


def _contexts(logits: Floats) -> Floats:
    """Series (P, SLICES) of logits → what a sequence head sees of each slice (P · SLICES, WIDTH)."""
    blocks = [logits[i : i + BLOCK] for i in range(0, len(logits), BLOCK)]
    return np.concatenate([context(b.ravel(), *(grid.ravel() for grid in np.indices(b.shape))) for b in blocks])


def patients_of(rng: np.random.Generator, positive: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.int64]]:
    """Logits and labels (P, SLICES) of patients (P,), each by one of the fold models; a positive one has a positive slice."""
    count = len(positive)
    labels = (rng.random((count, SLICES)) < POSITIVE_SHARE) & positive[:, None]
    labels[:, 0] |= positive
    raw = SHIFT * (labels - 0.5) + rng.normal(0, PATIENT_SD, (count, 1)) + rng.normal(0, SLICE_SD, (count, SLICES))
    fold = rng.integers(len(SCALES), size=(count, 1))
    return SCALES[fold] * raw + SHIFTS[fold], labels.astype(np.int64)


def verdict(broken: int, draws: int) -> dict[str, Any]:
    """What metrics/bench/simulations.json says of one kind of promise."""
    allowed = 1 - CONFIDENCE
    # A promise that is broken exactly as often as allowed stays at or below this number 99 times in 100.
    tolerated = int(binom.ppf(0.99, draws, allowed))
    return {
        "draws": draws,
        "positive_patients": POSITIVES,
        "sensitivity": TARGET,
        "confidence": CONFIDENCE,
        "broken": broken,
        "broken_share": broken / draws,
        "allowed_share": round(allowed, 12),
        "tolerated": tolerated,
        "within_monte_carlo_error": broken <= tolerated,
    }
