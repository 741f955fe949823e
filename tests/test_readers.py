"""Readers of pictures: a new one is a file and a line, and of a cohort's folder nothing is misread or lost without a word."""

import dataclasses
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, composed, run, tiny_params, workspace
from PIL import Image

import strokect
from stages.prepare import prepare
from strokect.errors import DataError
from strokect.manifest import load_prepared
from strokect.params import DataParams, load_params
from strokect.readers import READERS, module_of
from strokect.slices import load_slice
from strokect.sources import files_below, raw_pictures, read_source

PAGES = ROOT / "docs" / "data"


def params_of(tmp_path: Path, source: str, **changes: object) -> DataParams:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params()))
    return dataclasses.replace(load_params(tmp_path / "params.yaml").data, source=source, **changes)  # type: ignore[arg-type]


def picture(path: Path, seed: int = 0, colour: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (50, 60, 3) if colour else (50, 60)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, np.uint8)).save(path, "PNG")


DROPPED_IN = (PAGES / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def test_the_reader_that_the_document_shows_works_when_dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/reader_by_night.py").write_text(DROPPED_IN)
    monkeypatch.setattr(strokect, "__path__", [*strokect.__path__, str(tmp_path / "code")])
    monkeypatch.setitem(READERS, "by_night", "the line in strokect/readers.py")
    for i, name in enumerate(("7_bleed_1", "7_bleed_0", "8_none_0")):
        picture(tmp_path / "data/raw/by_night" / f"{name}.png", i)
    params = tiny_params()
    params["data"]["source"] = "by_night"
    with workspace(tmp_path, params):
        run("prepare")
        prepared = load_prepared()
        assert [*prepared.manifest["patient"]] == ["7", "7", "8"] and [*prepared.labels] == [1, 1, 0]
        assert raw_pictures(load_params().data, ["8_none_0.png"])[0]().grey.shape == (50, 60)


@pytest.mark.parametrize("source", READERS)
def test_every_reader_has_its_module_and_its_page(source: str) -> None:
    assert (ROOT / f"{module_of(source).replace('.', '/')}.py").is_file()
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    assert f"| `{source}` |" in index
    if source != "phantom":
        page = (PAGES / f"{source}.md").read_text(encoding="utf-8")
        assert f"make import SOURCE={source} FROM=" in page and f"({source}.md)" in index


def test_the_params_that_pages_name_are_params() -> None:
    known = composed()
    for page in PAGES.glob("*.md"):
        for name in re.findall(r"`data((?:\.\w+)+)`", page.read_text(encoding="utf-8")):
            section = known["data"]
            for part in name.strip(".").split("."):
                assert part in section, f"{page.name}: data{name}"
                section = section[part]


# --- any folder


def test_links_names_and_unfit_files_are_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    names = ["b 10.png", "b 9.png", "Größe/ü ÿ.png", "IM000001"]
    for name in names:
        picture(root / name)
    (root / "notes.TXT").write_text("")
    (root / "loop").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "gone").symlink_to("nowhere")
    (root / "link.png").symlink_to("b 9.png")  # as a DVC cache of links has them
    files, left_out = files_below(root)
    assert files == ["Größe/ü ÿ.png", "IM000001", "b 9.png", "b 10.png", "link.png"]
    assert dict(left_out) == {
        "gone": "a link that leads to no file",
        "loop": "a link to a folder: not followed",
        "notes.TXT": "not a picture by its name",
        "self": "a link that leads to no file",
    }


