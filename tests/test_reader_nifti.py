"""The `nifti` reader: however a volume is stored, the same slices the same way up; labels from masks and tables; bad volumes."""

import dataclasses
import gzip
import re
import sys
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from conftest import run, tiny_params, workspace

from stages.prepare import prepare
from strokect.dicom import apply_window
from strokect.errors import DataError, NotInstalledError
from strokect.manifest import load_prepared
from strokect.nifti_volumes import KEPT, Volumes, open_volume
from strokect.params import DataParams, load_params
from strokect.sources import raw_pictures, read_source

SHAPE = (50, 60, 7)  # x, y, z
RAS = np.diag([0.5, 0.5, 5.0, 1.0])


def params_of(tmp_path: Path, nifti: dict[str, object] | None = None, **changes: object) -> DataParams:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params()))
    data = load_params(tmp_path / "params.yaml").data
    own = dataclasses.replace(data.nifti, **(nifti or {}))  # type: ignore[arg-type]
    return dataclasses.replace(data, source="nifti", nifti=own, **changes)  # type: ignore[arg-type]


def head(seed: int = 0) -> np.ndarray:
    """(x, y, z) int16 in RAS: air around a block of noise in brain HU, with a bright corner at the front, right and top."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[10:40, 10:50] = np.random.default_rng(seed).integers(0, 80, (30, 40, SHAPE[2]))
    hu[45:, 55:, 6] = 1000
    return hu


def save(path: Path, data: np.ndarray, affine: np.ndarray = RAS, slope: float = 1, inter: float = 0, code: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(data, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return path


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Three volumes of three patients; the masks of two mark slices 2 and 3 of the first."""
    root = tmp_path / "data/raw/nifti"
    for i, name in enumerate(("049.nii.gz", "050.nii", "007 ä.nii.gz")):
        save(root / "ct_scans" / name, head(i))
    mask = np.zeros(SHAPE, np.uint8)
    save(root / "masks/050.nii.gz", mask)
    mask[20, 30, 2:4] = 3
    save(root / "masks/049.nii", mask)
    return root


# --- geometry


ORIENTATIONS = [
    "".join(letters) for axes in permutations(("RL", "AP", "SI")) for letters in product(*axes)
]  # the 48 ways to store a volume


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_a_slice_looks_the_same_however_it_is_stored(tmp_path: Path, code: str) -> None:
    """The oracle is nibabel: stored in another orientation, and asked for its canonical one."""
    canonical = nibabel.Nifti1Image(head(), RAS)
    ras, wanted = (nibabel.orientations.axcodes2ornt(letters) for letters in ("RAS", code))
    stored = canonical.as_reoriented(nibabel.orientations.ornt_transform(ras, wanted))
    assert "".join(nibabel.aff2axcodes(stored.affine)) == code
    volume = open_volume(save(tmp_path / "a.nii", np.asanyarray(stored.dataobj), stored.affine))
    assert volume.slices == SHAPE[2]
    for k in (0, 3, 6):
        hu = Volumes().slice_hu(volume, k)
        np.testing.assert_array_equal(hu, head()[::-1, ::-1, k].T)
    assert (Volumes().slice_hu(volume, 6)[:5, :5] == 1000).all()  # nose up, the patient's right on the left


def test_a_tilted_gantry_is_read_and_coronal_slices_are_not(tmp_path: Path) -> None:
    def turned(degrees: float) -> np.ndarray:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]]) @ RAS

    assert open_volume(save(tmp_path / "tilted.nii", head(), turned(25))).slices == 7
    coronal = save(tmp_path / "one/c.nii", np.moveaxis(head(), 2, 1), np.diag([0.5, 5.0, 0.5, 1.0]))
    for path in (save(tmp_path / "other/o.nii", head(), turned(38)), coronal):
        root = path.parent
        table(root, [(path.name, 1)])
        with pytest.raises(DataError, match=r"no slices found\n  left out: 1 × the volume was not taken in axial slices"):
            read_source(params_of(tmp_path, {"labels": "table"}), root)


def table(root: Path, rows: list[tuple[object, ...]], header: str = "file,label") -> None:
    (root / "labels.csv").write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8-sig")


# --- labels


def test_slices_are_positive_where_their_mask_is(tmp_path: Path, volumes: Path) -> None:
    (volumes / "notes.dat").write_text("")
    cohort = prepare(params_of(tmp_path), volumes, tmp_path / "out")
    prepared = load_prepared(tmp_path / "out")
    m = prepared.manifest
    assert [*m["file"][:2]] == ["ct_scans/049.nii.gz/0000", "ct_scans/049.nii.gz/0001"]
    assert [*m["patient"]] == ["049"] * 7 + ["050"] * 7 and [*m["slice"]] == [*range(7)] * 2
    assert [*prepared.labels] == [0, 0, 1, 1, 0, 0, 0] + [0] * 7
    assert {item["file"]: item["reason"].split(" where")[0] for item in cohort["left_out"]} == {
        "ct_scans/007 ä.nii.gz": "no mask",
        "masks/049.nii": "the mask of a volume",
        "masks/050.nii.gz": "the mask of a volume",
        "notes.dat": "not a NIfTI volume by its name",
    }
    assert cohort["label_unit"] == "slice" and m["sha256"].nunique() == 14
    assert set(m["width"]) == {50} and set(m["height"]) == {60}


