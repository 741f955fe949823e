"""How long `dvc repro` takes with the committed params, from nothing and with nothing changed: metrics/bench/pipeline.json.

Runs in a temporary clone of the committed state, so neither the workspace nor its cache is touched.
"""

import argparse
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


def measure(clone: Path) -> dict[str, object]:
    """Clone the committed state into `clone` and time the first `dvc repro` and those with nothing to do."""
    subprocess.run(["git", "clone", "-q", str(Path.cwd()), str(clone)], check=True)
    (clone / "dvc.lock").unlink(missing_ok=True)  # without it DVC has no outputs to ask a remote for
    first = timed(clone)
    no_op = [timed(clone) for _ in range(NO_OP_RUNS)]
    return {
        "command": "python -m benchmarks.pipeline",
        "cores": available_cores(),
        "machine": platform.machine(),
        "first_repro_s": round(first, 1),
        "no_op_repro_s": {"min": round(min(no_op), 2), "median": round(statistics.median(no_op), 2), "max": round(max(no_op), 2)},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clone", type=Path, help="where to clone to, and keep it; a temporary folder by default")
    kept = parser.parse_args().clone
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(kept or Path(scratch) / "clone")
    write_json("metrics/bench/pipeline.json", result)
    print(result)


if __name__ == "__main__":
    main()
