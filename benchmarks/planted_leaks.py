"""Does the audit find what is wrong? Leaks planted in phantom and real slices: metrics/bench/planted_leaks.json and the page.

    python -m benchmarks.planted_leaks [--real FOLDER] [--seeds 5] [--count 20]

FOLDER holds the Kaggle "Brain Stroke CT Image Dataset" as `kaggle_ct_ich` reads it. Everything is planted in a temporary folder;
only counts leave it.
"""

import argparse
import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import scipy
from PIL import Image

from benchmarks.audit_page_md import render
from benchmarks.machine import commit, facts
from benchmarks.plants import Item, plant, plant_two_classes
from stages.audit import read_facts
from stages.prepare import prepare
from strokect.audit import audit_cohort
from strokect.files import read_json, write_json, write_text
from strokect.finding import Finding
from strokect.manifest import load_prepared
from strokect.params import DataParams, Params, load_params
from strokect.phantom import make_cohort, window
from strokect.sources import read_source

JSON, SHUFFLE, SPEED = (Path(f"metrics/bench/{name}.json") for name in ("planted_leaks", "shuffle_control", "audit"))
PAGE = Path("docs/results/audit.md")
DRAWN_PX, FILE_PX = 128, 512  # phantom heads are drawn at the one and enlarged to the other: a scanner is as smooth
PATIENTS, SLICES = 60, 10
SIZE = {"phantom": 96, "real": 128}  # data.image_size
EVERY = 8  # of the real slices that the cohort with labels per patient is made of: that check looks at names only
# The check that must list the planted files.
CAUGHT_BY = {
    "copy": "identical_across_patients",
    "aug_ file": "suspicious_names",
    "grey contour": "overlays",
    "grey contour anywhere": "overlays",
    "coloured contour": "overlays",
    "white contour in a small picture": "overlays",
    "frame around one class": "frame_by_class",
    "patient in two classes": "patient_in_two_classes",
}
ALTERED = "near_duplicates_across_patients"


def phantom_tree(root: Path, seed: int) -> list[Item]:
    """Phantom slices as PNG below `root`/<class>."""
    items = []
    for piece in make_cohort(patients=PATIENTS, slices=SLICES, size=DRAWN_PX, seed=seed):
        label = int(piece.lesion != "")
        path = root / ("stroke" if label else "normal") / f"{piece.patient}_{piece.slice:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(window(piece.hu)).resize((FILE_PX, FILE_PX), Image.Resampling.BICUBIC).save(path)
        items.append(Item(path, piece.patient, label))
    return items


def real_tree(root: Path, real: Path, data: DataParams) -> list[Item]:
    """The slices of CT-ICH in the folder of their own label, copied below `root`."""
    items = []
    for row in read_source(dataclasses.replace(data, source="kaggle_ct_ich"), real).rows:
        path = root / ("stroke" if row.label else "normal") / f"{row.patient}_{row.slice:03}{Path(row.file).suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real / row.file, path)
        items.append(Item(path, row.patient, row.label))
    return items


def by_patient(items: Sequence[Item], root: Path) -> list[Item]:
    """Move the slices of patients with a positive one to the folder `stroke`."""
    positive = {item.patient for item in items if item.label}
    moved = []
    for item in items:
        label = int(item.patient in positive)
        path = root / ("stroke" if label else "normal") / item.path.name
        if path != item.path:
            shutil.move(item.path, path)
        moved.append(Item(path, item.patient, label))
    return moved


def findings_of(params: Params, data: DataParams) -> dict[str, Finding]:
    """prepare and audit in the current folder → check → finding."""
    prepare(data, Path("data/raw") / data.source, Path("data/prepared"))
    prepared = load_prepared()
    facts = read_facts(prepared, data)
    found = audit_cohort(prepared.manifest, prepared.images, prepared.cohort, facts, params.split)
    return {finding.check: finding for finding in found}


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty temporary folder that is the current one until the block ends; yields data/raw/folder in it."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        root = Path("data/raw/folder")
        root.mkdir(parents=True)
        yield root


