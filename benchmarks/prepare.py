"""prepare at size beside a plain Pillow loop, what it reads again, its memory over 100,000 slices: metrics/bench/prepare.json.

    python -m benchmarks.prepare [--slices 6650] [--many 100000] [--scratch /tmp]

The slices are synthetic: a few phantom slices of 512 × 512 pixels, each file with noise of its own, so that a PNG is as long as
that of a scan. They are written to a temporary folder (0.6 GB, with the arrays 5 GB) and are in the page cache when read.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from benchmarks.machine import cores, facts, spread
from stages.prepare import prepare
from strokect.files import sha256_bytes, sha256_file, write_json
from strokect.params import DataParams, FolderParams, load_params
from strokect.phantom import make_cohort, window

SIDE, SIZE, PER_PATIENT, ROUNDS, TRIES = 512, 300, 35, 2, 5
NOISE_HU = 4.0
SMALL_SIDE, SMALL_SIZE, SMALL_KINDS = 64, 128, 200
LIMIT_S, LIMIT_MB = 60.0, 1500.0


def data_params(size: int) -> DataParams:
    """`source: folder` with slices named <class>/<patient>_<slice>.png."""
    folder = FolderParams(("stroke",), ("normal",), r"^(?P<patient>[^_]+)_", "slice", "benchmark")
    return replace(load_params().data, source="folder", image_size=size, max_unreadable=0, folder=folder)


def write_slices(root: Path, numbers: Sequence[int], side: int) -> None:
    """One PNG for each number; PER_PATIENT consecutive numbers are a patient, and every other patient is positive."""
    bases = [piece.hu for piece in make_cohort(patients=2, slices=10, size=side, seed=0)]
    noise = np.random.default_rng(0).normal(0, NOISE_HU, (side + 64, side + 64)).astype(np.float32)

    def write(number: int) -> None:
        down, right = np.random.default_rng(number).integers(0, 64, 2)
        hu = bases[number % len(bases)] + noise[down : down + side, right : right + side]
        patient = number // PER_PATIENT
        path = root / ("stroke", "normal")[patient % 2] / f"P{patient:05d}_{number % PER_PATIENT:02d}.png"
        Image.fromarray(window(hu)).save(path)

    for name in ("stroke", "normal"):
        (root / name).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(write, numbers))


def plain_loop(root: Path, target: Path) -> None:
    """What people write: every picture into a list, the list into an array, the array into a file."""
    images = []
    for path in sorted(root.rglob("*.png")):
        picture = Image.open(path).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        images.append(np.asarray(picture)[None])
    np.save(target, np.stack(images))


def timed(work: Any, *arguments: Any) -> float:
    """Seconds that `work(*arguments)` takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def decoded(said: list[str]) -> int:
    """How many slices the run decoded that said so."""
    return int(said[-1].split()[1])


def speed(scratch: Path, slices: int) -> dict[str, Any]:
    """Ours and the plain loop in turns, both from nothing; then ours with nothing changed and with one more patient."""
    raw, out, cache = scratch / "raw", scratch / "out", scratch / "cache"
    write_slices(raw, range(slices), SIDE)
    time.sleep(3)  # the files of a data set are not as young as the clock is exact
    seconds: dict[str, list[float]] = {"ours": [], "plain loop": []}
    for turn in range(ROUNDS):
        seconds["plain loop"].append(timed(plain_loop, raw, scratch / "plain.npy"))
        seconds["ours"].append(timed(prepare, data_params(SIZE), raw, out, scratch / f"cache{turn}"))
    equal = sha256_bytes(np.load(out / "images.npy", mmap_mode="r").tobytes()) == sha256_bytes(
        np.load(scratch / "plain.npy", mmap_mode="r")[plain_order(raw, out)].tobytes()
    )
    cache = scratch / f"cache{ROUNDS - 1}"
    said: list[str] = []
    unchanged = timed(prepare, data_params(SIZE), raw, out, cache, said.append), decoded(said)
    write_slices(raw, range(slices, slices + PER_PATIENT), SIDE)
    added = timed(prepare, data_params(SIZE), raw, out, cache, said.append), decoded(said)
    return {
        "slices": slices,
        "picture_px": SIDE,
        "image_size": SIZE,
        "mean_file_kb": round(float(np.mean([path.stat().st_size for path in raw.rglob("*.png")])) / 1000, 1),
        **{f"{name}_s": spread(values, 2) for name, values in seconds.items()},
        "equal_to_plain_loop": equal,
        "nothing_changed": {"seconds": round(unchanged[0], 2), "decoded": unchanged[1]},
        "one_patient_added": {"seconds": round(added[0], 2), "decoded": added[1], "files_added": PER_PATIENT},
    }


def plain_order(raw: Path, out: Path) -> list[int]:
    """Where the plain loop put the slice of each row of our manifest."""
    place = {path.relative_to(raw).as_posix(): i for i, path in enumerate(sorted(raw.rglob("*.png")))}
    lines = (out / "manifest.csv").read_text().splitlines()[1:]
    return [place[line.split(",")[0]] for line in lines]


