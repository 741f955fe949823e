"""Windows of the Hounsfield units: the same channels in training and service; 8-bit pictures fail closed."""

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
import torch
import yaml
from conftest import ROOT, TINY_FOLDS, run, run_all, tiny_params, workspace
from fakes import SIZE, TARGET, THREE, dicom_bytes, encode, fake_inputs, fake_release, grey_slice, slice_hu
from serving import serve
from site_fixtures import site_params

from examples.make_site import write_site
from stages import build_bento, external, recalibrate
from stages.build_bento import self_test_slice
from stages.prepare import prepare
from strokect.augment import augment
from strokect.calibration import Calibrator
from strokect.ct_slice import as_ct_slice, ct_slice
from strokect.decoding import DecodePool
from strokect.errors import DataError, ImageError, NoResultError, ParamsError
from strokect.files import read_json, sha256_bytes, write_json
from strokect.hounsfield import BRAIN, BRAIN_ONLY, Window, windows_from_json, windows_of, windows_to_json
from strokect.http import IMAGE_STATUS
from strokect.images import Picture
from strokect.judge import load_judge
from strokect.manifest import COLUMNS, load_prepared
from strokect.params import load_params
from strokect.phantom import make_cohort, window
from strokect.predictor import Predictor
from strokect.release_writer import write_release
from strokect.series import arrange, read_series
from strokect.slices import decode, load_slice, model_input, picture_of_hu, resize_slice
from strokect.sources import raw_pictures, read_source


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(fake_release(tmp_path_factory.mktemp("three"), windows=THREE))


def by_hand(hu: np.ndarray, level: float, width: float) -> np.ndarray:
    """The window in 64 bits, a value at a time."""
    grey = [min(max((float(value) - (level - width / 2)) * 255 / width, 0), 255) for value in hu.ravel()]
    return np.array([round(value) for value in grey]).reshape(hu.shape)


def test_golden_grey_levels_of_three_windows() -> None:
    hu = np.repeat(np.float32([-1000, 0, 20, 41, 60, 75, 130, 900]), 40 * 5).reshape(40, 40)
    picture = decode(ct_slice(hu), THREE)
    assert picture.planes.shape == (3, 40, 40)
    assert picture.planes[:, ::5, 0].tolist() == [
        [0, 0, 64, 131, 191, 239, 255, 255],
        [0, 26, 51, 78, 102, 121, 191, 255],
        [0, 0, 0, 134, 255, 255, 255, 255],
    ]
    assert picture.grey[::5, 0].tolist() == [0, 42, 85, 130, 170, 202, 255, 255]  # 40/120: what pixel checks and people see


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_each_plane_is_that_window_alone(photometric: str) -> None:
    stored = np.random.default_rng(0).integers(900, 1300, (60, 50)).astype(np.int16)
    stored[:7] = -2000
    data = dicom_bytes(stored, PixelPaddingValue=-2000, PhotometricInterpretation=photometric)
    picture = decode(data, THREE)
    for plane, each in zip(picture.planes, THREE, strict=True):
        expected = by_hand(stored - 1024, each.level_hu, each.width_hu)
        expected = 255 - expected if photometric == "MONOCHROME1" else expected
        assert np.abs(plane[7:].astype(int) - expected[7:]).max() <= 1  # a half is rounded in 32 bits
        assert (plane[:7] == 0).all()
        np.testing.assert_array_equal(plane, decode(data, (each,)).planes[0])
    np.testing.assert_array_equal(picture.grey, decode(data).grey)


def test_with_the_brain_window_alone_the_models_see_the_picture_itself() -> None:
    data = ct_slice(slice_hu())
    picture = decode(data)
    assert picture.windows is None
    np.testing.assert_array_equal(picture.planes, picture.grey[None])
    np.testing.assert_array_equal(load_slice(data, 48).pixels, resize_slice(picture.grey, 48))
    np.testing.assert_array_equal(picture.grey, window(slice_hu()))
    assert picture_of_hu(slice_hu()).windows is None


