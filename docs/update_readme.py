"""Fill the marked blocks of README.md and docs/external.md, and docs/results, from the metrics files (`make readme`).

tests/test_readme.py checks them.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from benchmarks.accuracy import how_far, read_results
from benchmarks.accuracy_steps import HEADLINES, STEPS
from benchmarks.ct_ich import RESULTS, RUNS
from docs.phantom_examples import answer_block, external_blocks, is_current, make_examples
from docs.prepare_page import prepare_page
from docs.safety_page import rejects_table, safety_page
from docs.search_page import search_page
from docs.serving_page import serving_page, serving_table
from docs.tracking_page import tracking_page
from docs.training_speed_page import training_speed_page, training_speed_table
from strokect.errors import DataError, run_stage
from strokect.files import read_json, write_text
from strokect.reporting import figure_text
from strokect.summary import summary

README, EXTERNAL = Path("README.md"), Path("docs/external.md")
PHANTOM = Path("docs/phantom")  # the committed run of `make repro`: a later run in the workspace must not make the README wrong
BENCHES = tuple(
    Path(f"metrics/bench/{name}.json") for name in ("prepare", "serve", "release", "service", "train")
)  # of any machine
SEARCH = Path("metrics/search.json")
SHOWN = (
    "metrics/evaluate.json",
    "metrics/safety.json",
    "metrics/bench/pipeline.json",
    "reports/plots/roc.png",
    "reports/report.html",
)


def blocks() -> dict[str, str]:
    """What each marked block must hold."""
    phantom = f"```text\n{summary(read_json(PHANTOM / 'evaluate.json'))}\n```"
    return {
        "phantom": phantom,
        "ct-ich": ct_ich_table(),
        "timing": timing(),
        "answer": answer_block(),
        "safety": rejects_table(safety_runs()),
        "serving": serving_table(read_json(RESULTS / "serve.json")),
        "training-speed": training_speed_table(read_json(RESULTS / "train.json")),
    }


def pages() -> dict[Path, str]:
    """Whole pages that are made of metrics files."""
    return {
        RESULTS / "prepare.md": prepare_page(read_json(RESULTS / "prepare.json")),
        RESULTS / "safety.md": safety_page(safety_runs(), headlines()),
        RESULTS / "search.md": search_page(read_json(PHANTOM / "search.json")),
        RESULTS / "serving.md": serving_page(*(read_json(RESULTS / f"{name}.json") for name in ("serve", "release", "service"))),
        RESULTS / "tracking.md": tracking_page(read_json(PHANTOM / "tracking.json")),
        RESULTS / "training-speed.md": training_speed_page(read_json(RESULTS / "train.json")),
    }


def safety_runs() -> dict[str, Any]:
    """metrics/safety.json of the two committed runs."""
    return {"phantom": read_json(PHANTOM / "safety.json"), "ct_ich": read_json(RESULTS / "ct-ich" / "safety.json")}


def take_over_search() -> None:
    """Copy the workspace's search with its pictures, if it is one of the phantom."""
    if SEARCH.is_file() and read_json(SEARCH)["source"] == "phantom":
        shutil.copyfile(SEARCH, PHANTOM / SEARCH.name)
        for picture in Path("reports/search").glob("*.png"):
            shutil.copyfile(picture, PHANTOM / f"search_{picture.name}")


def headlines() -> dict[str, str]:
    """The figures of the models whose safety layers the page is about."""
    phantom, ct_ich = read_json(PHANTOM / "evaluate.json"), read_json(RESULTS / "ct-ich" / "best.json")
    return {
        "phantom": f"Slice ROC AUC of its model: {figure_text(phantom['slice']['roc_auc'])} ({phantom['part']}).",
        "ct_ich": (
            f"Slice ROC AUC of its model: {figure_text(ct_ich['slice']['roc_auc'])} ({ct_ich['part']}); it is the run of "
            "[this report](ct-ich/report.html), with other pictures than CT added to the outliers."
        ),
    }


def ct_ich_table() -> str:
    """The five runs of docs/results/ct-ich.md, ROC AUC only."""
    lines = ["| run | slice ROC AUC [95 % interval] | patient ROC AUC [95 % interval] |", "|---|---|---|"]
    for name, meaning in RUNS.items():
        metrics = read_json(RESULTS / "ct-ich" / f"{name}.json")["metrics"]
        cells = [figure_text(metrics[level]["roc_auc"]) for level in ("slice", "patient")]
        lines.append(f"| {meaning} | {cells[0]} | {cells[1]} |")
    headline = {name: run for name, run in read_results().items() if name not in STEPS}
    lines += [
        "",
        "Each row is of one split seed, and its intervals are percentiles, too narrow near 1. The question of the first row on",
        "other split seeds, with the steps that were kept ([which, and what others reach](docs/results/training.md)):",
        "",
        *how_far(headline, HEADLINES[:2]),
    ]
    return "\n".join(lines)


def timing() -> str:
    """metrics/bench/pipeline.json in a sentence."""
    bench = read_json(PHANTOM / "pipeline.json")
    first, no_op = bench["first_repro_s"] / 60, bench["no_op_repro_s"]["median"]
    return (
        f"Measured on {bench['cores']} CPU cores: `dvc repro` from nothing {first:.1f} minutes, with nothing changed "
        f"{no_op:.1f} s (median of five; `python -m benchmarks.pipeline`)."
    )


def fill(text: str, page: Path = README) -> str:
    """The text of README.md or docs/external.md with every block replaced by what the metrics and commands say."""
    for name, content in (blocks() if page == README else external_blocks()).items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise DataError(f"{page}: the block <!-- {name} --> … <!-- /{name} --> is missing")
        text = pattern.sub(lambda match, content=content: match[1] + content + "\n" + match[2], text)
    return text


def main() -> None:
    """Take over the workspace's phantom run, then rewrite README.md."""
    if not read_json("data/prepared/cohort.json")["synthetic"]:
        raise DataError(
            "the workspace holds a run on real data, the README shows the phantom's: "
            "`git checkout params.yaml dvc.lock 'metrics/*.json' ':!metrics/search.json'`, then `make repro`"
        )
    for source in SHOWN:
        shutil.copyfile(source, PHANTOM / Path(source).name)
    take_over_search()
    for source in filter(Path.is_file, BENCHES):
        shutil.copyfile(source, RESULTS / source.name)
    if not is_current():
        make_examples()
    for page in (README, EXTERNAL):
        write_text(page, fill(page.read_text(encoding="utf-8"), page))
    for path, text in pages().items():
        write_text(path, text)


if __name__ == "__main__":
    run_stage(main)
