"""prepare and the readers: packed array and manifest belong together; bad input is named and nothing is lost."""

import dataclasses
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import run, tiny_params, workspace
from PIL import Image

from stages.prepare import prepare
from strokect.errors import DataError, SettingsError
from strokect.files import read_json, sha256_bytes
from strokect.manifest import load_prepared
from strokect.params import DataParams, load_params
from strokect.phantom import make_cohort, window
from strokect.slices import load_slice
from strokect.sources import read_source


@pytest.fixture
def params(tmp_path: Path) -> DataParams:
    import yaml

    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(tiny_params()))
    return load_params(path).data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, three patients each, four slices a patient, noise pictures of 60×50."""
    rng = np.random.default_rng(0)
    for name, patients in (("stroke", ("A", "B", "C")), ("normal", ("D", "E", "F"))):
        (tmp_path / "raw" / name).mkdir(parents=True)
        for patient in patients:
            for i in (1, 2, 3, 10):
                pixels = rng.integers(0, 255, (50, 60), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "raw" / name / f"{patient}_{i}.png")
    return tmp_path / "raw"


def of_folder(params: DataParams, **changes: object) -> DataParams:
    return dataclasses.replace(params, source="folder", **changes)  # type: ignore[arg-type]


def test_folder_packs_pixels_and_manifest_row_by_row(params: DataParams, folder: Path, tmp_path: Path) -> None:
    prepare(of_folder(params), folder, tmp_path / "out")
    prepared = load_prepared(tmp_path / "out")
    assert prepared.images.shape == (24, 1, 48, 48)
    assert prepared.manifest["patient"].nunique() == 6
    assert list(prepared.manifest["file"][:4]) == [f"stroke/A_{i}.png" for i in (1, 2, 3, 10)]  # 10 after 3
    assert list(prepared.manifest["slice"][:4]) == [0, 1, 2, 3]
    assert list(prepared.labels[:4]) == [1] * 4
    for i in (0, 7, 23):
        data = (folder / prepared.manifest["file"][i]).read_bytes()
        np.testing.assert_array_equal(prepared.images[i], load_slice(data, 48).pixels)
        assert prepared.manifest["sha256"][i] == sha256_bytes(data)
        assert (prepared.manifest["width"][i], prepared.manifest["height"][i]) == (60, 50)
    assert np.load(tmp_path / "out/masks.npy").shape == (0, 48, 48)


def test_unreadable_picture_is_named_and_nothing_is_written(params: DataParams, folder: Path, tmp_path: Path) -> None:
    victim = folder / "normal/D_2.png"
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(DataError, match=r"normal/D_2\.png: .*truncated"):
        prepare(of_folder(params), folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_allowed_unreadable_pictures_are_left_out_and_listed(params: DataParams, folder: Path, tmp_path: Path) -> None:
    (folder / "normal/D_2.png").write_bytes(b"not a picture")
    cohort = prepare(of_folder(params, max_unreadable=1), folder, tmp_path / "out")
    assert [item["file"] for item in cohort["unreadable"]] == ["normal/D_2.png"]
    prepared = load_prepared(tmp_path / "out")
    assert len(prepared.images) == len(prepared.manifest) == 23
    assert "normal/D_2.png" not in set(prepared.manifest["file"])
    data = (folder / prepared.manifest["file"][22]).read_bytes()
    np.testing.assert_array_equal(prepared.images[22], load_slice(data, 48).pixels)


def test_colour_and_sixteen_bit_pictures_are_refused(params: DataParams, folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (50, 50, 3), np.uint8)).save(folder / "normal/D_4.png")
    with pytest.raises(DataError, match="colour"):
        prepare(of_folder(params), folder, tmp_path / "out")
    Image.fromarray(np.full((50, 50), 3000, np.uint16)).save(folder / "normal/D_4.png")
    with pytest.raises(DataError, match="8 bits"):
        prepare(of_folder(params), folder, tmp_path / "out")


def test_every_unreadable_file_is_named_at_once(params: DataParams, folder: Path, tmp_path: Path) -> None:
    for name in ("normal/D_1.png", "stroke/B_3.png"):
        (folder / name).write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"(?s)normal/D_1\.png.*stroke/B_3\.png|stroke/B_3\.png.*normal/D_1\.png"):
        prepare(of_folder(params), folder, tmp_path / "out")


def test_class_folder_nobody_named_is_an_error(params: DataParams, folder: Path) -> None:
    (folder / "OVERLAY").mkdir()
    with pytest.raises(DataError, match="OVERLAY"):
        read_source(of_folder(params), folder)


def test_a_picture_is_opened_whatever_its_name(params: DataParams, folder: Path, tmp_path: Path) -> None:
    (folder / "normal/D_1.png").rename(folder / "normal/D_1")
    (folder / "normal/D_5.bmp").write_bytes(b"BM" + b"0" * 100)
    (folder / "normal/notes.txt").write_text("not a picture")
    with pytest.raises(DataError, match=r"1 file\(s\) cannot be used.*(?s:.)*D_5\.bmp"):
        prepare(of_folder(params), folder, tmp_path / "out")
    (folder / "normal/D_5.bmp").unlink()
    cohort = prepare(of_folder(params), folder, tmp_path / "out")
    assert cohort["n_slices"] == 24
    assert [item["file"] for item in cohort["left_out"]] == ["normal/notes.txt"]
    (folder / "E_9.png").write_bytes(b"")
    with pytest.raises(DataError, match="outside the class folders"):
        prepare(of_folder(params), folder, tmp_path / "out")


def test_name_without_a_patient_is_an_error(params: DataParams, folder: Path) -> None:
    other = dataclasses.replace(params.folder, patient_regex=r"^(?P<patient>\d+)_")
    with pytest.raises(DataError, match=r"D_1\.png: .*finds no patient"):
        read_source(of_folder(params, folder=other), folder)


def test_absent_data_says_how_to_bring_it_in(params: DataParams, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make import SOURCE=folder"):
        read_source(of_folder(params), tmp_path / "nowhere")


def test_one_class_only_is_an_error(params: DataParams, folder: Path, tmp_path: Path) -> None:
    for path in (folder / "stroke").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="every slice is labelled normal"):
        prepare(of_folder(params), folder, tmp_path / "out")


def test_phantom_keeps_its_masks_beside_the_images(params: DataParams, tmp_path: Path) -> None:
    cohort = prepare(params, tmp_path, tmp_path / "out")
    masks = np.load(tmp_path / "out/masks.npy")
    prepared = load_prepared(tmp_path / "out")
    assert masks.shape == (len(prepared.images), 48, 48)
    np.testing.assert_array_equal(masks.any(axis=(1, 2)), prepared.labels == 1)
    assert cohort["synthetic"] is True


def test_what_the_phantom_draws_is_not_held_in_memory(params: DataParams, tmp_path: Path) -> None:
    large = dataclasses.replace(params, phantom=dataclasses.replace(params.phantom, patients=24, slices=10))
    tracemalloc.start()
    source = read_source(large, tmp_path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 240 * 48 * 48 / 2  # bytes; the slices and their masks are 240·48·48 each
    drawn = {
        piece.patient + str(piece.slice): piece for piece in make_cohort(patients=24, slices=10, size=48, seed=large.phantom.seed)
    }
    for row in reversed(source.rows[::7]):
        piece, pixels = drawn[row.patient + str(row.slice)], source.read(row)
        np.testing.assert_array_equal(pixels.image[0], window(piece.hu))
        np.testing.assert_array_equal(source.picture(row).grey, window(piece.hu))
        assert pixels.mask is not None
        np.testing.assert_array_equal(pixels.mask, piece.mask)


def test_a_reader_with_a_fault_is_stopped_before_decoding(
    params: DataParams, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = read_source(of_folder(params), folder)
    spoilt = dataclasses.replace(source, rows=[dataclasses.replace(row, extra={"label": 0}) for row in source.rows])
    monkeypatch.setattr("stages.prepare.read_source", lambda params, root: spoilt)
    with pytest.raises(DataError, match="gives label as a further column"):
        prepare(of_folder(params), folder, tmp_path / "out")


@pytest.mark.parametrize(("value", "kept"), [(None, True), ("on", True), ("off", False)])
def test_the_cache_can_be_switched_off(
    folder: Path,
    tmp_path: Path,
    value: str | None,
    kept: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("STROKECT_PREPARE_CACHE", raising=False)
    if value:
        monkeypatch.setenv("STROKECT_PREPARE_CACHE", value)
    changed = tiny_params()
    changed["data"]["source"] = "folder"
    with workspace(tmp_path / "desk", changed):
        shutil.copytree(folder, "data/raw/folder")
        for decoded in (24, 0 if kept else 24):
            run("prepare")
            said = capsys.readouterr().out
            assert f"decoded {decoded} slices" in said
            assert ("nothing is kept for the next run (STROKECT_PREPARE_CACHE)" in said) != kept
        assert Path(".strokect").exists() == kept
        monkeypatch.setenv("STROKECT_PREPARE_CACHE", "no")
        with pytest.raises(SettingsError, match="STROKECT_PREPARE_CACHE is 'no'; allowed: on, off"):
            run("prepare")


def test_shuffled_labels_keep_the_number_of_positive_patients_but_move_them(params: DataParams, tmp_path: Path) -> None:
    plain = read_source(dataclasses.replace(params, labels="folder"), tmp_path)
    mixed = read_source(dataclasses.replace(params, labels="shuffled"), tmp_path)
    positive = [{row.patient for row in source.rows if row.label} for source in (plain, mixed)]
    assert len(positive[0]) == len(positive[1])
    assert positive[0] != positive[1]
    assert all(len({row.label for row in mixed.rows if row.patient == p}) == 1 for p in {row.patient for row in mixed.rows})
    assert "control" in mixed.target


@pytest.mark.realdata
def test_real_ct_ich_cohort(params: DataParams, realdata: Path, tmp_path: Path) -> None:
    real = dataclasses.replace(params, source="kaggle_ct_ich", labels="slice")
    cohort = prepare(real, realdata / "brain-stroke-ct", tmp_path / "out")
    assert (cohort["n_slices"], cohort["n_patients"]) == (2468, 81)
    assert (cohort["n_positive_slices"], cohort["n_positive_patients"]) == (309, 35)
    assert len(cohort["left_out"]) == 33
    assert read_json(tmp_path / "out/cohort.json") == cohort