def test_parity_of_every_way_that_a_slice_takes(pool: DecodePool) -> None:
    """Files in training, one file and a series in the service, and a source that has Hounsfield units itself: the same bytes."""
    hu = slice_hu(70)[:64]
    data = ct_slice(hu)
    expected = load_slice(data, 48, THREE).pixels
    assert expected.shape == (3, 48, 48) and len({plane.tobytes() for plane in expected}) == 3
    (member,) = pool.members([data], float("inf"), 9, THREE)
    (here,) = read_series([data], 9, windows=THREE)
    for picture in (
        decode(data, THREE),
        pool.picture(data, windows=THREE),
        member.picture,
        here.picture,
        picture_of_hu(hu, THREE),
    ):
        assert picture is not None
        np.testing.assert_array_equal(model_input(picture, 48, "none"), expected)
        np.testing.assert_array_equal(picture.grey, decode(data).grey)


def test_what_the_models_see_is_what_training_packed(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    engine = predictor.release.judge.engine
    monkeypatch.setattr(type(engine), "run", lambda self, image, deadline: seen.append(image) or 1 / 0)
    data = ct_slice(slice_hu())
    with pytest.raises(ZeroDivisionError):
        predictor.predict(data)
    np.testing.assert_array_equal(seen[0], load_slice(data, SIZE, THREE).pixels)


def test_a_release_of_three_windows_answers_for_dicom_and_says_what_it_sees(predictor: Predictor) -> None:
    assert predictor.windows == THREE
    assert predictor.describe()["windows_hu"] == [[40, 80], [80, 200], [40, 40]]
    data = ct_slice(slice_hu())
    answer = predictor.predict(data)
    assert answer.decision in ("stroke", "normal", "refer") and answer.probability is not None
    # Another picture in the brain window is needed for another answer, and the same one in it is not enough.
    hu = slice_hu()
    hu[20:30, 20:30] = 130
    bright = hu.copy()
    bright[20:30, 20:30] = 160
    one, other = predictor.predict(ct_slice(hu)), predictor.predict(ct_slice(bright))
    np.testing.assert_array_equal(decode(ct_slice(hu)).grey, decode(ct_slice(bright)).grey)
    assert one.probability != other.probability


def test_the_self_test_is_a_dicom_slice_where_the_windows_need_one(tmp_path: Path) -> None:
    write_release(tmp_path / "release", **fake_inputs(tmp_path / "inputs", windows=THREE))
    assert sorted(path.name for path in (tmp_path / "release/self_test").iterdir()) == ["expected.json", "slice.dcm"]
    made = self_test_slice(64, THREE)
    assert made == self_test_slice(64, THREE) and decode(made, THREE).planes.shape == (3, 64, 64)
    np.testing.assert_array_equal(load_slice(self_test_slice(64), 64).pixels[0], decode(self_test_slice(64)).grey)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_picture_sent_to_models_of_other_windows_has_no_answer(format: str, predictor: Predictor, pool: DecodePool) -> None:
    data = encode(grey_slice(), format)
    for refused in (
        lambda: predictor.predict(data),
        lambda: pool.picture(data, windows=THREE),
        lambda: load_slice(data, 48, THREE),
    ):
        with pytest.raises(ImageError, match=r"40/80, 80/200, 40/40 are made of Hounsfield units: use the DICOM file") as caught:
            refused()
        assert caught.value.code == "needs_hounsfield" and IMAGE_STATUS["needs_hounsfield"] == 415
    with pytest.raises(ImageError, match="40/80"):
        decode(data, (Window(40, 80),))
    assert decode(data, BRAIN_ONLY).planes.shape == (1, 64, 64)


def test_a_series_of_pictures_is_rejected_and_one_beside_dicom_is_left_out(predictor: Predictor) -> None:
    pictures = [encode(grey_slice(seed=seed)) for seed in range(3)]
    answer = predictor.predict_series(read_series(pictures, 9, windows=THREE))
    assert (answer.decision, answer.n_slices, answer.probability) == ("reject", 0, None)
    assert {left.code for left in answer.left_out} == {"needs_hounsfield"}
    place = {
        "SeriesInstanceUID": "1.2",
        "StudyInstanceUID": "1.3",
        "PatientID": "0",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    }
    slices = [ct_slice(slice_hu(seed=k), InstanceNumber=k + 1, ImagePositionPatient=[0, 0, 5 * k], **place) for k in range(4)]
    for windows in (BRAIN_ONLY, THREE):
        found = arrange(read_series([*slices, pictures[0]], 9, windows=windows))
        assert (len(found.order), found.incomplete, len(found.left_out)) == (4, False, 1)


def test_slices_at_one_place_are_the_same_only_if_they_are_in_every_window() -> None:
    place = {"SeriesInstanceUID": "1.2", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 1]}
    hu = slice_hu()
    hu[20:30, 20:30] = 130
    denser = np.where(hu == 130, 160, hu)
    pair = [ct_slice(hu, InstanceNumber=1, **place), ct_slice(denser, InstanceNumber=2, **place)]
    codes = {windows: arrange(read_series(pair, 9, windows=windows)).left_out[0][1] for windows in (BRAIN_ONLY, THREE)}
    assert codes == {BRAIN_ONLY: "duplicate", THREE: "same_position"}