def peak_mb() -> float:
    """Largest resident memory of this process so far (Linux); mapped pages of files count. It has no child processes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6


def start(raw: Path, out: Path, cache: Path, size: int) -> "subprocess.Popen[bytes]":
    """`prepare` as a process of its own."""
    command = [sys.executable, "-m", "benchmarks.prepare", "--only", str(raw), str(out), str(cache), str(size)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE)


def rows_kept(cache: Path) -> int:
    """Whole lines in the index of an unfinished run."""
    return sum(path.read_bytes().count(b"\n") for path in cache.glob("*/added/index.jsonl"))


def killed(scratch: Path) -> dict[str, Any]:
    """SIGKILL halfway, run again: how many files are read a second time, and is the result that of a run in peace?"""
    raw, out, cache = scratch / "raw", scratch / "out_killed", scratch / "cache_killed"
    total = sum(1 for _ in raw.rglob("*.png"))
    for _ in range(TRIES):  # a small set may be done before it is killed
        shutil.rmtree(cache, ignore_errors=True)
        shutil.rmtree(out, ignore_errors=True)
        process = start(raw, out, cache, SIZE)
        while process.poll() is None and rows_kept(cache) < total / 2:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL and rows_kept(cache):
            break
    else:
        raise RuntimeError("each run was over, or failed, before it could be killed")
    nothing_written, kept = not out.exists(), rows_kept(cache)
    said: list[str] = []
    prepare(data_params(SIZE), raw, out, cache, said.append)
    same = sha256_file(out / "images.npy") == sha256_file(scratch / "out/images.npy")
    return {
        "slices": total,
        "in_the_cache_when_killed": kept,
        "decoded_after": decoded(said),
        "nothing_half_written": nothing_written,
        "same_array_as_in_peace": same,
    }


def memory(scratch: Path, slices: int) -> dict[str, Any]:
    """Largest resident memory of a process that prepares `slices` slices, which are links to a few small files."""
    raw, kinds = scratch / "many", scratch / "kinds"
    write_slices(kinds, range(SMALL_KINDS), SMALL_SIDE)
    files = sorted(kinds.rglob("*.png"))
    for number in range(slices):
        patient = number // PER_PATIENT
        path = raw / ("stroke", "normal")[patient % 2] / f"P{patient:05d}_{number % PER_PATIENT:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[number % len(files)], path)
    begin = time.perf_counter()
    process = start(raw, scratch / "out_many", scratch / "cache_many", SMALL_SIZE)
    peak, _ = process.communicate()
    if process.returncode:
        raise RuntimeError("preparing many slices failed")
    array = np.load(scratch / "out_many/images.npy", mmap_mode="r")
    return {
        "slices": len(array),
        "array_mb": round(array.nbytes / 1e6),
        "peak_mb": round(float(peak)),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was asked for beside what was measured."""
    pace, one, kill, most = result["speed"], result["speed"]["one_patient_added"], result["killed"], result["memory"]
    lost = kill["in_the_cache_when_killed"] + kill["decoded_after"] - kill["slices"]
    return [
        {
            "name": f"{pace['slices']:,} PNG of {SIDE}² pixels, seconds",
            "target": f"≤ {LIMIT_S:g}",
            "value": pace["ours_s"]["median"],
            "met": pace["ours_s"]["median"] <= LIMIT_S and pace["equal_to_plain_loop"],
        },
        {
            "name": f"peak memory for {most['slices']:,} slices, MB",
            "target": f"≤ {LIMIT_MB:,.0f}",
            "value": most["peak_mb"],
            "met": most["peak_mb"] <= LIMIT_MB,
        },
        {
            "name": f"files decoded after a patient of {PER_PATIENT} was added",
            "target": f"{PER_PATIENT}",
            "value": one["decoded"],
            "met": one["decoded"] == PER_PATIENT,
        },
        {
            "name": "files of the cache decoded again after kill -9 halfway",
            "target": "0",
            "value": lost,
            "met": lost == 0 and kill["nothing_half_written"] and kill["same_array_as_in_peace"],
        },
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=6650)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--scratch", type=Path, help="where to make the temporary folder")
    parser.add_argument("--out", type=Path, default=Path("metrics/bench/prepare.json"))
    parser.add_argument("--only", nargs=4, metavar=("RAW", "OUT", "CACHE", "SIZE"), help="just prepare, to be watched")
    args = parser.parse_args(arguments)
    if args.only:
        raw, out, cache, size = args.only
        prepare(data_params(int(size)), Path(raw), Path(out), Path(cache))
        print(peak_mb())
        return
    result: dict[str, Any] = {"command": "python -m benchmarks.prepare", **facts("cpu", [np, PIL])}
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        result["speed"] = speed(Path(folder), args.slices)
        result["killed"] = killed(Path(folder))
        result["memory"] = memory(Path(folder), args.many)
    result["load_after"] = round(os.getloadavg()[0], 2)
    result["targets"] = targets(result)
    write_json(args.out, result)
    print(result)


if __name__ == "__main__":
    main()
