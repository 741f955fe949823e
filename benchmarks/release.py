"""The whole answer of a release, from bytes to decision: how long it takes and whether memory grows over 2,000 requests.

    python -m benchmarks.release [--release models/release] [--answers 2000]

Decoding, pixel checks, feature gate, ensemble, dropout samples and policy, two requests at a time, but no HTTP. The
pictures are synthetic heads as PNG, larger than the model's input, as uploads are. Writes metrics/bench/release.json.
"""

import argparse
import datetime
import io
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.answering import SETTLED, resident_mb
from benchmarks.machine import cpu_name, spread
from strokect.engine import available_cores
from strokect.files import write_json
from strokect.phantom import make_cohort, window
from strokect.predictor import Predictor

SIDE, PATIENTS, SLICES, AT_ONCE = 512, 4, 5, 2


def pictures() -> list[bytes]:
    """Synthetic slices of SIDE × SIDE pixels as PNG bytes."""
    files = []
    for piece in make_cohort(patients=PATIENTS, slices=SLICES, size=SIDE, seed=1):
        stream = io.BytesIO()
        Image.fromarray(window(piece.hu)).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


def ask(predictor: Predictor, files: Sequence[bytes], answers: int) -> dict[str, Any]:
    """`answers` answers to `files` in turn, AT_ONCE at a time: latency in ms, memory in MB, equal answers to equal files.

    Memory is read after SETTLED answers, when caches and arenas have their size, and at the end.
    """
    seen: list[set[str]] = [set() for _ in files]
    latencies, settled = [], 0.0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for begin in range(0, answers, SETTLED):
            numbers = [i % len(files) for i in range(begin, min(begin + SETTLED, answers))]
            for number, prediction in zip(numbers, pool.map(lambda i: predictor.predict(files[i]), numbers), strict=True):
                seen[number].add(prediction.model_dump_json(exclude={"latency_ms"}))
                latencies.append(prediction.latency_ms)
            settled = settled or resident_mb()
    return {
        "answers": answers,
        "at_once": AT_ONCE,
        "latency_ms": {**spread(latencies, 1), "p95": round(statistics.quantiles(latencies, n=20)[-1], 1)},
        "settled_mb": settled,
        "end_mb": resident_mb(),
        "same_answer_to_same_picture": all(len(each) <= 1 for each in seen),
        "different_pictures": len(files),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Load, ask, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", type=Path, default=Path("models/release"))
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench/release.json"))
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    predictor = Predictor(args.release)
    loaded = time.perf_counter() - start
    described = predictor.describe()
    result = {
        "command": "python -m benchmarks.release",
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        **{key: described[key] for key in ("version", "backbone", "image_size", "models", "views", "precision")},
        "picture_px": SIDE,
        "verify_load_and_self_test_s": round(loaded, 2),
        **ask(predictor, pictures(), args.answers),
    }
    write_json(args.out, result)
    print(result)


if __name__ == "__main__":
    main()
