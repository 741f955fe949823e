"""Tables that people bring: whatever Excel separated them with, and nothing in free text that tells who or when."""

from pathlib import Path

import pytest

from strokect.errors import DataError
from strokect.tables import by_key, extra_columns, patient_of, read_table

TEXT = 'note;key;label;site\n"a;b";1.2;1;north, old wing\n;1.3;0;"say ""x"""\n'


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_commas_semicolons_and_tabs_are_told_by_the_header(tmp_path: Path, separator: str, mark: bytes, end: str) -> None:
    text = TEXT.replace("north, old wing", '"north, old wing"').replace(";", separator).replace("\n", end)
    (tmp_path / "t.csv").write_bytes(mark + text.encode())
    rows = read_table(tmp_path / "t.csv", ("key", "label"), ("site",))
    assert rows == [
        (2, {"key": "1.2", "label": "1", "site": "north, old wing"}),
        (3, {"key": "1.3", "label": "0", "site": 'say "x"'}),
    ]


def test_a_table_of_excel_where_decimals_have_commas(tmp_path: Path) -> None:
    """UTF-8 with a mark, CR LF, semicolons, quotes only where needed, blank cells at the end."""
    data = "\ufeffpath;label;patient_id;age\r\nStroke/Größe 1.png;1;P1;71\r\nb.png;0;P2;\r\n"
    (tmp_path / "manifest.csv").write_bytes(data.encode())
    assert read_table(tmp_path / "manifest.csv", ("path", "label"), ("patient_id", "age"))[1] == (
        3,
        {"path": "b.png", "label": "0", "patient_id": "P2", "age": ""},
    )


def test_a_separator_is_that_of_the_header_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("key;label\n1.2,1\n")
    with pytest.raises(DataError, match=r"t\.csv, row 2: expected 2 fields"):
        read_table(tmp_path / "t.csv", ("key", "label"))
    (tmp_path / "t.csv").write_text('key,"label\n1.2,1\n')
    with pytest.raises(DataError, match=r"t\.csv, row 2: not readable as CSV"):
        read_table(tmp_path / "t.csv", ("key", "label"))


def test_keys_and_patients_are_the_same_however_their_letters_are_stored(tmp_path: Path) -> None:
    rows = [(2, {"key": "\u00fc", "patient_id": "\u00fc"}), (3, {"key": "u\u0308", "patient_id": "u\u0308"})]
    assert {patient_of(row, "") for _, row in rows} == {"\u00fc"}
    with pytest.raises(DataError, match="row 3: the key of row 2 once more"):
        by_key(rows, "key", tmp_path)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        *(
            (text, True)
            for text in (
                "20190401",
                "2019-04-01",
                "2019-4-1",
                "01.04.2019",
                "1/4/19",
                "seen 1.4.1999",
                "1 Apr 1999",
                "02-SEP-20",
                "1.2.840.113619",
            )
        ),
        *(
            (text, False)
            for text in ("", "north", "I61.0", "S06.5.12", "3.5", "site 12", "2019", "Epidural+Subdural", "v1.2.3", "2 decades")
        ),
    ],
)
@pytest.mark.parametrize("column", ["site", "subtype"])
def test_free_text_with_a_date_or_a_uid_is_refused(text: str, refused: bool, column: str) -> None:
    if not refused:
        assert extra_columns({column: text}, "t.csv, row 7") == {column: text}
        return
    with pytest.raises(DataError, match=f"row 7: {column} holds what looks like") as caught:
        extra_columns({column: text}, "t.csv, row 7")
    assert text not in str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "loop"])
def test_a_table_that_cannot_be_opened_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "labels.csv"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    with pytest.raises(DataError, match=r"labels\.csv cannot be read"):
        read_table(path, ("key", "label"))


@pytest.mark.parametrize("name", ["PatientID", "Patient ID", "patient_Id"])
def test_a_column_that_is_all_but_known_is_not_ignored(tmp_path: Path, name: str) -> None:
    (tmp_path / "labels.csv").write_text(f"path,label,{name}\na.png,0,p1\n")
    with pytest.raises(DataError, match=f"column '{name}' is ignored as it stands; call it 'patient_id'"):
        read_table(tmp_path / "labels.csv", ("path", "label"), ("patient_id",))


def test_ages_end_at_90() -> None:
    assert [extra_columns({"age": age}, "")["age_years"] for age in ("", "8", "89.9", "90", "104")] == [None, 8, 89.9, 90, 90]
