"""Fitting the feature gates, one for each fold on its training part, and choosing their score on proxy outliers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from strokect.engine import FoldModel, FoldScores, score_slices
from strokect.feature_gate import SCORES, Statistics, fit_statistics, score_by
from strokect.gate import Gate, Standard
from strokect.head_crop import crop_of
from strokect.hounsfield import windows_from_json
from strokect.manifest import Prepared
from strokect.params import SafetyParams
from strokect.proxies import choose_score, proxy_outliers
from strokect.shipping import EXPORTS
from strokect.splits import development_rows, training_rows
from strokect.uncertainty import dropout_masks, sample_logits

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FoldGate:
    """The gate of one fold, with every score of the slices that the fold holds out and of proxy outliers made of them."""

    statistics: Statistics  # of the fold's training part
    rows: NDArray[np.int64]  # (n,) manifest rows that the fold holds out
    held_out: dict[str, Floats]  # score → (n,)
    proxies: dict[str, dict[str, Floats]]  # kind → score → (m,)

    def standard(self, score: str) -> Standard:
        """What puts this fold's `score` on the scale that all folds share."""
        return Standard.of(self.held_out[score])


def read_oof(fold: int) -> tuple[NDArray[np.int64], FoldScores]:
    """Manifest rows (n,) that a fold holds out, and what its exported model says about them."""
    with np.load(EXPORTS / str(fold) / "oof.npz", allow_pickle=False) as oof:
        return oof["rows"], FoldScores(oof["logits"], oof["features"], oof["stages"])


def fit_gates(prepared: Prepared, split: pd.DataFrame, folds: Sequence[int], params: SafetyParams) -> dict[int, FoldGate]:
    """The gate of every fold: statistics of its training part, scores of what it holds out."""
    gates = {}
    for fold in folds:
        model, training = FoldModel(EXPORTS / str(fold)), training_rows(split, fold)
        rows, held_out = read_oof(fold)
        rng = np.random.default_rng([params.seed, fold])
        kinds = proxy_outliers(
            prepared.images[rows],
            rng,
            params.proxies_per_kind,
            with_phantom=not prepared.cohort["synthetic"],
            windows=windows_from_json(prepared.cohort["windows"]),
            crop=crop_of(prepared.cohort, "cohort.json"),
        )
        total = len(training) + sum(map(len, kinds.values()))
        with tqdm(total=total, desc=f"safety: gate of fold {fold}", unit="slice", mininterval=1) as bar:
            statistics = statistics_of(model, prepared, training, bar.update)
            proxies = {kind: _scores(score_unchanged(model, images, bar.update), statistics) for kind, images in kinds.items()}
        gates[fold] = FoldGate(statistics, rows, _scores(held_out, statistics), proxies)
    return gates


def statistics_of(
    model: FoldModel, prepared: Prepared, rows: NDArray[np.int64], progress: Callable[[], object] = lambda: None
) -> Statistics:
    """Gate statistics of a model on the slices `rows`."""
    seen = score_unchanged(model, prepared.images[rows], progress)
    return fit_statistics(seen.features[:, 0], seen.stages, prepared.labels[rows], model.weight, model.bias)


def score_unchanged(model: FoldModel, images: NDArray[np.uint8], progress: Callable[[], object] = lambda: None) -> FoldScores:
    """Unchanged slices (n, C, S, S) by a model: the gate looks at no other view."""
    return score_slices(model, images, ["identity"], lambda done: progress())


def _scores(seen: FoldScores, statistics: Statistics) -> dict[str, Floats]:
    return {name: score_by(name, seen.features[:, 0], seen.stages, statistics) for name in SCORES}


def choose_gate(gates: Sequence[FoldGate]) -> tuple[str, dict[str, Any]]:
    """Name of the score that tells proxies from held-out slices best, folds pooled, and what it was chosen by."""
    inside = {score: np.concatenate([gate.standard(score)(gate.held_out[score]) for gate in gates]) for score in SCORES}
    outside = {
        kind: {score: np.concatenate([gate.standard(score)(gate.proxies[kind][score]) for gate in gates]) for score in SCORES}
        for kind in gates[0].proxies
    }
    return choose_score(inside, outside)


def held_out_scores(gates: Mapping[int, FoldGate], score: str) -> tuple[Floats, NDArray[np.int64]]:
    """Each development slice by the gate of the fold that holds it out, on that fold's own scale (n,), and the fold (n,).

    In order of the manifest.
    """
    order = np.argsort(np.concatenate([gate.rows for gate in gates.values()]))
    raw = np.concatenate([gate.held_out[score] for gate in gates.values()])
    fold = np.repeat(list(gates), [len(gate.rows) for gate in gates.values()])
    return raw[order], fold[order]


def dropout_logits(folds: Sequence[int], sha256: NDArray[np.str_], samples: int) -> Floats:
    """Logits under Monte Carlo dropout of each development slice by its own fold, mean over the views: (n, samples).

    In order of the manifest. `sha256` (N,) are those of the manifest: the masks are the ones the service would draw for the same
    bytes.
    """
    rows, logits = [], []
    for number, fold in enumerate(folds):
        model = FoldModel(EXPORTS / str(fold))
        held_out, seen = read_oof(fold)
        for row, features in zip(held_out, seen.features, strict=True):
            masks = dropout_masks(sha256[row], number, len(features), samples, features.shape[1], model.dropout)
            sampled = sample_logits(features, model.weight, float(model.bias), model.dropout, masks)
            rows.append(row)
            logits.append(sampled.astype(np.float64).mean(axis=0))
    return np.array(logits)[np.argsort(rows)]


def shipped_gates(
    folders: Mapping[str, Path], gates: Mapping[int, FoldGate], score: str, prepared: Prepared, split: pd.DataFrame
) -> dict[str, Gate]:
    """The gate of each model that ships: those of the folds, or a student's over all development slices.

    The student has seen every development slice, so its scale is the median of those of its cross-fitted siblings.
    """
    standards = {fold: gate.standard(score) for fold, gate in gates.items()}
    if set(folders) == {str(fold) for fold in gates}:
        return {str(fold): Gate(score, gate.statistics, standards[fold]) for fold, gate in gates.items()}
    (name, folder), *_ = folders.items()
    location, scale = np.median([(standard.location, standard.scale) for standard in standards.values()], axis=0)
    statistics = statistics_of(FoldModel(folder), prepared, development_rows(split))
    return {name: Gate(score, statistics, Standard(float(location), float(scale)))}
