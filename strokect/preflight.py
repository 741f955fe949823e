"""What `make repro` checks before DVC starts, which would say it less clearly or after an hour."""

import subprocess
from pathlib import Path

from strokect.errors import DataError, run_stage
from strokect.params import Params, load_params


def check_raw_data(source: str, folder: Path) -> None:
    """Raise DataError, with what to do, unless the folder with the raw data of a source is there."""
    if not folder.is_dir():
        how = f"bring the data in with `make import SOURCE={source} FROM=<folder>`, or `dvc pull`"
        raise DataError(f"{folder} is missing: {how}")


def differs_from_commit(path: str) -> bool:
    """Whether a file of a git checkout differs from the last commit; False outside a checkout."""
    return subprocess.run(["git", "diff", "--quiet", "HEAD", "--", path], check=False, capture_output=True).returncode == 1


def main() -> None:
    """Check params.yaml and the raw data; say so when the params are not the committed ones."""
    params: Params = load_params()
    for source in (params.data.source, params.safety.outliers):
        check_raw_data(source, Path("data/raw") / source)
    if differs_from_commit("params.yaml"):
        print(
            f"note: params.yaml is not the committed one (a `dvc exp run` writes it); running on {params.data.source}. "
            "Back to the committed run: git checkout params.yaml dvc.lock 'metrics/*.json' ':!metrics/search.json'"
        )


if __name__ == "__main__":
    run_stage(main)