def test_a_picture_decoded_for_other_windows_gets_no_label(predictor: Predictor) -> None:
    with pytest.raises(NoResultError, match="1 windows for models that see 3"):
        predictor.release.judge.examine(Picture(grey_slice(), 0), "0" * 64)


def test_pixel_checks_look_at_the_brain_window_whatever_the_models_see(predictor: Predictor) -> None:
    hu = next(iter(make_cohort(patients=1, slices=5, size=128, seed=3))).hu
    judge = predictor.release.judge
    assert judge._flags(decode(ct_slice(hu), THREE)) == judge._flags(decode(ct_slice(hu)))


def test_json_of_windows_round_trips_and_nothing_else_is_read() -> None:
    assert windows_from_json(windows_to_json(THREE)) == THREE
    assert windows_of({"channels": 1}) == BRAIN_ONLY == (BRAIN,)


def params_file(folder: Path, **data: object) -> Path:
    params = tiny_params()
    params["data"] |= {"windows": [dataclasses.asdict(each) for each in THREE]} | data
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder / "params.yaml"


def test_three_windows_of_a_source_of_pictures_are_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"data\.windows is .*with data.source kaggle_ct_ich: 8-bit pictures have it baked in"):
        load_params(params_file(tmp_path, source="kaggle_ct_ich"))
    params = load_params(params_file(tmp_path, source="folder")).data
    for name in ("stroke", "normal"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / f"{name[0]}_1.png").write_bytes(encode(grey_slice()))
    with pytest.raises(
        DataError, match=r"2 file\(s\) cannot be used(?s:.)*s_1\.png: a PNG or JPEG picture has one window baked in"
    ):
        prepare(params, tmp_path / "raw", tmp_path / "out")


def test_bleeds_are_painted_in_the_brain_window_only(tmp_path: Path) -> None:
    params = yaml.safe_load(params_file(tmp_path).read_text())
    params["train"]["augment"]["bleeds"] = 0.2
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ParamsError, match=r"augment\.bleeds is 0\.2; it must be 0 unless data\.windows is the one window 40/120"):
        load_params(tmp_path / "params.yaml")


def test_a_phantom_of_three_windows_is_packed_and_shown_by_channel(tmp_path: Path) -> None:
    params = load_params(params_file(tmp_path)).data
    cohort = prepare(params, tmp_path, tmp_path / "out")
    prepared = load_prepared(tmp_path / "out")
    assert prepared.images.shape == (100, 3, 48, 48)
    assert (cohort["channels"], cohort["windows"]) == (3, windows_to_json(THREE))
    pieces = list(make_cohort(patients=20, slices=5, size=48, seed=0))
    source = read_source(params, tmp_path)
    for i in (0, 33, 99):
        for plane, each in zip(prepared.images[i], THREE, strict=True):
            np.testing.assert_array_equal(plane, window(pieces[i].hu, each.level_hu, each.width_hu))
        np.testing.assert_array_equal(source.picture(source.rows[i]).grey, window(pieces[i].hu))


def test_augmentation_changes_all_windows_of_a_slice_alike() -> None:
    params = load_params(ROOT / "params.yaml").train.augment
    one = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(5)
    alone = augment(one, params)
    torch.manual_seed(5)
    three = augment(one.expand(-1, 3, -1, -1), params)
    assert not torch.equal(alone, one.float())
    for channel in range(3):
        torch.testing.assert_close(three[:, [channel]], alone, rtol=0, atol=1e-4)