def test_masks_beside_the_volumes_and_a_table_without_labels(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0, 6] = 1
    for name, own in (("a/1", mask), ("a/2", mask * 0)):
        save(root / f"{name}.nii.gz", head())
        save(root / f"{name}_mask.nii.gz", own)
    rows = [("a/2.nii.gz", "Q", 40, "m", ""), ("a/1.nii.gz", "Q", 41, "m", "Epidural")]
    table(root, rows, "file,patient_id,age,sex,subtype")
    source = read_source(params_of(tmp_path, {"mask": "{folder}/{name}_mask"}), root)
    assert [row.label for row in source.rows] == [0] * 6 + [1] + [0] * 7
    assert [row.extra["subtype"] for row in source.rows] == [""] * 6 + ["Epidural"] + [""] * 7  # a negative slice has none
    assert [row.slice for row in source.rows] == [*range(14)]  # two volumes of one patient, in the order of their names
    assert {(row.extra["series"], row.extra["age_years"], row.extra["gender"], row.patient) for row in source.rows} == {
        ("a/1.nii.gz", 41.0, "Male", "Q"),
        ("a/2.nii.gz", 40.0, "Male", "Q"),
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("ct_scans/049.nii.gz", "P")], r"labels\.csv: no row for ct_scans/050\.nii, though the table says whose"),
        ([("ct_scans/049.nii.gz", "P"), ("ct_scans/050.nii", "")], r"labels\.csv, row 3: patient_id is empty"),
    ],
)
def test_a_person_is_not_split_in_two_by_the_table(
    tmp_path: Path, volumes: Path, rows: list[tuple[object, ...]], message: str
) -> None:
    table(volumes, rows, "file,patient_id")
    with pytest.raises(DataError, match=message):
        read_source(params_of(tmp_path), volumes)


def test_a_table_labels_whole_volumes(tmp_path: Path, volumes: Path) -> None:
    table(volumes, [("ct_scans/049.nii.gz", "bleed"), ("ct_scans/050.nii", "none")])
    params = params_of(tmp_path, {"labels": "table", "positive": ("bleed",), "negative": ("none",)})
    source = read_source(params, volumes)
    assert [row.label for row in source.rows] == [1] * 7 + [0] * 7 and source.label_unit == "series"
    assert {reason for _, reason in source.left_out} == {"no label in the table"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("ct_scans/049.nii.gz", "1"), "row 3: the file of row 2 once more"),
        (("ct_scans/050.nii", "2"), "row 3: label '2' is none of"),
        (("ct_scans/51.nii", "1"), r"row 3: .*51\.nii is no volume"),
        (("ct_scans/050.nii",), "row 3: expected 2 fields"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, volumes: Path, row: tuple[object, ...], message: str) -> None:
    table(volumes, [("ct_scans/049.nii.gz", "1"), row])
    with pytest.raises(DataError, match=rf"labels\.csv, {message}"):
        read_source(params_of(tmp_path, {"labels": "table"}), volumes)


def test_a_mask_of_another_place_or_shape_is_an_error(tmp_path: Path, volumes: Path) -> None:
    moved = RAS.copy()
    moved[2, 3] = 5
    for mask, affine in ((np.zeros((50, 60, 8), np.uint8), RAS), (np.zeros(SHAPE, np.uint8), moved)):
        save(volumes / "masks/049.nii", mask, affine)
        with pytest.raises(DataError, match=r"masks/049\.nii: the mask does not lie on .*049\.nii\.gz"):
            read_source(params_of(tmp_path), volumes)


@pytest.mark.parametrize("changes", [{"mask": "masks/{patient}"}, {"patient_regex": "("}, {"patient_regex": "^x"}])
def test_params_that_fit_nothing_are_named(tmp_path: Path, volumes: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match=rf"data\.nifti\.{next(iter(changes))}"):
        read_source(params_of(tmp_path, changes), volumes)


# --- voxels


def test_stored_values_become_hounsfield_units_in_the_brain_window(tmp_path: Path, volumes: Path) -> None:
    hu = head().astype(np.float64)
    save(volumes / "ct_scans/049.nii.gz", (hu + 1024).astype(np.uint16), slope=1, inter=-1024)
    floats = hu.astype(np.float32)
    floats[0, 0] = np.nan
    save(volumes / "ct_scans/050.nii", floats)
    source = read_source(params_of(tmp_path), volumes)
    for row in (source.rows[3], source.rows[10]):
        grey = source.picture(row).grey
        np.testing.assert_array_equal(grey, apply_window(hu[::-1, ::-1, 3].T, 40, 120))


