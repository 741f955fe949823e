"""Who is trained on and who is held out: patient-grouped, stratified, seeded, and checked."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.errors import DataError
from strokect.params import SplitParams

SPLIT = Path("data/splits.csv")
TEST = "test"
MIN_PER_CLASS = 3  # choosing a calibration without a patient's label takes two more of the same class


def make_split(manifest: pd.DataFrame, linked: NDArray[np.int64], params: SplitParams) -> pd.DataFrame:
    """Assign every slice to `test` or to the fold that holds it out.

    `linked` (P, 2) holds row pairs that must not be parted (near-duplicates, identical pictures): the patients of a pair
    move together. Strata are patients by (has a positive slice). Returns columns file, patient, part (text).
    With `group_by: none` slices are dealt out one by one, which leaks patients; it exists as a control.
    """
    from sklearn.model_selection import StratifiedKFold  # here: every training stage imports this module, and it takes 2 s

    positive, unit_of = check_feasible(manifest, linked, params)
    rng = np.random.default_rng(params.seed)
    part = np.full(len(positive), -1)
    for stratum in (0, 1):
        members = rng.permutation(np.flatnonzero(positive == stratum))
        part[members[: round(params.test_fraction * len(members))]] = -2
    rest = np.flatnonzero(part == -1)
    folder = StratifiedKFold(len(params.folds), shuffle=True, random_state=int(rng.integers(2**31)))
    for fold, (_, held_out) in zip(params.folds, folder.split(rest, positive[rest]), strict=True):
        part[rest[held_out]] = fold
    text = np.where(part == -2, TEST, part.astype(str))
    split = pd.DataFrame({"file": manifest["file"], "patient": manifest["patient"], "part": text[unit_of]})
    if params.group_by == "patient":
        check_disjoint(split, linked)
    return split


def check_feasible(
    manifest: pd.DataFrame, linked: NDArray[np.int64], params: SplitParams
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What is dealt out as one: whether each such unit has a positive slice (U,), and the unit of each slice (N,).

    Raises DataError if there are too few units for the parts that `params` asks for. Arguments as for `make_split`.
    """
    units = np.arange(len(manifest))
    if params.group_by == "patient":
        units = linked_groups(manifest["patient"].to_numpy(str), linked)
    unit_ids, unit_of = np.unique(units, return_inverse=True)
    positive = np.zeros(len(unit_ids), int)
    np.maximum.at(positive, unit_of, manifest["label"].to_numpy(int))
    _check_counts(positive, params)
    return positive, unit_of


def check_disjoint(split: pd.DataFrame, linked: NDArray[np.int64]) -> None:
    """Raise DataError if a patient, or a pair of near-duplicates, is in two parts. It names rows, as all logs do."""
    parts = split.groupby("patient")["part"].transform("nunique").to_numpy()
    if (parts > 1).any():
        patients = split["patient"][parts > 1].nunique()
        first = split["patient"].to_numpy() == split["patient"].to_numpy()[np.argmax(parts > 1)]
        rows = ", ".join(str(row) for row in _manifest_rows(np.flatnonzero(first)[:5]))
        raise DataError(f"the split leaks: {patients} patient(s) are in more than one part, one with manifest.csv rows {rows}")
    part = split["part"].to_numpy(str)
    crossing = linked[part[linked[:, 0]] != part[linked[:, 1]]] if len(linked) else linked
    if len(crossing):
        a, b = _manifest_rows(crossing[0])
        raise DataError(
            f"the split leaks: {len(crossing)} pair(s) of near-duplicates are in different parts, one of them manifest.csv rows "
            f"{a} and {b}"
        )


def _manifest_rows(rows: NDArray[np.int64]) -> list[int]:
    """As an editor counts the rows of data/prepared/manifest.csv, the header being row 1."""
    return (rows + 2).tolist()


def linked_groups(patients: NDArray[np.str_], linked: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) group number: patients joined by a linked pair share one (connected components)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names, index = np.unique(patients, return_inverse=True)
    a, b = (index[linked[:, 0]], index[linked[:, 1]]) if len(linked) else (np.zeros(0, int), np.zeros(0, int))
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(names), len(names)))
    return connected_components(graph, directed=False)[1].astype(np.int64)[index]


def _check_counts(positive: NDArray[np.int64], params: SplitParams) -> None:
    unit = "patients (counting those linked by near-duplicates as one)" if params.group_by == "patient" else "slices"
    needed = max(len(params.folds), MIN_PER_CLASS)
    for name, count in (("with a positive slice", int(positive.sum())), ("without a positive slice", int((1 - positive).sum()))):
        test = round(params.test_fraction * count)
        if params.test_fraction > 0 and test == 0:
            raise DataError(
                f"{count} {unit} {name}: a test part of {params.test_fraction:g} would hold none of them. "
                "Report by cross-validation (split.test_fraction: 0), or raise it"
            )
        if count - test < needed:
            raise DataError(
                f"{count} {unit} {name}, {count - test} after a test part of {params.test_fraction:g}; {len(params.folds)} folds "
                f"and a cross-fitted calibration need at least {needed}. Use fewer folds, a smaller test part or more data"
            )


def training_rows(split: pd.DataFrame, fold: int) -> NDArray[np.int64]:
    """Row numbers that fold `fold` trains on: every development slice it does not hold out."""
    part = split["part"].to_numpy(str)
    return np.flatnonzero((part != TEST) & (part != str(fold)))


def held_out_rows(split: pd.DataFrame, fold: int) -> NDArray[np.int64]:
    """Row numbers that fold `fold` holds out."""
    return np.flatnonzero(split["part"].to_numpy(str) == str(fold))


def development_rows(split: pd.DataFrame) -> NDArray[np.int64]:
    """Row numbers of all folds together: everything but the test part."""
    return np.flatnonzero(split["part"].to_numpy(str) != TEST)


def rows_of_test_part(split: pd.DataFrame) -> NDArray[np.int64]:
    """Row numbers of the test part; empty when `split.test_fraction` is 0."""
    return np.flatnonzero(split["part"].to_numpy(str) == TEST)


def read_split(path: Path | str, manifest: pd.DataFrame) -> pd.DataFrame:
    """data/splits.csv, checked to be row-aligned with the manifest."""
    split = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(split["file"]) != list(manifest["file"]):
        raise DataError(f"{path} does not belong to data/prepared/manifest.csv: run `dvc repro split`")
    return split
