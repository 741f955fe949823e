"""How long the search for near-duplicates takes in a large cohort, and with how much memory: metrics/bench/audit.json.

    python -m benchmarks.audit [--slices 100000] [--scratch /tmp]

Each slice is a mixture of two phantom slices with furrows of its own: as alike as heads are, and no two the same. Searched as
`prepare` does it where no patient is known and what is alike becomes a group; where they are known, the audit does the same and
looks again at pairs of different patients whose hashes are close. The peak is that of a process which only searches, pages of the
memory-mapped pictures included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks import machine
from benchmarks.plants import all_at_once
from benchmarks.prepare import peak_mb
from strokect.clusters import clusters
from strokect.file_facts import gather_facts
from strokect.files import write_json
from strokect.phantom import make_cohort, window
from strokect.slices import decode, resize_slice

RESULT = Path("metrics/bench/audit.json")
FURROWS = 60.0  # grey levels before blurring; 14 after it
SIZE, PER_PATIENT, BASE_PATIENTS, BASE_SLICES, PLANTED = 128, 25, 60, 10, 100
FILES, FILE_PX = 300, 512


def make(slices: int, folder: Path, rng: np.random.Generator) -> None:
    """Write images.npy (n, S, S), and planted.npy: the rows (PLANTED, 2) of originals and of altered copies in other patients."""
    base = np.stack([window(p.hu) for p in make_cohort(patients=BASE_PATIENTS, slices=BASE_SLICES, size=SIZE, seed=0)])
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(slices, SIZE, SIZE))
    for start in range(0, slices, 1000):
        count = min(1000, slices - start)
        one, other = (base[rng.integers(0, len(base), count)].astype(np.float32) for _ in range(2))
        share = rng.uniform(0.4, 0.6, (count, 1, 1)).astype(np.float32)
        # Furrows of its own for each: without them two mixtures of the same two slices would be the same slice.
        furrows = gaussian_filter(rng.standard_normal(one.shape, np.float32), (0, 1.2, 1.2)) * FURROWS
        noise = furrows * (one + other > 40)
        images[start : start + count] = np.clip(share * one + (1 - share) * other + noise, 0, 255)
    originals = rng.choice(slices - 2 * PER_PATIENT * PLANTED, PLANTED, replace=False)
    copies = slices - 1 - PER_PATIENT * np.arange(PLANTED)
    for original, copy in zip(originals, copies, strict=True):
        enlarged = np.asarray(Image.fromarray(images[original]).resize((4 * SIZE, 4 * SIZE), Image.Resampling.BICUBIC))
        images[copy] = resize_slice(all_at_once(enlarged, rng), SIZE)[0]
    images.flush()
    np.save(folder / "planted.npy", np.stack([originals, copies], axis=1))


def search(folder: Path) -> dict[str, Any]:
    """Group the pictures in this process. `other_ties`: how many groups fewer there are than the copies planted account for."""
    images, planted = np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "planted.npy")
    start = time.perf_counter()
    group = clusters(images)
    seconds = time.perf_counter() - start
    hits, ties = int((group[planted[:, 0]] == group[planted[:, 1]]).sum()), len(group) - len(np.unique(group))
    result = {"seconds": round(seconds, 1), "peak_mb": round(peak_mb(), 1)}
    return result | {"planted_found": hits, "other_ties": ties - hits}


def facts_of_files(folder: Path) -> dict[str, Any]:
    """How long reading takes what files say beside the slice in them: FILES grey PNG of FILE_PX² pixels, by all cores."""
    heads = [window(piece.hu) for piece in make_cohort(patients=FILES // 10, slices=10, size=SIZE, seed=1)]
    files = [folder / f"{number:03}.png" for number in range(len(heads))]
    for file, head in zip(files, heads, strict=True):
        Image.fromarray(head).resize((FILE_PX, FILE_PX), Image.Resampling.BICUBIC).save(file)
    start = time.perf_counter()
    gather_facts(files, [partial(lambda file: decode(file.read_bytes()), file) for file in files])
    return {"files": len(files), "file_px": FILE_PX, "ms_per_file": round(1000 * (time.perf_counter() - start) / len(files), 1)}


def measure(slices: int, scratch: Path | None) -> dict[str, Any]:
    """Make the cohort, search it, and count what was found."""
    where = machine.facts("cpu", [np, scipy])
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        make(slices, Path(folder), np.random.default_rng(0))
        files = facts_of_files(Path(folder))
        command = [sys.executable, "-m", "benchmarks.audit", "--only", folder]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {
        "command": f"python -m benchmarks.audit --slices {slices}",
        "commit": machine.commit(),
        "machine": where,
        "slices": slices,
        "patients": -(-slices // PER_PATIENT),
        "image_size": SIZE,
        "array_mb": round(slices * SIZE * SIZE / 1e6),
        "planted": PLANTED,
        **found,
        "facts": files,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=100_000)
    parser.add_argument("--scratch", type=Path, help="where to make the temporary folder")
    parser.add_argument("--only", type=Path, metavar="FOLDER", help="just search, to be watched")
    given = parser.parse_args(arguments)
    if given.only:
        print(json.dumps(search(given.only)))
        return
    result = measure(given.slices, given.scratch)
    write_json(RESULT, result)
    print(result)


if __name__ == "__main__":
    main()