def unhounsfield(path: Path) -> None:
    save(path, np.clip(head(), 0, 255).astype(np.uint8))


def cut(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:3000]))


def bomb(path: Path) -> None:
    """A header that declares 10⁹ voxels."""
    image = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.int16), RAS)
    header = bytearray(image.to_bytes()[:352])
    header[40:56] = np.array([3, 1000, 1000, 1000, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(header) + bytes(100)))


def infinite() -> np.ndarray:
    values = np.random.default_rng(0).random(SHAPE).astype(np.float32) * 255
    values[0, 0, 0], values[1, 0, 0] = np.inf, -np.inf
    return values


def quadruple(path: Path) -> None:
    """Voxels of the type 1536, numbers of 128 bits."""
    content = bytearray(nibabel.Nifti1Image(head(), RAS).to_bytes())
    content[70:74] = np.array([1536, 128], "<i2").tobytes()
    path.write_bytes(bytes(content) + bytes(7 * head().nbytes))


BAD = {
    "a text": (lambda path: path.write_bytes(b"no volume"), "not a readable NIfTI file"),
    "a cut one": (cut, "voxels cannot be read"),
    "10^9 voxels": (bomb, "1000×1000×1000 voxels"),
    "four dimensions": (lambda path: save(path, np.stack([head()] * 2, -1)), "4 dimensions"),
    "no orientation": (lambda path: save(path, head(), code=0), "does not say how the head lies"),
    "grey levels": (unhounsfield, "values from 0 to 255 are no Hounsfield units"),
    "shares and an infinite one": (lambda path: save(path, infinite()), "no Hounsfield units"),
    "no numbers": (lambda path: save(path, np.full(SHAPE, np.nan, np.float32)), "no voxel is a number"),
    "colours": (lambda path: save(path, np.zeros(SHAPE, [(c, "u1") for c in "RGB"])), "are no Hounsfield units"),
    "complex numbers": (lambda path: save(path, head().astype(np.complex64)), "are no Hounsfield units"),
    "16 bytes a voxel": (quadruple, "not a readable NIfTI file"),
    "shares": (lambda path: save(path, np.random.default_rng(0).random(SHAPE).astype(np.float32)), "no Hounsfield units"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_volume_is_named_or_counted(tmp_path: Path, volumes: Path, kind: str) -> None:
    make, message = BAD[kind]
    bad = volumes / ("ct_scans/049.nii.gz" if kind in ("a cut one", "10^9 voxels") else "ct_scans/050.nii")
    make(bad)
    save(volumes / "ct_scans/b.nii", head(7))
    table(volumes, [(f"ct_scans/{name}", i % 2) for i, name in enumerate(("049.nii.gz", "050.nii", "b.nii", "007 ä.nii.gz"))])
    params = params_of(tmp_path, {"labels": "table"})
    with pytest.raises(DataError, match=rf"{bad.name}.*: .*{re.escape(message)}"):
        prepare(params, volumes, tmp_path / "out")
    cohort = prepare(dataclasses.replace(params, max_unreadable=7), volumes, tmp_path / "out")
    assert cohort["n_slices"] == 21 and {item["file"][: len(bad.name) + 9] for item in cohort["unreadable"]} == {
        f"ct_scans/{bad.name}"
    }


def test_voxels_that_are_no_number_are_air(tmp_path: Path) -> None:
    hu = head().astype(np.float32)
    hu[20, 20:23, 3] = np.nan, np.inf, -np.inf
    shown = Volumes().slice_hu(open_volume(save(tmp_path / "a.nii", hu)), 3)
    assert np.isfinite(shown).all() and (shown == -1024).sum() == 3


def test_few_volumes_are_held_at_a_time(tmp_path: Path) -> None:
    held = Volumes()
    opened = [open_volume(save(tmp_path / f"{i}.nii.gz", head(i))) for i in range(5)]
    for k in range(7):
        for volume in opened:
            np.testing.assert_array_equal(held.slice_hu(volume, k), head(int(volume.path.name[0]))[::-1, ::-1, k].T)
    assert len(held._kept) == KEPT


def test_the_stages_read_it(tmp_path: Path, volumes: Path) -> None:
    params = tiny_params()
    params["data"]["source"] = "nifti"
    assert volumes.is_relative_to(tmp_path)
    with workspace(tmp_path, params):
        run("prepare")
        file = load_prepared().manifest["file"][3]
        assert raw_pictures(load_params().data, [file])[0]().grey.shape == (60, 50)


def test_without_nibabel_the_error_names_the_extra(tmp_path: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("strokect.nifti_volumes", "strokect.reader_nifti"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(NotInstalledError, match=r"data\.source: nifti needs the package nibabel.*extra `nifti`"):
        read_source(params_of(tmp_path), volumes)
