"""The split: no patient and no near-duplicate crosses parts, whatever the cohort looks like."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strokect.errors import DataError
from strokect.params import SplitParams
from strokect.splits import check_disjoint, held_out_rows, make_split, rows_of_test_part, training_rows

PARAMS = SplitParams(group_by="patient", test_fraction=0.2, folds=(0, 1, 2), seed=0)
NO_LINKS = np.zeros((0, 2), np.int64)


def cohort(slices: list[int], positive: list[bool]) -> pd.DataFrame:
    """One row per slice; in a positive patient the first slice is positive."""
    rows = [(f"p{i}/{k}", f"p{i}", int(positive[i] and k == 0)) for i, n in enumerate(slices) for k in range(n)]
    return pd.DataFrame(rows, columns=["file", "patient", "label"])


@st.composite
def cohorts(draw: st.DrawFn) -> pd.DataFrame:
    positives, negatives = draw(st.integers(8, 20)), draw(st.integers(8, 20))
    slices = draw(st.lists(st.integers(1, 12), min_size=positives + negatives, max_size=positives + negatives))
    order = draw(st.permutations([True] * positives + [False] * negatives))
    return cohort(slices, list(order))


@settings(max_examples=60, deadline=None)
@given(frame=cohorts(), seed=st.integers(0, 1000), fraction=st.sampled_from([0.0, 0.1, 0.2]), data=st.data())
def test_no_leak_and_full_cover(frame: pd.DataFrame, seed: int, fraction: float, data: st.DataObject) -> None:
    params = dataclasses.replace(PARAMS, seed=seed, test_fraction=fraction)
    links = data.draw(st.lists(st.tuples(*[st.integers(0, len(frame) - 1)] * 2), max_size=2))
    linked = np.array(links, np.int64).reshape(-1, 2)
    split = make_split(frame, linked, params)

    assert list(split["file"]) == list(frame["file"])
    assert (split.groupby("patient")["part"].nunique() == 1).all()
    part = split["part"].to_numpy()
    assert all(part[a] == part[b] for a, b in links)
    assert set(part) - {"test"} == {"0", "1", "2"}
    for fold in params.folds:
        train, held, test = training_rows(split, fold), held_out_rows(split, fold), rows_of_test_part(split)
        assert sorted([*train, *held, *test]) == list(range(len(frame)))
        patients = [set(frame["patient"].iloc[rows]) for rows in (train, held, test)]
        assert not patients[0] & patients[1]
        assert not patients[0] & patients[2]
        assert not patients[1] & patients[2]
    if not links:
        tested = frame[part == "test"].groupby("patient")["label"].max()
        assert set(tested) == (set() if fraction == 0 else {0, 1})


def test_stratified_by_positive_patient() -> None:
    split = make_split(cohort([4] * 60, [i < 30 for i in range(60)]), NO_LINKS, PARAMS)
    positive = split["patient"].isin([f"p{i}" for i in range(30)])
    per_part = split[positive].groupby("part")["patient"].nunique()
    assert per_part["test"] == 6
    assert set(per_part[["0", "1", "2"]]) == {8}


def test_same_seed_same_split_other_seed_other_split() -> None:
    frame = cohort([3] * 40, [i % 2 == 0 for i in range(40)])
    first, again = make_split(frame, NO_LINKS, PARAMS), make_split(frame, NO_LINKS, PARAMS)
    other = make_split(frame, NO_LINKS, dataclasses.replace(PARAMS, seed=1))
    assert first.equals(again)
    assert not first.equals(other)


def test_group_by_none_does_leak_which_is_why_it_is_a_control() -> None:
    split = make_split(cohort([10] * 20, [i < 10 for i in range(20)]), NO_LINKS, dataclasses.replace(PARAMS, group_by="none"))
    assert (split.groupby("patient")["part"].nunique() > 1).any()


def test_too_few_patients_is_an_error_that_counts_them() -> None:
    with pytest.raises(DataError, match=r"2 patients .* with a positive slice"):
        make_split(cohort([4] * 12, [i < 2 for i in range(12)]), NO_LINKS, PARAMS)


def test_planted_leaks_are_caught() -> None:
    frame = cohort([2] * 12, [i < 6 for i in range(12)])
    split = make_split(frame, NO_LINKS, PARAMS)
    part = split["part"].to_numpy()
    other = int(np.flatnonzero(part != part[0])[0])
    with pytest.raises(DataError, match=rf"near-duplicates.* manifest.csv rows 2 and {other + 2}$"):
        check_disjoint(split, np.array([[0, other]]))
    split.loc[0, "part"] = part[other]
    with pytest.raises(DataError, match=r"1 patient\(s\).* manifest.csv rows 2, 3$"):  # a log names no patient
        check_disjoint(split, NO_LINKS)


def test_a_test_part_that_would_hold_no_positive_patient_is_refused() -> None:
    frame = cohort([3] * 64, [i < 4 for i in range(64)])
    with pytest.raises(DataError, match="would hold none of them"):
        make_split(frame, NO_LINKS, dataclasses.replace(PARAMS, test_fraction=0.1))
