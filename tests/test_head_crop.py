"""Cropping to the head: where the square is, the same one in training and service, and found again in the release."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import tiny_params, workspace
from fakes import SIZE, TARGET, encode, fake_release
from PIL import Image
from site_fixtures import site_params

from examples.make_site import write_site
from stages import external
from stages.prepare import prepare
from strokect.ct_slice import ct_slice
from strokect.decoding import DecodePool
from strokect.errors import DataError, ParamsError, ReleaseError
from strokect.explanation import Wanted, explain
from strokect.files import sha256_bytes, write_json
from strokect.fold import make_sidecar
from strokect.head_crop import MARGIN, Square, seen_square, whole
from strokect.hounsfield import windows_to_json
from strokect.manifest import COLUMNS, load_prepared
from strokect.network import build_network
from strokect.overlay import spread
from strokect.params import DataParams, load_params
from strokect.phantom import make_cohort, window
from strokect.predictor import Predictor
from strokect.proxies import proxy_outliers
from strokect.series import read_series
from strokect.slices import Picture, decode, load_slice, model_input, picture_of_hu
from strokect.sources import raw_pictures


def head_at(row: float, column: float, half_height: float, half_width: float, shape: tuple[int, int] = (400, 400)) -> np.ndarray:
    """A skull with brain in it, half axes in pixels, in a black picture."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    radius = np.hypot((y - row) / half_height, (x - column) / half_width)
    return np.where(radius <= 1, np.where(radius > 0.88, 255, 125), 0).astype(np.uint8)


def hu_of(grey: np.ndarray) -> np.ndarray:
    """Hounsfield units that look like this in the brain window."""
    return np.where(grey == 255, 1000.0, np.where(grey == 0, -1000.0, -20.0 + grey * (120 / 255)))


HEAD = head_at(170, 230, 110, 90)


def params_of(folder: Path, **data: object) -> DataParams:
    params = tiny_params()
    params["data"] |= data
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return load_params(folder / "params.yaml").data


# --- where the square is


@pytest.mark.parametrize("around", ["air", "headrest"])
def test_the_square_is_the_head_with_its_margin_and_without_the_headrest(around: str) -> None:
    grey = HEAD.copy()
    if around == "headrest":  # a cup below the head that does not touch it, and the table
        y, x = np.mgrid[:400, :400]
        radius = np.hypot((y - 170) / 135, (x - 230) / 115)
        grey[(radius > 0.97) & (radius < 1.0) & (y > 200)] = 200
        grey[360:366, 20:380] = 180
    square = seen_square(grey, "head")
    cell = 400 / 128  # of the small copy that the head is looked for on
    assert square.side == pytest.approx((1 + 2 * MARGIN) * 220, abs=2 * cell)
    assert square.left + square.side / 2 == pytest.approx(230, abs=cell)
    assert square.top + square.side / 2 == pytest.approx(170, abs=cell)


def test_a_head_on_the_border_is_seen_with_black_beyond_the_picture() -> None:
    grey = head_at(60, 150, 110, 90, (380, 300))
    square = seen_square(grey, "head")
    assert square.top < 0
    cut = square.cut(grey)
    padded = np.pad(grey, 400)[square.top + 400 :, square.left + 400 :][: square.side, : square.side]
    np.testing.assert_array_equal(cut, padded)


@pytest.mark.parametrize(
    "square", [Square(10, 20, 50), Square(-7, 20, 50), Square(60, -9, 50), Square(-5, -5, 130), Square(55, 31, 60)]
)
def test_a_square_beyond_the_picture_is_black_there(square: Square) -> None:
    plane = np.random.default_rng(0).integers(1, 256, (90, 110), np.uint8)
    expected = np.pad(plane, 200)[square.top + 200 :, square.left + 200 :][: square.side, : square.side]
    np.testing.assert_array_equal(square.cut(plane), expected)


