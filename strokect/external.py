"""Judging a cohort that had no part in making a release: nothing is fitted, every picture is judged as the service does."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from strokect.abstention import account
from strokect.calibration import sigmoid
from strokect.engine import available_cores
from strokect.errors import DataError, ImageError, NoResultError, NotEstimableError
from strokect.files import sha256_file
from strokect.head_crop import Crop
from strokect.journal import Journal
from strokect.judge import Judge
from strokect.operating_point import patient_scores, series_probability, uncalibrated_scores
from strokect.pixel_checks import measure
from strokect.policy import Policy
from strokect.release import Release
from strokect.reporting import Judged, report
from strokect.shift import External, shift_report
from strokect.shift_reference import head_levels
from strokect.slices import model_input
from strokect.sources import Row, Source

Floats = NDArray[np.float64]
MAX_LISTED = 50
FEW_PATIENTS = 30
SURVEYED, JUDGED = "surveyed", "judged"
NO_RESULT = "no_result"


@dataclass(frozen=True)
class Survey:
    """The readable rows of a source in its order, with what is known of each before a model has seen it."""

    rows: list[Row]
    sha256: NDArray[np.str_]  # (n,)
    pixels: dict[str, Floats]  # descriptor → (n,)
    heads: Floats  # (n, B)
    unreadable: list[tuple[str, str, str]]  # (file, code, message)

    @property
    def patients(self) -> NDArray[np.str_]:
        """(n,) patient id of each slice."""
        return np.array([row.patient for row in self.rows], np.str_)


def choose_rows(rows: list[Row], where: Iterable[str], patients: set[str] | None) -> list[Row]:
    """The rows for which every `column=value` holds and whose patient is in `patients`. Raises DataError where none is."""
    for condition in where:
        column, given, value = condition.partition("=")
        if not given:
            raise DataError(f"--where {condition!r}: expected column=value")
        columns = {"file", "patient", "slice", "label", *(name for row in rows for name in row.extra)}
        if column not in columns:
            raise DataError(f"--where {condition!r}: this source has the columns {', '.join(sorted(columns))}")
        kept = [row for row in rows if str(getattr(row, column, row.extra.get(column))) == value]
        if not kept:
            found = sorted({str(getattr(row, column, row.extra.get(column))) for row in rows})
            some = ", ".join(found[:10]) if column not in ("file", "patient") else f"{len(found)} others"
            raise DataError(f"--where {condition!r}: no slice has it; {column} is {some}")
        rows = kept
    if patients is not None:
        if absent := patients - {row.patient for row in rows}:
            raise DataError(f"--patients: {len(absent)} of {len(patients)} patients have no slice in this source")
        rows = [row for row in rows if row.patient in patients]
    return rows


def survey(source: Source, rows: list[Row], root: Path, journal: Journal) -> Survey:
    """Read and measure every picture, in threads. What cannot be read is kept aside."""

    def look(row: Row) -> tuple[str, dict[str, Any]] | ImageError:
        try:
            path = root / row.file
            # The bytes seed the dropout masks, as in the service. Sources without a file for each row say what stands for it.
            sha256 = sha256_file(path) if path.is_file() else source.read(row).sha256
            if (found := journal.get(SURVEYED, sha256)) is None:
                picture = source.picture(row)
                found = {"pixels": measure(picture)}
                found["head"] = head_levels(picture).round(6).tolist()
                journal.add(SURVEYED, sha256, found)
        except ImageError as error:
            return error
        return sha256, found

    with ThreadPoolExecutor(available_cores()) as pool:
        seen = list(tqdm(pool.map(look, rows), total=len(rows), desc="external: read", unit="slice", mininterval=1))
    pairs = list(zip(rows, seen, strict=True))
    # What the reader could not make out may be of any part of the source that was asked for.
    unreadable = [(file, "unreadable_by_reader", reason) for file, reason in source.unreadable]
    unreadable += [(row.file, s.code, str(s)) for row, s in pairs if isinstance(s, ImageError)]
    kept = [(row, *s) for row, s in pairs if not isinstance(s, ImageError)]
    names = kept[0][2]["pixels"] if kept else ()
    return Survey(
        rows=[row for row, _, _ in kept],
        sha256=np.array([sha256 for _, sha256, _ in kept], np.str_),
        pixels={name: np.array([f["pixels"][name] for *_, f in kept], float) for name in names},
        heads=np.array([f["head"] for *_, f in kept], float),
        unreadable=unreadable,
    )


def read_images(source: Source, rows: list[Row], size: int, crop: Crop) -> NDArray[np.uint8]:
    """(n, size, size) uint8: the first channel of each surveyed slice as `prepare` would have packed it."""

    def look(row: Row) -> NDArray[np.uint8]:
        return model_input(source.picture(row), size, crop)[0]

    with ThreadPoolExecutor(available_cores()) as pool:
        seen = tqdm(pool.map(look, rows), total=len(rows), desc="external: compare", unit="slice", mininterval=1)
        return np.stack(list(seen)) if rows else np.empty((0, size, size), np.uint8)


def judge_rows(source: Source, seen: Survey, judge: Judge, journal: Journal) -> list[dict[str, Any]]:
    """What the release says about each surveyed row; the label of a row is not looked at."""
    found = []
    rows = list(zip(seen.rows, seen.sha256, strict=True))
    for row, sha256 in tqdm(rows, desc="external: judge", unit="slice", mininterval=1):
        known = journal.get(JUDGED, str(sha256))
        if known is None:
            examination = judge.examine(source.picture(row), str(sha256))
            known = _record(judge.policy, examination.evidence, examination.sampled)
            journal.add(JUDGED, str(sha256), known)
        found.append(known)
    return found


def _record(policy: Policy, evidence: Any, sampled: Floats) -> dict[str, Any]:
    answer, flags = NO_RESULT, list(evidence.flags)
    with contextlib.suppress(NoResultError):
        decision = policy.decide(evidence)
        answer, flags = str(decision.decision), list(decision.flags)
    return {
        "decision": answer,
        "flags": flags,
        "logits": evidence.logits.tolist(),
        "probability": float(evidence.probabilities.mean()),
        "gate_score": evidence.gate_score,
        "mc_std": evidence.mc_std,
        "sampled": sampled.round(5).tolist(),  # what a journal of many slices is mostly made of
    }


def check_unreadable(unreadable: list[tuple[str, str, str]], allowed: int) -> dict[str, int]:
    """How many files could not be used, by code. Raises DataError above `data.max_unreadable`."""
    if len(unreadable) > allowed:
        listed = "\n".join(f"  {file}: {message}" for file, _, message in unreadable[:MAX_LISTED])
        more = f"\n  … and {len(unreadable) - MAX_LISTED} more" if len(unreadable) > MAX_LISTED else ""
        raise DataError(
            f"{len(unreadable)} file(s) cannot be used and data.max_unreadable is {allowed}:\n{listed}{more}\n"
            "Mend or remove them, or raise data.max_unreadable: they are then left out and counted"
        )
    return dict(sorted(Counter(code for _, code, _ in unreadable).items()))


def scores_table(release: Release, seen: Survey, found: list[dict[str, Any]]) -> pd.DataFrame:
    """A row for each slice that got a result, or NO_RESULT, for people at the site and for stages.recalibrate: stays local."""
    logits = np.array([f["logits"] for f in found], float).reshape(len(found), -1)
    columns = {
        "file": [row.file for row in seen.rows],
        "patient": [row.patient for row in seen.rows],
        "slice": [row.slice for row in seen.rows],
        "label": [row.label for row in seen.rows],
        **{f"logit_{name}": logits[:, i] for i, name in enumerate(release.policy.models)},
        **{name: [f[name] for f in found] for name in ("probability", "decision", "gate_score", "mc_std")},
        "flags": ["+".join(f["flags"]) for f in found],
    }
    return pd.DataFrame(columns)


def evaluate_external(
    release: Release,
    scores: pd.DataFrame,
    seen: Survey,
    cohort: dict[str, Any],
    *,
    prevalence: Sequence[float],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """external.json without what the command adds: figures, policy accounting, shift.

    What one class alone does not define is None in it. Raises NotEstimableError for a single patient.
    """
    patients, labels = scores["patient"].to_numpy(np.str_), scores["label"].to_numpy(np.int64)
    if len(np.unique(patients)) < 2:
        raise NotEstimableError("an interval over patients needs at least two patients with a result")
    names = [f"logit_{name}" for name in release.policy.models]
    point, probability = release.operating_point.patient, scores["probability"].to_numpy(float)
    in_series = series_probability(
        point, probability, scores[names].to_numpy(float), patients, scores["slice"].to_numpy(np.int64)
    )
    _, whole = patient_scores(in_series, patients, int(point["top_k"]))
    threshold, at = release.policy.threshold, float(point["threshold"])
    raw = sigmoid(scores[names].to_numpy(float)).mean(axis=1)
    slices = Judged(probability, probability, (probability >= threshold).astype(np.int64), threshold, raw)
    of_patients = Judged(whole, whole, (whole >= at).astype(np.int64), at, uncalibrated_scores(point, raw, patients))
    bootstrap: dict[str, Any] = {"resamples": resamples, "seed": seed}
    described: dict[str, Any] = {"cohort": cohort, "sidecar": release.sidecar, "audit": {"allowed": release.audit["allowed"]}}
    metrics = report("external", labels, patients, slices, of_patients, prevalence=prevalence, **described, **bootstrap)
    decision = scores["decision"].to_numpy(np.str_)
    metrics["policy"] = account(labels, decision, patients, **bootstrap)
    flags = [text.split("+") if text else [] for text in scores["flags"]]
    judged = External(labels, patients, probability, decision, flags, seen.pixels, seen.heads)
    metrics["shift"] = shift_report(judged, metrics, release.metrics, release.safety, **bootstrap)
    if metrics["n_patients"] < FEW_PATIENTS:
        metrics["notes"].append(f"{metrics['n_patients']} patients: intervals of so few are wide and rough.")
    return metrics


def data_hash(scores: pd.DataFrame, sha256: NDArray[np.str_]) -> str:
    """SHA-256 over which pictures were judged, whose they are and what they are called."""
    lines = sorted("\t".join(map(str, row)) for row in zip(sha256, scores["patient"], scores["label"], strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def with_result(seen: Survey, found: list[dict[str, Any]]) -> tuple[Survey, list[dict[str, Any]]]:
    """Without the slices that gave no result: the service answers an error, so they count as unreadable."""
    keep = np.array([f["decision"] != NO_RESULT for f in found], bool)
    message = "no result: a model gave a number that is not finite"
    failed = [(row.file, NO_RESULT, message) for row, ok in zip(seen.rows, keep, strict=True) if not ok]
    kept = Survey(
        rows=[row for row, ok in zip(seen.rows, keep, strict=True) if ok],
        sha256=seen.sha256[keep],
        pixels={name: values[keep] for name, values in seen.pixels.items()},
        heads=seen.heads[keep],
        unreadable=seen.unreadable + failed,
    )
    return kept, [f for f, ok in zip(found, keep, strict=True) if ok]
