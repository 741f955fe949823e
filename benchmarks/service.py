"""The service over HTTP under load: latency, throughput and refusals at 1, 4 and 20 clients; metrics/bench/service.json.

    python -m benchmarks.service [--networks NAME@SIZE …] [--clients 1 4 20] [--requests 100] [--folds 5] [--views 2]

Each client sends its share of the requests one after the other over one connection, and after a 429 waits as long as the answer's
`Retry-After` says. Meanwhile one more client asks /livez ten times a second: an overloaded service still has to answer it. The
weights are random, the pictures synthetic heads of 512 pixels a side; clients and service share the cores.
"""

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import requests

from benchmarks import answering, machine
from benchmarks.eager import make_networks, write_folds
from benchmarks.release import pictures
from benchmarks.running import Running, free_port, repeating, running, watch_memory
from benchmarks.stand_in import stand_in_release
from strokect.files import write_json
from strokect.views import VIEWS

ROOT = Path(__file__).parents[1]
NETWORKS = ("tf_efficientnet_lite0@224", "tf_efficientnet_b3@300")
WARM_UP, TIMEOUT_S, PROBE_EVERY_S = 3, 120, 0.1
Sample = tuple[int, float]  # status, seconds


def percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """p50, p95, p99 and the longest, in ms; None of nothing."""
    if not seconds:
        return None
    levels = np.percentile(np.array(seconds) * 1000, [50, 95, 99, 100])
    return {name: round(float(level), 1) for name, level in zip(("p50", "p95", "p99", "max"), levels, strict=True)}


def client(url: str, files: Sequence[bytes]) -> list[Sample]:
    """Send `files` one after the other."""
    samples = []
    with requests.Session() as session:
        for data in files:
            begin = time.perf_counter()
            response = session.post(f"{url}/predict", files={"image": ("image", data)}, timeout=TIMEOUT_S)
            samples.append((response.status_code, time.perf_counter() - begin))
            if response.status_code == 429:
                session.close()  # a server may close an idle connection in the moment in which it is used again
                time.sleep(float(response.headers.get("Retry-After", 1)))
    return samples


@contextmanager
def probing(url: str) -> Iterator[list[float]]:
    """Seconds of GET /livez, asked every PROBE_EVERY_S until the block ends."""
    seen = list[float]()
    with requests.Session() as session:

        def probe() -> None:
            begin = time.perf_counter()
            session.get(f"{url}/livez", timeout=TIMEOUT_S).raise_for_status()
            seen.append(time.perf_counter() - begin)

        with repeating(probe, PROBE_EVERY_S):
            yield seen


def load(service: Running, files: Sequence[bytes], clients: int, number: int) -> dict[str, Any]:
    """`number` requests by `clients` clients. Raises RuntimeError on an answer other than 200 and 429."""
    shares = [[files[i % len(files)] for i in range(k, number, clients)] for k in range(clients)]
    with watch_memory(service.pid) as memory, probing(service.url) as probes, ThreadPoolExecutor(clients) as pool:
        begin = time.perf_counter()
        samples = [sample for each in pool.map(lambda share: client(service.url, share), shares) for sample in each]
        wall = time.perf_counter() - begin
    if unexpected := {status for status, _ in samples} - {200, 429}:
        raise RuntimeError(f"{clients} clients: the service answered {sorted(unexpected)}")
    answered = [took for status, took in samples if status == 200]
    refused = [took for status, took in samples if status == 429]
    return {
        "requests": len(samples),
        "answered": len(answered),
        "share_refused": round(len(refused) / len(samples), 3),
        "answers_per_s": round(len(answered) / wall, 2),
        "latency_ms": percentiles(answered),
        "refusal_ms": percentiles(refused),
        "livez_ms": percentiles(probes),
        "peak_mb": max(memory),
    }


def measure(release: Path, clients: Sequence[int], number: int, scratch: Path) -> dict[str, Any]:
    """Start the service on `release` and put each load on it in turn."""
    files, port = pictures(), free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "service:StrokeCT", "--host", "127.0.0.1", "--port", str(port)]
    (scratch / "home").mkdir(exist_ok=True)
    environment = {
        "BENTOML_HOME": str(scratch / "home"),
        "BENTOML_DO_NOT_TRACK": "True",
        "STROKECT_RELEASE": str(release),
    }
    with running(command, ROOT, scratch / "serve.log", port, environment) as service:
        client(service.url, files[:WARM_UP])
        about = requests.get(f"{service.url}/model", timeout=TIMEOUT_S).json()
        loads = {str(n): load(service, files, n, number) for n in clients}
    return {
        **{key: about[key] for key in ("backbone", "image_size", "models", "views", "settings")},
        "ready_s": service.start_s,
        "peak_mb": max(each["peak_mb"] for each in loads.values()),
        "clients": loads,
    }


def make_release(network: str, folds: int, views: int, folder: Path) -> Path:
    """NAME@SIZE → a stand-in release of `folds` folds."""
    name, _, size = network.partition("@")
    write_folds(make_networks(name, folds, answering.pictures(8, int(size))), folder / "exports", int(size))
    gc.collect()  # torch's weights: the cores are shared, the memory need not be
    return stand_in_release(folder / "exports", tuple(VIEWS)[:views], folder / "release")


def print_table(result: dict[str, Any]) -> None:
    """One line per network and number of clients."""
    print(f"{result['cpu']}, {result['cores']} cores, load before {result['load_before']}")
    for name, network in result["networks"].items():
        for clients, row in network["clients"].items():
            latency = row["latency_ms"] or {}
            print(f"{name:<28}{clients:>4} clients: {row['answers_per_s']} answers/s, refused {row['share_refused']}, {latency}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--clients", nargs="+", type=int, default=(1, 4, 20))
    for name, default in (("requests", 100), ("folds", 5), ("views", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=Path("metrics/bench/service.json"))
    args = parser.parse_args(arguments)
    result = {
        "command": "python -m benchmarks.service",
        **machine.facts("cpu", [onnxruntime, np, requests]),
        "settings": {key: value for key, value in vars(args).items() if key != "out"},
        "networks": {},
    }
    for network in args.networks:
        with tempfile.TemporaryDirectory() as scratch:
            release = make_release(network, args.folds, args.views, Path(scratch))
            result["networks"][network] = measure(release, args.clients, args.requests, Path(scratch))
    write_json(args.out, result)
    print_table(result)


if __name__ == "__main__":
    main()
