"""What the bento's container does, without Docker: its Dockerfile's steps, its entrypoint with PORT, size and cold start.

    python -m benchmarks.bento_start [--bento models/bento/strokect.bento] [--starts 3]

Unpacks the bento, installs its requirements into an empty virtual environment by its own Dockerfile, measures the installed
packages, and starts it by its own entrypoint, in turns with a bento that does nothing: BentoML's own start is not ours to
shorten. The answer to a synthetic slice ends a start. Files are in the page cache, as where an image was just unpacked. Writes
metrics/bench/bento_start.json.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bentoml
import requests
import yaml

from benchmarks import machine
from benchmarks.dockerfile import Image, run_steps
from benchmarks.running import free_port, running
from stages.build_bento import self_test_slice
from strokect.files import write_json

SIDE, LARGEST, TIMEOUT_S = 512, 8, 60  # pixels of the slice, packages listed
ENTRYPOINT = "env/docker/entrypoint.sh"  # in a bento
TARGETS = {"packages_mb": 400, "start above the trivial bento's, s": 2.5}  # upper bounds
TRIVIAL = """import bentoml

@bentoml.service
class Trivial:
    @bentoml.api
    def ping(self) -> str:
        return "pong"
"""


def unpack(bento: Path, folder: Path) -> str:
    """Unpack an exported bento; returns its version."""
    with tarfile.open(bento) as archive:
        archive.extractall(folder, filter="data")
    return str(yaml.safe_load((folder / "bento.yaml").read_text())["version"])


def build_trivial(scratch: Path) -> Path:
    """The folder of a bento whose service does nothing, built here by the same BentoML."""
    source, home = scratch / "trivial", scratch / "trivial_home"
    source.mkdir()
    home.mkdir()
    (source / "trivial.py").write_text(TRIVIAL)
    packages = {"lock_packages": False, "packages": [f"bentoml=={bentoml.__version__}"]}
    bentofile = {"service": "trivial:Trivial", "name": "trivial", "include": ["trivial.py"], "python": packages}
    (source / "bentofile.yaml").write_text(yaml.safe_dump(bentofile))
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", "build", "--version", "1"]
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
    return home / "bentos" / "trivial" / "1"


def sizes_mb(packages: Path) -> dict[str, float]:
    """Everything directly in a site-packages folder → MB of its files, the largest first."""
    found = {}
    for entry in packages.iterdir():
        files = [path for path in entry.rglob("*") if path.is_file()] if entry.is_dir() else [entry]
        found[entry.name] = sum(path.stat().st_size for path in files) / 1e6
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def first_answer_s(image: Image, bento: Path, scratch: Path, path: str, **request: Any) -> float:
    """Start `bento` by its entrypoint in the environment of `image`; seconds until POST `path` is answered 200."""
    port = free_port()
    environment = {
        **{name: value for name, value in image.environment.items() if name != "HOME"},
        "BENTO_PATH": str(bento),
        "PORT": str(port),
        "BENTOML_HOST": "127.0.0.1",  # in a container all interfaces, which is its network's business; here the loopback only
        "BENTOML_DO_NOT_TRACK": "True",
    }
    begin = time.perf_counter()
    with running([str(bento / ENTRYPOINT)], bento, scratch / "serve.log", port, environment) as service:
        requests.post(f"{service.url}{path}", timeout=TIMEOUT_S, **request).raise_for_status()
        return time.perf_counter() - begin


def judge(measured: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each target beside what was measured."""
    return [
        {"name": n, "target": f"≤ {bound}", "value": measured[n], "met": measured[n] <= bound} for n, bound in TARGETS.items()
    ]


def measure(bento: Path, starts: int, scratch: Path) -> dict[str, Any]:
    """Everything, into `scratch` and one JSON."""
    version = unpack(bento, scratch / "context")
    (scratch / "root").mkdir()
    image = run_steps(scratch / "context", scratch / "root")
    ours, trivial = image.entrypoint.parents[2], build_trivial(scratch)
    sizes = sizes_mb(next((image.root / "app" / ".venv" / "lib").glob("python*/site-packages")))
    slice_png = self_test_slice(SIDE)
    times: dict[str, list[float]] = {"strokect": [], "trivial": []}
    for _ in range(starts):
        files = {"image": ("image", slice_png)}
        times["strokect"].append(first_answer_s(image, ours, scratch, "/predict", files=files))
        times["trivial"].append(first_answer_s(image, trivial, scratch, "/ping", json={}))
    spreads = {name: machine.spread(values) for name, values in times.items()}
    above = {key: round(spreads["strokect"][key] - spreads["trivial"][key], 3) for key in ("min", "median")}
    total = round(sum(sizes.values()), 1)
    return {
        "bento": version,
        "base_image": image.base,
        "steps_left_out": image.left_out,
        "packages_mb": total,
        "largest_mb": {name: round(size, 1) for name, size in list(sizes.items())[:LARGEST]},
        "release_mb": round(sum(p.stat().st_size for p in (ours / "src" / "models").rglob("*") if p.is_file()) / 1e6, 1),
        "first_answer_s": spreads,
        "above_trivial_s": above,
        "targets": judge({"packages_mb": total, "start above the trivial bento's, s": above["min"]}),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bento", type=Path, default=Path("models/bento/strokect.bento"))
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench/bento_start.json"))
    args = parser.parse_args(arguments)
    facts = {"command": "python -m benchmarks.bento_start", **machine.facts("cpu", [bentoml, requests])}
    with tempfile.TemporaryDirectory() as scratch:
        result = {**facts, **measure(args.bento, args.starts, Path(scratch))}
    write_json(args.out, result)
    for row in result["targets"]:
        print(f"{row['name']:<40}{row['target']:>8}{row['value']:>9}  {'met' if row['met'] else 'MISSED'}")


if __name__ == "__main__":
    main()
