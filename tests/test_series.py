"""A series from an upload: hostile archives, where slices lie, which are kept, in which order, and why the others are not."""

import io
import math
import os
import random
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import dicom_bytes, encode, grey_slice
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGExtended12Bit

from strokect import archive, geometry
from strokect import series as series_module
from strokect.archive import MAX_DIRECTORY_BYTES, MAX_MEMBER_BYTES, Unreadable, unpack
from strokect.dicom import tilt_degrees
from strokect.errors import ImageError
from strokect.files import sha256_bytes
from strokect.geometry import UNKNOWN, has_gap, has_number_gap, read_geometry
from strokect.series import Arranged, arrange, read_member, read_series

REAL = Path(os.environ.get("STROKECT_REALDATA", Path(__file__).parents[2] / "shared" / "data")) / "dicom"
AXIAL = [1, 0, 0, 0, 1, 0]
CORONAL, SAGITTAL = [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]
COMPRESSED = {"syntax": JPEGExtended12Bit, "PixelData": encapsulate([b"\xff\xd8 not looked at"])}
SERIES, OTHER = "1.2.840.1964.1", "1.2.840.1964.2"


def tilted(degrees: float) -> list[float]:
    angle = math.radians(degrees)
    return [1, 0, 0, 0, math.cos(angle), -math.sin(angle)]


def slice_at(z: float | None, level: int = 0, series: str = SERIES, **elements: Any) -> bytes:
    """A DICOM slice at height z (mm), grey by `level` (HU) so that slices differ; elements given as None are left out."""
    place = {"ImagePositionPatient": [-120, -110, z], "ImageOrientationPatient": AXIAL} if z is not None else {}
    stored = np.full((40, 40), 1024 + level, np.int16)
    return dicom_bytes(stored, **({"SeriesInstanceUID": series, "FrameOfReferenceUID": "1.2.3.9"} | place | elements))


def compressed(z: float) -> bytes:
    return slice_at(z, **COMPRESSED)


def stack(heights: list[float], **elements: Any) -> list[bytes]:
    return [slice_at(z, i, **elements) for i, z in enumerate(heights)]


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return stream.getvalue()


def arranged(*files: bytes, shuffle: int | None = None) -> Arranged:
    listed = list(files)
    if shuffle is not None:
        random.Random(shuffle).shuffle(listed)
    return arrange(read_series(listed, 400))


def hashes(found: Arranged) -> list[str]:
    return [member.sha256 for member in found.order]


def expected(files: list[bytes]) -> list[str]:
    return [sha256_bytes(data) for data in files]


def codes(found: Arranged) -> dict[int, str]:
    assert all(message and "1964" not in message for _, _, message in found.left_out)
    return {number: code for number, code, _ in found.left_out}


# Where a slice lies.


def test_position_is_the_distance_along_the_normal_and_up_is_larger() -> None:
    assert read_geometry(slice_at(50.0)).position_mm == 50 and read_geometry(slice_at(50.0)).normal == (0, 0, 1)
    tilt = read_geometry(slice_at(50.0, ImageOrientationPatient=tilted(20)))
    # n = (0, sin 20°, cos 20°); the corner is at (-120, -110, 50)
    assert tilt.position_mm == pytest.approx(-110 * math.sin(math.radians(20)) + 50 * math.cos(math.radians(20)))
    assert tilt.normal is not None and tilt_degrees(tilt.normal) == pytest.approx(20)


@pytest.mark.parametrize("cosines", [[-1, 0, 0, 0, 1, 0], [1, 0, 0, 0, -1, 0], [-1, 0, 0, 0, -1, 0], [0, 1, 0, 1, 0, 0]])
def test_a_turned_or_mirrored_picture_lies_where_it_lies(cosines: list[int]) -> None:
    assert read_geometry(slice_at(50.0, ImageOrientationPatient=cosines)).position_mm == 50


