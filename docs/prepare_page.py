"""docs/results/prepare.md, from what `benchmarks.prepare` wrote."""

from typing import Any


def prepare_page(bench: dict[str, Any]) -> str:
    """The whole page."""
    speed, killed, memory = bench["speed"], bench["killed"], bench["memory"]
    versions = ", ".join(f"{name} {version}" for name, version in bench["versions"].items())
    lines = [
        "# prepare at size",
        "",
        f"`{bench['command']}`, {bench['date']}, {bench['cpu']}, {bench['cores']} cores; {versions}.",
        f"Load {bench['load_before']:g} before, {bench['load_after']:g} after: 0 on an idle machine; above the number of cores, "
        "others had part of them.",
        "Filled by `make readme` from `docs/results/prepare.json`.",
        "",
        "| | target | measured | |",
        "|---|---|---|---|",
        *(
            f"| {row['name']} | {row['target']} | {row['value']:g} | {'met' if row['met'] else '**missed**'} |"
            for row in bench["targets"]
        ),
        "",
        "## Speed",
        "",
        f"{speed['slices']:,} synthetic PNG of {speed['picture_px']}² pixels, {speed['mean_file_kb']:g} kB each, to "
        f"{speed['image_size']} px; both from nothing, in turns, files in the page cache. The plain loop opens, resizes and "
        "stacks with Pillow, on one core, in memory. Ours also checks every file, hashes it and keeps what it decoded.",
        "",
        "| | best, s | median, s |",
        "|---|---|---|",
        *(f"| {name} | {speed[f'{name}_s']['min']:g} | {speed[f'{name}_s']['median']:g} |" for name in ("ours", "plain loop")),
        "",
        f"The same pixels as the plain loop's: {_yes(speed['equal_to_plain_loop'])}.",
        "",
        "## What is read again",
        "",
        "| | decoded | s |",
        "|---|---|---|",
        f"| nothing changed | {speed['nothing_changed']['decoded']} | {speed['nothing_changed']['seconds']:g} |",
        f"| one patient of {speed['one_patient_added']['files_added']} slices added | {speed['one_patient_added']['decoded']} "
        f"| {speed['one_patient_added']['seconds']:g} |",
        f"| killed with {killed['in_the_cache_when_killed']:,} of {killed['slices']:,} in the cache, run again "
        f"| {killed['decoded_after']:,} | |",
        "",
        f"After the kill nothing was half written: {_yes(killed['nothing_half_written'])}; the array in the end is that of a run "
        f"in peace: {_yes(killed['same_array_as_in_peace'])}.",
        "",
        "## Memory",
        "",
        f"{memory['slices']:,} slices (links to a few small files), an array of {memory['array_mb']:,} MB: "
        f"at most {memory['peak_mb']:,} MB resident, mapped pages of files included, in {memory['seconds']:g} s.",
        "",
    ]
    return "\n".join(lines)


def _yes(true: bool) -> str:
    return "yes" if true else "**no**"
