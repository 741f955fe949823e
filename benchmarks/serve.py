"""The engine beside the eager torch loop, in one run: metrics/bench/serve.json.

    python -m benchmarks.serve [--backbones NAME …] [--size 300] [--folds 5] [--views 4] [--samples 20] [--repeats 7] [--soak N]

Weights are random, because the arithmetic does not depend on them, and the folds of an ensemble share one graph under different
heads, because exporting takes long. Rivals take turns within each repeat, so that a noisy machine is noisy to all of them.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import timm
import torch
from numpy.typing import NDArray

from benchmarks.answering import answer, load_engine, pictures
from benchmarks.eager import Eager, count_macs, eager_forms, make_networks, matmul_gflops, race, seconds, write_folds
from benchmarks.machine import cpu_name, spread
from strokect.engine import Engine, available_cores
from strokect.files import sha256_bytes, write_json

BACKBONES = ("tf_efficientnet_b3", "efficientnet_b3")  # with dynamic SAME padding, and without
SMALL, SMALL_SIZE, SOAK_SIZE = "tf_efficientnet_lite0", 224, 96
MAX_EAGER_S = 90.0  # T full eager passes are timed as they are up to this long, and extrapolated from fewer beyond
# What is asked for at the default settings on two cores: (name of a measured value, bound, whether the bound is an upper one).
TARGETS = (
    ("tf_efficientnet_b3: eager / ours, T = 1", 3.5, False),
    ("tf_efficientnet_b3: eager / ours, T = 20", 70, False),
    ("tf_efficientnet_b3: ours / arithmetic floor", 2.2, True),
    ("tf_efficientnet_b3: ensemble / student (tf_efficientnet_lite0)", 5, False),
    ("tf_efficientnet_b3: start to first answer, s", 3.5, True),
    ("tf_efficientnet_b3: memory after 20 answers, MB", 1000, True),
    ("efficientnet_b3: eager / ours, T = 1", 2.2, False),
    ("efficientnet_b3: eager / ours, T = 20", 45, False),
    ("efficientnet_b3: ours / arithmetic floor", 2.2, True),
    ("tf_efficientnet_lite0: start to first answer, s", 1.5, True),
)
NAMES = {  # of what is timed, as the JSON calls it
    "eager_t1": "eager, T = 1",
    "eager": "eager, {t}",
    "common_t1": "eager as commonly written, T = 1",
    "ours_t1": "ours, T = 1",
    "ours": "ours, {t}",
    "single": "ours, one network, {t}",
    "student": f"ours, student ({SMALL}), {{t}}",
    "floor": "arithmetic floor",
}
Times = Mapping[str, Sequence[float]]


def take_turns(rivals: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each rival, `repeats` times, one after the other; each is warmed up once."""
    for work in rivals.values():
        work()
    rounds = [{name: seconds(work) for name, work in rivals.items()} for _ in range(repeats)]
    return {name: [times[name] for times in rounds] for name in rivals}


def ratio(times: Times, slow: str, fast: str) -> dict[str, float]:
    """How many times as long `slow` took as `fast`: by the minima and by the medians."""
    a, b = times[slow], times[fast]
    return {"min": round(min(a) / min(b), 2), "median": round(statistics.median(a) / statistics.median(b), 2)}