@pytest.mark.parametrize(
    "grey",
    [
        np.zeros((300, 400), np.uint8),
        np.full((300, 400), 12, np.uint8),
        np.random.default_rng(0).integers(0, 30, (300, 400), np.uint8),
        head_at(150, 200, 20, 20, (300, 400)),  # 1 % of the picture: a hand, a tube, a fiducial
    ],
)
def test_without_a_head_nothing_is_cut(grey: np.ndarray) -> None:
    assert seen_square(grey, "head") == whole(300, 400) == Square(0, -50, 400)


def test_a_small_slice_is_not_enlarged_more_than_twice() -> None:
    square = seen_square(head_at(200, 180, 50, 45), "head")
    assert square.side == 200
    assert square.left + 100 == pytest.approx(180, abs=4) and square.top + 100 == pytest.approx(200, abs=4)


def test_a_head_that_fills_the_picture_is_seen_whole() -> None:
    assert seen_square(head_at(200, 200, 199, 160), "head").side == 400


def test_where_the_head_lies_in_the_picture_no_longer_matters() -> None:
    """The same head, moved by whole cells of the small copy."""
    inputs = [model_input(Picture(np.roll(HEAD, shift, (0, 1)), 0), 96, "head") for shift in ((0, 0), (50, -75), (-25, 25))]
    for other in inputs[1:]:
        np.testing.assert_array_equal(other, inputs[0])
    assert (inputs[0] > 0).mean() > 1.5 * (model_input(Picture(HEAD, 0), 96, "none") > 0).mean()


