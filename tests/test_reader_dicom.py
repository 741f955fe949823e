"""The `dicom` reader on made-up exports: order, labels, what is left out, hostile files, and that nobody is named."""

import dataclasses
import logging
import math
import time
import unicodedata
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
import yaml
from conftest import run, tiny_params, workspace
from fakes import dicom_bytes
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLosslessSV1

from stages.prepare import prepare
from strokect import dicom_pixels, reader_dicom
from strokect.audit import audit_cohort
from strokect.dicom import decode_dicom
from strokect.errors import DataError, ImageError
from strokect.manifest import load_prepared
from strokect.params import DataParams, load_params
from strokect.pseudonyms import VARIABLE
from strokect.sources import Pixels, Row, Source, raw_pictures, read_source

PYDICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"
SIZE = 48
PRIVATE = ("Nobody", "MRN-4711", "1.2.840.99", "19990131", "Jane", "Größe", "4711")


@pytest.fixture(autouse=True)
def key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path_factory.mktemp("key") / "patient.key"
    path.write_text("0" * 64)
    path.chmod(0o600)
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def params_of(tmp_path: Path, dicom: dict[str, object] | None = None, **changes: object) -> DataParams:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params()))
    data = load_params(tmp_path / "params.yaml").data
    own = dataclasses.replace(data.dicom, **(dicom or {}))  # type: ignore[arg-type]
    return dataclasses.replace(data, source="dicom", dicom=own, **changes)  # type: ignore[arg-type]


