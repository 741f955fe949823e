"""compare: two runs on the same patients, `python -m stages.compare main my-experiment`; a command, not a stage of `dvc repro`.

A run is a DVC revision (branch, tag, commit or experiment name; `workspace` for what lies here now) or a folder with oof.csv and
oof_patients.csv, such as models/ of another checkout.
"""

import argparse
import io
from pathlib import Path
from typing import Any

import pandas as pd

from strokect.comparison import Run, compare, difference_text
from strokect.errors import DataError, run_stage
from strokect.files import write_json
from strokect.param_ranges import MIN_RESAMPLES

FILES = {"slices": "models/oof.csv", "patients": "models/oof_patients.csv"}
TEXT = {"file": str, "patient": str}
HERE = "workspace"


def read_run(name: str) -> Run:
    """The out-of-fold scores of a folder, the workspace or a DVC revision. Raises DataError where they are not."""
    folder = Path("models") if name == HERE else Path(name)
    if name == HERE or folder.is_dir():
        paths = {table: folder / Path(file).name for table, file in FILES.items()}
        if missing := [str(path) for path in paths.values() if not path.is_file()]:
            raise DataError(f"{missing[0]} is missing: run `dvc repro tune_threshold` there")
        return Run(name, *(pd.read_csv(path, dtype=TEXT) for path in paths.values()))
    return Run(name, *(pd.read_csv(io.StringIO(_of_revision(name, file)), dtype=TEXT) for file in FILES.values()))


def _of_revision(name: str, file: str) -> str:
    import dvc.api
    from dvc.exceptions import DvcException, FileMissingError, PathMissingError
    from dvc.scm import RevError

    try:
        return str(dvc.api.read(file, repo=".", rev=name))
    except RevError:
        raise DataError(f"{name!r} is neither a folder nor a revision; `dvc exp list` and `git log` name them") from None
    except PathMissingError:
        raise DataError(f"{name} has no {file}: it was made by an older version of the pipeline; run it again") from None
    except (FileMissingError, FileNotFoundError):
        raise DataError(f"{file} of {name} is not in the DVC cache: `dvc pull`, or run `dvc repro` there") from None
    except DvcException as error:
        raise DataError(f"{file} of {name} cannot be read ({type(error).__name__}: {error})") from None


def table(result: dict[str, Any]) -> str:
    """The comparison as aligned text."""
    lines = [f"{'':28}{'first':>8}{'second':>8}   {'second − first':26}"]
    for level in ("slice", "patient"):
        for name, found in result[level].items():
            head = f"{level + ' ' + name:28}"
            if found["difference"] is None:
                lines.append(f"{head}not estimable")
                continue
            difference = difference_text(found)
            lines.append(f"{head}{found['first']:8.4f}{found['second']:8.4f}   {difference:26} {found['verdict']}")
    level, name = result["primary"]
    lines += [
        "",
        f"by {level} {name.replace('_', ' ')}, the figure that this project chooses models by: {result['verdict']}",
        f"out-of-fold: {result['n_slices']} slices of {result['n_patients']} patients ({result['n_positive_patients']} positive)",
        f"{result['interval']}. {result['compared']} figures were looked at: at 95 %, one in twenty of them differs by chance.",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the comparison; write it where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="a DVC revision, `workspace`, or a folder")
    parser.add_argument("second", help="what is compared with it")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the comparison as JSON")
    given = parser.parse_args(arguments)
    if given.resamples < MIN_RESAMPLES:
        parser.error(f"--resamples is {given.resamples}; it must be {MIN_RESAMPLES} or more: fewer give no usable interval")
    result = compare(read_run(given.first), read_run(given.second), resamples=given.resamples, seed=given.seed)
    print(f"first: {given.first}\nsecond: {given.second}\n{table(result)}")
    if given.out:
        write_json(given.out, result)


if __name__ == "__main__":
    run_stage(main)
