"""split: a test part and the folds, grouped by patient, with near-duplicates kept together."""

from strokect.duplicates import linked_rows
from strokect.errors import run_stage
from strokect.files import atomic_path
from strokect.manifest import load_prepared
from strokect.params import load_params
from strokect.splits import make_split


def main() -> None:
    """Read the prepared cohort, write data/splits.csv."""
    params = load_params().split
    prepared = load_prepared()
    linked = linked_rows(prepared.images[:, 0])
    split = make_split(prepared.manifest, linked, params)
    with atomic_path("data/splits.csv") as path:
        split.to_csv(path, index=False)
    table = (
        split.assign(label=prepared.labels)
        .groupby("part")
        .agg(patients=("patient", "nunique"), slices=("label", "size"), positive_slices=("label", "sum"))
    )
    print(f"grouped by {params.group_by}; {len(linked)} near-duplicate pairs kept together\n{table.to_string()}")
    if params.group_by == "none":
        print("WARNING: split.group_by is none: patients are in several parts, no number from this split is patient-independent")


if __name__ == "__main__":
    run_stage(main)
