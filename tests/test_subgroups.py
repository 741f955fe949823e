"""Subgroups on a hand-made table, against pandas."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from strokect.errors import NotEstimableError
from strokect.subgroups import MIN_PATIENTS, subgroups


@pytest.fixture
def table() -> pd.DataFrame:
    """24 patients × 9 slices; ages 10, 30, 50, 70 in turn, the last one's unknown; every second patient has positive slices."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(24), 9)
    label = ((who % 2 == 0) & (np.tile(np.arange(9), 24) % 3 == 1)).astype(int)
    ages = np.array([["10", "30", "50", "70"][i // 2 % 4] for i in range(23)] + [""])
    frame = pd.DataFrame({"patient": [f"p{i:02d}" for i in who], "slice": np.tile(np.arange(9), 24), "label": label})
    return frame.assign(
        ranking=label + rng.normal(0, 1, len(frame)),
        decision=(rng.random(len(frame)) < 0.3 + 0.4 * label).astype(int),
        age_years=ages[who],
        gender=np.where(who % 3 == 0, "female", "male"),
        fracture=((who < 8) & (np.tile(np.arange(9), 24) == 4)).astype(int),
        subtype=np.where(label == 1, np.where(who < 12, "epidural", "epidural+subdural"), ""),
        site="here",
    )


def found(table: pd.DataFrame) -> dict[tuple[str, str], dict]:
    return {(g["variable"], g["group"]): g for g in subgroups(table, verifiable=True, resamples=100, seed=0)["groups"]}


def test_counts_and_figures_are_those_of_pandas(table: pd.DataFrame) -> None:
    groups = found(table)
    women = table[table["gender"] == "female"]
    got = groups["gender", "female"]
    assert (got["n_slices"], got["n_patients"]) == (len(women), 8)
    assert got["n_positive_slices"] == women["label"].sum() and got["n_positive_patients"] == 4
    # Four positive patients are too few for a figure of the positives.
    assert got["roc_auc"]["value"] is None and got["sensitivity"]["value"] is None
    assert got["specificity"]["value"] == pytest.approx((women.loc[women["label"] == 0, "decision"] == 0).mean())
    men = table[table["gender"] == "male"]
    assert groups["gender", "male"]["roc_auc"]["value"] == pytest.approx(roc_auc_score(men["label"], men["ranking"]))
    assert groups["gender", "male"]["sensitivity"]["value"] == pytest.approx(men.loc[men["label"] == 1, "decision"].mean())


def test_ages_fall_into_bands_and_the_unknown_into_none(table: pd.DataFrame) -> None:
    groups = found(table)
    bands = {name: groups["age band", name]["n_patients"] for name in ("under 18", "18 to 39", "40 to 64", "65 and over")}
    assert bands == {"under 18": 6, "18 to 39": 6, "40 to 64": 6, "65 and over": 5}


def test_a_fracture_anywhere_makes_a_patient_one_with_a_fracture(table: pd.DataFrame) -> None:
    groups = found(table)
    assert groups["fracture", "patients with a fracture"]["n_patients"] == 8
    assert groups["fracture", "patients without"]["n_slices"] == 16 * 9


def test_types_count_positive_slices_and_have_no_specificity(table: pd.DataFrame) -> None:
    groups = found(table)
    both = groups["type", "subdural"]
    assert both["n_slices"] == both["n_positive_slices"] == 6 * 3 and groups["type", "epidural"]["n_slices"] == 12 * 3
    assert both["specificity"]["value"] is None and both["roc_auc"]["value"] is None and both["sensitivity"]["value"] is not None


def test_thirds_follow_the_order_of_the_slices_not_of_the_rows(table: pd.DataFrame) -> None:
    mixed = table.sample(frac=1, random_state=0)
    assert found(mixed)["slice position", "first third of the series"]["n_slices"] == 24 * 3
    lowest = table[table["slice"] < 3]
    got = found(mixed)["slice position", "first third of the series"]
    assert got["specificity"]["value"] == pytest.approx((lowest.loc[lowest["label"] == 0, "decision"] == 0).mean())


def test_one_value_is_no_subgroup_and_what_is_not_known_is_left_out(table: pd.DataFrame) -> None:
    assert not any(variable == "site" for variable, _ in found(table))
    bare = table[["patient", "slice", "label", "ranking", "decision"]]
    assert {variable for variable, _ in found(bare)} == {"slice position"}


def test_it_is_said_how_many_were_looked_at(table: pd.DataFrame) -> None:
    result = subgroups(table, verifiable=True, resamples=100, seed=0)
    names = ("roc_auc", "sensitivity", "specificity")
    assert result["looked_at"] == sum(g[name]["value"] is not None for g in result["groups"] for name in names) > 10
    assert "one in twenty" in result["note"] and str(MIN_PATIENTS) in result["note"]


def test_a_type_that_only_negative_slices_name_is_no_group(table: pd.DataFrame) -> None:
    table.loc[table["label"] == 0, "subtype"] = "old"
    assert ("type", "old") not in found(table)


def test_equal_scores_rank_nothing_in_a_subgroup_and_nan_is_refused(table: pd.DataFrame) -> None:
    assert found(table.assign(ranking=0.5))["gender", "male"]["roc_auc"] == {"value": None, "ci95": None}
    with pytest.raises(NotEstimableError, match="NaN"):
        found(table.assign(ranking=np.where(np.arange(len(table)) == 20, np.nan, table["ranking"])))


def test_a_perfect_subgroup_of_few_patients_is_not_certain(table: pd.DataFrame) -> None:
    got = found(table.assign(ranking=table["label"] + 0.0, decision=table["label"]))["gender", "male"]
    for name in ("roc_auc", "sensitivity"):
        assert got[name]["value"] == 1.0 and got[name]["ci95"][0] < 0.7 and got[name]["ci95"][1] == 1.0


def test_clusters_that_stand_in_for_patients_have_no_place_in_a_head(table: pd.DataFrame) -> None:
    groups = subgroups(table, verifiable=False, resamples=100, seed=0)["groups"]
    assert groups and not any(group["variable"] == "slice position" for group in groups)
    assert any(variable == "slice position" for variable, _ in found(table))


def test_groups_of_few_patients_are_marked_and_the_note_says_what_that_means(table: pd.DataFrame) -> None:
    groups = found(table)
    assert groups["gender", "female"]["few_patients"]  # 8 of them
    assert not groups["gender", "male"]["few_patients"]  # 16, 8 of each class
    assert groups["age band", "65 and over"]["few_patients"] and groups["type", "epidural"]["few_patients"] is False
    assert groups["type", "subdural"]["few_patients"]  # 6
    one_class = found(table[(table["label"] == 0) | (table["patient"] < "p05")])
    assert one_class["gender", "male"]["few_patients"]  # 16, with 2 positive
    assert "few_patients" in subgroups(table, verifiable=True, resamples=100, seed=0)["note"]