def planted_run(name: str, real: Path | None, seed: int, count: int, params: Params) -> dict[str, Any]:
    """One seed of one set: kind → [caught, planted], and seconds of prepare and audit."""
    rng = np.random.default_rng([seed, 7])
    data = dataclasses.replace(params.data, source="folder", image_size=SIZE[name], max_unreadable=count)
    result: dict[str, list[int]] = {}

    def make(root: Path) -> list[Item]:
        return phantom_tree(root, seed) if real is None else real_tree(root, real, data)

    with workplace() as root:
        planted = plant(make(root), root, count, rng)
        start = time.perf_counter()
        found = findings_of(params, data)
        seconds = time.perf_counter() - start
        for kind, files in planted.items():
            finding = found.get(CAUGHT_BY.get(kind, ALTERED))
            result[kind] = [len(set(files) & set(finding.files if finding else ())), len(files)]
    with workplace() as root:
        items = make(root)
        for item in items[: 0 if real is None else None]:
            if int(item.path.stem.split("_")[1]) % EVERY:
                item.path.unlink()
        files = plant_two_classes(by_patient([item for item in items if item.path.is_file()], root), root, count, rng)
        per_patient = dataclasses.replace(data, folder=dataclasses.replace(data.folder, label_unit="patient"))
        finding = findings_of(params, per_patient).get("patient_in_two_classes")
        result["patient in two classes"] = [len(set(files) & set(finding.files if finding else ())), len(files)]
    return {"kinds": result, "seconds": round(seconds, 1)}


def untouched_run(name: str, real: Path | None, seed: int, params: Params) -> dict[str, list[Any]]:
    """What the audit says of a set in which nothing was planted: check → [severity, files, pairs]."""
    with workplace() as root:
        data = dataclasses.replace(params.data, source="folder", image_size=SIZE[name], max_unreadable=0)
        if real is None:
            phantom_tree(root, seed)
        else:
            data = dataclasses.replace(data, source="kaggle_ct_ich")
            Path("data/raw/kaggle_ct_ich").symlink_to(real.resolve())
        found = findings_of(params, data)
    return {check: [finding.severity, len(finding.files), len(finding.pairs)] for check, finding in found.items()}


def measure(real: Path | None, seeds: int, count: int, params: Params) -> dict[str, Any]:
    """All seeds of phantom and, where it is given, real set."""
    given = "--real FOLDER " if real else ""
    command = f"python -m benchmarks.planted_leaks {given}--seeds {seeds} --count {count}"
    run = {"command": command, "commit": commit(), "machine": facts("cpu", [np, scipy, PIL])}
    result: dict[str, Any] = {"sets": {}}
    for name, folder in (("phantom", None), ("real", real)):
        if name == "real" and folder is None:
            continue
        # The real set is the same in every seed.
        untouched = [untouched_run(name, folder, seed, params) for seed in range(seeds if folder is None else 1)]
        runs = [planted_run(name, folder, seed, count, params) for seed in range(seeds)]
        kinds = {kind: [sum(run["kinds"][kind][i] for run in runs) for i in (0, 1)] for kind in runs[0]["kinds"]}
        result["sets"][name] = {
            "run": run,
            "image_size": SIZE[name],
            "seeds": seeds,
            "kinds": {kind: {"caught": caught, "planted": planted} for kind, (caught, planted) in kinds.items()},
            "seconds": [run["seconds"] for run in runs],
            "untouched": untouched,
        }
    return result


def main() -> None:
    """Measure, then write the JSON and the page; without --real the real figures of an earlier run stay with its command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="folder of the Kaggle set; without it only the phantom")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--count", type=int, default=20, help="leaks of each kind and seed")
    parser.add_argument("--render", action="store_true", help="only write the page from the JSON files")
    arguments = parser.parse_args()
    if not arguments.render:
        real = arguments.real.resolve() if arguments.real else None
        result = measure(real, arguments.seeds, arguments.count, load_params())
        if real is None and JSON.is_file():
            result["sets"] = {**read_json(JSON)["sets"], **result["sets"]}
        write_json(JSON, result)
    write_text(PAGE, render(read_json(JSON), *(read_json(path) if path.is_file() else None for path in (SHUFFLE, SPEED))))


if __name__ == "__main__":
    main()