def test_an_outlier_as_ct_slice_looks_like_the_picture_and_what_is_none_stays() -> None:
    grey = grey_slice()
    made = as_ct_slice(encode(grey))
    assert np.abs(decode(made).grey.astype(int) - grey).max() <= 1  # stored as whole Hounsfield units
    assert decode(made, THREE).planes.shape == (3, 64, 64)
    colour = encode(np.stack([grey, grey // 2, grey], axis=-1))
    for data in (colour, made, b"nothing"):
        assert as_ct_slice(data) == data


@pytest.mark.parametrize("windows", [THREE, (Window(80, 200),)])
def test_external_data_is_judged_in_the_windows_of_the_release_and_recalibration_keeps_them(
    windows: tuple[Window, ...], tmp_path: Path
) -> None:
    """The params of the site say the brain window: the release knows better."""
    shutil.move(fake_release(tmp_path / "fake", policy={"refer_above": 0.05}, windows=windows), tmp_path / "models/release")
    pieces = list(make_cohort(patients=44, slices=3, size=64, seed=5))
    slices = [(f"{piece.patient}_{piece.slice}.dcm", int(piece.lesion != ""), ct_slice(piece.hu)) for piece in pieces]
    write_site(tmp_path / "data/raw/folder", slices)
    with workspace(tmp_path, site_params(TARGET)):
        old = made_from(slices[:3], windows)
        with pytest.raises(DataError, match="3 of 132 slices are byte for byte"):
            external.main(["--source", "folder"])
        shutil.rmtree(old)
        external.main(["--source", "folder"])
        table = pd.read_csv("reports/external/folder/scores.csv").set_index("file")
        predictor = Predictor("models/release")
        assert predictor.windows == windows
        for name, label, data in slices[::11]:
            row = table.loc[f"{'stroke' if label else 'normal'}/{name}"]
            answer = predictor.predict(data)
            assert (row["probability"], row["decision"]) == (pytest.approx(answer.probability), answer.decision)
        recalibrate.main(["--scores", "reports/external/folder", "--site", "north", "--refer-rate", "0.1"])
        assert Predictor("models/site_releases/north").windows == windows


def made_from(slices: list[tuple[str, int, bytes]], windows: tuple[Window, ...]) -> Path:
    """data/prepared of a cohort that the fake release claims to be made from."""
    folder = Path("data/prepared")
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.stack([load_slice(data, SIZE, windows).pixels for _, _, data in slices]))
    rows = [(name, name[:4], 0, label, sha256_bytes(data), "folder", 64, 64) for name, label, data in slices]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "manifest.csv", index=False)
    write_json(folder / "cohort.json", {"data_sha256": "d" * 64})
    return folder


def test_near_duplicates_of_external_data_are_looked_for_in_the_channel_that_training_packed(tmp_path: Path) -> None:
    """The picture in the brain window is no copy of the slice in the bone window."""
    windows = (Window(700, 3200),)
    pieces = list(make_cohort(patients=2, slices=5, size=64, seed=5))
    slices = [(f"{piece.patient}_{piece.slice}.dcm", int(piece.lesion != ""), ct_slice(piece.hu)) for piece in pieces]
    copies = [(name, label, ct_slice(piece.hu + 2)) for (name, label, _), piece in zip(slices, pieces, strict=True)]
    shutil.move(fake_release(tmp_path / "fake", windows=windows), tmp_path / "models/release")
    write_site(tmp_path / "data/raw/folder", slices)
    with workspace(tmp_path, site_params(TARGET)):
        made_from(copies, windows)
        with pytest.raises(DataError, match=r"0 of 10 slices are byte for byte .*, ([5-9]|10) more are altered copies"):
            external.main(["--source", "folder"])


def test_prepare_keeps_nothing_of_other_windows(tmp_path: Path) -> None:
    for name in ("stroke", "normal"):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / f"{name[0]}_1.dcm").write_bytes(ct_slice(slice_hu()))
    made = {}
    for windows in (BRAIN_ONLY, THREE, BRAIN_ONLY):
        params = load_params(params_file(tmp_path, source="folder", windows=[dataclasses.asdict(each) for each in windows])).data
        cohort = prepare(params, tmp_path / "raw", tmp_path / "out", tmp_path / "cache")
        images = load_prepared(tmp_path / "out").images
        assert images.shape[1] == cohort["channels"] == len(windows)
        np.testing.assert_array_equal(images[0], load_slice(ct_slice(slice_hu()), 48, windows).pixels)
        assert made.setdefault(windows, cohort["data_sha256"]) == cohort["data_sha256"]
    assert made[BRAIN_ONLY] != made[THREE]