def one(path: Path, number: int, patient: str = "MRN-4711", series: str = "1", **elements: Any) -> Path:
    """A slice 5 mm above slice `number` − 1, each with its own grey level. UIDs are 1.2.840.99.<series>.<number>."""
    stored = np.full((SIZE, SIZE), 1024 + number, np.int16)
    told = {
        "PatientID": patient,
        "PatientName": "Nobody^Jane",
        "StudyDate": "19990131",
        "SOPInstanceUID": f"1.2.840.99.{series}.{number}",
        "SeriesInstanceUID": f"1.2.840.99.{series}",
        "FrameOfReferenceUID": "1.2.840.99.9",
        "ImagePositionPatient": [-100, -100, 5 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "InstanceNumber": 100 - number,  # numbered from the top, as many scanners do
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_bytes(stored, **{**told, **elements}))
    return path


def table(root: Path, rows: list[tuple[object, ...]], header: str = "key,label", encoding: str = "utf-8") -> None:
    text = "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"
    root.mkdir(exist_ok=True)
    (root / "labels.csv").write_text(text, encoding=encoding)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Two patients of four slices in folders that name them; the names of the files are in no order."""
    root = tmp_path / "data/raw/dicom"
    for number, name in enumerate(("z 1", "IM0003", "ä.dcm", "0")):
        one(root / f"Jane Größe 4711/19990131 CT/S 1/{name}", number)
        one(root / f"other/{name}", number, "P2", "2")
    table(root, [(f"1.2.840.99.{series}.{number}", int(series == 1)) for series in (1, 2) for number in range(4)])
    return root


def levels(source: Source) -> dict[str, list[int]]:
    """Patient → number of the slice that each row is, by its pixels."""
    grey = {int(decode_dicom(dicom_bytes(np.full((SIZE, SIZE), 1024 + n, np.int16)))[0, 0]): n for n in range(0, 60, 1)}
    found: dict[str, list[int]] = {}
    for row in source.rows:
        found.setdefault(row.patient, []).append(grey[int(source.picture(row).grey[0, 0])])
    return found


# --- order


def test_slices_are_ordered_by_where_they_lie(tmp_path: Path, export: Path) -> None:
    source = read_source(params_of(tmp_path), export)
    assert [[row.slice for row in source.rows if row.patient == p] for p in levels(source)] == [[0, 1, 2, 3]] * 2
    assert {row.extra["order_by"] for row in source.rows} == {"position"}
    assert [*levels(source).values()] == [[0, 1, 2, 3]] * 2
    assert source.label_unit == "slice" and source.left_out == [] and source.unreadable == []


def test_a_tilted_gantry_is_ordered_along_its_normal(tmp_path: Path) -> None:
    """Tilted by 30° and drifting in plane, slices can have falling z in the order of the body: only a projection is right."""
    root, tilt = tmp_path / "raw", math.radians(30)
    row_, column = [1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)]
    normal = np.cross(row_, column)
    for number in range(4):
        corner = normal * 5 * number + np.array(column) * 20 * number  # drifts in the plane
        assert number == 0 or corner[2] < 0
        place = {"ImagePositionPatient": [round(x, 6) for x in corner], "ImageOrientationPatient": [*row_, *np.round(column, 6)]}
        one(root / f"{9 - number}.dcm", number, **place)
    table(root, [("1.2.840.99.1", 1)])
    p = params_of(tmp_path, {"key": "series_instance_uid"})
    assert [*levels(read_source(p, root)).values()] == [[0, 1, 2, 3]]


def test_without_positions_the_instance_numbers_order_and_it_is_said(tmp_path: Path, export: Path) -> None:
    for number in range(4):
        one(export / f"third/{(7 * number) % 4}", number, "P3", "3", ImagePositionPatient=None)
    rows = [(f"1.2.840.99.3.{number}", 0) for number in range(4)]
    table(export, [*rows, ("1.2.840.99.1.0", 1)])
    source = read_source(params_of(tmp_path), export)
    assert [*levels(source).values()].count([3, 2, 1, 0]) == 1  # by InstanceNumber, which falls
    assert Counter(row.extra["order_by"] for row in source.rows) == {"instance": 4, "position": 1}
    assert any(said.startswith("1 of 2 series say nowhere where their slices lie") for said in source.warnings)


@pytest.mark.parametrize(("which", "expected"), [("largest", [1, 2, 3, 4]), ("all", [0, 1, 1, 2, 3, 4])])
def test_several_series_of_a_patient(tmp_path: Path, which: str, expected: list[int]) -> None:
    root = tmp_path / "raw"
    for number in (0, 1):
        one(root / f"a{number}", number, series="1")
    for number in (1, 2, 3, 4):
        one(root / f"b{number}", number, series="2")
    table(root, [("MRN-4711", 1)])
    source = read_source(params_of(tmp_path, {"key": "patient_id", "series": which}), root)
    (order,) = levels(source).values()
    assert order == expected
    assert [row.slice for row in source.rows] == [*range(len(order))]
    assert len({row.extra["series"] for row in source.rows}) == (1 if which == "largest" else 2)
    assert Counter(reason for _, reason in source.left_out) == (
        {"of another series than the patient's largest (data.dicom.series)": 2} if which == "largest" else {}
    )
    assert source.label_unit == "patient"
    said = ["1 of 1 patients have several CT series; of each the largest was taken"] if which == "largest" else []
    assert source.warnings == [
        *said,
        "labels are per patient, so a positive one need not show on each slice; the target says: stroke on this slice",
    ]


@pytest.mark.parametrize("digit", "0123")
def test_of_two_equally_large_series_the_key_does_not_choose(tmp_path: Path, key: Path, digit: str) -> None:
    """Four keys: pseudonyms would decide otherwise for some of them."""
    key.write_text(digit * 64)
    for series, numbers in (("9", (0, 1)), ("10", (5, 6))):
        for number in numbers:
            one(tmp_path / f"raw/{series}/{number}", number, series=series)
    table(tmp_path / "raw", [("MRN-4711", 1)])
    source = read_source(params_of(tmp_path, {"key": "patient_id"}), tmp_path / "raw")
    assert [*levels(source).values()] == [[5, 6]]  # 1.2.840.99.10 is before 1.2.840.99.9 as text


@pytest.mark.parametrize("labels", [(1, 0), (0, 1)])
def test_no_label_is_lost_with_a_smaller_series(tmp_path: Path, labels: tuple[int, int]) -> None:
    root = tmp_path / "raw"
    for series, numbers in (("1", (0, 1, 2)), ("2", (5, 6))):
        for number in numbers:
            one(root / f"{series}/{number}", number, series=series)
    table(root, [("1.2.840.99.1", labels[0]), ("1.2.840.99.2", labels[1])])
    with pytest.raises(
        DataError, match=r"labels\.csv, rows from 2 and from 3: two series of one patient, one with a positive label"
    ):
        read_source(params_of(tmp_path, {"key": "series_instance_uid"}), root)
    source = read_source(params_of(tmp_path, {"key": "series_instance_uid", "series": "all"}), root)
    assert [row.label for row in source.rows] == [labels[0]] * 3 + [labels[1]] * 2


# --- what is no slice


def test_what_is_no_slice_is_left_out_and_counted_with_the_reason(tmp_path: Path, export: Path) -> None:
    odd = export / "odd"
    one(odd / "mr", 10, Modality="MR")
    one(odd / "pt", 11, Modality="PT")
    one(odd / "scout", 12, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    one(odd / "mip", 13, ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    one(odd / "shot", 14, ImageType=["ORIGINAL", "SECONDARY"])
    one(odd / "many", 15, NumberOfFrames=30)
    one(odd / "sc", 16, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    one(odd / "coronal", 17, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    one(odd / "nobody", 18, PatientID="")
    one(odd / "unlabelled", 19)
    one(odd / "again", 1)  # the SOPInstanceUID of another file
    one(odd / "same place", 20, ImagePositionPatient=[-100, -100, 5], InstanceNumber=7)
    one(odd / "no place", 21, ImagePositionPatient=None)
    one(odd / "other frame", 22, FrameOfReferenceUID="1.2.840.99.8")
    one(odd / "askew", 23, ImageOrientationPatient=[1, 0, 0, 0, math.cos(0.2), -math.sin(0.2)])
    (odd / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (odd / "report 4711.pdf").write_text("Jane")
    (odd / "DICOMDIR").write_bytes(b"")
    (odd / "loop").symlink_to(export)
    rows = [(f"1.2.840.99.{s}.{n}", s % 2) for s in (1, 2) for n in [*range(4), *(range(10, 19) if s == 1 else ())]]
    rows += [(f"1.2.840.99.1.{n}", 1) for n in range(20, 24)] + [("1.2.840.99.7.7", 0)]
    table(export, rows)
    source = read_source(params_of(tmp_path), export)
    assert len(source.rows) == 8
    assert Counter(reason for _, reason in source.left_out) == Counter(
        {
            "MR, not CT": 1,
            "neither CT nor MR": 1,
            "a localiser (scout view)": 1,
            "derived: computed from other slices": 1,
            "a secondary capture": 1,
            "a multi-frame object": 1,
            "CT, but not a CT image object": 1,
            "not an axial slice": 1,
            "nothing says whose it is (no PatientID)": 1,
            "no label in the table": 1,
            "the same SOPInstanceUID twice": 1,
            "another slice of its series lies at the same place": 1,
            "does not say where it lies in its series": 1,
            "of another frame of reference than most of its series": 1,
            "not parallel to most slices of its series": 1,
            "no DICOM file by its content": 1,
            "not a picture by its name": 2,
            "a link to a folder: not followed": 1,
            "a label without a slice": 9,  # one of no file, eight of what is no CT slice
        }
    )
    assert not any(word in str(source.left_out) for word in PRIVATE)
    assert "4 slices with a positive label have no place in their series and were left out" in source.warnings  # not the copy


# --- labels


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("sop_instance_uid", [(f"1.2.840.99.{s}.{n}", 2 - s) for s in (1, 2) for n in range(4)]),
        ("series_instance_uid", [("1.2.840.99.1", 1), ("1.2.840.99.2", 0)]),
        ("patient_id", [("MRN-4711", 1), ("P2", 0)]),
        ("file", [("Jane Größe 4711/19990131 CT/S 1/ä.dcm", 1), ("./other/0", 0), ("other\\z 1", 0)]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_labels_by_each_kind_of_key(
    tmp_path: Path, export: Path, kind: str, rows: list[tuple[object, ...]], encoding: str
) -> None:
    table(export, rows, encoding=encoding)
    source = read_source(params_of(tmp_path, {"key": kind}), export)
    assert Counter(row.label for row in source.rows) == ({1: 4, 0: 4} if kind != "file" else {1: 1, 0: 2})
    by_patient = {row.patient: row.label for row in source.rows}
    assert all(row.label == by_patient[row.patient] for row in source.rows)


def test_what_table_and_files_know_of_a_patient_reaches_the_manifest(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    one(root / "a", 0, "A", "1", PatientAge="018M", PatientSex="F")
    one(root / "b", 0, "B", "2", PatientAge="103Y", PatientSex="M")
    one(root / "c", 0, "", "3", PatientAge="odd", PatientSex="X")
    table(root, [("1.2.840.99.1", 1, "A", "Epidural", "x"), ("1.2.840.99.2", 0, "B", "", ""), ("1.2.840.99.3", 0, "C", "", "y")],
          "key,label,patient_id,subtype,site")  # fmt: skip
    source = read_source(params_of(tmp_path, {"key": "series_instance_uid"}), root)
    known = {tuple(row.extra[name] for name in ("age_years", "gender", "subtype", "site")) for row in source.rows}
    assert known == {(1.5, "Female", "Epidural", "x"), (90.0, "Male", "", ""), (None, None, "", "y")}
    table(root, [("1.2.840.99.1", 1, 97), ("1.2.840.99.2", 0, 89.5)], "key,label,age")
    source = read_source(params_of(tmp_path, {"key": "series_instance_uid"}), root)
    assert {row.extra["age_years"] for row in source.rows} == {90.0, 89.5}


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("key,label", "1.2.840.99.1.0,1", r"labels\.csv, row 3: the key of row 2 once more"),
        (
            "key,label",
            "1.2.840.99.1.1,stroke",
            r"labels\.csv, row 3: label is none of the labels in params.yaml: positive \['1'\]",
        ),
        ("key,label", ",1", r"labels\.csv, row 3: key is empty"),
        ("key,label", "1.2.840.99.1.1", r"labels\.csv, row 3: expected 2 fields"),
        ("key,diagnosis", "1.2.840.99.1.1,1", r"labels\.csv: column label is missing"),
        (
            "key|label",
            "1.2.840.99.1.1|1",
            r"labels\.csv: column key, label is missing; columns are separated by commas, semicolons",
        ),
        ("key,label", " 1.2.840.99.1.0 ,0", r"labels\.csv, row 3: the key of row 2 once more"),
        ("key,label,age", "1.2.840.99.1.1,1,4711", r"labels\.csv, row 3: age must be"),
    ],
)
def test_a_faulty_table_is_named_with_its_row_and_without_its_values(
    tmp_path: Path, export: Path, header: str, row: str, message: str
) -> None:
    first = "1.2.840.99.1.0,1" + "," * (header.count(",") - 1)
    (export / "labels.csv").write_text(f"{header}\n{first}\n{row}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_source(params_of(tmp_path), export)
    assert not any(word in str(caught.value).replace(str(export), "") for word in PRIVATE)


def test_keys_of_the_wrong_kind_are_told(tmp_path: Path, export: Path) -> None:
    with pytest.raises(
        DataError, match=r"none of its 8 keys fits any of 8 CT slices; data\.dicom\.key says that key holds the file"
    ):
        read_source(params_of(tmp_path, {"key": "file"}), export)


@pytest.mark.parametrize("kind", ["series_instance_uid", "file"])
def test_a_person_is_not_split_in_two_by_the_table(tmp_path: Path, export: Path, kind: str) -> None:
    """A row without patient_id would fall back on the file's PatientID: two patients of one person, in two folds."""
    key = {"file": ["other/0", "other/z 1"], "series_instance_uid": ["1.2.840.99.1", "1.2.840.99.2"]}[kind]
    params = params_of(tmp_path, {"key": kind})
    table(export, [(key[0], 1, "P"), (key[1], 0, "")], "key,label,patient_id")
    with pytest.raises(DataError, match=r"labels\.csv, row 3: patient_id is empty; fill it in every row"):
        read_source(params, export)


@pytest.mark.parametrize(
    ("kind", "rows", "fault"),
    [
        (
            "series_instance_uid",
            [("1.2.840.99.1", 1, "A"), ("1.2.840.99.3", 0, "B")],
            "two patients for files with one PatientID",
        ),
        ("file", [("other/0", 1, "A"), ("x/bare", 0, "B")], "two patients for files with one SeriesInstanceUID"),
        ("file", [("other/0", 1, "A"), ("x/again", 0, "A")], "two labels for files with one SOPInstanceUID"),
    ],
)
def test_a_table_that_contradicts_the_files_is_an_error(
    tmp_path: Path, export: Path, kind: str, rows: list[tuple[object, ...]], fault: str
) -> None:
    one(export / "x/other series of the same", 5, "MRN-4711", "3")
    one(export / "x/bare", 6, "", "2")  # PatientID blanked in one slice of series 2
    one(export / "x/again", 3, "", "2")  # the slice other/0
    table(export, rows, "key,label,patient_id")
    with pytest.raises(DataError, match=rf"labels\.csv, rows 2 and 3: {fault}") as caught:
        read_source(params_of(tmp_path, {"key": kind}), export)
    assert not any(word in str(caught.value).replace(str(export), "") for word in PRIVATE)


def test_what_does_not_fit_is_counted(tmp_path: Path, export: Path) -> None:
    table(export, [("P2", 1), ("P3", 0), ("P4", 0)])
    source = read_source(params_of(tmp_path, {"key": "patient_id"}), export)
    assert source.warnings[:2] == [
        "2 of 3 rows of labels.csv (66.7%) fit no CT slice",
        "4 of 8 CT slices (50.0%) have no row in labels.csv",
    ]


@pytest.mark.parametrize(
    ("charset", "text", "stored"),
    [
        ("ISO_IR 192", "Größe 1", b"Gr\xc3\xb6\xc3\x9fe 1"),  # UTF-8
        ("ISO_IR 192", "Gro\u0308ße 1", b"Gro\xcc\x88\xc3\x9fe 1"),  # the same as macOS writes it
        ("ISO_IR 100", "Größe 1", b"Gr\xf6\xdfe 1"),
        (None, "Größe 1", b"Gr\xf6\xdfe 1"),  # undeclared
        ("ISO_IR 192", "Größe 1", b"Gr\xf6\xdfe 1"),  # wrongly declared: no UTF-8
        ("ISO_IR 144", "Люкceмбypг", b"\xbb\xee\xda\x63\x65\xdc\xd1\x79\x70\xd3"),  # PS3.5 annex J
        ("\\ISO 2022 IR 87", "山田", b"\x1b$B;3ED\x1b(B"),  # PS3.5 annex H
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_are_compared_by_what_they_are(tmp_path: Path, charset: str | None, text: str, stored: bytes, form: Any) -> None:
    root, blank = tmp_path / "raw", "x" * len(stored)
    path = one(root / "a", 0, blank, "1", SpecificCharacterSet=charset.split("\\") if charset else None)
    path.write_bytes(path.read_bytes().replace(blank.encode(), stored))
    table(root, [(unicodedata.normalize(form, text), 1)])
    assert len(read_source(params_of(tmp_path, {"key": "patient_id"}), root).rows) == 1


def test_paths_are_compared_by_their_letters(tmp_path: Path, export: Path) -> None:
    row = unicodedata.normalize("NFD", "Jane Größe 4711/19990131 CT/S 1/ä.dcm")
    table(export, [(row, 1), ("other/0", 0)])
    source = read_source(params_of(tmp_path, {"key": "file"}), export)
    assert len(source.rows) == 2 and sum(said.startswith("6 of 8 CT slices") for said in source.warnings) == 1


@pytest.mark.parametrize("text", ["MRN-4711", "mail of MRN-4711", "A1999-77", "seen 2019-04-01", "1.2.840.99.1"])
def test_free_text_that_tells_who_is_refused_with_its_row(tmp_path: Path, export: Path, text: str) -> None:
    one(export / "other/z 1", 0, "P2", "2", AccessionNumber="A1999-77")
    for name in ("site", "subtype"):
        table(export, [("MRN-4711", 1, "north"), ("P2", 0, text)], f"key,label,{name}")
        with pytest.raises(DataError, match=rf"labels\.csv, row 3: {name} holds (a PatientID|what)") as caught:
            read_source(params_of(tmp_path, {"key": "patient_id"}), export)
        assert text not in str(caught.value)


# --- files that nobody should have to read


def deflate_bomb(path: Path) -> None:
    """A slice of 4 MB whose deflated data set goes on for 4 GiB."""
    plain = one(path, 3).read_bytes()
    syntax, other = b"1.2.840.10008.1.2.1\0", DeflatedExplicitVRLittleEndian.encode()
    at = plain.index(syntax)
    head = plain[: at - 2] + len(other).to_bytes(2, "little") + other
    body = plain[at + len(syntax) :]
    while body[:2] == b"\x02\x00":  # the rest of the meta information, whose elements here are all of the short form
        length = 8 + int.from_bytes(body[6:8], "little")
        head, body = head + body[:length], body[length:]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    begin = squeeze.compress(body) + squeeze.flush(zlib.Z_FULL_FLUSH)
    zeros = squeeze.compress(bytes(1 << 24)) + squeeze.flush(zlib.Z_FULL_FLUSH)  # knows nothing of what went before
    path.write_bytes(head + begin + zeros * 256 + squeeze.flush())
    assert path.stat().st_size < 5e6


def relabel(path: Path, syntax: str) -> None:
    """A slice in explicit little endian that says it is stored in another way."""
    plain, value = one(path, 3).read_bytes(), syntax.encode() + b"\0" * (len(syntax) % 2)
    at = plain.index(b"1.2.840.10008.1.2.1\0")
    path.write_bytes(plain[: at - 2] + len(value).to_bytes(2, "little") + value + plain[at + 20 :])


HOSTILE = {
    "no pixel data": (lambda path: one(path, 3, PixelData=None), "holds no pixel data"),
    "10^9 pixels": (lambda path: one(path, 3, Rows=31623, Columns=31623), "31623×31623×1 pixels; at most"),
    "wrong syntax": (lambda path: one(path, 3, syntax="1.2.3.4711"), "an unknown transfer syntax"),
    "big endian by its word": (lambda path: relabel(path, ExplicitVRBigEndian), ""),
    "compressed by its word": (lambda path: relabel(path, JPEGLosslessSV1), ""),
    "deflate bomb": (deflate_bomb, "Deflated"),
    "half a header": (lambda path: path.write_bytes(one(path, 3).read_bytes()[:300]), ""),
    "half the pixels": (lambda path: path.write_bytes(one(path, 3).read_bytes()[:-1000]), ""),
    "no rescale": (lambda path: one(path, 3, RescaleSlope=None), "Hounsfield"),
    "an odd length": (lambda path: path.write_bytes(one(path, 3).read_bytes()[:140] + b"\xff" * 400), ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_named_or_counted(tmp_path: Path, export: Path, kind: str) -> None:
    make, message = HOSTILE[kind]
    make(export / "Jane Größe 4711/19990131 CT/S 1/0")
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"1 file\(s\) cannot be used and data.max_unreadable is 0") as caught:
        prepare(params_of(tmp_path), export, tmp_path / "out")
    assert time.perf_counter() - start < 5
    said = str(caught.value)
    assert message in said and "python -m strokect.reader_dicom" in said
    assert not any(word in said.replace(str(export), "") for word in PRIVATE)
    cohort = prepare(params_of(tmp_path, max_unreadable=1), export, tmp_path / "out")
    assert (cohort["n_slices"], len(cohort["unreadable"])) == (7, 1)


def test_the_files_that_pydicom_ships_are_read_or_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    files = [path for path in sorted(PYDICOM_FILES.iterdir()) if path.is_file() and path.suffix != ".py"]
    for i, path in enumerate(files):
        target = root / f"{i % 7}/{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    table(root, [(name, i % 2) for i, name in enumerate(names)])
    source = read_source(params_of(tmp_path, {"key": "file"}), root)
    read = {root / path for path in reader_dicom._read(params_of(tmp_path, {"key": "file"}), root)[1].values()}
    assert {path.name for path in read} >= {"CT_small.dcm", "MR_small.dcm", "image_dfl.dcm", "rtplan.dcm"}
    reasons = Counter(reason for _, reason in source.left_out)
    assert reasons["MR, not CT"] >= 8 and reasons["neither CT nor MR"] >= 20
    assert len(source.rows) + len(source.unreadable) + sum("/" in file for file, _ in source.left_out) == len(names)


def test_names_behind_pseudonyms_are_looked_at_and_not_told(tmp_path: Path, export: Path) -> None:
    one(export / "Jane 4711 aug_2/x", 5, "P2", "2")
    one(export / "P2/OVERLAY/y", 6, "P2", "2")
    one(export / "P2/12 Aug 2019/z", 7, "P2", "2")
    table(export, [("MRN-4711", 1), ("P2", 0)])
    cohort = prepare(params_of(tmp_path, {"key": "patient_id"}), export, tmp_path / "out")
    prepared = load_prepared(tmp_path / "out")
    found = {f.check: f for f in audit_cohort(prepared.manifest, prepared.images, prepared.cohort)}
    at = {row["slice"]: row["file"] for _, row in prepared.manifest[prepared.manifest["label"] == 0].iterrows()}
    assert found["suspicious_names"].files == (at[4],) and found["overlays"].files == (at[5],)
    assert not any(word in str(cohort) + str(found) for word in PRIVATE)


# --- nobody is named


def test_no_name_id_date_uid_or_path_comes_out(
    tmp_path: Path, export: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    one(export / "Jane scout", 50, Modality="MR")
    one(export / "Jane 4711 broken", 51, PixelData=None)
    params = tiny_params()
    params["data"].update(source="dicom", max_unreadable=1)
    rows = [(f"1.2.840.99.{s}.{n}", s % 2) for s in (1, 2) for n in range(4)] + [("1.2.840.99.1.51", 1)]
    table(export, rows)
    with workspace(tmp_path, params):
        run("prepare")
        printed = "".join(capfd.readouterr())
        files = load_prepared().manifest["file"]
        for path in Path("data/prepared").iterdir():
            for word in PRIVATE:
                assert word.encode() not in path.read_bytes(), f"{word} in {path.name}"
        assert not any(word in printed + caplog.text for word in PRIVATE)
        assert all(len(file.split("/")) == 3 and file[-4:].isdigit() for file in files)
        np.testing.assert_array_equal(raw_pictures(load_params().data, [files[0]])[0]().grey.shape, (SIZE, SIZE))


def test_a_file_that_changes_while_it_is_read_is_not_named(tmp_path: Path, export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table(export, [("MRN-4711", 1), ("P2", 0)])

    def read_and_touch(params: DataParams, root: Path) -> Source:
        source = reader_dicom.read(params, root)
        assert source.path is not None
        victim = source.path(source.rows[0])

        def read(row: Row) -> Pixels:
            victim.write_bytes(victim.read_bytes() + b"0")
            return source.read(row)

        return dataclasses.replace(source, read=read)

    monkeypatch.setattr("stages.prepare.read_source", read_and_touch)
    with pytest.raises(DataError, match="changed while they were read") as caught:
        prepare(params_of(tmp_path, {"key": "patient_id"}), export, tmp_path / "out")
    assert not any(word in str(caught.value) for word in PRIVATE)
    assert reader_dicom.LOOK_UP in str(caught.value)


def test_whoever_has_key_and_export_can_look_a_file_up(
    tmp_path: Path, export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: Path
) -> None:
    params = tiny_params()
    params["data"]["source"] = "dicom"
    source = read_source(params_of(tmp_path), export)
    row = next(row for row in source.rows if row.label)
    assert source.path is not None and source.path(row) == export / "Jane Größe 4711/19990131 CT/S 1/z 1"
    with workspace(tmp_path, params):
        monkeypatch.setattr("sys.argv", ["reader_dicom", row.file])
        reader_dicom.main()
        assert capsys.readouterr().out == "Jane Größe 4711/19990131 CT/S 1/z 1\n"
        key.write_text("1" * 64)
        with pytest.raises(DataError, match="another patient key"):
            reader_dicom.main()


def test_pseudonyms_are_those_of_the_key(tmp_path: Path, export: Path, key: Path) -> None:
    first = [row.file for row in read_source(params_of(tmp_path), export).rows]
    assert [row.file for row in read_source(params_of(tmp_path), export).rows] == first
    key.write_text("1" * 64)
    other = [row.file for row in read_source(params_of(tmp_path), export).rows]
    assert not {part for file in first for part in file.split("/")[:2]} & {part for file in other for part in file.split("/")}


# --- real files


@pytest.mark.realdata
def test_real_slices(tmp_path: Path, realdata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three uncompressed slices, and a series in JPEG Lossless whose file names are in no order."""
    root = tmp_path / "raw"
    heights = {}
    for i, path in enumerate(sorted((realdata / "dicom").rglob("*.dcm"))):
        target = root / f"Jané {i}/{path.name}"
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
        heights[target.relative_to(root).as_posix()] = float(
            pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]
        )
    table(root, [(name, int("ID_" in name)) for name in heights])
    source, paths = reader_dicom._read(params_of(tmp_path, {"key": "file"}), root)
    assert (len(source.rows), source.left_out, source.unreadable) == (13, [], [])
    (long,) = [p for p, n in Counter(row.patient for row in source.rows).items() if n > 1]
    order = [heights[paths[row.file]] for row in source.rows if row.patient == long]
    assert len(order) == 10 and order == sorted(order)
    plain = [row for row in source.rows if row.patient != long]
    for row in plain:
        assert source.read(row).image.shape == (1, SIZE, SIZE)
    compressed = [row for row in source.rows if row.patient == long]
    with monkeypatch.context() as without:
        without.setattr(dicom_pixels, "has_gdcm", lambda: False)
        for row in compressed:
            with pytest.raises(ImageError, match=r"optional package python-gdcm \(extra dicom-compressed\)"):
                source.read(row)
    pytest.importorskip("gdcm", reason="JPEG Lossless needs the extra dicom-compressed (pip install python-gdcm)")
    for row in compressed:
        image = source.read(row).image
        assert image.shape == (1, SIZE, SIZE) and image[0, 0, 0] == 0 and 20 < image.mean() < 120  # padding, then a head
