"""safety: the out-of-distribution gate and the refer band, fitted out-of-fold; then how they do on pictures they never saw."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from strokect import safety_fit
from strokect.calibration import Calibrator
from strokect.ct_slice import as_ct_slice
from strokect.engine import available_cores
from strokect.errors import DataError, run_stage
from strokect.files import atomic_folder, read_json, sha256_file, write_json
from strokect.gate import save_gate
from strokect.gate_fit import choose_gate, dropout_logits, fit_gates, held_out_scores, shipped_gates
from strokect.hounsfield import BRAIN_ONLY, Windows
from strokect.judge import load_judge, model_hashes
from strokect.manifest import has_patients, load_prepared
from strokect.out_of_fold import SliceRule, slice_rule
from strokect.outliers import evaluation_outliers, phantom_pictures
from strokect.params import SafetyParams, load_params
from strokect.pixel_checks import measure
from strokect.pointing_game import play_out_of_fold
from strokect.policy import Policy
from strokect.safety_cross_fit import held_out_uncertainties, hold_out
from strokect.safety_report import safety_metrics, summary_table
from strokect.selective import choose_measure, compare_measures
from strokect.shift_reference import head_levels
from strokect.shipping import shipped_folders
from strokect.slices import Picture
from strokect.sources import is_no_picture, raw_pictures
from strokect.splits import SPLIT, development_rows, read_split
from strokect.texture import Texture

POINT = Path("models/operating_point.json")
SAFETY = Path("models/safety")


def measure_all(pictures: list[Callable[[], Picture]]) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Every descriptor of every picture: name → (n,), and its head's grey levels (n, B). A picture is dropped once measured."""

    def look(read: Callable[[], Picture]) -> tuple[dict[str, float], NDArray[np.float64]]:
        picture = read()
        return measure(picture), head_levels(picture)

    with ThreadPoolExecutor(available_cores()) as pool:
        jobs = pool.map(look, pictures)
        rows = list(tqdm(jobs, total=len(pictures), desc="safety: pixel checks", unit="slice", mininterval=1))
    return {name: np.array([row[name] for row, _ in rows]) for name in rows[0][0]}, np.array([levels for _, levels in rows])


def outlier_pictures(
    params: SafetyParams, synthetic: bool, pictures: list[Callable[[], Picture]], windows: Windows
) -> dict[str, list[bytes]]:
    """Evaluation outliers as file bytes by category: made of slices, phantom slices unless the cohort is one, and files.

    Models of other `windows` than the brain's refuse every PNG and JPEG, so theirs are CT slices that look like the pictures.
    """
    rng = np.random.default_rng([params.seed, 1000])
    chosen = rng.choice(len(pictures), min(len(pictures), params.outliers_per_category), replace=False)
    outliers = evaluation_outliers([pictures[i]().grey for i in chosen], rng, params.outliers_per_category)
    if not synthetic:
        outliers["phantom"] = phantom_pictures(rng, params.outliers_per_category)
    for folder in sorted(path for path in (Path("data/raw") / params.outliers).iterdir() if path.is_dir()):
        if folder.name in outliers:
            raise DataError(f"{folder}: {folder.name!r} is the name of a built-in category; rename the folder")
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and not is_no_picture(path))
        outliers[folder.name] = [path.read_bytes() for path in paths]
    if windows == BRAIN_ONLY:
        return outliers
    return {name: [as_ct_slice(data) for data in files] for name, files in outliers.items()}


def make_policy(
    scored: safety_fit.Scored,
    texture: Texture,
    gate: str,
    measure_name: str,
    rule: SliceRule,
    hashes: dict[str, dict[str, str]],
    p: SafetyParams,
) -> Policy:
    """The policy that ships, fitted on all development slices."""
    limits = safety_fit.fit_gate(scored, p.max_false_reject)
    rejected = limits.rejects(scored)
    refer = safety_fit.ReferGoal(p.refer_rate, p.refer_error_rate)
    uncertainty = safety_fit.uncertainties(scored, rule, scored.probability)[measure_name]
    policy = Policy(
        models=tuple(hashes),
        threshold=rule.threshold,
        limits=limits.pixels,
        texture=texture,
        texture_limit=limits.texture,
        gate=gate,
        gate_threshold=limits.gate_threshold,
        measure=measure_name,
        refer_above=safety_fit.refer_limit(uncertainty, scored.wrong, rejected, refer),
        samples=p.mc_samples,
        series_share=safety_fit.series_share(rejected, scored.patients, p.max_false_reject),
        operating_point_sha256=sha256_file(POINT),
        sha256=hashes,
    )
    policy.check()
    return policy


