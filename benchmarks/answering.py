"""The engine's answer to one slice, without torch: what `benchmarks.serve` times, in its own process or here from a cold start.

    python -m benchmarks.answering FOLDER [--views 4] [--samples 20] [--answers 20] [--pictures 10]

loads every fold under FOLDER, answers the same few pictures over and over and prints one line of JSON when the first answer is
there and one at the end, so that whoever started the process can time the way from its start to its first answer.
"""

import argparse
import hashlib
import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.engine import Engine, FoldModel, Passes, available_cores
from strokect.files import sha256_bytes
from strokect.uncertainty import dropout_masks, sample_logits
from strokect.views import VIEWS

SETTLED = 100  # answers after which memory should no longer grow


def answer(engine: Engine, image: NDArray[np.uint8], sha256: str, samples: int) -> tuple[Passes, NDArray[np.float32]]:
    """One slice (C, S, S) uint8 → the passes and the sampled logits (K, V, T) of every fold's head."""
    passes = engine.run(image)
    sampled = []
    for fold, model in enumerate(engine.models):
        masks = dropout_masks(sha256, fold, len(engine.views), samples, len(model.weight), model.dropout)
        sampled.append(sample_logits(passes.features[fold], model.weight, float(model.bias), model.dropout, masks))
    return passes, np.stack(sampled)


def load_engine(folder: Path, views: int, folds: int | None = None) -> Engine:
    """An engine of the first `folds` folds under `folder` (all by default), loaded side by side, with the first `views` views."""
    with ThreadPoolExecutor(available_cores()) as pool:
        return Engine(list(pool.map(FoldModel, sorted(folder.iterdir())[:folds])), tuple(VIEWS)[:views])


def pictures(number: int, size: int) -> NDArray[np.uint8]:
    """(n, 1, S, S) uint8 noise: what the pixels show does not matter to the arithmetic."""
    return np.random.default_rng(0).integers(0, 256, (number, 1, size, size), np.uint8)


def resident_mb() -> float:
    """Memory of this process now, in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 1e6, 1)


def digest(passes: Passes, sampled: NDArray[np.float32]) -> str:
    """SHA-256 over everything an answer is made of."""
    parts = (passes.features, passes.logits, passes.activation, sampled)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def main() -> None:
    """Load, answer, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("views", 4), ("samples", 20), ("answers", 20), ("pictures", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    engine = load_engine(args.folder, args.views)
    images = pictures(args.pictures, engine.models[0].sidecar["image_size"])
    names = [sha256_bytes(image.tobytes()) for image in images]
    digests: dict[int, set[str]] = defaultdict(set)
    result: dict[str, Any] = {}
    start = time.perf_counter()
    for i in range(args.answers):
        which = i % len(images)
        digests[which].add(digest(*answer(engine, images[which], names[which], args.samples)))
        if i == 0:
            print(json.dumps({"first_answer_s": round(time.perf_counter() - start, 3)}), flush=True)
        if i + 1 == min(SETTLED, args.answers):
            result["settled_mb"] = resident_mb()
    result |= {
        "answers": args.answers,
        "answers_per_s": round(args.answers / (time.perf_counter() - start), 2),
        "end_mb": resident_mb(),
        "same_answer_to_same_picture": all(len(seen) == 1 for seen in digests.values()),
        "different_answers_to_different_pictures": len(set.union(*digests.values())) >= len(digests),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