@pytest.mark.parametrize("shape", [(64, 64), (40, 90), (91, 40), (300, 300)])
def test_without_cropping_the_models_see_the_padded_square(shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    side = max(shape)
    padded = Image.new("L", (side, side))
    padded.paste(Image.fromarray(grey), ((side - shape[1]) // 2, (side - shape[0]) // 2))
    expected = np.asarray(padded.resize((48, 48), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(model_input(Picture(grey, 0), 48, "none"), expected[None])


# --- the same in training and service


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(fake_release(tmp_path_factory.mktemp("cropped"), crop="head"))


def test_training_and_service_see_the_same_square(
    pool: DecodePool, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A PNG, a DICOM slice, a series and a volume of one slice, packed by `prepare` and as the judge gives them to the models."""
    seen: list[np.ndarray] = []
    judge = predictor.release.judge
    run = judge.engine.run
    monkeypatch.setattr(judge.engine, "run", lambda image, *rest: seen.append(image) or run(image, *rest))
    expected = load_slice(encode(HEAD), SIZE, crop="head").pixels
    assert (expected != load_slice(encode(HEAD), SIZE).pixels).any()
    png, dicom = encode(HEAD), ct_slice(hu_of(HEAD))
    for data in (png, dicom):
        predictor.predict(data)
        predictor.predict(data, picture=pool.picture(data))
        predictor.predict_series(read_series([data], 9))
        predictor.predict_series(pool.members([data], float("inf"), 9))
    assert len(seen) == 8
    for image in seen:
        np.testing.assert_array_equal(image, expected)

    for name in ("stroke", "normal"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    (tmp_path / "raw/stroke/a.png").write_bytes(png)
    (tmp_path / "raw/normal/b.dcm").write_bytes(dicom)
    params = dataclasses.replace(params_of(tmp_path, crop="head"), image_size=SIZE)
    prepare(dataclasses.replace(params, source="folder"), tmp_path / "raw", tmp_path / "out")
    volume = np.stack([hu_of(HEAD)[::-1, ::-1].T] * 2, axis=-1).round().astype(np.int16)  # to the right, to the front, up
    (tmp_path / "nii/masks").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([0.5, 0.5, 5, 1])), tmp_path / "nii/1.nii")
    mask = np.zeros(volume.shape, np.uint8)
    mask[..., 1] = 1
    nibabel.save(nibabel.Nifti1Image(mask, np.diag([0.5, 0.5, 5, 1])), tmp_path / "nii/masks/1.nii")
    prepare(dataclasses.replace(params, source="nifti"), tmp_path / "nii", tmp_path / "volumes")
    for folder in ("out", "volumes"):
        for image in load_prepared(tmp_path / folder).images:
            assert np.abs(image.astype(int) - expected).max() <= 1  # a volume here holds whole Hounsfield units


def test_prepare_cuts_masks_as_it_cuts_pictures_and_says_so(tmp_path: Path) -> None:
    params = params_of(tmp_path, image_size=64)
    cohorts = {
        crop: prepare(dataclasses.replace(params, crop=crop), tmp_path, tmp_path / crop, tmp_path / "cache")
        for crop in ("none", "head")
    }
    assert "crop" not in cohorts["none"] and cohorts["head"]["crop"] == "head"
    assert cohorts["none"]["data_sha256"] != cohorts["head"]["data_sha256"]
    images, masks = (np.load(tmp_path / "head" / name) for name in ("images.npy", "masks.npy"))
    pieces = list(make_cohort(patients=20, slices=5, size=64, seed=0))
    assert images.shape == (100, 1, 64, 64) and masks.shape == (100, 64, 64)
    found = 0
    for piece, image, mask in zip(pieces, images, masks, strict=True):
        square = seen_square(window(piece.hu), "head")
        np.testing.assert_array_equal(image, model_input(picture_of_hu(piece.hu), 64, "head"))
        assert set(np.unique(mask)) <= set(np.unique(piece.mask))  # codes are not blended
        if not piece.mask.any():
            continue
        # The middle of the lesion is where the square puts it.
        there, here = (np.argwhere(m > 0).mean(axis=0) + 0.5 for m in (piece.mask, mask))
        np.testing.assert_allclose(here, (there - [square.top, square.left]) * 64 / square.side, atol=1.0)
        found += 1
    assert found > 10
    cropped = dataclasses.replace(params, crop="head")
    with workspace(tmp_path / "work", tiny_params()):
        pictures = raw_pictures(cropped, [f"{pieces[7].patient}/{pieces[7].slice:02d}.png"])
    np.testing.assert_array_equal(model_input(pictures[0](), 64, "head"), images[7])  # evaluate reads the slice uncut


def test_another_crop_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"data\.crop"):
        params_of(tmp_path, crop="brain")


# --- in models and releases


def test_model_and_release_carry_the_crop_and_those_without_see_the_whole_slice(tmp_path: Path, predictor: Predictor) -> None:
    assert predictor.describe()["crop"] == "head" and predictor.release.sidecar["crop"] == "head"
    plain = Predictor(fake_release(tmp_path / "plain"))
    assert "crop" not in plain.release.sidecar and plain.describe()["crop"] == "none"
    moved = np.roll(HEAD, (50, -75), (0, 1))
    same = [predictor.predict(encode(grey)).probability for grey in (HEAD, moved)]
    other = [plain.predict(encode(grey)).probability for grey in (HEAD, moved)]
    assert same[0] == pytest.approx(same[1], abs=1e-6) and abs(other[0] - other[1]) > 1e-5
    with pytest.raises(ReleaseError, match="crop 'brain'; this version knows none, head"):
        fake_release(tmp_path / "unknown", crop="brain")


@pytest.mark.parametrize("crop", ["none", "head"])
def test_training_writes_the_crop_into_the_sidecar_and_no_path(tmp_path: Path, crop: str) -> None:
    params_of(tmp_path)
    params = load_params(tmp_path / "params.yaml")
    prepare(dataclasses.replace(params.data, crop=crop), tmp_path, tmp_path / "data/prepared")  # type: ignore[arg-type]
    with workspace(tmp_path, tiny_params()):
        Path("data/splits.csv").write_text("patient,part\n")
        net = build_network(params.model.backbone, "none", 0.2)
        model = dataclasses.replace(params.model, weights="/home/erika/secret.pth")
        sidecar = make_sidecar(net, load_prepared(), model, stage="train_fold", fold=0, group_by="patient", device="cpu")
    assert sidecar.get("crop", "none") == crop and ("crop" in sidecar) == (crop == "head")
    assert sidecar["weights"] == "file"  # the path is this machine's, and the sidecar leaves it with the bento


def test_proxies_of_the_gate_are_cut_as_the_cohort_is() -> None:
    images = np.zeros((3, 1, 64, 64), np.uint8)
    made = {
        crop: proxy_outliers(images, np.random.default_rng(0), 4, with_phantom=True, crop=crop)["phantom"]  # type: ignore[arg-type]
        for crop in ("none", "head")
    }
    assert (made["head"] > 0).mean() > 1.1 * (made["none"] > 0).mean()


# --- back to the picture


def test_the_map_lies_on_the_head_that_it_was_made_of(predictor: Predictor) -> None:
    """A map with one hot cell: its place in the picture is that of the cell in the square."""
    hot = np.zeros((8, 8), np.float32)
    hot[2, 5] = 1.0
    prediction, _ = predictor.explain(encode(HEAD))
    square = seen_square(HEAD, "head")
    given = explain(Wanted("json"), Picture(HEAD, 0), prediction, hot, "head", float("inf"))
    body = json.loads(bytes(given.body))
    assert body["square"] == {"left": square.left, "top": square.top, "side": square.side}
    strength = spread(hot, 400, 400, square, (400, 400))
    y, x = (np.argwhere(strength > 0.5).mean(axis=0) + 0.5).tolist()
    assert y == pytest.approx(square.top + 2.5 / 8 * square.side, abs=1)
    assert x == pytest.approx(square.left + 5.5 / 8 * square.side, abs=1)
    inside = np.zeros((400, 400), bool)
    inside[square.top : square.top + square.side, square.left : square.left + square.side] = True
    assert (spread(np.ones((8, 8), np.float32), 400, 400, square, (400, 400)) > 0).tolist() == inside.tolist()
    drawn = [explain(Wanted("png"), Picture(HEAD, 0), prediction, hot, crop, float("inf")).body for crop in ("none", "head")]
    assert drawn[0] != drawn[1] and Image.open(io.BytesIO(bytes(drawn[1]))).size[0] > 400


# --- external data


def test_external_data_is_cut_as_the_release_says_and_so_are_the_pictures_it_is_compared_with(tmp_path: Path) -> None:
    """The params of the site say nothing of a crop: the release knows better."""
    shutil.move(fake_release(tmp_path / "fake", crop="head"), tmp_path / "models/release")
    pieces = list(make_cohort(patients=12, slices=3, size=64, seed=5))
    slices = [(f"{piece.patient}_{piece.slice}.dcm", int(piece.lesion != ""), ct_slice(piece.hu)) for piece in pieces]
    write_site(tmp_path / "data/raw/folder", slices)
    with workspace(tmp_path, site_params(TARGET)):
        folder = Path("data/prepared")
        folder.mkdir(parents=True)
        copies = [ct_slice(piece.hu + 2) for piece in pieces]
        np.save(folder / "images.npy", np.stack([load_slice(data, SIZE, crop="head").pixels for data in copies]))
        rows = [(name, name[:4], 0, label, sha256_bytes(name.encode()), "folder", 64, 64) for name, label, _ in slices]
        pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "manifest.csv", index=False)
        write_json(folder / "cohort.json", {"data_sha256": "d" * 64})
        with pytest.raises(DataError, match=r"0 of 36 slices are byte for byte .*, 36 more are altered copies"):
            external.main(["--source", "folder"])
        shutil.rmtree(folder)
        external.main(["--source", "folder"])
        table = pd.read_csv("reports/external/folder/scores.csv").set_index("file")
        predictor = Predictor("models/release")
        for name, label, data in slices[::7]:
            row = table.loc[f"{'stroke' if label else 'normal'}/{name}"]
            assert row["probability"] == pytest.approx(predictor.predict(data).probability)
            np.testing.assert_array_equal(
                model_input(decode(data), SIZE, "head"), load_slice(data, SIZE, predictor.windows, "head").pixels
            )
    assert windows_to_json(predictor.windows) == [[40, 120]]
