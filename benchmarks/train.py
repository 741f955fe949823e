"""Training beside a plain loop around timm, on the GPU where there is one, else on the CPU: metrics/bench/train.json.

    python -m benchmarks.train [--networks NAME@SIZE …] [--slices N] [--batch-size 32] [--repeats 5]
    python -m benchmarks.train --five-folds [--slices 2000] [--epochs 20] [--batch-size 32]

By default b3@300 and b4@380 on a GPU, Lite0@128 on a CPU; --five-folds is Lite2@300. Rivals train an epoch each in turns, so
that a noisy machine is noisy to all of them; weights are random, because the arithmetic does not depend on them. A run replaces
the parts of the JSON that it measured and leaves the others. Needs what training needs and nothing else, and makes its own data.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision

from benchmarks.five_folds import five_folds
from benchmarks.machine import cores, facts
from benchmarks.plain_loop import Form, PlainLoop
from benchmarks.rivals import Ours, log_losses, our_forms
from benchmarks.training_set import make_set
from strokect.devices import device_name, pick_device
from strokect.files import read_json, write_json
from strokect.params import TrainParams, load_params

NETWORKS = {"cuda": ("tf_efficientnet_b3@300", "tf_efficientnet_b4@380"), "cpu": ("tf_efficientnet_lite0@128",)}
SLICES = {"cuda": 1024, "cpu": 256}
FIVE_FOLDS = "tf_efficientnet_lite2@300"
# What is asked for: name → (bound, whether it is an upper one).
TARGETS = {
    "ours / plain, images/s, cuda": (1.3, False),
    "ours / plain, images/s, cpu": (1.0, False),
    "share of memory saved by AMP": (0.4, False),
    "share of memory saved by AMP, at least": (0.4, False),  # where fp32 needs more than was free
    "validation log loss, AMP - fp32": (0.02, True),  # what counts as equal: 3 % of the log loss of a coin
    "five folds, s": (300.0, True),
}
Rival = Callable[[], object]  # trains one epoch


def seconds(work: Rival, device: torch.device) -> float:
    """Wall time of one epoch, until the device has finished it."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def take_turns(rivals: Mapping[str, Rival], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each rival's epoch, `repeats` times, one after the other; each is warmed up by an epoch."""
    rounds = [{name: seconds(work, device) for name, work in rivals.items()} for _ in range(repeats + 1)]
    return {name: [times[name] for times in rounds[1:]] for name in rivals}


def peak_gb(make: Callable[[], Rival]) -> float | str:
    """Most GPU memory that a rival held while it trained alone for an epoch, in GB, or why it could not."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    try:
        make()()
    except RuntimeError as error:  # no memory left, or no compiler for torch.compile
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
    return round((torch.cuda.max_memory_allocated() - before) / 1e9, 2)


def plain_forms(device: torch.device) -> list[Form]:
    """The plain loop in either layout; on a CPU also without workers, which take cores from the network."""
    if device.type == "cuda":
        return [Form(amp, last, min(cores(), 16)) for amp in (True, False) for last in (False, True)]
    return [Form(False, last, workers) for last in (False, True) for workers in (0, cores())]


def compare(network: str, args: argparse.Namespace, params: TrainParams, scratch: Path) -> dict[str, Any]:
    """Images per second and memory of every form of ours and of the plain loop, and log loss with and without AMP."""
    backbone, _, size = network.partition("@")
    device = pick_device(params)
    data = make_set(args.slices or SLICES[device.type], int(size))
    paths = data.write(scratch / network)
    makers: dict[str, Callable[[], Rival]] = {}
    for ours in our_forms(device, min(cores(), 16), args.compile):
        makers[ours.name] = partial(lambda form: Ours(backbone, data, paths, params, form, device).epoch, ours)
    for plain in plain_forms(device):
        makers[plain.name] = partial(lambda form: PlainLoop(backbone, paths, data.labels, params, device, form).epoch, plain)

    result: dict[str, Any] = {"network": network, "slices": len(data.labels), "batch_size": params.batch_size}
    if device.type == "cuda":
        result["free_memory_gb"] = round(torch.cuda.mem_get_info(device)[0] / 1e9, 2)  # which others may have part of
        memory = {name: peak_gb(make) for name, make in makers.items()}
        result["peak_memory_gb"] = {name: gb for name, gb in memory.items() if not isinstance(gb, str)}
        result["left_out"] = {name: why for name, why in memory.items() if isinstance(why, str)}
        makers = {name: makers[name] for name in result["peak_memory_gb"]}
    times = take_turns({name: make() for name, make in makers.items()}, args.repeats, device)
    n = len(data.labels)
    result["images_per_s"] = {
        name: {"best": round(n / min(t), 1), "median": round(n / float(np.median(t)), 1)} for name, t in times.items()
    }
    if device.type == "cuda" and args.log_loss:
        result["validation_log_loss"] = log_losses(backbone, data, params, scratch)
    return result | {"targets": judge(figures(result, device))}


def figures(result: Mapping[str, Any], device: torch.device) -> dict[str, tuple[float, float]]:
    """What has a target, (best, median): the pipeline's form beside the plain loop's fastest of the same precision."""
    rates, half = result["images_per_s"], "AMP" if device.type == "cuda" else "fp32"
    plain = [rate for name, rate in rates.items() if name.startswith(f"plain, {half}")]
    found = {}
    if plain and (ours := rates.get(f"ours, {half}, channels_last")):
        best, median = (round(ours[key] / max(rate[key] for rate in plain), 2) for key in ("best", "median"))
        found[f"ours / plain, images/s, {device.type}"] = (best, median)
    memory = result.get("peak_memory_gb", {})
    fp32 = "ours, fp32, channels_last"
    if amp := memory.get("ours, AMP, channels_last"):
        if full := memory.get(fp32):
            saved = round(1 - amp / full, 3)
            found["share of memory saved by AMP"] = (saved, saved)
        elif "OutOfMemory" in result.get("left_out", {}).get(fp32, ""):
            least = round(1 - amp / result["free_memory_gb"], 3)
            found["share of memory saved by AMP, at least"] = (least, least)
    if losses := result.get("validation_log_loss"):
        differences = np.subtract(losses["AMP"], losses["fp32"])
        mean, median = round(float(differences.mean()), 4), round(float(np.median(differences)), 4)
        found["validation log loss, AMP - fp32"] = (mean, median)
    return found


def judge(measured: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Each target beside the best (of log losses the mean) and the median, judged by the first."""
    rows = []
    for name, (best, median) in measured.items():
        bound, upper = TARGETS[name]
        met = best <= bound if upper else best >= bound
        rows.append({"name": name, "target": f"{'≤' if upper else '≥'} {bound:g}", "best": best, "median": median, "met": met})
    return rows


