"""What is read off a file apart from the slice: each fact is there when planted, and not otherwise."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.plants import contour
from strokect.dicom_pixels import has_gdcm
from strokect.errors import ImageError
from strokect.file_facts import COLUMNS, count_letters, find_frame, gather_facts
from strokect.images import Picture
from strokect.morphology import dilate, erode
from strokect.overlays import DRAWN, is_drawn_on
from strokect.phantom import make_cohort, window
from strokect.pixel_checks import GUARDS, find_flags, measure
from strokect.slices import decode


@pytest.fixture(scope="module")
def heads() -> list[NDArray[np.uint8]]:
    return [window(p.hu) for p in make_cohort(patients=4, slices=6, size=128, seed=5)]


def enlarged(grey: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("side", [128, 512])
def test_untouched_slices_have_no_frame_no_text_and_nothing_drawn(heads: list[NDArray[np.uint8]], side: int) -> None:
    for head in heads:
        grey = enlarged(head, side)
        assert find_frame(grey)[0] == 0
        assert count_letters(grey) < 3
        assert not is_drawn_on(grey, measure(Picture(grey, 0)))


@pytest.mark.parametrize("side", [192, 512])
def test_a_drawn_contour_is_seen(heads: list[NDArray[np.uint8]], side: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    seen = []
    for number, head in enumerate(heads[2::3]):
        Image.fromarray(enlarged(head, side)).save(tmp_path / f"{number}.png")
        grey = np.asarray(contour(tmp_path / f"{number}.png", rng, colour=False))
        seen.append(is_drawn_on(grey, measure(Picture(grey, 0))))
    assert sum(seen) >= len(seen) - 1, seen


def test_a_curve_of_one_level_counts_beside_some_ink_and_neither_does_alone(heads: list[NDArray[np.uint8]]) -> None:
    """At the skull base little of a contour is in tissue, where ink is measured, and bone interrupts it."""
    plain = enlarged(heads[3], 512)
    picture = Image.fromarray(plain)
    ImageDraw.Draw(picture).arc((200, 200, 290, 270), 20, 250, fill=210, width=2)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    arc = np.asarray(Image.open(stream))
    ink = dict.fromkeys(("bright_strokes", "dark_strokes", "strokes", "fine_noise"), 0.0)
    assert is_drawn_on(arc, ink | {"bright_strokes": 1.0})
    assert not is_drawn_on(plain, ink | {"bright_strokes": 1.0})
    assert not is_drawn_on(arc, ink | {"bright_strokes": 0.5})
    rest = Image.fromarray(plain)
    ImageDraw.Draw(rest).arc((30, 100, 480, 500), 20, 160, fill=210, width=3)  # a headrest
    assert not is_drawn_on(np.asarray(rest), ink | {"bright_strokes": 1.0})
    rng = np.random.default_rng(0)
    rough = np.where(arc - plain.astype(int) > 30, rng.integers(180, 256, arc.shape), arc).astype(np.uint8)  # as bone is
    assert not is_drawn_on(rough, ink | {"bright_strokes": 1.0})


@pytest.mark.parametrize("side", [96, 256, 384])
@pytest.mark.parametrize("quality", [None, 90])
def test_a_white_contour_is_seen_in_a_small_picture_and_bone_is_none(
    heads: list[NDArray[np.uint8]], side: int, quality: int | None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    Image.fromarray(heads[3]).save(tmp_path / "head.png")
    stream = io.BytesIO()
    drawn = contour(tmp_path / "head.png", rng, colour=False, white_px=side)
    drawn.save(stream, *(("PNG",) if quality is None else ("JPEG",)), **({"quality": quality} if quality else {}))
    grey = np.asarray(Image.open(stream))
    assert grey.shape == (side, side) and is_drawn_on(grey, measure(Picture(grey, 0)))
    plain = enlarged(heads[3], side)
    assert not is_drawn_on(plain, measure(Picture(plain, 0)))
    plug = plain.copy()
    plug[side // 2 - side // 16 : side // 2 + side // 16, side // 2 - side // 16 : side // 2 + side // 16] = (
        255  # a calcification
    )
    assert not is_drawn_on(plug, measure(Picture(plug, 0)))


@pytest.mark.parametrize(("width", "level"), [(2, 255), (5, 90), (7, 40)])
def test_frame_has_its_width_and_level(heads: list[NDArray[np.uint8]], width: int, level: int) -> None:
    grey = np.full((128, 128), level, np.uint8)
    grey[width:-width, width:-width] = heads[3][width:-width, width:-width]
    assert find_frame(grey) == (width, level)


def test_a_head_that_reaches_the_edge_is_no_frame() -> None:
    grey = np.zeros((64, 64), np.uint8)
    grey[20:] = 130
    assert find_frame(grey)[0] == 0


def test_letters_beside_the_head_are_counted(heads: list[NDArray[np.uint8]]) -> None:
    picture = Image.fromarray(enlarged(heads[3], 512))
    ImageDraw.Draw(picture).text((8, 8), "R 12 34", fill=255, font_size=18)
    assert count_letters(np.asarray(picture)) >= 4


def test_encoding_tells_formats_and_quantisation_apart(heads: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    picture = Image.fromarray(heads[0])
    names = ["a.png", "b.jpg", "c.jpg", "d.jpg"]
    for name, options in zip(names, ({}, {"quality": 75}, {"quality": 75}, {"quality": 90}), strict=True):
        picture.save(tmp_path / name, **options)
    (tmp_path / "e.dcm").write_bytes(b"no picture")
    (tmp_path / "IM03.DOE^JANE 19990131").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "volume.nii").write_bytes(b"")

    def gone() -> Picture:
        raise ImageError("unreadable_file", "cannot be opened")

    files = [tmp_path / name for name in (*names, "e.dcm", "gone", "IM03.DOE^JANE 19990131", "volume.nii")]
    facts = gather_facts(files, [*[lambda: Picture(heads[0], 0)] * 4, *[gone] * 4])
    assert list(facts) == COLUMNS
    encoding = facts["encoding"].tolist()
    assert (
        encoding[0] == "PNG L" and encoding[1] == encoding[2] != encoding[3] and encoding[4:] == ["other", "", "DICOM", "NIfTI"]
    )
    assert "JPEG" in encoding[1]
    assert facts["file_kb"][0] == (tmp_path / "a.png").stat().st_size / 1000
    assert np.isnan(facts["file_kb"][5])


def test_what_is_no_head_ct_is_told_by_the_codes_of_the_pixel_checks(heads: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.fromarray(heads[3]).save(file)
    noise = np.random.default_rng(0).integers(90, 160, heads[3].shape, np.uint8)
    blank = np.zeros((64, 64), np.uint8)
    facts = gather_facts([file] * 3, [lambda pixels=pixels: Picture(pixels, 0) for pixels in (heads[3], noise, blank)])  # type: ignore[misc]
    clean, other, empty = facts["unlike"]
    assert clean == "" and empty == ""  # blank slices are another check's
    assert {"background", "no_skull_ring"} <= set(other.split(","))


def test_a_frame_and_a_close_cut_do_not_make_another_thing_of_a_head(heads: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.fromarray(heads[3]).save(file)
    head = dilate(erode(heads[3], 9), 9) > 60  # without the headrest
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    framed, cut = heads[3].copy(), heads[3][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    framed[:2] = framed[-2:] = framed[:, :2] = framed[:, -2:] = 200
    pictures = [Picture(framed, 0), Picture(cut, 0), Picture(255 - heads[3], 0)]
    for picture in pictures[:2]:
        assert {"frame", "head_size"} & set(find_flags(measure(picture), GUARDS))  # the service would not have them
    unlike = gather_facts([file] * 3, [lambda picture=picture: picture for picture in pictures])["unlike"].tolist()  # type: ignore[misc]
    assert unlike[:2] == ["", ""] and "background" in unlike[2]


def test_noise_is_no_ink(heads: list[NDArray[np.uint8]]) -> None:
    rng = np.random.default_rng(0)
    found = []
    for head in heads[::4]:
        noisy = enlarged(head, 512) + rng.normal(0, 30, (512, 512)) * (enlarged(head, 512) > 20)
        picture = Picture(np.clip(noisy, 0, 255).astype(np.uint8), 0)
        measured = measure(picture)
        found.append(measured["strokes"])
        assert not is_drawn_on(picture.grey, measured)
    assert max(found) > DRAWN["strokes"]  # which counts noise


def test_a_picture_that_is_no_jpeg_has_no_quantisation(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(stream, "PNG")
    (tmp_path / "x.jpg").write_bytes(stream.getvalue())  # by its name only
    facts = gather_facts([tmp_path / "x.jpg"], [lambda: Picture(np.zeros((40, 40), np.uint8), 0)])
    assert facts["encoding"].tolist() == ["PNG L"]


@pytest.mark.realdata
def test_lines_on_real_slices_are_seen_and_clean_ones_of_two_scanners_pass(realdata: Path) -> None:
    rng, drawn = np.random.default_rng(3), []
    for file in sorted((realdata / "brain-stroke-ct").glob("*/*.jpg"))[7::41]:
        clean = decode(file.read_bytes())
        assert not is_drawn_on(clean.grey, measure(clean)), file.name
        if clean.grey.mean() > 8:
            lined = Picture(np.asarray(contour(file, rng, colour=False)), 0)
            drawn.append(is_drawn_on(lined.grey, measure(lined)))
    assert len(drawn) > 50 and np.mean(drawn) >= 0.95
    if has_gdcm():
        for file in (realdata / "dicom").rglob("*.dcm"):
            clean = decode(file.read_bytes())
            assert not is_drawn_on(clean.grey, measure(clean)), file.name
