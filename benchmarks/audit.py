"""How long the search for near-duplicates takes in a large cohort, and with how much memory: metrics/bench/audit.json.

    python -m benchmarks.audit [--slices 100000]

Each slice is a mixture of two phantom slices with furrows of its own: as alike as heads are, and no two the same. The peak counts
all memory of the process, the part of the memory-mapped pictures that is in the page cache included.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from benchmarks import machine
from benchmarks.plants import all_at_once
from strokect.duplicates import linked_rows
from strokect.files import write_json
from strokect.phantom import make_cohort, window
from strokect.slices import resize_slice

FURROWS = 60.0  # grey levels before blurring; 14 after it
SIZE, PER_PATIENT, BASE_PATIENTS, BASE_SLICES, PLANTED = 96, 25, 60, 10, 100


def make(slices: int, path: Path, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Pictures (n, S, S) memory-mapped at `path`, patients (n,), and the rows (PLANTED, 2) of originals and altered copies."""
    base = np.stack([window(p.hu) for p in make_cohort(patients=BASE_PATIENTS, slices=BASE_SLICES, size=SIZE, seed=0)])
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(slices, SIZE, SIZE))
    for start in range(0, slices, 1000):
        count = min(1000, slices - start)
        one, other = (base[rng.integers(0, len(base), count)].astype(np.float32) for _ in range(2))
        share = rng.uniform(0.4, 0.6, (count, 1, 1)).astype(np.float32)
        # Furrows of its own for each: without them two mixtures of the same two slices would be the same slice.
        furrows = gaussian_filter(rng.standard_normal(one.shape, np.float32), (0, 1.2, 1.2)) * FURROWS
        noise = furrows * (one + other > 40)
        images[start : start + count] = np.clip(share * one + (1 - share) * other + noise, 0, 255)
    patients = np.arange(slices) // PER_PATIENT
    originals = rng.choice(slices - 2 * PER_PATIENT * PLANTED, PLANTED, replace=False)
    copies = slices - 1 - PER_PATIENT * np.arange(PLANTED)
    for original, copy in zip(originals, copies, strict=True):
        enlarged = np.asarray(Image.fromarray(images[original]).resize((4 * SIZE, 4 * SIZE), Image.Resampling.BICUBIC))
        images[copy] = resize_slice(all_at_once(enlarged, rng), SIZE)[0]
    images.flush()
    return np.load(path, mmap_mode="r"), patients, np.stack([originals, copies], axis=1)


def measure(slices: int) -> dict[str, Any]:
    """Make the cohort, search it, and count what was found."""
    facts = machine.facts("cpu", [np, scipy])
    with tempfile.TemporaryDirectory() as scratch:
        images, patients, planted = make(slices, Path(scratch) / "images.npy", np.random.default_rng(0))
        start = time.perf_counter()
        pairs = linked_rows(images, patients.astype(str))
        seconds = time.perf_counter() - start
    across = pairs[patients[pairs[:, 0]] != patients[pairs[:, 1]]]
    found = {tuple(pair) for pair in across.tolist()}
    hits = len({tuple(pair) for pair in planted.tolist()} & found)
    return {
        "command": f"python -m benchmarks.audit --slices {slices}",
        "machine": facts,
        "slices": slices,
        "patients": int(patients[-1]) + 1,
        "image_size": SIZE,
        "seconds": round(seconds, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
        "planted": PLANTED,
        "planted_found": hits,
        "other_pairs": len(found) - hits,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=100_000)
    result = measure(parser.parse_args().slices)
    write_json("metrics/bench/audit.json", result)
    print(result)


if __name__ == "__main__":
    main()