@pytest.mark.slow
def test_a_cohort_of_dicom_in_three_windows_from_training_to_the_service(
    tmp_path: Path, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the service says about a DICOM file is, number for number, what the pipeline says about it; cut to the head, too."""
    params = yaml.safe_load(params_file(tmp_path, source="folder", crop="head").read_text())
    params["train"].update(epochs=1)
    params["export"].update(views=["identity"])
    with workspace(tmp_path, params):
        for piece in make_cohort(patients=14, slices=5, size=64, seed=0):
            folder = Path("data/raw/folder", "stroke" if piece.lesion else "normal")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{piece.patient}_{piece.slice}.dcm").write_bytes(ct_slice(piece.hu))
        run_all()
        monkeypatch.setattr(build_bento, "build_bento", lambda *args: None)  # packing has a test of its own
        monkeypatch.setattr(build_bento, "bento_version", lambda root, version: version)
        run("build_bento")
        prepared = load_prepared()
        assert prepared.images.shape[1:] == (3, 48, 48)
        files = list(prepared.manifest["file"])
        point = read_json("models/operating_point.json")
        folders = {str(fold): Path(f"models/export/{fold}") for fold in TINY_FOLDS}
        calibrator = Calibrator.from_json(point["calibration"])
        judge = load_judge(folders, point["views"], calibrator, Path("models/safety"), Path("models/operating_point.json"))
        predictor = Predictor("models/release")
        pictures = raw_pictures(load_params().data, files)
        contents = [Path("data/raw/folder", file).read_bytes() for file in files]
        sent = contents[::9]
        for i in range(0, len(files), 9):
            picture = pool.picture(contents[i], windows=predictor.windows)
            np.testing.assert_array_equal(model_input(picture, 48, "head"), prepared.images[i])
            assert (model_input(picture, 48, "none") != prepared.images[i]).any()
            expected = judge.policy.decide(judge.examine(pictures[i](), prepared.manifest["sha256"][i]).evidence)
            answer = predictor.predict(contents[i], picture=picture)
            assert (answer.decision, answer.probability) == (expected.decision, expected.probability)
            assert answer.uncertainty.value == expected.uncertainty
        for fold in TINY_FOLDS:  # out-of-fold logits, by what the service made of the files
            with np.load(f"models/export/{fold}/oof.npz") as oof:
                rows, logits = oof["rows"], oof["logits"]
            model = judge.engine.models[fold]
            for row, logit in list(zip(rows, logits, strict=True))[::7]:
                seen = model_input(pool.picture(contents[row], windows=predictor.windows), 48, "head")
                assert model.logit(model.run(seen)) == pytest.approx(logit[0], abs=1e-5)
        safety = read_json("metrics/safety.json")
        assert any("windows of Hounsfield units" in note for note in safety["notes"])
        assert any(entry["feature_gate"]["auroc"]["value"] is not None for entry in safety["outliers"].values())
        card = Path("models/release/model_card.md").read_text()
        assert "40/80, 80/200, 40/40" in card and "cut to its head" in card and predictor.describe()["crop"] == "head"

    command = [sys.executable, "-m", "bentoml", "serve", "service:StrokeCT"]
    with serve(command, ROOT, tmp_path / "serving", STROKECT_RELEASE=str(tmp_path / "models/release")) as server:
        for data in sent[:3]:
            answer = requests.post(f"{server.url}/predict", files={"image": ("a.dcm", data)}, timeout=60).json()
            expected = predictor.predict(data).model_dump()
            for key in expected.keys() - {"request_id", "latency_ms"}:
                assert answer[key] == expected[key], key
        refused = requests.post(f"{server.url}/predict", files={"image": ("a.png", encode(grey_slice()))}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "needs_hounsfield")
