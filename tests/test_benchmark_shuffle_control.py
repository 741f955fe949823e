"""The benchmark of the shuffle control builds the cohorts it says it does."""

import json
from pathlib import Path

from benchmarks.shuffle_control import cohort, earlier, measure


def test_it_flags_slices_dealt_out_one_by_one_and_no_patients(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    prepared, linked = cohort("phantom", tmp_path / "raw", tmp_path)
    assert len(prepared.manifest) == 600 and prepared.cohort["image_size"] == 96
    flagged = {
        group_by: sum(not control.passed for control in measure(prepared, linked, "phantom", group_by, range(2))[0])
        for group_by in ("patient", "none")
    }
    assert flagged == {"patient": 0, "none": 2}


def test_rows_of_a_set_that_is_not_measured_again_stay(tmp_path: Path) -> None:
    assert earlier({"phantom"}, tmp_path / "none.json") == ([], {})
    rows = [{"set": "phantom", "n": 1}, {"set": "kaggle_ct_ich", "n": 2}]
    before = {"rows": rows, "runs": {"phantom": {"commit": "a"}, "kaggle_ct_ich": {"commit": "b"}}}
    (tmp_path / "some.json").write_text(json.dumps(before))
    assert earlier({"phantom"}, tmp_path / "some.json") == (rows[1:], {"kaggle_ct_ich": {"commit": "b"}})
