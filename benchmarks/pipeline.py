"""How long `dvc repro` takes with the committed params, from nothing and with nothing changed: metrics/bench/pipeline.json.

Runs in a temporary clone of the committed state, so neither the workspace nor its cache is touched.
"""

import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from strokect.engine import available_cores
from strokect.files import write_json

NO_OP_RUNS = 5


def timed(folder: Path) -> float:
    """Seconds that one `dvc repro` takes in `folder`."""
    start = time.perf_counter()
    subprocess.run(["dvc", "repro", "-q"], cwd=folder, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and write."""
    root = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True)
        first = timed(clone)
        no_op = [timed(clone) for _ in range(NO_OP_RUNS)]
    result = {
        "command": "python -m benchmarks.pipeline",
        "cores": available_cores(),
        "machine": platform.processor() or platform.machine(),
        "load_before": round(os.getloadavg()[2], 1),
        "first_repro_s": round(first, 1),
        "no_op_repro_s": {"min": round(min(no_op), 2), "median": round(statistics.median(no_op), 2), "max": round(max(no_op), 2)},
    }
    write_json("metrics/bench/pipeline.json", result)
    print(result)


if __name__ == "__main__":
    main()
