"""Bring a data set under data/raw/<source> and version it: `make import SOURCE=kaggle_ct_ich FROM=~/Downloads/archive`."""

import shutil
import subprocess
import sys
import typing
from pathlib import Path

from strokect.errors import DataError, run_stage
from strokect.files import atomic_folder
from strokect.params import DataParams

SOURCES = (*(name for name in typing.get_args(typing.get_type_hints(DataParams)["source"]) if name != "phantom"), "outliers")
NEXT = {
    "kaggle_ct_ich": "-S profile=ct_ich",
    "folder": "-S profile=folder",
    "outliers": "-S safety.outliers=outliers   # beside -S profile=…: pictures that the gate must reject, for evaluation only",
}


def import_data(source: str, given: Path, root: Path = Path("data/raw")) -> Path:
    """Copy the folder `given` to `root`/`source`, all or nothing. Raises DataError; an existing data set is never replaced."""
    if source not in SOURCES:
        raise DataError(f"SOURCE={source or '(empty)'} cannot be imported; known: {', '.join(SOURCES)}")
    if not given.is_dir():
        raise DataError(f"FROM={given} is not a folder")
    target = root / source
    if target.exists():
        raise DataError(
            f"{target} exists already; move it away first if you want to replace it (`git mv {target}.dvc` goes with it)"
        )
    with atomic_folder(target) as folder:
        # copyfile and not copy2: a read-only original must not make the copy undeletable.
        shutil.copytree(given, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        if not any(path.is_file() for path in folder.rglob("*")):
            raise DataError(f"FROM={given} holds no files")
    return target


def main() -> None:
    """Import, then `dvc add`."""
    if len(sys.argv) != 3 or not all(sys.argv[1:]):
        raise DataError(f"usage: make import SOURCE=<{'|'.join(SOURCES)}> FROM=<folder>")
    target = import_data(sys.argv[1], Path(sys.argv[2]).expanduser())
    if subprocess.run([sys.executable, "-m", "dvc", "add", "-q", str(target)], check=False).returncode:
        raise DataError(f"the files are in {target}, but `dvc add {target}` failed; see its message above")
    print(
        f"{sum(path.is_file() for path in target.rglob('*'))} files in {target}, versioned in {target}.dvc\n"
        f"next:  git add {target}.dvc data/raw/.gitignore && git commit -m 'Add {sys.argv[1]}'\n"
        f"       dvc push                            # if a DVC remote is set up\n"
        f"       dvc exp run {NEXT[sys.argv[1]]}       # `. .venv/bin/activate` puts dvc on the PATH"
    )


if __name__ == "__main__":
    run_stage(main)
