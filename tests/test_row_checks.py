"""A reader that somebody adds: what its rows get wrong is named before anything is decoded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strokect.errors import DataError
from strokect.row_checks import check_rows
from strokect.sources import Row

GOOD: dict[str, Any] = {"file": "b", "patient": "B", "slice": 0, "label": 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"file": "a"}, "this file is in the cohort twice"),
        ({"extra": {"label": 0, "sha256": "", "site": "x"}}, "gives label, sha256 as a further column"),
        ({"patient": " "}, "the patient is empty"),
        ({"label": 2}, "the label is 2; it must be 0 or 1"),
        ({"slice": -1}, "the slice is -1"),
        ({"patient": "A"}, "the patient and slice of a once more"),
        ({"extra": {"age_years": -1}}, "age_years is -1"),
        ({"extra": {"age_years": float("nan")}}, "age_years is nan"),
        ({"extra": {"age_years": "071Y"}}, "age_years is '071Y'"),
        ({"extra": {"age_years": 1987}}, "age_years is 1987"),
        ({"extra": {"gender": "f"}}, "gender is 'f'; it must be Male, Female, Other or None"),
    ],
)
def test_a_faulty_row_is_named(wrong: dict[str, Any], message: str) -> None:
    first = Row("a", "A", 0, 0, {"age_years": np.float64(71.5), "gender": None, "subtype": ""})
    check_rows([first, Row(**GOOD)], Path("raw"))
    row = Row(**GOOD | wrong)
    with pytest.raises(DataError, match=f"raw/{row.file}: .*{message}"):
        check_rows([first, row], Path("raw"))
