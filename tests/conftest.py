"""What several test files need: a tiny params.yaml and one run of the whole pipeline on a tiny phantom."""

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from strokect import conf
from strokect.decoding import DecodePool

ROOT = Path(__file__).parent.parent
TINY_FOLDS = (0, 1)


def composed(*overrides: str) -> dict[str, Any]:
    """params.yaml as `dvc exp run -S …` would write it; the workspace's own may be that of another run."""
    return conf.composed(*overrides, conf=ROOT / "conf")


def committed(path: str) -> str:
    """A file as it is in the last commit; the test skips outside a git checkout."""
    done = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{path} is not in a git commit here")
    return done.stdout


def copy_repository(folder: Path) -> None:
    """The working tree with what is not committed yet, as a git repository without a commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)


def tiny_params() -> dict[str, Any]:
    """The params of conf/profile/tiny.yaml, which two cores train in seconds: random weights, 48 px, two folds."""
    return composed("profile=tiny", "model.weights=none")


@contextlib.contextmanager
def workspace(folder: Path, params: dict[str, Any]) -> Iterator[Path]:
    """Run stages in `folder` as in a repository root; relative paths resolve there until the block ends."""
    for name in ("phantom", "built_in"):
        (folder / "data/raw" / name).mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(ROOT / "bentofile.yaml", folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)


def run(stage: str, *arguments: str) -> None:
    """`python -m stages.<stage> <arguments>` in this process: torch is imported once, not fifteen times."""
    argv = sys.argv
    sys.argv = [stage, *arguments]
    try:
        importlib.import_module(f"stages.{stage}").main()
    finally:
        sys.argv = argv


def run_all() -> None:
    """Every stage up to evaluate, in the current folder."""
    for stage in ("prepare", "audit", "split"):
        run(stage)
    for stage in ("train_fold", "hnm"):
        for fold in TINY_FOLDS:
            run(stage, "--fold", str(fold))
    run("student")
    for fold in TINY_FOLDS:
        run("export", "--fold", str(fold))
    for stage in ("tune_threshold", "safety", "evaluate"):
        run(stage)


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage up to evaluate has run on the tiny phantom."""
    folder = tmp_path_factory.mktemp("pipeline")
    with workspace(folder, tiny_params()):
        run_all()
    return folder


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real slices; the test skips where it is not."""
    folder = Path(os.environ.get("STROKECT_REALDATA", ROOT.parent / "shared/data"))
    if not folder.is_dir():
        pytest.skip("real CT slices are not on this machine (STROKECT_REALDATA)")
    return folder


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    """One decoder, ready."""
    decoders = DecodePool(1, 20, 256)
    decoders.wait_ready(float("inf"))
    yield decoders
    decoders.close()