def run_five_folds(args: argparse.Namespace, params: TrainParams, scratch: Path) -> dict[str, Any]:
    """The whole of `--five-folds`."""
    backbone, _, size = FIVE_FOLDS.partition("@")
    schedule = dataclasses.replace(params, epochs=args.epochs, warmup_epochs=min(1.0, args.epochs / 2))
    result = five_folds(backbone, int(size), args.slices or 2000, schedule, scratch)
    took = result["seconds"]
    return {"network": FIVE_FOLDS, **result, "targets": judge({"five folds, s": (took, took)})}


def print_run(name: str, run: Mapping[str, Any]) -> None:
    """The rates, the memory and the targets of one part."""
    print(f"{name}: {run['device']}, {run['cpu']}, {run['cores']} cores, load before {run['load_before']}")
    for form, rate in run.get("images_per_s", {}).items():
        gb = run.get("peak_memory_gb", {}).get(form)
        print(f"  {form:<52}{rate['best']:>9} images/s, median {rate['median']:>9}{f', {gb} GB' if gb else ''}")
    for form, why in run.get("left_out", {}).items():
        print(f"  {form:<52}{why}")
    for row in run["targets"]:
        mark = "met" if row["met"] else "MISSED"
        print(f"  {row['name']:<52}{row['target']:>9}{row['best']:>9}, median {row['median']:>9}  {mark}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", metavar="NAME@SIZE")
    parser.add_argument("--five-folds", action="store_true")
    parser.add_argument("--slices", type=int, help=f"{SLICES['cuda']} on a GPU, {SLICES['cpu']} on a CPU, 2000 for --five-folds")
    for name, default in (("batch-size", 32), ("repeats", 5), ("epochs", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="also torch.compile, on a GPU")
    parser.add_argument("--log-loss", action=argparse.BooleanOptionalAction, default=True, help="AMP against fp32, on a GPU")
    parser.add_argument("--out", type=Path, default=Path("metrics/bench/train.json"))
    args = parser.parse_args(arguments)
    if args.five_folds and args.slices is not None and args.slices < 50:
        parser.error("--five-folds needs 50 slices or more: every fold holds out a patient of 10")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write after every part, print."""
    args = parse(arguments)
    params = dataclasses.replace(load_params().train, device=args.device, devices=1, batch_size=args.batch_size)
    device = pick_device(params)
    networks = [FIVE_FOLDS] if args.five_folds else args.networks or NETWORKS[device.type]
    for network in networks:
        head = facts(device_name(device), (torch, torchvision, timm, np))
        with tempfile.TemporaryDirectory() as scratch:
            measure = partial(run_five_folds, args) if args.five_folds else partial(compare, network, args)
            run = head | measure(params, Path(scratch))
        name = f"{'five folds of ' if args.five_folds else ''}{network} on {'a CPU' if device.type == 'cpu' else head['device']}"
        runs = read_json(args.out)["runs"] if args.out.is_file() else {}
        write_json(args.out, {"command": "python -m benchmarks.train", "runs": runs | {name: run}})
        print_run(name, run)


if __name__ == "__main__":
    main()
