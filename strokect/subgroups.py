"""Figures of subgroups: age band, gender, fracture, type, place in the series, and site, where the manifest knows them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.statistics import bootstrap_weights, estimate_auc, estimate_share

MIN_PATIENTS = 5  # of a class, for a figure of it: below, a bootstrap of patients says nothing
FEW = 10  # patients in all, below which a group is marked, as it is below MIN_PATIENTS of a class
TOO_WIDE = 0.4  # an interval of this width leaves open whether the model works in the subgroup
AGE_BANDS = {"under 18": (0, 18), "18 to 39": (18, 40), "40 to 64": (40, 65), "65 and over": (65, 200)}
THIRDS = ("first third of the series", "middle third of the series", "last third of the series")  # in the order of the manifest
NOTE = (
    "Exploratory: of 95 % intervals one in twenty misses the true value by chance, and differences between subgroups were not "
    "tested. A figure of fewer than 5 patients of a class is not estimated. Few patients (few_patients): fewer than 10, or fewer "
    "than 5 of a class: the group shows what happened to them, not what will happen to others."
)


def subgroups(table: pd.DataFrame, *, verifiable: bool, resamples: int, seed: int) -> dict[str, Any]:
    """`table` has a row per slice: `patient`, `slice` (its order), `label`, `ranking`, `decision`, and the manifest's columns
    `age_years`, `gender`, `fracture`, `subtype`, `site` where the source has them.

    Each group: counts, and ROC AUC, sensitivity and specificity of its slices with patient-clustered intervals. Types are of
    positive slices, so they have a sensitivity only. `verifiable` is `patient_level_verifiable` of the cohort: where clusters
    stand in for patients, their slices have no order in a head, and there is no slice position.
    """
    groups = [_figures(table[own], variable, name, resamples, seed) for variable, name, own in _members(table, verifiable)]
    estimated = sum(group[name]["value"] is not None for group in groups for name in ("roc_auc", "sensitivity", "specificity"))
    return {"groups": groups, "looked_at": estimated, "note": NOTE}


def _members(table: pd.DataFrame, verifiable: bool) -> Iterator[tuple[str, str, pd.Series]]:
    """(variable, group, rows) of every group; a variable that has one value only is left out."""
    found: list[tuple[str, str, pd.Series]] = []
    if "age_years" in table:
        age = pd.to_numeric(table["age_years"], errors="coerce")
        found += [("age band", name, (age >= low) & (age < high)) for name, (low, high) in AGE_BANDS.items()]
    for column, variable in (("gender", "gender"), ("site", "site")):
        if column in table:
            values = table[column].fillna("").astype(str)
            found += [(variable, value, values == value) for value in sorted(set(values) - {""})]
    if "fracture" in table:
        known = pd.to_numeric(table["fracture"], errors="coerce")
        with_one = known.groupby(table["patient"]).transform("max")
        found += [("fracture", "patients with a fracture", with_one == 1), ("fracture", "patients without", with_one == 0)]
    if verifiable:
        third = position_thirds(table["patient"].to_numpy(str), table["slice"].to_numpy(np.int64))
        found += [("slice position", name, pd.Series(third == n, table.index)) for n, name in enumerate(THIRDS)]
    for variable in dict.fromkeys(variable for variable, _, _ in found):
        own = [item for item in found if item[0] == variable and item[2].any()]
        yield from own if len(own) > 1 else []
    if "subtype" in table:
        types = table["subtype"].fillna("").astype(str).where(table["label"] == 1, "").str.split("+")
        for name in sorted({part for parts in types for part in parts} - {""}):
            yield "type", name, types.map(lambda parts, name=name: name in parts)


def position_thirds(patients: NDArray[np.str_], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1 or 2 for each slice: which third of its patient's slices, by `order`."""
    third = np.zeros(len(patients), np.int64)
    for patient in np.unique(patients):
        own = np.flatnonzero(patients == patient)
        ranks = np.argsort(np.argsort(order[own], kind="stable"), kind="stable")
        third[own] = ranks * 3 // len(own)
    return third


def _figures(own: pd.DataFrame, variable: str, name: str, resamples: int, seed: int) -> dict[str, Any]:
    y, d, ranking = own["label"].to_numpy(np.int64), own["decision"].to_numpy(np.int64), own["ranking"].to_numpy(float)
    counts, index = bootstrap_weights(own["patient"].to_numpy(str), resamples, seed)
    of_class = [own.loc[own["label"] == label, "patient"].nunique() for label in (0, 1)]
    nothing: dict[str, Any] = {"value": None, "ci95": None}
    enough = [count >= MIN_PATIENTS for count in of_class]
    figures: dict[str, dict[str, Any]] = {
        "roc_auc": estimate_auc(y, ranking, counts, index) if all(enough) else nothing,
        "sensitivity": estimate_share(y * d, y, counts, index) if enough[1] else nothing,
        "specificity": estimate_share((1 - y) * (1 - d), 1 - y, counts, index) if enough[0] else nothing,
    }
    classes = of_class[1:] if variable == "type" else of_class  # types are of positive slices
    return {
        "variable": variable,
        "group": name,
        "n_slices": len(own),
        "n_positive_slices": int(y.sum()),
        "n_patients": int(own["patient"].nunique()),
        "n_positive_patients": of_class[1],
        **figures,
        "few_patients": bool(own["patient"].nunique() < FEW or min(classes) < MIN_PATIENTS),
        "says_little": any(_is_wide(figure["ci95"]) for figure in figures.values()),
    }


def _is_wide(interval: list[float] | None) -> bool:
    return interval is not None and interval[1] - interval[0] > TOO_WIDE