def test_a_name_that_is_no_text_is_an_error_that_shows_how_to_find_it(tmp_path: Path) -> None:
    picture(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")))
    with pytest.raises(DataError, match="not UTF-8 text, or holds a line break; `LC_ALL"):
        files_below(tmp_path)


def test_an_empty_cohort_says_what_was_left_out(tmp_path: Path) -> None:
    for name in ("Bleeding", "Ischemia", "Normal"):
        (tmp_path / name / "PNG").mkdir(parents=True)
        picture(tmp_path / name / "OVERLAY/1.png")
    with pytest.raises(DataError, match=r"no slices found\n  left out: 3 × OVERLAY"):
        read_source(params_of(tmp_path, "teknofest"), tmp_path)


# --- teknofest


@pytest.fixture
def teknofest(tmp_path: Path) -> Path:
    """The documented layout: 3, 2 and 4 slices, each also in OVERLAY (with a contour) and DICOM."""
    root, number = tmp_path / "teknofest", 10_000
    for name, count in (("Bleeding", 3), ("Ischemia", 2), ("Normal", 4)):
        for _ in range(count):
            picture(root / name / f"PNG/{number}.png", number)
            picture(root / name / f"OVERLAY/{number}.png", number, colour=True)
            (root / name / "DICOM").mkdir(exist_ok=True)
            (root / name / f"DICOM/{number}.dcm").write_bytes(b"never opened")
            number += 1
    picture(root / "External_Test/PNG/1.png")
    return root


def test_teknofest_reads_png_and_nothing_else(tmp_path: Path, teknofest: Path) -> None:
    params = params_of(tmp_path, "teknofest")
    cohort = prepare(params, teknofest, tmp_path / "out")
    manifest = load_prepared(tmp_path / "out").manifest
    assert all(re.fullmatch(r"(Bleeding|Ischemia|Normal)/PNG/\d+\.png", file) for file in manifest["file"])
    assert Counter(manifest["subtype"]) == {"bleeding": 3, "ischaemia": 2, "": 4}
    assert [*manifest["label"]] == [1] * 5 + [0] * 4
    reasons = Counter(item["reason"].split(":")[0] for item in cohort["left_out"])
    assert reasons == {"OVERLAY": 9, "DICOM": 9, "outside the folders of the three classes": 1}
    source = read_source(params, teknofest)
    assert not source.patient_ids and all(row.patient == row.file for row in source.rows)


def test_teknofest_imported_one_folder_too_high_says_what_is_expected(tmp_path: Path, teknofest: Path) -> None:
    with pytest.raises(DataError, match=r"Bleeding/PNG is missing: expected Bleeding, Ischemia, Normal, each with PNG"):
        read_source(params_of(tmp_path, "teknofest"), teknofest.parent)


# --- manifest

HEADER = "path,label,patient_id,slice,age,sex,site,subtype,ward"
ROWS = [
    "a/1 ä.png,1,P2,1,71.5,F,north,Epidural,5",
    "a/2.png,0,P2,0,71.5,F,north,,5",
    "b.png,0,P10,0,,m,south,,",
    '"c,d.png",1,P9,3,8,other,,Subdural,',
]
FILES = ["a/1 ä.png", "a/2.png", "b.png", "c,d.png"]


def write_manifest(root: Path, header: str = HEADER, rows: list[str] = ROWS, encoding: str = "utf-8") -> Path:
    for i, name in enumerate(FILES):
        picture(root / name, i)
    (root / "manifest.csv").write_text("\n".join([header, *rows]) + "\n", encoding=encoding)
    return root


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_manifest_columns_become_those_of_every_reader(tmp_path: Path, encoding: str) -> None:
    root = write_manifest(tmp_path / "raw", encoding=encoding)
    picture(root / "unnamed.png")
    cohort = prepare(params_of(tmp_path, "manifest"), root, tmp_path / "out")
    prepared = load_prepared(tmp_path / "out")
    m = prepared.manifest.astype(str)
    assert [*m["file"]] == ["a/2.png", "a/1 ä.png", "c,d.png", "b.png"]  # by patient and slice, P9 before P10
    assert [*m["slice"]] == ["0", "1", "3", "0"] and [*m["label"]] == ["0", "1", "1", "0"]
    assert [*m["gender"]] == ["Female", "Female", "Other", "Male"] and [*m["site"]] == ["north", "north", "", "south"]
    assert [*m["age_years"]] == ["71.5", "71.5", "8.0", ""]
    assert [*m["subtype"]] == ["", "Epidural", "Subdural", ""] and "ward" not in m
    assert cohort["left_out"] == [{"file": "unnamed.png", "reason": "not named in manifest.csv"}]
    np.testing.assert_array_equal(prepared.images[2], load_slice((root / "c,d.png").read_bytes(), 48).pixels)


def test_manifest_without_patients_says_so(tmp_path: Path) -> None:
    root = write_manifest(tmp_path / "raw", "path,label", ["b.png,0", "a/2.png,1"])
    source = read_source(params_of(tmp_path, "manifest"), root)
    assert not source.patient_ids and [row.patient for row in source.rows] == ["a/2.png", "b.png"]


def test_manifest_without_slices_orders_by_name(tmp_path: Path) -> None:
    root = write_manifest(tmp_path / "raw", "path,label,patient_id", ["b.png,0,P", "a/2.png,1,P", "a/1 ä.png,1,P"])
    rows = read_source(params_of(tmp_path, "manifest"), root).rows
    assert [(row.file, row.slice) for row in rows] == [("a/1 ä.png", 0), ("a/2.png", 1), ("b.png", 2)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a/2.png,1,P3,0,,,,,", "row 3: the path of row 2 once more"),
        ("a/../a/2.png,1,P3,0,,,,,", "row 3: the path of row 2 once more"),
        ("b.png,2,P3,0,,,,,", r"row 3: label '2' is none of the labels in params.yaml: positive \['1'\], negative \['0'\]"),
        ("b.png,,P3,0,,,,,", "row 3: label '' is none of"),
        ("../secret.png,1,P3,0,,,,,", r"row 3: path '../secret\.png' leads outside"),
        ("/etc/passwd,1,P3,0,,,,,", "row 3: path .* leads outside"),
        ("out/secret.png,1,P3,0,,,,,", "row 3: path .* leads outside"),
        ("B.png,1,P3,0,,,,,", r"row 3: .*B\.png is no file"),
        ("a,1,P3,0,,,,,", "row 3: .* is no file"),
        ("self.png,1,P3,0,,,,,", "row 3: .* is no file"),
        ("a\0.png,1,P3,0,,,,,", "row 3: "),
        (",1,P3,0,,,,,", "row 3: path is empty"),
        ("b.png,1,,0,,,,,", "row 3: patient_id is empty"),
        ("b.png,1,P3,-1,,,,,", "row 3: slice must be a whole number"),
        ("b.png,1,P3,x,,,,,", "row 3: slice must be a whole number"),
        ("b.png,1,P2,0,,,,,", "row 3: the patient_id and slice of row 2 once more"),
        ("b.png,1,P3,0,old,,,,", "row 3: age must be"),
        ("b.png,1,P3,0,,x,,,", "row 3: sex must be"),
        ("b.png,1,P3,0", "row 3: expected 9 fields"),
        ("b.png,1,P3,0,,,,,,extra", "row 3: expected 9 fields"),
        ('"b.png,1,P3,0,,,,,', "row 3: not readable as CSV"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    root = write_manifest(tmp_path / "raw", rows=["a/2.png,0,P2,0,,,,,", row])
    picture(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    (root / "self.png").symlink_to("self.png")
    with pytest.raises(DataError, match=rf"manifest\.csv, {message}"):
        read_source(params_of(tmp_path, "manifest"), root)


@pytest.mark.parametrize(
    ("header", "encoding", "message"),
    [
        ("path,patient_id", "utf-8", "column label is missing"),
        ("path|label", "utf-8", "column path, label is missing; columns are separated by commas, semicolons or tabs"),
        ("path,label,label", "utf-8", "column label occurs twice"),
        ("path,label", "utf-16", "not UTF-8 text"),
        ("päth,label", "latin-1", "not UTF-8 text"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, header: str, encoding: str, message: str) -> None:
    root = write_manifest(tmp_path / "raw", header, [], encoding)
    with pytest.raises(DataError, match=rf"manifest\.csv: {message}"):
        read_source(params_of(tmp_path, "manifest"), root)


def test_no_table_says_which_is_expected(tmp_path: Path) -> None:
    picture(tmp_path / "raw/a.png")
    with pytest.raises(DataError, match=r"manifest\.csv is missing: expected a CSV with the columns path, label"):
        read_source(params_of(tmp_path, "manifest"), tmp_path / "raw")


# --- kaggle_ct_ich


@pytest.mark.realdata
def test_ct_ich_joins_what_is_known_of_patients_and_slices(tmp_path: Path, realdata: Path) -> None:
    source = read_source(params_of(tmp_path, "kaggle_ct_ich"), realdata / "brain-stroke-ct")
    frame = pd.DataFrame([{"patient": row.patient, "label": row.label, **row.extra} for row in source.rows])
    table = pd.read_csv(realdata / "brain-stroke-ct/hemorrhage_diagnosis.csv")
    table = table[table["PatientNumber"] != 49]  # its slices cannot be placed
    assert frame["fracture"].sum() == table["Fracture_Yes_No"].sum() > 0
    for name in ("Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural"):
        assert frame["subtype"].str.contains(name).sum() == table[name].sum() > 0
    assert ((frame["subtype"] != "") == (frame["label"] == 1)).all()
    known = pd.read_csv(realdata / "brain-stroke-ct/patient_demographics.csv").set_index("PatientNumber")
    for patient, own in frame.groupby("patient"):
        row = known.loc[int(str(patient))]
        assert set(own["gender"]) == {row["Gender"]} and set(own["age_years"]) == {row["AgeYears"]}
