"""Where a benchmark ran, and what it says of repeated measurements. Imports nothing that a machine for training may lack."""

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Minimum and median."""
    return {"min": round(min(values), digits), "median": round(statistics.median(values), digits)}


def cpu_name() -> str:
    """The processor as the kernel names it (Linux), and the instruction sets that matter here."""
    lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    sets = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_tile") if name in facts.get("flags", "").split()]
    return f"{facts.get('model name', platform.machine())} ({', '.join(sets)})"


def cores() -> int:
    """Cores this process may use (a container's CPU mask counts)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str:
    """The commit that is checked out here, and whether code differs from it."""
    from strokect.report_facts import revision  # here: see above

    sha, changed = revision(Path())
    return f"{sha} and uncommitted changes" if changed else sha


def facts(device: str, modules: Sequence[ModuleType]) -> dict[str, Any]:
    """Date, device, processor, load (processes at work in the last minute; 0 on an idle machine) and versions."""
    versions = {"python": platform.python_version(), **{module.__name__: module.__version__ for module in modules}}
    return {
        "date": datetime.date.today().isoformat(),
        "device": device,
        "cpu": cpu_name(),
        "cores": cores(),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions,
    }
