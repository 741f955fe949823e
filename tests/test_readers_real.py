"""Readers on real slices in the form that each expects: the same pixels, labels and patients however a slice comes in."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from conftest import tiny_params
from PIL import Image, ImageDraw

from stages.prepare import prepare
from strokect.manifest import load_prepared
from strokect.params import DataParams, load_params
from strokect.slices import decode
from strokect.sources import Source, read_source

pytestmark = pytest.mark.realdata
PATIENTS = ("58", "80", "84", "102")


def params_of(tmp_path: Path, source: str, **section: Any) -> DataParams:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params()))
    data = load_params(tmp_path / "params.yaml").data
    own = {source: dataclasses.replace(getattr(data, source), **section)} if section else {}
    return dataclasses.replace(data, source=source, image_size=64, **own)


def ct_ich(tmp_path: Path, realdata: Path) -> Source:
    return read_source(params_of(tmp_path, "kaggle_ct_ich"), realdata / "brain-stroke-ct")


def test_a_manifest_of_ct_ich_is_ct_ich(tmp_path: Path, realdata: Path) -> None:
    known = [row for row in ct_ich(tmp_path, realdata).rows if row.patient in PATIENTS]
    assert {row.patient for row in known} == set(PATIENTS) and len({row.label for row in known}) == 2
    root = tmp_path / "raw/manifest"
    lines = []
    for row in known[::-1]:
        (root / f"Ströke {row.patient}").mkdir(parents=True, exist_ok=True)
        path = f"Ströke {row.patient}/{row.slice:03}.jpg"
        shutil.copyfile(realdata / "brain-stroke-ct" / row.file, root / path)
        named = {key: row.extra[key] for key in ("subtype", "fracture")}
        sex, age = row.extra["gender"][0], row.extra["age_years"]
        lines.append(
            {"path": path, "label": row.label, "patient_id": row.patient, "slice": row.slice, "age": age, "sex": sex, **named}
        )
    pd.DataFrame(lines).to_csv(root / "manifest.csv", index=False, encoding="utf-8-sig", sep=";")
    params = params_of(tmp_path, "manifest", positive=("1",), negative=("0",), label_unit="slice", target="a bleed")
    prepare(params, root, tmp_path / "prepared")
    got = load_prepared(tmp_path / "prepared")
    order = [(str(patient), int(place)) for patient, place in zip(got.manifest["patient"], got.manifest["slice"], strict=True)]
    by_place = {(row.patient, row.slice): row for row in known}
    reader = ct_ich(tmp_path, realdata)
    assert sorted(order) == sorted(by_place)
    for at, image, line in zip(order, got.images, got.manifest.to_dict("records"), strict=True):
        row = by_place[at]
        assert np.array_equal(image, reader.read(dataclasses.replace(row)).image)
        same = (line["label"], line["age_years"], line["gender"], line["fracture"])
        assert same == (row.label, row.extra["age_years"], row.extra["gender"], row.extra["fracture"])
        assert (line["subtype"] if isinstance(line["subtype"], str) else "") == row.extra["subtype"]


def test_slices_in_the_form_of_teknofest(tmp_path: Path, realdata: Path) -> None:
    """Only PNG/ is read, and what is made of one slice is one group although no patient is known."""
    rows = [row for row in ct_ich(tmp_path, realdata).rows if row.patient in PATIENTS]
    root = tmp_path / "raw/teknofest"
    for folder in ("Bleeding", "Ischemia", "Normal"):
        for kind in ("PNG", "OVERLAY", "DICOM"):
            (root / folder / kind).mkdir(parents=True)
    for number, row in enumerate(rows):
        folder, name = "Bleeding" if row.label else "Normal", f"{10000 + number}.png"
        with Image.open(realdata / "brain-stroke-ct" / row.file) as picture:
            grey = picture.convert("L").resize((512, 512))
        grey.save(root / folder / "PNG" / name)
        drawn = grey.convert("RGB")
        ImageDraw.Draw(drawn).ellipse((200, 200, 300, 300), outline=(255, 0, 0), width=3)
        drawn.save(root / folder / "OVERLAY" / name)
    middle = next(i for i, row in enumerate(rows) if row.label)  # again, as augmentation leaves it, under another class
    with Image.open(root / f"Bleeding/PNG/{10000 + middle}.png") as picture:
        turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(3, Image.Resampling.BICUBIC)
    turned.save(root / "Ischemia/PNG/20000.png")
    shutil.copyfile(realdata / "dicom/uncompressed_CT000000.dcm", root / "Normal/DICOM/10001.dcm")
    cohort = prepare(params_of(tmp_path, "teknofest"), root, tmp_path / "prepared")
    manifest = load_prepared(tmp_path / "prepared").manifest
    assert len(manifest) == len(rows) + 1 and not cohort["patient_level_verifiable"]
    assert manifest["file"].str.contains("/PNG/").all() and len(cohort["left_out"]) == len(rows) + 1
    group = manifest.set_index("file")["patient"]
    assert group["Ischemia/PNG/20000.png"] == group[f"Bleeding/PNG/{10000 + middle}.png"]
    assert group.nunique() > len(rows) / 2  # heads as such are not alike
    assert dict(zip(manifest["file"], manifest["label"], strict=True))["Ischemia/PNG/20000.png"] == 1


def test_a_series_as_a_volume_is_the_series(tmp_path: Path, realdata: Path) -> None:
    """DICOM's own place and orientation in a NIfTI affine: the slices of both readers are equal pixel by pixel."""
    pytest.importorskip("gdcm", reason="JPEG Lossless needs the extra dicom-compressed (pip install python-gdcm)")
    found = [(path, pydicom.dcmread(path)) for path in (realdata / "dicom/series_jpeg_lossless").glob("*.dcm")]
    across, down = (np.array(found[0][1].ImageOrientationPatient[i : i + 3], float) for i in (0, 3))
    normal = np.cross(across, down)
    found.sort(key=lambda item: float(normal @ np.array(item[1].ImagePositionPatient, float)))
    series = [item for _, item in found]
    hu = np.stack([slice_.pixel_array * slice_.RescaleSlope + slice_.RescaleIntercept for slice_ in series])
    row_mm, column_mm = (float(value) for value in series[0].PixelSpacing)
    corner = np.array(series[0].ImagePositionPatient, float)
    step = (np.array(series[-1].ImagePositionPatient, float) - corner) / (
        len(series) - 1
    )  # the slices left are not evenly spaced
    affine = np.eye(4)
    affine[:3] = np.stack([across * column_mm, down * row_mm, step, corner], axis=1)
    affine = np.diag([-1, -1, 1, 1]) @ affine  # LPS → RAS
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0).astype(np.int16), affine)
    image.set_sform(affine, 1)
    root = tmp_path / "raw/nifti"
    (root / "ct").mkdir(parents=True)
    nibabel.save(image, root / "ct/A1.nii.gz")
    (root / "labels.csv").write_text("file,label,patient_id\nct/A1.nii.gz,1,A1\n")
    volume = {"labels": "table", "positive": ("1",), "negative": ("0",), "table": "labels.csv"}
    source = read_source(params_of(tmp_path, "nifti", **volume), root)
    assert [row.slice for row in source.rows] == list(range(len(series)))
    for row, (path, _) in zip(source.rows, found, strict=True):
        assert np.array_equal(source.picture(row).grey, decode(path.read_bytes()).grey)