@pytest.mark.parametrize(
    "elements",
    [
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": None},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]},
        {"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]},
        {"ImagePositionPatient": ["1e300", 0, 0]},
    ],
)
def test_unusable_positions_are_none(elements: dict[str, object]) -> None:
    found = read_geometry(slice_at(50.0, **elements))
    assert found.position_mm is None and found.normal is None and found.series != ""


@given(st.lists(st.binary(max_size=24), min_size=5, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_value_in_the_elements_that_are_read_gives_a_geometry_or_none(values: list[bytes]) -> None:
    body = b"".join(
        struct.pack("<HH2sH", 0x20, element, vr, len(value)) + value
        for (element, vr), value in zip(
            [(0x0E, b"UI"), (0x13, b"IS"), (0x32, b"DS"), (0x37, b"DS"), (0x52, b"UI")], values, strict=True
        )
    )
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    found = read_geometry(bytes(128) + b"DICM" + meta + body)
    assert found.position_mm is None or math.isfinite(found.position_mm)


def test_uids_are_kept_as_salted_hashes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_geometry(slice_at(1.0))
    assert found.series == read_geometry(slice_at(2.0)).series != read_geometry(slice_at(1.0, series=OTHER)).series
    assert "1964" not in repr(found) and found.frame != found.series
    monkeypatch.setattr(geometry, "SALT", b"another process")
    assert read_geometry(slice_at(1.0)).series != found.series


def test_patient_and_study_are_kept_as_salted_hashes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read_geometry(slice_at(1.0, PatientID="Erika 1964", StudyInstanceUID="1.2.840.1964.5"))
    again = read_geometry(slice_at(2.0, PatientID="Erika 1964 ", StudyInstanceUID="1.2.840.1964.5"))
    assert "1964" not in repr(found) and "Erika" not in repr(found) and found.patient != found.study
    assert (again.patient, again.study) == (found.patient, found.study) != ("", "")
    umlauts = [read_geometry(slice_at(1.0, PatientID=name, SpecificCharacterSet="ISO_IR 100")) for name in ("Köhler", "Kühler")]
    assert umlauts[0].patient != umlauts[1].patient
    monkeypatch.setattr(geometry, "SALT", b"another process")
    assert read_geometry(slice_at(1.0, PatientID="Erika 1964")).patient != found.patient


def test_the_name_and_the_pixels_are_never_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = geometry.read_dataset

    def spy(*arguments: Any, **options: Any) -> Any:
        dataset = original(*arguments, **options)
        read.extend(map(int, dataset.keys()))
        return dataset

    monkeypatch.setattr(geometry, "read_dataset", spy)
    data = slice_at(
        1.0, PatientID="1964", PatientBirthDate="19640101", StudyInstanceUID="1.2", SliceThickness=5, InstanceNumber=3
    )
    before = data[: data.index(b"\x28\x00\x02\x00US")]  # what describes the pixels, and the pixels behind it
    assert read_geometry(before + b"\x28\x00\x02\x00SQ\x00\x00\xff\xff\xff\xff no sequence").instance == 3
    assert {tag for tag in read if tag >> 16 not in (0x0002, 0x0020)} == {0x00100020, 0x00180050} and len(set(read)) == 10


def test_headers_of_other_transfer_syntaxes() -> None:
    assert read_geometry(slice_at(5.0, syntax=ImplicitVRLittleEndian)).position_mm == 5
    assert read_geometry(compressed(5.0)).position_mm == 5  # so that a series knows what it lacks
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join([*(deflate.compress(bytes(1 << 20)) for _ in range(100)), deflate.flush()])
    head = bytes(128) + b"DICM" + struct.pack("<HH2sH", 2, 0x10, b"UI", 22) + DeflatedExplicitVRLittleEndian.encode()
    assert read_geometry(head + bomb) == UNKNOWN


# Archives.


def test_files_of_an_upload_come_in_order_from_parts_and_archives() -> None:
    one = zipped({"folder/": b"", "folder/b": b"1", "folder/a": b"2"})
    two = zipped({"c.png": b"4"}, zipfile.ZIP_STORED)
    assert list(unpack([one, b"3", two], 10)) == [b"1", b"2", b"3", b"4"]


def test_a_zip_is_known_by_its_signature_and_a_dicom_file_by_its_own() -> None:
    disguised = b"PK\x03\x04" + slice_at(1.0)[4:]
    assert list(unpack([disguised], 1)) == [disguised]
    assert list(unpack([b"a zip by its name"], 1)) == [b"a zip by its name"]
    assert list(unpack([zipped({})], 1)) == []


def test_names_in_an_archive_are_no_paths_and_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = zipped({"../../Erika_1964.dcm": b"1", "/etc/passwd": b"2", "C:\\x": b"3", "a" * 60_000: b"4", "\n": b"5"})
    assert list(unpack([data], 10)) == [b"1", b"2", b"3", b"4", b"5"]
    assert not list(tmp_path.rglob("*"))


def unreadable(files: list[bytes], **options: Any) -> list[str]:
    return [data.code if isinstance(data, Unreadable) else "" for data in unpack(files, 400, **options)]


def test_what_macos_adds_and_a_dicomdir_are_left_out() -> None:
    data = zipped({"a": slice_at(1.0), "__MACOSX/._a": b"x", "._b": b"y", "b": slice_at(2.0)})
    assert unreadable([data]) == ["", "no_slice", "no_slice", ""]
    meta = struct.pack("<HH2sH", 2, 0x02, b"UI", 20) + b"1.2.840.10008.1.3.10" + struct.pack("<HH2sH", 2, 0x10, b"UI", 20)
    directory = bytes(128) + b"DICM" + meta + b"1.2.840.10008.1.2.1\0"
    found = arranged(zipped({"a": slice_at(1.0), "DICOMDIR": directory, "__MACOSX/._a": b"x"}))
    assert codes(found) == {1: "dicomdir", 2: "no_slice"} and len(found.order) == 1 and not found.incomplete


def test_an_archive_of_400_slices_may_carry_as_many_shadows() -> None:
    files = {f"{i}": b"x%d" % i for i in range(20)} | {f"__MACOSX/._{i}": b"" for i in range(20)}
    assert unreadable([zipped(files)]).count("no_slice") == 20
    with pytest.raises(ImageError) as caught:
        list(unpack([zipped(files)], 19))
    assert caught.value.code == "too_many_slices"
    with pytest.raises(ImageError):
        list(unpack([zipped({f"__MACOSX/._{i}": b"" for i in range(20)})], 19))


def test_a_damaged_member_is_that_members_error() -> None:
    data = zipped({"a": b"first" * 100, "b": b"second" * 100, "c": b"third" * 100}, zipfile.ZIP_STORED)
    assert unreadable([data.replace(b"second", b"secomd", 1)]) == ["", "damaged_member", ""]


def test_encrypted_members_and_other_methods_are_refused() -> None:
    data = bytearray(zipped({"a": b"1", "b": b"2"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the first member's flag in the list of files
    assert unreadable([bytes(data)]) == ["encrypted", ""]
    assert unreadable([zipped({"a": b"1" * 1000}, zipfile.ZIP_LZMA)]) == ["unsupported_compression"]


def test_a_zip_in_a_zip_is_not_opened() -> None:
    inner = zipped({"a": slice_at(1.0)})
    assert unreadable([zipped({"inner.dcm": inner, "b": b"2"})]) == ["nested_zip", ""]


def declared(data: bytes, size: int) -> bytes:
    """The zip with another uncompressed size in its list of files and before its first member."""
    changed = bytearray(data)
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = changed.index(signature)
        changed[at + offset : at + offset + 4] = struct.pack("<I", size)
    return bytes(changed)


def test_sizes_are_counted_while_inflating() -> None:
    bomb = zipped({"a": bytes(MAX_MEMBER_BYTES + 1)})
    assert len(bomb) < 20_000
    assert unreadable([bomb]) == ["too_large_member"]
    assert unreadable([declared(bomb, 100)]) == ["damaged_member"]  # a lie, and no more than was declared is inflated
    assert unreadable([zipped({"a": bytes(MAX_MEMBER_BYTES)})]) == [""]
    assert unreadable([bytes(MAX_MEMBER_BYTES + 1)]) == ["too_large_member"]


def test_the_whole_is_capped_whatever_is_in_it() -> None:
    many = zipped({str(i): bytes(2**20) + bytes([i]) for i in range(20)})
    with pytest.raises(ImageError) as caught:
        list(unpack([many], 400, max_bytes=10 * 2**20))
    assert caught.value.code == "too_large_series"
    too_large = zipped({str(i): bytes(MAX_MEMBER_BYTES + 1) for i in range(3)})  # none is kept, each is inflated
    with pytest.raises(ImageError):
        list(unpack([too_large], 400, max_bytes=40 * 2**20))
    with pytest.raises(ImageError):
        list(unpack([bytes(2**20)] * 3, 400, max_bytes=2 * 2**20))


def test_a_bomb_takes_no_memory() -> None:
    bomb = zipped({str(i): bytes(200 * 2**20) for i in range(2)})
    tracemalloc.start()
    assert unreadable([bomb]) == ["too_large_member"] * 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_MEMBER_BYTES


def test_a_long_list_of_files_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zipped({"n" * 60_000 + str(i): b"" for i in range(MAX_DIRECTORY_BYTES // 60_000 + 1)})
    monkeypatch.setattr(archive.zipfile, "ZipFile", lambda *a: pytest.fail("parsed"))
    with pytest.raises(ImageError) as caught:
        list(unpack([data], 400))
    assert caught.value.code == "too_many_slices"


def test_the_list_that_was_measured_is_the_list_that_is_read() -> None:
    """A second end record in the comment of the first: whichever is looked at, the same one must be opened."""
    small = zipped({"a": b"1"})
    inner = zipped({"b": b"2", "c": b"3"})
    data = small[:-2] + struct.pack("<H", len(inner)) + inner
    assert list(unpack([data], 2)) == [b"2", b"3"]


@pytest.mark.parametrize("length", [4, 30, 60, -1, -22, -30])
def test_a_truncated_archive_is_refused(length: int) -> None:
    with pytest.raises(ImageError) as caught:
        list(unpack([zipped({"Erika_1964": b"1" * 50})[:length]], 400))
    assert caught.value.code == "unreadable_zip" and "1964" not in str(caught.value)


@given(st.integers(0, 2**32), st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_a_mutated_archive_never_raises_anything_else(seed: int, count: int) -> None:
    rng = random.Random(seed)
    data = bytearray(zipped({"x/a": slice_at(1.0), "b": encode(grey_slice()), "x/c": b"text"}))
    for _ in range(count):
        data[rng.randrange(4, len(data))] = rng.randrange(256)
    try:
        arrange(read_series([bytes(data)], 400))
    except ImageError as error:
        assert error.code in ("unreadable_zip", "too_many_slices", "too_large_series")


# One file of an upload.


def test_a_member_says_what_is_wrong_with_it() -> None:
    assert read_member(3, b"text").error == ("unknown_format", "neither PNG nor JPEG nor DICOM")
    lossless = read_member(0, compressed(5.0))
    assert lossless.error is not None and lossless.error[0] == "unsupported_transfer_syntax" and lossless.picture is None
    assert lossless.geometry is not None and lossless.geometry.position_mm == 5
    good = read_member(7, slice_at(5.0))
    assert good.picture is not None and good.picture.grey.shape == (40, 40) and (good.number, good.error) == (7, None)
    picture = read_member(0, encode(grey_slice()))
    assert picture.geometry is None and picture.picture is not None
    assert read_member(0, Unreadable("encrypted", "it is", "f" * 64)).sha256 == "f" * 64


def test_pixels_are_capped_per_slice_and_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_member(0, encode(np.zeros((1100, 1000), np.uint8))).error[0] == "too_many_pixels"  # type: ignore[index]
    assert read_member(0, encode(np.zeros((1024, 1024), np.uint8))).error is None
    monkeypatch.setattr(series_module, "MAX_SERIES_PIXELS", 3 * 64 * 64)
    read_series([encode(grey_slice(seed=i)) for i in range(3)], 400)
    with pytest.raises(ImageError) as caught:
        read_series([encode(grey_slice(seed=i)) for i in range(4)], 400)
    assert caught.value.code == "too_large_series"


# What is kept, and in which order.


@given(st.permutations(range(6)))
@settings(max_examples=30, deadline=None)
def test_slices_are_ordered_from_the_lowest_up_however_they_were_sent(places: list[int]) -> None:
    files = stack([-30, -25, -20, -15, -10, -5], ImageOrientationPatient=tilted(25))
    found = arranged(*(files[i] for i in places))
    assert hashes(found) == expected(files) and found.by == "position" and not found.left_out and not found.incomplete
    assert [member.number for member in found.order] == [places.index(i) for i in range(6)]


def test_instance_numbers_do_not_matter_where_there_are_positions() -> None:
    files = [slice_at(5.0 * i, i, InstanceNumber=9 - i) for i in range(4)]
    assert hashes(arranged(*files, shuffle=0)) == expected(files)


def test_the_series_with_most_axial_slices_is_kept() -> None:
    axial = stack([0, 5, 10])
    coronal = [slice_at(float(y), 20 + y, OTHER, ImageOrientationPatient=CORONAL) for y in range(6)]
    thin = [slice_at(float(z), 40 + z, OTHER) for z in range(2)]
    found = arranged(*axial, *coronal, *thin)
    assert hashes(found) == expected(axial) and not found.incomplete
    assert codes(found) == dict.fromkeys(range(3, 9), "not_axial") | dict.fromkeys((9, 10), "other_series")


@pytest.mark.parametrize("frame", ["1.2.3.10", None])
@pytest.mark.parametrize("shuffle", range(3))
def test_slices_of_the_series_in_another_frame_of_reference_were_not_looked_at(frame: str | None, shuffle: int) -> None:
    one = stack([5.0 * i for i in range(11)])
    other = [slice_at(5.0 * i, 20 + i, FrameOfReferenceUID=frame) for i in range(9)]
    found = arranged(*one, *other, shuffle=shuffle)
    assert hashes(found) == expected(one) and list(codes(found).values()) == ["other_frame"] * 9 and found.incomplete


def test_a_series_is_chosen_by_all_its_frames() -> None:
    mixed = [*stack([0, 5, 10, 15]), *(slice_at(5.0 * i, 20 + i, FrameOfReferenceUID="1.2.3.10") for i in range(3))]
    found = arranged(*mixed, *(slice_at(5.0 * i, 40 + i, OTHER) for i in range(5)))
    assert hashes(found) == expected(mixed[:4]) and found.incomplete


def test_a_slice_without_a_series_may_be_of_the_one_judged() -> None:
    named, unnamed = stack([0, 5, 10]), [slice_at(5.0 * i, 9 + i, SeriesInstanceUID=None) for i in range(5)]
    found = arranged(*named, *unnamed[:2])
    assert hashes(found) == expected(named) and codes(found) == {3: "no_series", 4: "no_series"} and found.incomplete
    found = arranged(*named, *unnamed)  # the other way round: which of the named ones belong to it, nobody knows
    assert hashes(found) == expected(unnamed) and set(codes(found).values()) == {"no_series"} and found.incomplete
    assert not arranged(*unnamed).incomplete


def test_a_tie_between_series_goes_by_content_not_by_place_or_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = stack([0, 5, 10]), stack([0, 5, 10], series=OTHER)
    kept = {tuple(hashes(arranged(*one, *two))), tuple(hashes(arranged(*two, *one)))}
    for salt in range(8):
        monkeypatch.setattr(geometry, "SALT", bytes([salt]))
        kept.add(tuple(hashes(arranged(*one, *two, shuffle=salt))))
    assert len(kept) == 1


@pytest.mark.parametrize("degrees", [0, 15, -30, 30])
def test_a_tilted_gantry_is_axial(degrees: float) -> None:
    assert len(arranged(*stack([0, 5, 10], ImageOrientationPatient=tilted(degrees))).order) == 3


@pytest.mark.parametrize("cosines", [tilted(35), CORONAL, SAGITTAL])
def test_what_is_not_axial_is_left_out(cosines: list[float]) -> None:
    assert codes(arranged(*stack([0, 5, 10]), slice_at(7.0, 9, ImageOrientationPatient=cosines))) == {3: "not_axial"}


def test_a_stack_that_is_not_parallel_to_the_rest_is_missing() -> None:
    found = arranged(*stack([0, 5, 10]), *(slice_at(20.0 + i, 9 + i, ImageOrientationPatient=tilted(12)) for i in range(2)))
    assert codes(found) == {3: "other_tilt", 4: "other_tilt"} and found.incomplete


@pytest.mark.parametrize(
    ("elements", "code", "incomplete"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser", False),
        ({"Modality": "MR", "series": OTHER}, "wrong_modality", False),
        ({"ImageOrientationPatient": CORONAL, "series": OTHER}, "not_axial", False),
        ({"ImageOrientationPatient": tilted(35)}, "not_axial", True),  # reformatted pictures are a series of their own
        ({"Modality": None}, "wrong_modality", True),  # a series has one modality: this one is damaged
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour", True),
        ({"NumberOfFrames": 2, "series": OTHER}, "multi_frame", False),
        ({"PixelData": b"\0" * 1000}, "truncated_pixel_data", True),
        ({"PixelData": b"\0" * 1000, "series": OTHER}, "truncated_pixel_data", False),
        (COMPRESSED, "unsupported_transfer_syntax", True),
        ({"ImagePositionPatient": None}, "no_geometry", True),
    ],
)
def test_foreign_files_are_left_out_and_slices_of_the_series_are_missed(
    elements: dict[str, Any], code: str, incomplete: bool
) -> None:
    found = arranged(*stack([0, 5, 10]), slice_at(7.5, 9, **elements))
    assert codes(found) == {3: code} and len(found.order) == 3 and found.incomplete is incomplete


def test_files_that_may_have_been_slices_are_missed_and_others_are_not() -> None:
    files = stack([0, 5, 10])
    assert not arranged(*files, b"a text file").incomplete
    assert codes(arranged(*files, bytes(128) + b"DICN" + slice_at(15.0)[132:])) == {3: "unrecognised"}
    assert arranged(*files, bytes(128) + b"DICN" + slice_at(15.0)[132:]).incomplete
    assert arranged(*files, slice_at(15.0)[132:]).incomplete  # without preamble, as before 1993
    assert arranged(encode(grey_slice()), b"\0" + encode(grey_slice(seed=1))).incomplete
    assert arranged(*files, b"").incomplete
    assert arranged(*files, slice_at(15.0)[:700]).incomplete
    assert arranged(*files, zipped({"inner.zip": zipped({"a": b"1"})})).incomplete


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"Bildbetrachter f\xfcr Windows\r\n\tAutostart\x1a",
            "Überblick – ✓".encode(),
            b'<?xml version="1.0"?><study/>',
            b"<html>",
        ),
        *(
            b"%PDF-1.7\n\0\1",
            b"MZ\x90\0\3",
            b"\x7fELF\2\1\1\0",
            b"\0\0\0\1Bud1\0",
            b"GIF89a\1\0",
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0",
        ),
    ],
)
def test_what_lies_on_a_disc_beside_the_slices_is_not_missed(data: bytes) -> None:
    found = arranged(*stack([0, 5, 10]), data)
    assert codes(found) == {3: "unknown_format"} and not found.incomplete


def test_slices_of_several_studies_or_patients_are_noticed() -> None:
    def found(*identities: dict[str, Any]) -> Arranged:
        """Three slices of the first, one in another series of each of the rest."""
        rest = [slice_at(5.0, 9 + i, f"{OTHER}.{i}", **identity) for i, identity in enumerate(identities[1:])]
        return arranged(*stack([0, 5, 10], **identities[0]), *rest)

    one = {"PatientID": "1964", "StudyInstanceUID": "1.2.840.1964.5"}
    assert not found(one, one).several and not found({}, {}).several
    for other in ({"PatientID": "1965"}, {"StudyInstanceUID": "1.2.840.1964.6"}, {"PatientID": None}, {"StudyInstanceUID": None}):
        assert found(one, one | other).several and not found(one, one | other).incomplete  # a series of its own, complete or not
    assert found(one, one | {"PatientID": "1965"} | COMPRESSED).several  # unreadable, but somebody's
    assert not found(one, one | {"PatientID": None} | COMPRESSED).several
    assert not arranged(encode(grey_slice()), encode(grey_slice(seed=1))).several


def test_pictures_beside_dicom_are_left_out_but_not_beside_unreadable_dicom() -> None:
    png = encode(grey_slice())
    found = arranged(png, *stack([0, 5]))
    assert codes(found) == {0: "picture_among_dicom"} and not found.incomplete
    found = arranged(png, compressed(0.0))
    assert hashes(found) == expected([png]) and found.by == "upload" and found.incomplete


def test_pictures_keep_the_order_they_were_sent_in() -> None:
    files = [encode(grey_slice(seed=i)) for i in (3, 1, 2)] + [encode(grey_slice(seed=9), "JPEG")]
    found = arranged(*files, files[0])
    assert hashes(found) == expected(files) and found.by == "upload" and codes(found) == {4: "duplicate"}
    assert not found.incomplete


def test_the_same_bytes_twice_are_one_slice() -> None:
    files = stack([0, 5, 10])
    found = arranged(files[1], *files)
    assert hashes(found) == expected(files) and codes(found) == {2: "duplicate"} and not found.incomplete


@pytest.mark.parametrize("shuffle", range(4))
def test_of_two_slices_at_one_place_the_earlier_instance_stays(shuffle: int) -> None:
    files = [slice_at(5.0 * i, i, InstanceNumber=i) for i in range(3)]
    again = slice_at(5.01, 50, InstanceNumber=30)
    found = arranged(*files, again, shuffle=shuffle)
    assert hashes(found) == expected(files) and list(codes(found).values()) == ["same_position"]
    assert found.incomplete  # other pixels: they may show what the first does not
    copy = slice_at(5.0, 1, InstanceNumber=31)  # the same pixels in another file
    found = arranged(*files, copy, shuffle=shuffle)
    assert hashes(found) == expected(files) and list(codes(found).values()) == ["duplicate"] and not found.incomplete


def test_without_positions_the_instance_numbers_sort_when_all_have_one() -> None:
    files = [slice_at(None, i, InstanceNumber=i + 1) for i in range(12)]
    found = arranged(*files, shuffle=3)
    assert hashes(found) == expected(files) and found.by == "instance"
    found = arranged(*files, slice_at(None, 99))
    assert not found.order and set(codes(found).values()) == {"no_geometry"} and found.incomplete
    assert len(arranged(slice_at(None, 99)).order) == 1  # one slice needs no order


EVEN = [5.0 * i for i in range(20)]
PROTOCOL = [2.5 * i for i in range(9)] + [20 + 5.0 * i for i in range(1, 12)]  # 2.5 mm up to 20 mm, 5 mm above


def without(places: list[float], *missing: int) -> list[float]:
    return [place for i, place in enumerate(places) if i % len(places) not in [m % len(places) for m in missing]]


def gap(positions: list[float], thicknesses: list[float] | None = None) -> bool:
    return has_gap(positions, [None] * len(positions) if thicknesses is None else thicknesses)


@given(
    st.integers(4, 60), st.floats(0.4, 12), st.data(), st.lists(st.floats(-0.05, 0.05), min_size=60, max_size=60), st.booleans()
)
def test_any_one_inner_slice_that_is_missing_from_an_even_series_is_noticed(
    count: int, step: float, data: st.DataObject, jitter: list[float], thick: bool
) -> None:
    positions = [step * (i + off) - 800 for i, off in zip(range(count), jitter, strict=False)]
    thicknesses = [step] * count if thick else None
    assert not gap(positions, thicknesses)
    missing = data.draw(st.integers(1, count - 2))
    assert gap(without(positions, missing), thicknesses and thicknesses[1:])
    # Its ends are not: nothing says where the head begins.
    assert not gap(positions[1:], thicknesses and thicknesses[1:]) and not gap(positions[:-1], thicknesses and thicknesses[1:])


@pytest.mark.parametrize(
    "missing", [(1,), (-2,), (4, 6), (1, 3), (-2, -4), (1, 2), (-2, -3), (9, 10, 11), tuple(range(1, 20, 2))[:4]]
)
def test_several_missing_slices_are_noticed_at_the_ends_too(missing: tuple[int, ...]) -> None:
    assert gap(without(EVEN, *missing)) and arranged(*stack(without(EVEN, *missing))).incomplete


@given(st.integers(3, 20), st.integers(3, 20), st.floats(0.5, 3), st.floats(1.2, 6), st.sampled_from(["thin", "mean", "thick"]))
def test_thicker_slices_above_the_skull_base_are_no_gap(fine: int, coarse: int, thin: float, ratio: float, between: str) -> None:
    thick = thin * ratio
    steps = [thin] * fine + [{"thin": thin, "mean": (thin + thick) / 2, "thick": thick}[between]] + [thick] * coarse
    positions = [float(place) for place in np.cumsum([0.0, *steps])]
    assert not gap(positions) and not gap(positions, [thin] * (fine + 1) + [thick] * (coarse + 1))


def test_thicker_slices_below_or_between_are_a_gap() -> None:
    assert not gap(PROTOCOL) and not gap([0, 3, 6, 9, 12, 16.79, 21.58, 26.39])  # 3 and 4.8 mm, rounded
    assert gap([-place for place in reversed(PROTOCOL)])  # no protocol scans the skull base more coarsely
    assert gap([*PROTOCOL, *(PROTOCOL[-1] + 2.5 * i for i in range(1, 5))])
    assert gap([0, 2.5, 5, *(5 + 5.0 * i for i in range(1, 9))])  # two steps are no skull base
    assert gap(without(PROTOCOL, 8, 9))  # where the thickness changes
    coarser = [*PROTOCOL[:9], *(20 + 10.0 * i for i in range(1, 5))]
    assert not gap(coarser) and gap(without(coarser, 4))
    for missing in [*range(1, 7), *range(10, 19)]:
        assert gap(without(PROTOCOL, missing)), missing


def test_every_other_slice_missing_above_shows_by_thickness_or_number() -> None:
    places = [*range(10), *range(10, 20, 2)]
    positions = [5.0 * i for i in places]
    assert not gap(positions)  # by positions alone it is a change of thickness
    assert gap(positions, [5.0] * len(places))
    assert has_number_gap(places, places)
    assert arranged(*stack(positions, SliceThickness=5)).incomplete
    assert arranged(*(slice_at(5.0 * i, i, InstanceNumber=40 - i) for i in places)).incomplete
    fine = [slice_at(2.5 * i, i, InstanceNumber=i, SliceThickness=2.5) for i in range(6)]
    coarse = [slice_at(12.5 + 5 * i, 9 + i, InstanceNumber=5 + i, SliceThickness=5) for i in range(1, 6)]
    assert not arranged(*fine, *coarse, shuffle=1).incomplete


@given(st.integers(4, 60), st.integers(-5, 10**30), st.booleans(), st.data())
def test_a_missing_number_is_a_gap_where_the_others_follow_each_other(
    count: int, first: int, down: bool, data: st.DataObject
) -> None:
    numbers = list(range(first, first + count))[:: -1 if down else 1]
    assert not has_number_gap(numbers, numbers)
    missing = data.draw(st.integers(1, count - 2))
    rest = numbers[:missing] + numbers[missing + 1 :]
    assert has_number_gap(rest, rest)
    assert not has_number_gap(rest, numbers)  # left out, for a reason that is listed
    assert not has_number_gap([*rest, None], rest)


def test_numbers_in_steps_are_no_gap() -> None:
    assert not has_number_gap(range(41, 200, 16), range(41, 200, 16))
    assert not has_number_gap([], []) and not has_number_gap([7], [7]) and not has_number_gap([7, 9], [7, 9])


def test_a_copy_at_the_same_place_leaves_no_gap_in_the_numbers() -> None:
    files = [slice_at(5.0 * i, i, InstanceNumber=i) for i in (0, 1, 2)]
    copy = slice_at(10.0, 2, InstanceNumber=3)
    found = arranged(*files, copy, *(slice_at(5.0 * i, i, InstanceNumber=i + 1) for i in (3, 4, 5)))
    assert list(codes(found).values()) == ["duplicate"] and not found.incomplete


def test_numbers_alone_show_a_gap_too() -> None:
    assert arranged(*(slice_at(None, i, InstanceNumber=i) for i in range(12) if i != 5)).incomplete


def test_nothing_is_left_of_nothing() -> None:
    assert arrange([]) == Arranged([], [], "upload", False, False)
    found = arranged(*(slice_at(float(i), i, ImageOrientationPatient=CORONAL) for i in range(3)))
    assert not found.order and len(found.left_out) == 3


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real DICOM files (STROKECT_REALDATA)")
def test_a_real_compressed_series_is_judged_or_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted((REAL / "series_jpeg_lossless").glob("*.dcm"))
    files = [zipped({path.name: path.read_bytes() for path in paths})]
    found = arrange(read_series(files, 400))
    assert paths and len(found.order) == len(paths) and not found.left_out and found.by == "position"
    monkeypatch.setitem(sys.modules, "gdcm", None)
    members = read_series(files, 400)
    found = arrange(members)
    assert not found.order and found.incomplete
    assert {(code, "JPEG Lossless" in message) for _, code, message in found.left_out} == {("unsupported_transfer_syntax", True)}
    # The headers are read all the same: one series, one tilt, 10 mm apart.
    places = [member.geometry for member in members if member.geometry is not None]
    assert len(places) == len(paths) and len({place.series for place in places}) == 1
    positions = sorted(place.position_mm for place in places if place.position_mm is not None)
    assert np.diff(positions) == pytest.approx(10 * math.cos(math.radians(8.5)), abs=0.01)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real DICOM files (STROKECT_REALDATA)")
def test_real_slices_lie_somewhere_and_are_axial() -> None:
    read: Callable[[Path], Any] = lambda path: read_member(0, path.read_bytes())  # noqa: E731
    for member in map(read, sorted(REAL.glob("*.dcm"))):
        assert member.error is None and member.geometry.position_mm is not None
        assert tilt_degrees(member.geometry.normal) < 20
