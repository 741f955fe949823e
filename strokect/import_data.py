"""Bring a data set under data/raw/<source> and version it: `make import SOURCE=kaggle_ct_ich FROM=~/Downloads/archive`."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from strokect.errors import DataError, run_stage
from strokect.files import atomic_folder
from strokect.readers import READERS

SOURCES = (*(name for name in READERS if name != "phantom"), "outliers")
PROFILES = Path(__file__).resolve().parents[1] / "conf/profile"
NEXT = {  # beside those whose profile has their name
    "kaggle_ct_ich": "-S profile=ct_ich   # docs/data/kaggle_ct_ich.md",
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
    _check_links(given)
    with atomic_folder(target) as folder:
        try:
            # copyfile and not copy2: a read-only original must not make the copy undeletable.
            shutil.copytree(given, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        except (OSError, RecursionError) as error:
            raise DataError(_why_not_copied(given, error)) from None
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        if not any(path.is_file() for path in folder.rglob("*")):
            raise DataError(f"FROM={given} holds no files")
    return target


def _check_links(given: Path) -> None:
    """Raise DataError for links in a circle, and to folders that would be copied twice. Names may be patients': none is said."""
    inside = given.resolve()
    for at, folders, _ in os.walk(given):
        for path in (Path(at) / name for name in folders):
            leads_to = path.resolve()
            if path.is_symlink() and (leads_to.is_relative_to(inside) or inside.is_relative_to(leads_to)):
                raise DataError(
                    f"FROM={given} holds a link to a folder of itself, whose files would be copied twice or without end; "
                    f"`find {shlex.quote(str(given))} -type l` shows it"
                )


def _why_not_copied(given: Path, error: OSError | RecursionError) -> str:
    """In words, without the names of files: they may be patients'."""
    faults = error.args[0] if isinstance(error, shutil.Error) and error.args else [error]
    return (
        f"FROM={given}: {len(faults)} file(s) or folder(s) cannot be copied: no access, no space, or a link that leads nowhere "
        f"(`find {shlex.quote(str(given))} ! -readable -o -xtype l` shows them); nothing was imported"
    )


def next_step(source: str) -> str:
    """What `dvc exp run` needs to use the data; a reader that was dropped in need not have a profile."""
    own = f"-S profile={source}" if (PROFILES / f"{source}.yaml").is_file() else f"-S data.source={source}"
    return NEXT.get(source, f"{own}   # docs/data/{source}.md")


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
        f"       . .venv/bin/activate                # puts dvc on the PATH\n"
        f"       dvc push                            # if a DVC remote is set up\n"
        f"       dvc exp run {next_step(sys.argv[1])}"
    )


if __name__ == "__main__":
    run_stage(main)
