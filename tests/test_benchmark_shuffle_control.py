"""The benchmark of the shuffle control builds the cohorts it says it does."""

from pathlib import Path

from benchmarks.shuffle_control import cohort, measure


def test_it_flags_slices_dealt_out_one_by_one_and_no_patients(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    prepared, linked = cohort("phantom", tmp_path / "raw", tmp_path)
    assert len(prepared.manifest) == 600 and prepared.cohort["image_size"] == 96
    flagged = {
        group_by: sum(not control.passed for control in measure(prepared, linked, "phantom", group_by, range(2))[0])
        for group_by in ("patient", "none")
    }
    assert flagged == {"patient": 0, "none": 2}
