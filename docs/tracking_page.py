"""docs/results/tracking.md: what the offline runs below wandb/ hold (`python -m docs.tracking_page`, see docs/tracking.md)."""

from pathlib import Path
from typing import Any

from docs.offline_runs import describe_all
from strokect.errors import run_stage
from strokect.files import read_json, write_json, write_text

RUNS, PAGE = Path("docs/phantom/tracking.json"), Path("docs/results/tracking.md")
COMMANDS = """\
git clone . ../tracked && cd ../tracked      # a copy: -f runs every stage again, and metrics/ are then the tiny phantom's
dvc exp run -f -S profile=tiny -S 'split.folds=[0,1,2,3,4]' -S tracking.wandb=offline -S search.trials=3 -S search.study=tiny
python -m strokect.search
python -m docs.tracking_page"""


def tracking_page(runs: list[dict[str, Any]]) -> str:
    """The whole page."""
    groups = sorted({run["group"] for run in runs})
    data = sorted({run["data_sha256"] for run in runs})
    lines = [
        "# What an offline run holds",
        "",
        "```bash",
        COMMANDS,
        "```",
        "",
        f"{len(runs)} runs in the groups {' and '.join(f'`{group}`' for group in groups)} of project `{runs[0]['project']}`, "
        f"read back from the `.wandb` files that `wandb sync` would send; data {', '.join(f'`{sha[:12]}`' for sha in data)}. "
        f"Filled from `{RUNS}`; the `.wandb` files themselves are not in the repository. A tiny phantom: "
        "its figures mean nothing, and rates and times are another machine's.",
        "",
        "| run | kind | logged (times) | figures of the run | artifacts |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        logged = ", ".join(f"`{key}` ({count})" for key, count in run["logged"].items())
        figures = ", ".join(f"`{key}` {_figure(value)}" for key, value in run["summary"].items())
        artifacts = ", ".join(f"`{artifact['name']}`, {len(artifact['files'])} files" for artifact in run["artifacts"])
        lines.append(f"| `{run['name']}` | {run['job']} | {logged or '–'} | {figures or '–'} | {artifacts or '–'} |")
    for artifact in (artifact for run in runs for artifact in run["artifacts"]):
        lines += ["", f"## `{artifact['name']}`", ""]
        lines += [f"- {key}: `{value}`" for key, value in sorted(artifact["metadata"].items())]
        lines += ["", "| file | bytes | MD5 (base 64) |", "|---|---|---|"]
        lines += [f"| `{path}` | {file['bytes']} | `{file['md5']}` |" for path, file in artifact["files"].items()]
    return "\n".join(lines) + "\n"


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Describe the workspace's offline runs in docs/phantom/tracking.json and docs/results/tracking.md."""
    write_json(RUNS, describe_all(Path("wandb")))
    write_text(PAGE, tracking_page(read_json(RUNS)))


if __name__ == "__main__":
    run_stage(main)
