"""CT-ICH labels: the table is placed on the files by the gaps in their numbers, and never by a guess."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strokect.ct_ich import SUBTYPES, IchSlice, find_rotation, read_cohort
from strokect.errors import DataError

REAL = Path(os.environ.get("STROKECT_REALDATA", Path(__file__).parents[2] / "shared" / "data")) / "brain-stroke-ct"
HEADER = ",".join(["PatientNumber", "SliceNumber", *SUBTYPES, "No_Hemorrhage", "Fracture_Yes_No"])


@dataclass
class Tree:
    """A made-up data set. The files are empty: only their names matter."""

    root: Path
    rows: list[str] = field(default_factory=list)

    def add(self, patient: int, folder: str, table: str, masks: str) -> None:
        """One patient; `table` and `masks` have a character per slice, '+' for a haemorrhage."""
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        number = 1
        for mask in masks:
            (self.root / folder / f"{patient} ({number}).jpg").touch()
            number += 1 + (mask == "+")
        for i, mark in enumerate(table, start=1):
            self.rows.append(f"{patient},{i},0,{int(mark == '+')},0,0,0,{int(mark != '+')},{int(i == 1)}")

    def write(self) -> Path:
        (self.root / "hemorrhage_diagnosis.csv").write_text("\n".join([HEADER, *self.rows]) + "\n")
        return self.root


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    made.add(10, "Stroke", "..++.....", "..++.....")
    made.add(9, "Stroke", ".++.+....", "...++.+..")  # the table has to move 2 down
    made.add(11, "Normal", "....+++", "....+++")  # the last mask shows in no gap; filed under Normal
    made.add(12, "Normal", "..+..", ".....")  # positive without any mask
    made.add(13, "Stroke", "++..+..", ".+.+.+.")  # no rotation fits
    made.add(14, "Normal", "....", "....")
    return made


def labels(slices: tuple[IchSlice, ...], patient: str) -> str:
    return "".join("?" if s.label is None else "+" if s.label else "." for s in slices if s.patient == patient)


def test_table_is_placed_on_the_files(tree: Tree) -> None:
    cohort = read_cohort(tree.write())
    assert labels(cohort.slices, "10") == "..++....."
    assert labels(cohort.slices, "9") == "...++.+.."
    assert labels(cohort.slices, "11") == "....+++"
    assert labels(cohort.slices, "14") == "...."
    assert cohort.rotations == {"9": 2}
    # The whole row moves, not only its label: the fracture of table row 1 is on the third slice.
    assert [s.fracture for s in cohort.slices if s.patient == "9"] == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert {s.subtypes for s in cohort.slices if s.label} == {("Intraparenchymal",)}


def test_slices_that_cannot_be_placed_are_left_out_with_a_reason(tree: Tree) -> None:
    cohort = read_cohort(tree.write())
    assert labels(cohort.slices, "12") == "?????" and labels(cohort.slices, "13") == "???????"
    assert [file for file, _ in cohort.left_out] == [s.file for s in cohort.slices if s.label is None]
    reasons = dict(cohort.left_out)
    assert "no mask was counted in" in reasons["Normal/12 (1).jpg"]
    assert "no single rotation" in reasons["Stroke/13 (1).jpg"]


def test_order_folder_and_patient_labels(tree: Tree) -> None:
    cohort = read_cohort(tree.write())
    assert list(dict.fromkeys(s.patient for s in cohort.slices)) == ["9", "10", "11", "12", "13", "14"]
    assert [(s.order, s.file) for s in cohort.slices if s.patient == "11"][-3:] == [
        (4, "Normal/11 (5).jpg"),
        (5, "Normal/11 (7).jpg"),
        (6, "Normal/11 (9).jpg"),
    ]
    assert {s.folder_label for s in cohort.slices if s.patient in ("9", "10", "13")} == {1}
    assert cohort.patient_labels["11"] == {"folder": 0, "table": 1}
    assert cohort.patient_labels["12"] == {"folder": 0, "table": 1}
    assert cohort.patient_labels["10"] == {"folder": 1, "table": 1}
    assert cohort.patient_labels["14"] == {"folder": 0, "table": 0}


def test_demographics_are_optional(tree: Tree) -> None:
    root = tree.write()
    assert read_cohort(root).demographics["9"] == (None, None)
    (root / "patient_demographics.csv").write_text("PatientNumber,AgeYears,Gender\n9,0.5,Female\n10,,\n14,93,Male\n")
    demographics = read_cohort(root).demographics
    assert (demographics["9"], demographics["10"], demographics["11"]) == ((0.5, "Female"), (None, None), (None, None))
    assert demographics["14"] == (90, "Male")


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(-40, 40))
def test_rotation_is_recovered(mask: list[bool], shift: int) -> None:
    table = np.array(mask)
    truth = np.roll(table, shift)
    gaps = truth.copy()
    gaps[-1] = False
    found = find_rotation(table, gaps)
    same = {int(k) % len(mask) for k in range(len(mask)) if np.array_equal(np.roll(table, k), truth)}
    if found is not None:
        np.testing.assert_array_equal(np.roll(table, found), truth)
        assert found == 0 or len(same) == 1
        assert -len(mask) / 2 < found <= len(mask) / 2
    else:  # only where there is no gap to go by, or a periodic pattern fits at several places
        assert not gaps.any() or (len(same) > 1 and 0 not in same)


@pytest.mark.parametrize(
    ("table", "gaps", "expected"),
    [
        ("..++..", "..++..", 0),
        ("...++", "...+.", 0),  # a positive last slice
        ("++...", "...+.", -2),  # … also after a rotation
        ("+.+.+.", ".+.+..", None),  # a periodic pattern fits at several places: the rows are not placed
        ("++++", "+++.", 0),
        ("..+...", "......", None),
        (".....+", "......", 0),
        ("......", "..+...", None),
        ("+..", "...", None),
        ("+", ".", 0),
    ],
)
def test_rotation_of_named_cases(table: str, gaps: str, expected: int | None) -> None:
    assert find_rotation(*(np.array([mark == "+" for mark in marks]) for marks in (table, gaps))) == expected


@pytest.mark.parametrize("lengths", [(0, 0), (3, 4)])
def test_rotation_needs_two_equal_lengths(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="same length"):
        find_rotation(np.zeros(lengths[0], bool), np.zeros(lengths[1], bool))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Stroke/10 (1) - Copy.jpg", r"Stroke/10 \(1\) - Copy.jpg: not named like"),
        ("Stroke/mask.png", "not named like"),
        ("Stroke/77 (1).jpg", "patient 77 is not in"),
        ("Normal/10 (99).jpg", "patient 10 is in both folders"),
        ("Stroke/10 (12).jpg", "patient 10 has 10 files and 9 rows"),
    ],
)
def test_bad_files_are_named(tree: Tree, name: str, message: str) -> None:
    root = tree.write()
    (root / name).touch()
    with pytest.raises(DataError, match=message):
        read_cohort(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Stroke/10 (11).jpg", "Stroke/10 (14).jpg", "3 numbers are missing before it"),
        ("Normal/14 (4).jpg", "Normal/14 (3).jpeg", "the number occurs twice"),
        ("Normal/14 (1).jpg", "Normal/14 (5).jpg", r"starts at \(1\)"),
    ],
)
def test_bad_numbering_is_named(tree: Tree, old: str, new: str, message: str) -> None:
    root = tree.write()
    (root / old).rename(root / new)
    with pytest.raises(DataError, match=message):
        read_cohort(root)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("10,3,0,1,0,0,0,0,0", r"row 43: slice 3 of patient 10 occurs twice"),
        ("14,6,0,0,0,0,0,1,0", r"row 43: slice 6 of patient 14 comes without slice 5"),
        ("14,5,0,0,0,0,0,1,0", "patient 14 has 4 files and 5 rows"),
        ("99,1,0,0,0,0,0,1,0", "row 43: no files of patient 99"),
        ("14,5,0,2,0,0,0,1,0", "row 43: Intraparenchymal is '2'"),
        ("14,x,0,0,0,0,0,1,0", "row 43: SliceNumber is 'x'"),
        ("14,5,0,1,0,0,0,1,0", "row 43: No_Hemorrhage is 1 but 1 haemorrhage types"),
        ("14,5,0,0", "row 43: expected 9 fields"),
    ],
)
def test_bad_rows_are_named(tree: Tree, row: str, message: str) -> None:
    tree.rows.append(row)
    with pytest.raises(DataError, match=message):
        read_cohort(tree.write())


def test_missing_parts_are_named(tree: Tree) -> None:
    with pytest.raises(DataError, match=r"hemorrhage_diagnosis\.csv is missing"):
        read_cohort(tree.root)
    (tree.root / "hemorrhage_diagnosis.csv").write_text("PatientNumber,SliceNumber\n")
    with pytest.raises(DataError, match="column Intraventricular"):
        read_cohort(tree.root)
    with pytest.raises(DataError, match=r"Normal is missing"):
        read_cohort(tree.root / "nowhere")


@pytest.mark.realdata
def test_labels_of_the_real_data_set() -> None:
    if not REAL.is_dir():
        pytest.skip("the CT-ICH slices are not on this machine")
    cohort = read_cohort(REAL)
    placed = [s for s in cohort.slices if s.label is not None]
    assert len(cohort.slices) == 2501
    assert (len(placed), len({s.patient for s in placed})) == (2468, 81)
    assert (sum(s.label == 1 for s in placed), len({s.patient for s in placed if s.label})) == (309, 35)
    assert cohort.rotations == {"50": -3, "53": 4, "71": -1, "72": -2, "83": 4, "85": -1, "86": -6}
    assert {s.patient for s in cohort.slices if s.label is None} == {"49"} and len(cohort.left_out) == 33
    conflicts = {p for p, sources in cohort.patient_labels.items() if sources["folder"] != sources["table"]}
    assert conflicts == {"49", "50", "51", "52", "53"}
    assert sum(s.label == 1 for s in placed if s.folder_label) == 259
    assert all(age is not None and gender in ("Male", "Female") for age, gender in cohort.demographics.values())
