"""docs/results/training-speed.md and the README's table of it, from what `benchmarks.train` wrote."""

from typing import Any

GPU_PARTS = ("tf_efficientnet_b3@300", "tf_efficientnet_b4@380", "five folds of tf_efficientnet_lite2@300")
ON_A_GPU = """\
```bash
git clone … && cd strokect                      # no DVC, no data: phantom slices are made in place
pip install torch torchvision timm numpy pandas scikit-learn scipy pillow pyyaml safetensors tqdm
python -m benchmarks.train                      # b3@300 and b4@380 beside the plain loop
python -m benchmarks.train --five-folds         # Lite2@300, 20 epochs over 2,000 slices
```

Each run adds its part to `metrics/bench/train.json`. Bring that file back into a checkout where `make repro` has run;
`make readme` takes it over into this page. The five folds are timed from slices in memory to the last epoch; a stage also starts
Python, imports torch and writes its scores, some seconds each time."""


def training_speed_table(bench: dict[str, Any]) -> str:
    """Each target beside what was measured, for every part that was."""
    lines = ["| | target | best | median | |", "|---|---|---|---|---|"]
    for name, run in bench["runs"].items():
        for row in run["targets"]:
            mark = "met" if row["met"] else "**missed**"
            lines.append(f"| {name}: {row['name']} | {row['target']} | {row['best']:g} | {row['median']:g} | {mark} |")
    if missing := _not_measured(bench):
        lines += ["", f"Not measured yet, because no GPU could be had: {', '.join(missing)}."]
    return "\n".join(lines)


def training_speed_page(bench: dict[str, Any]) -> str:
    """The whole page."""
    lines = [
        "# Speed of training",
        "",
        f"`{bench['command']}`; filled by `make readme` from `docs/results/train.json`. Rivals train an epoch each in turns, in "
        "one run on one device; ratios count, rates are those of the machine.",
        "",
        "*ours* is the loop of `train_fold`: packed uint8 slices on the device (on a CPU a memory map), augmented there in "
        "batches, channels_last, weight averaging, fused AdamW, bf16 on a GPU. *plain* is the common loop around timm: PNG files "
        "of its size, decoded with Pillow and augmented with torchvision by worker processes, autocast in fp16 with GradScaler "
        "on a GPU, the same clipping and averaging. Ours is compared with the best form of the plain loop of the same precision.",
        "",
        training_speed_table(bench),
        "",
        "Two runs of the same thing differ by up to a tenth on such machines: read a ratio from 0.9 to 1.1 as about equal.",
        "",
        "## On a GPU",
        "",
        ON_A_GPU,
        "",
    ]
    for name, run in bench["runs"].items():
        lines += [f"## Run: {name}", "", *_part(run)]
    return "\n".join(lines)


def _not_measured(bench: dict[str, Any]) -> list[str]:
    return [part for part in GPU_PARTS if not any(name.startswith(part) and "on a CPU" not in name for name in bench["runs"])]


def _part(run: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    device = f"{run['device']}, " if run["device"] != "cpu" else ""
    lines = [
        f"{run['date']}, {device}{run['cpu']}, {run['cores']} core(s), load {run['load_before']:g} before; {versions}.",
        f"{run['slices']} slices in batches of {run['batch_size']}.",
        "",
    ]
    if rates := run.get("images_per_s"):
        memory = run.get("peak_memory_gb", {})
        lines += ["| form | best images/s | median | peak memory, GB |", "|---|---|---|---|"]
        lines += [f"| {form} | {rate['best']:g} | {rate['median']:g} | {memory.get(form, '–')} |" for form, rate in rates.items()]
        lines += [f"| {form} | {why} | | |" for form, why in run.get("left_out", {}).items()]
    if losses := run.get("validation_log_loss"):
        listed = "; ".join(f"{name} {', '.join(f'{loss:g}' for loss in values)}" for name, values in losses.items())
        lines += ["", f"Validation log loss of short runs from random weights, by seed: {listed}."]
    if folds := run.get("folds"):
        lines += [f"{run['epochs']} epochs from weights `{run['weights']}`, {run['seconds']:g} s in all.", ""]
        lines += ["| fold | s | best images/s | held-out log loss |", "|---|---|---|---|"]
        rows = enumerate(folds)
        lines += [f"| {k} | {f['seconds']:.1f} | {f['images_per_s']:.0f} | {f['held_out_log_loss']:.4f} |" for k, f in rows]
    return [*lines, ""]