def read_scored(
    oof: pd.DataFrame,
    pixels: dict[str, NDArray[np.float64]],
    texture: Texture,
    raw_gate: NDArray[np.float64],
    fold: NDArray[np.int64],
    sampled: NDArray[np.float64],
) -> safety_fit.Scored:
    """What is known of each development slice; `oof` is models/oof.csv, the rest in its order."""
    return safety_fit.Scored(
        pixels=pixels,
        texture=texture.distance(pixels),
        raw_gate=raw_gate,
        fold=fold,
        gate=safety_fit.on_common_scale(raw_gate, fold, np.ones(len(fold), bool)),
        logits=oof["logit"].to_numpy(np.float64),
        sampled=sampled,
        probability=oof["probability"].to_numpy(np.float64),
        decision=oof["decision"].to_numpy(np.int64),
        labels=oof["label"].to_numpy(np.int64),
        patients=oof["patient"].to_numpy(np.str_),
    )


def main() -> None:
    """Write models/safety/{policy.json, gates/} and metrics/safety.json."""
    params, prepared = load_params(), load_prepared()
    p, split, point = params.safety, read_split(SPLIT, prepared.manifest), read_json(POINT)
    oof = pd.read_csv("models/oof.csv", dtype={"file": str, "patient": str})  # in order of the manifest
    rule = SliceRule(Calibrator.from_json(point["calibration"]), float(point["slice"]["threshold"]))
    folds, verifiable = point["folds"], has_patients(prepared.cohort)
    folders = dict(zip(point["exports"], shipped_folders(point), strict=True))

    gates = fit_gates(prepared, split, folds, p)
    gate, proxies = choose_gate(list(gates.values()))
    pictures = raw_pictures(params.data, list(oof["file"]))
    raw_gate, fold = held_out_scores(gates, gate)
    pixels, heads = measure_all(pictures)
    texture = Texture.of(pixels)
    sampled = dropout_logits(folds, prepared.manifest["sha256"].to_numpy(str), p.mc_samples)
    scored = read_scored(oof, pixels, texture, raw_gate, fold, sampled)
    held = hold_out(scored, partial(slice_rule, params=params.tune_threshold), p.seed)
    measures, wrong = held_out_uncertainties(scored, held)
    comparison = compare_measures(measures, wrong, scored.patients, resamples=p.resamples, seed=p.seed)
    with atomic_folder(SAFETY) as folder:
        (folder / "gates").mkdir()
        for name, fitted in shipped_gates(folders, gates, gate, prepared, split).items():
            save_gate(folder / "gates" / f"{name}.npz", fitted)
        hashes = {name: model_hashes(path, folder / "gates" / f"{name}.npz") for name, path in folders.items()}
        policy = make_policy(scored, texture, gate, choose_measure(comparison), rule, hashes, p)
        write_json(folder / "policy.json", policy.to_json())

    judge = load_judge(folders, point["views"], rule.calibrator, SAFETY, POINT)
    metrics: dict[str, Any] = {
        "source": prepared.cohort["source"],
        "target": prepared.cohort["target"],
        "patient_level_verifiable": verifiable,
        "policy": policy.to_json(),
        "feature_gate_choice": proxies,
        "uncertainty": comparison,
        **safety_metrics(
            scored,
            held,
            heads,
            prepared.manifest["slice"].to_numpy(np.int64)[development_rows(split)] if verifiable else None,
            policy,
            judge,
            outlier_pictures(p, prepared.cohort["synthetic"], pictures, judge.windows),
            p,
        ),
    }
    masks = np.load("data/prepared/masks.npy", mmap_mode="r")
    metrics["activation_map"] = play_out_of_fold(prepared, masks, folds) if len(masks) else None
    write_json("metrics/safety.json", metrics)
    print(summary_table(metrics))


if __name__ == "__main__":
    run_stage(main)
