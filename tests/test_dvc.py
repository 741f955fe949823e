"""dvc.yaml: every stage depends on the code that shapes its output; push, clone and pull give a pipeline with nothing to do."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, committed, copy_repository, tiny_params

from strokect.readers import READERS

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
READER = "strokect/reader_${data.source}.py"  # so that a new reader needs no line there, and editing one leaves the others alone
# Reading, writing and naming things: a change here changes no figure, and every stage uses them.
INFRASTRUCTURE = {
    *("__init__", "errors", "files", "manifest", "param_ranges", "params", "preflight", "reader_params", "readers"),
    *("run_params", "tracking"),
}
# Imported for a constant or a path.
ONLY_A_NAME = {
    "train_fold": {"sidecar"},
    "export": {"fold", "training", "augment", "calibration"},
    "tune_threshold": {"fold", "training", "augment", "network"},
    "evaluate": {"fold", "training", "augment", "network"},
}


def dependencies(stage: str) -> set[str]:
    """Those of dvc.yaml, with the modules of all readers where it has that of `data.source`."""
    deps = set(STAGES[stage]["deps"])
    readers = {f"strokect/reader_{name}.py" for name in READERS} if READER in deps else set()
    return deps - {READER} | readers


def imports(path: Path) -> set[str]:
    """strokect modules that a file imports, at the top or inside a function."""
    found = {f"reader_{name}" for name in READERS} if path.name == "sources.py" else set()  # it imports them by name
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "strokect":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("strokect."):
            found.add((node.module or "").split(".")[1])
    return found


def reachable(path: Path) -> set[str]:
    """`imports`, followed through the package."""
    seen: set[str] = set()
    todo = imports(path)
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo |= set() if module in INFRASTRUCTURE else imports(ROOT / f"strokect/{module}.py")
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_its_code(stage: str) -> None:
    deps = dependencies(stage)
    assert f"stages/{stage}.py" in deps
    needed = reachable(ROOT / f"stages/{stage}.py") - INFRASTRUCTURE - ONLY_A_NAME.get(stage, set())
    missing = {f"strokect/{module}.py" for module in needed} - deps
    assert not missing, f"dvc.yaml: {stage} uses {sorted(missing)} but does not depend on them"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_nothing_that_is_not_there(stage: str) -> None:
    paths = [dep for dep in dependencies(stage) if dep.endswith(".py")]
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_every_plot_says_what_its_axes_are() -> None:
    plots = {name: plot for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"] for name, plot in entry.items()}
    unnamed = {name for name, plot in plots.items() if not {"x_label", "y_label"} <= set(plot)}
    assert unnamed == {"Confusion out-of-fold", "Confusion test"}  # theirs are `actual` and `predicted`


def test_committed_lock_is_that_of_the_committed_params() -> None:
    lock = yaml.safe_load(committed("dvc.lock"))["stages"]
    params = yaml.safe_load(committed("params.yaml"))
    assert {name.split("@")[0] for name in lock} == set(STAGES)
    assert lock["prepare"]["params"]["params.yaml"]["data"] == params["data"]
    assert lock["train_fold@0"]["params"]["params.yaml"]["train"] == params["train"]


def test_the_worst_errors_are_neither_in_git_nor_an_output_that_dvc_would_push() -> None:
    named = [stage for stage in STAGES.values() if "outs" in stage]
    outs = [next(iter(out)) if isinstance(out, dict) else out for stage in named for out in stage["outs"]]
    assert "reports/report.html" in outs and not {"reports", "reports/errors.html"} & set(outs)
    assert "/reports/" in (ROOT / ".gitignore").read_text().splitlines()


def shell(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout + done.stderr


@pytest.mark.slow
def test_push_clone_pull_and_nothing_to_do(tmp_path: Path) -> None:
    """A whole tiny `dvc repro` in a copy of the working tree, through a local-folder remote, into a fresh clone."""
    first, second = tmp_path / "first", tmp_path / "second"
    copy_repository(first)
    (first / "dvc.lock").unlink(missing_ok=True)
    (first / "params.yaml").write_text(yaml.safe_dump(tiny_params()))
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    shell(first, "dvc", "repro")
    assert "up to date" in shell(first, "dvc", "repro")
    shell(first, "dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    shell(first, "dvc", "push", "-q")
    shell(first, *git, "add", "-A")
    shell(first, *git, "commit", "-qm", "run")

    shell(tmp_path, "git", "clone", "-q", str(first), str(second))
    shell(second, "dvc", "pull", "-q")
    assert (second / "models/release/manifest.json").is_file()
    assert "up to date" in shell(second, "dvc", "repro")
    assert (first / "reports/errors.html").is_file() and not (second / "reports/errors.html").exists()  # pictures stay here
    assert shell(second, "git", "status", "--porcelain") == ""