def compare(backbone: str, folder: Path, student: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Eager and ours at T = 1 and T = `args.samples`, the arithmetic floor, and one network instead of all folds."""
    images = pictures(8, args.size)
    nets, image = make_networks(backbone, args.folds, images), images[0]
    write_folds(nets, folder, args.size)
    ours = load_engine(folder, args.views)
    forms = eager_forms(nets, ours.views)
    eager = forms[int(np.argmin(raced := race(forms, image)))]
    difference = np.abs(eager.run(image, 1)[:, 0].numpy() - ours.run(image).logits).max()
    engines = [ours, load_engine(folder, args.views, 1), load_engine(student, args.views)]
    times, gflops, passes = run_rivals(eager, forms[0], engines, image, args)

    macs, t = count_macs(nets[0], torch.from_numpy(image[None])), f"T = {args.samples}"
    times["floor"] = [2 * macs * args.folds * args.views / rate / 1e9 for rate in gflops]
    extrapolated = "" if passes == args.samples else f", extrapolated from {passes} passes"
    return {
        "parameters_m": round(sum(p.numel() for p in nets[0].parameters()) / 1e6, 2),
        "gmac_per_pass": round(macs / 1e9, 3),
        "matrix_product_gflop_per_s": round(max(gflops), 1),
        "largest_logit_difference_to_eager": float(f"{difference:.1e}"),
        "eager_form": eager.name,
        "eager_forms_t1_s": {form.name: round(took, 3) for form, took in zip(forms, raced, strict=True)},
        "seconds": {
            NAMES[name].format(t=t) + (extrapolated if name == "eager" else ""): spread(v, 4) for name, v in times.items()
        },
        "ratios": {
            "eager / ours, T = 1": ratio(times, "eager_t1", "ours_t1"),
            f"eager / ours, {t}": ratio(times, "eager", "ours"),
            "eager as commonly written / ours, T = 1": ratio(times, "common_t1", "ours_t1"),
            "eager / arithmetic floor": ratio(times, "eager_t1", "floor"),
            "ours / arithmetic floor": ratio(times, "ours_t1", "floor"),
            "ensemble / one of its networks": ratio(times, "ours", "single"),
            f"ensemble / student ({SMALL})": ratio(times, "ours", "student"),
        },
    }


def run_rivals(
    eager: Eager, common: Eager, engines: Sequence[Engine], image: NDArray[np.uint8], args: argparse.Namespace
) -> tuple[dict[str, list[float]], list[float], int]:
    """Seconds by the keys of NAMES, GFLOP/s of the matrix products, and how many of T eager passes were run."""
    ours, single, student = engines
    sha256, gflops = sha256_bytes(image.tobytes()), list[float]()
    rivals: dict[str, Callable[[], object]] = {
        "eager_t1": lambda: eager.run(image, 1),
        "common_t1": lambda: common.run(image, 1),
        "ours_t1": lambda: answer(ours, image, sha256, 1),
        "ours": lambda: answer(ours, image, sha256, args.samples),
        "single": lambda: answer(single, image, sha256, args.samples),
        "student": lambda: answer(student, image, sha256, args.samples),
        "product": lambda: gflops.append(matmul_gflops()),
    }
    times = take_turns(rivals, args.repeats)
    del times["product"]
    passes = min(args.samples, max(2, int(MAX_EAGER_S / min(times["eager_t1"]))))
    times["eager"] = []
    for _ in range(2):
        times["eager"].append(seconds(lambda: eager.run(image, passes)) * args.samples / passes)
        times["ours"].append(seconds(rivals["ours"]))
    return times, gflops, passes


def start(folder: Path, *options: str) -> dict[str, Any]:
    """Start a fresh Python that loads the folds under `folder` and answers; `start_s` is the way to its first answer."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.answering", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        start_s = round(time.perf_counter() - begin, 3)
        last = json.loads(process.stdout.readline())
    return {"start_s": start_s, **first, **last}


def start_often(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Several fresh starts; the files are in the page cache, as they are where a release was just verified."""
    runs = [start(folder, "--views", str(args.views), "--samples", str(args.samples)) for _ in range(3)]
    return {**runs[-1], "start_s": spread([run["start_s"] for run in runs]), "end_mb": spread([run["end_mb"] for run in runs], 1)}


def soak(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """`args.soak` answers of one process: does memory grow, is the answer to the same picture the same throughout?"""
    write_folds(make_networks(SMALL, args.folds, pictures(8, SOAK_SIZE)), folder, SOAK_SIZE)
    run = start(folder, "--views", str(args.views), "--samples", str(args.samples), "--answers", str(args.soak))
    return {"backbone": SMALL, "size": SOAK_SIZE, **run, "growth_mb": round(run["end_mb"] - run["settled_mb"], 1)}


def judge(measured: Mapping[str, dict[str, float]]) -> list[dict[str, Any]]:
    """Each target beside what was measured, by the minimum; targets for what this run did not measure are left out."""
    rows = []
    for name, bound, upper in TARGETS:
        if name in measured:
            value = measured[name]["min"]
            met = value <= bound if upper else value >= bound
            rows.append({"name": name, "target": f"{'≤' if upper else '≥'} {bound}", **measured[name], "met": met})
    return rows


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Everything, into `scratch` and one JSON."""
    load_before = round(os.getloadavg()[0], 2)  # mean number of processes at work in the last minute; 0 on an idle machine
    small, student = scratch / "small", scratch / "student"
    write_folds(make_networks(SMALL, args.folds, pictures(8, SMALL_SIZE)), small, SMALL_SIZE)
    write_folds(make_networks(SMALL, 1, pictures(8, args.size)), student, args.size)
    results = {name: compare(name, scratch / name, student, args) for name in args.backbones}
    first = args.backbones[0]
    starts = {first: start_often(scratch / first, args), SMALL: start_often(small, args)}
    measured = {f"{name}: {what}": value for name, result in results.items() for what, value in result["ratios"].items()}
    for name, run in starts.items():
        measured |= {f"{name}: start to first answer, s": run["start_s"], f"{name}: memory after 20 answers, MB": run["end_mb"]}
    packages = {"torch": torch, "timm": timm, "onnxruntime": onnxruntime, "numpy": np}
    return {
        "command": "python -m benchmarks.serve",
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "load_before": load_before,
        "versions": {"python": platform.python_version(), **{name: module.__version__ for name, module in packages.items()}},
        "settings": {key: value for key, value in vars(args).items() if key != "out"},
        "targets": judge(measured),
        "backbones": results,
        "fresh_process": starts,
        "soak": soak(scratch / "soak", args) if args.soak else None,
    }


def print_table(result: dict[str, Any]) -> None:
    """The targets, one line each, and the soak."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    print(f"{result['cpu']}, {result['cores']} cores, load before {result['load_before']}; {versions}")
    print(f"{'':<64}{'target':>8}{'best':>9}{'median':>9}")
    for row in result["targets"]:
        mark = "met" if row["met"] else "MISSED"
        print(f"{row['name']:<64}{row['target']:>8}{row['min']:>9}{row['median']:>9}  {mark}")
    for name, compared in result["backbones"].items():
        limit = compared["ratios"]["eager / arithmetic floor"]
        label = f"{name}: eager / arithmetic floor (the most at T = 1)"
        print(f"{label:<64}{'':>8}{limit['min']:>9}{limit['median']:>9}")
    if run := result["soak"]:
        same = "equal" if run["same_answer_to_same_picture"] else "NOT EQUAL"
        print(
            f"soak: {run['answers']} answers, memory {run['settled_mb']} → {run['end_mb']} MB, answers to equal pictures {same}"
        )


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    for name, default in (("size", 300), ("folds", 5), ("views", 4), ("samples", 20), ("repeats", 7), ("soak", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench/serve.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(args, Path(scratch))
    write_json(args.out, result)
    print_table(result)


if __name__ == "__main__":
    main()
