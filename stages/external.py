"""external: a frozen release on data that had no part in it; a command, not a stage of `dvc repro`.

`python -m stages.external --source folder`. Nothing is fitted: calibration, thresholds, gate and refer band are the release's.
The `data` section of params.yaml says how to read the source, the release in what size and windows; `--params` names another
file, so that the pipeline's own does not go stale. A killed run goes on where it was.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from strokect.errors import DataError, ParamsError, run_stage
from strokect.external import (
    check_unreadable,
    choose_rows,
    data_hash,
    evaluate_external,
    judge_rows,
    read_images,
    scores_table,
    survey,
    with_result,
)
from strokect.external_page import external_page
from strokect.files import atomic_path, write_json, write_text
from strokect.journal import Journal
from strokect.overlap import check_overlap, overlap_notes
from strokect.params import load_params
from strokect.readers import READERS
from strokect.release import load_release
from strokect.reporting import metrics_table
from strokect.shift import shift_table, verdict_lines
from strokect.sources import read_source


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="a reader, as in params.yaml: data.source")
    parser.add_argument("--raw", type=Path, help="where its files are (default: data/raw/SOURCE)")
    parser.add_argument("--release", type=Path, default=Path("models/release"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="a part of it; may be repeated")
    parser.add_argument("--patients", type=Path, help="a file of patient ids, one a line: only these")
    parser.add_argument("--out", type=Path, help="default: reports/external/SOURCE")
    parser.add_argument("--allow-overlap", action="store_true", help="go on when the model was made from some of these pictures")
    parser.add_argument("--target-differs", metavar="WHY", help="why figures make sense though the labels ask another question")
    return parser.parse_args(arguments)


def check_target(ours: str, theirs: str, why: str | None) -> dict[str, str] | None:
    """None if both labels ask the same; what differs and why it may, otherwise. Raises DataError without a reason."""
    if ours == theirs:
        return None
    if not why or not why.strip():
        raise DataError(
            f"the release answers {ours!r}, the labels of this source say {theirs!r}. Figures of one question on the labels of "
            "another mean little; if they still make sense, say why: --target-differs 'all of them are haemorrhages'"
        )
    return {"release": ours, "labels": theirs, "why": why.strip()}


def main(arguments: list[str] | None = None) -> None:
    """Write external.json and .html and the local scores.csv and dropout.npy; print figures, shift and verdicts."""
    given = parse(arguments)
    params = load_params(given.params)
    if given.source not in READERS:
        raise ParamsError(f"--source {given.source!r}: allowed: {', '.join(READERS)}")
    release, root = load_release(given.release), given.raw or Path("data/raw") / given.source
    size, out = int(release.sidecar["image_size"]), given.out or Path("reports/external") / given.source
    seen_as: dict[str, Any] = {"image_size": size, "crop": release.judge.crop, "windows": release.judge.windows}
    source = read_source(replace(params.data, source=given.source, **seen_as), root)
    target = check_target(release.sidecar["target"], source.target, given.target_differs)
    listed = given.patients.read_text(encoding="utf-8").split() if given.patients else None
    rows = choose_rows(source.rows, given.where, set(listed) if listed is not None else None)
    with Journal(out / "journal.jsonl", release.version) as journal:
        seen = survey(source, rows, root, journal)
        check_unreadable(seen.unreadable, params.data.max_unreadable)
        read = partial(read_images, source, seen.rows, size, release.judge.crop)
        made_from = release.created_from.get("data_sha256")
        overlap = check_overlap(made_from, seen.sha256, read, seen.patients, allowed=given.allow_overlap)
        seen, found = with_result(seen, judge_rows(source, seen, release.judge, journal))
    unreadable = check_unreadable(seen.unreadable, params.data.max_unreadable)
    scores = scores_table(release, seen, found)
    synthetic = given.source == "phantom"
    cohort = {"source": given.source, "labels": params.data.labels, "synthetic": synthetic}
    cohort |= {"data_sha256": data_hash(scores, seen.sha256), "patient_level_verifiable": source.patient_ids}
    p = params.evaluate
    metrics = evaluate_external(release, scores, seen, cohort, prevalence=p.prevalence, resamples=p.resamples, seed=p.seed)
    differs = [f"The labels ask another question than the release ({target['labels']!r}): {target['why']}"] if target else []
    if not source.patient_ids:
        differs.append("Nothing tells whose a slice is: each counts as a patient, and intervals are too narrow for it.")
    metrics["notes"] = [*overlap_notes(overlap), *differs, *metrics["notes"]]
    metrics |= {"release": {"version": release.version, "created_from": release.created_from}, "overlap": overlap}
    metrics |= {"where": given.where, "chosen_patients": listed is not None, "target_differs": target, "unreadable": unreadable}
    write_outputs(out, metrics, scores, found)


def write_outputs(out: Path, metrics: dict[str, Any], scores: pd.DataFrame, found: list[dict[str, Any]]) -> None:
    """Write and print everything."""
    with atomic_path(out / "scores.csv") as path:
        scores.to_csv(path, index=False)
    with atomic_path(out / "dropout.npy") as path:
        np.save(path, np.array([f["sampled"] for f in found], np.float32))
    write_json(out / "external.json", metrics)
    write_text(out / "external.html", external_page(metrics))
    print(f"release {metrics['release']['version']} on {metrics['n_slices']} slices of {metrics['n_patients']} patients")
    print(f"target: {metrics['target']}\n{metrics_table(metrics)}\n\n{shift_table(metrics['shift'])}\n")
    for line in verdict_lines(metrics["shift"]):
        print(line)
    for note in [*metrics["notes"], *metrics["shift"]["notes"]]:
        print(f"note: {note}")
    for code, count in metrics["unreadable"].items():
        print(f"left out: {count} × {code}")
    print(f"{out}: external.json and external.html name nobody; scores.csv, dropout.npy and journal.jsonl must stay here")


if __name__ == "__main__":
    run_stage(main)
