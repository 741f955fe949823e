"""A series of slices from an upload: read every file, keep the one series with most axial slices, order it bottom → top.

Position 0 is the lowest slice, as in all training data (CT-ICH numbers slices from the skull base, so does the phantom): the
sequence head knows a slice's place by it. Nothing is dropped silently: what is not kept is listed with a code and a reason.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from strokect.archive import MAX_SERIES_BYTES, Unreadable, is_side_file, unpack
from strokect.errors import ImageError
from strokect.files import sha256_bytes
from strokect.geometry import SAME_POSITION_MM, SAME_TILT_DEG, Geometry, has_gap, has_number_gap, read_geometry
from strokect.hounsfield import BRAIN_ONLY, Windows
from strokect.slices import Picture, decode, is_dicom

MAX_SLICE_PIXELS = 2**20  # 1024 × 1024: with 400 slices decoded at once, /predict's own cap would be 13 GB
MAX_SERIES_PIXELS = 2**27  # 512 slices of 512 × 512
LEFT_OUT = {
    "duplicate": "the same picture as another slice",
    "same_position": "another slice lies at the same place",
    "other_series": "of another series than the one judged, which has the most axial slices",
    "other_frame": "of the series judged, but its place cannot be compared: it has another frame of reference, or none",
    "no_series": "the files do not say whether it is of the series judged",
    "other_tilt": "not parallel to the other slices of its series",
    "no_geometry": "does not say where it lies in the series",
    "picture_among_dicom": "a picture among DICOM slices",
}
UNRECOGNISED = "unrecognised", "neither PNG nor JPEG nor DICOM, but it may have been a slice: it is no text, document or program"
# What may be missing without a doubt about the series: none of these is one of its slices that nobody looked at.
HARMLESS = {"duplicate", "other_series", "localiser", "unknown_format", "no_slice", "dicomdir"}
HARMLESS |= {"picture_among_dicom", "needs_hounsfield"}  # pictures beside DICOM slices; without any, nothing is left to judge


@dataclass(frozen=True)
class Member:
    """One file of an upload. `geometry` is None for what is no DICOM file, `picture` where `error` (code, message) says why."""

    number: int  # 0-based place in the upload; of a zip: among its files in the order of its list
    sha256: str
    picture: Picture | None
    geometry: Geometry | None
    error: tuple[str, str] | None


@dataclass(frozen=True)
class Arranged:
    """What is judged, and what is not and why."""

    order: list[Member]  # bottom → top when `by` is "position"
    left_out: list[tuple[int, str, str]]  # (number, code, message), by number
    by: Literal["position", "instance", "upload"]  # what the order stands on
    incomplete: bool  # a slice of this series is missing, or was sent and could not be judged
    several: bool  # not all DICOM files are of one study of one patient


def read_series(
    files: Sequence[bytes], max_slices: int, max_bytes: int = MAX_SERIES_BYTES, windows: Windows = BRAIN_ONLY
) -> list[Member]:
    """Every file of an upload, decoded. Raises ImageError when the whole breaks a cap (see `unpack`)."""
    members: list[Member] = []
    pixels = 0
    for number, data in enumerate(unpack(files, max_slices, max_bytes)):
        members.append(read_member(number, data, windows))
        pixels += members[-1].picture.grey.size if members[-1].picture else 0
        if pixels > MAX_SERIES_PIXELS:
            raise ImageError("too_large_series", f"more than {MAX_SERIES_PIXELS:,} pixels in one series")
    return members


def read_member(number: int, data: bytes | Unreadable, windows: Windows = BRAIN_ONLY) -> Member:
    """Decode one file of an upload and read where it lies. Never raises: what is wrong with it is in `error`."""
    if isinstance(data, Unreadable):
        return Member(number, data.sha256, None, None, (data.code, data.message))
    sha256 = sha256_bytes(data)
    geometry: Geometry | None = None
    try:
        geometry = read_geometry(data) if is_dicom(data) else None
        picture = decode(data, windows)
        height, width = picture.grey.shape
        if height * width > MAX_SLICE_PIXELS:
            raise ImageError("too_many_pixels", f"{width}×{height} pixels; at most {MAX_SLICE_PIXELS:,} in a series")
    except ImageError as error:
        doubtful = error.code == "unknown_format" and not is_side_file(data)
        return Member(number, sha256, None, geometry, UNRECOGNISED if doubtful else (error.code, str(error)))
    return Member(number, sha256, picture, geometry, None)


def arrange(members: Sequence[Member]) -> Arranged:
    """Choose and order the slices to judge. The outcome does not depend on the order of DICOM files in the upload."""
    sorting = _Sorting(members)
    sorting.drop("duplicate", _repeated(sorting.kept, lambda member: member.sha256))
    if not any(member.geometry for member in sorting.kept):
        return sorting.done("upload", series="")
    sorting.drop("picture_among_dicom", [member for member in sorting.kept if not member.geometry])
    placed = [member for member in sorting.kept if _of(member).normal]
    series = _largest(placed or sorting.kept, lambda member: _of(member).series) if sorting.kept else ""
    others = [member for member in sorting.kept if _of(member).series != series]
    sorting.drop("other_series" if series else "no_series", [m for m in others if _of(m).series])
    sorting.drop("no_series", others)
    if placed:
        sorting.drop("no_geometry", [member for member in sorting.kept if not _of(member).normal])
        frame = _largest(sorting.kept, lambda member: _of(member).frame)
        sorting.drop("other_frame", [member for member in sorting.kept if _of(member).frame != frame])
        sorting.drop("other_tilt", _askew(sorting.kept))
        sorting.kept.sort(key=lambda m: (_position(m), *_tie(m)))
        _drop_same_place(sorting)
        return sorting.done("position", series)
    if len(sorting.kept) > 1 and any(_of(member).instance is None for member in sorting.kept):
        sorting.drop("no_geometry", list(sorting.kept))
    sorting.kept.sort(key=_tie)
    sorting.drop("same_position", _repeated(sorting.kept, lambda member: str(_of(member).instance)))
    return sorting.done("instance", series)


class _Sorting:
    """Members still kept and those left out so far."""

    def __init__(self, members: Sequence[Member]):
        self.members = members
        self.kept = [member for member in members if member.error is None]
        self.left = [(member, *member.error) for member in members if member.error is not None]

    def drop(self, code: str, members: Iterable[Member]) -> None:
        """Leave `members` out for the reason `code`."""
        gone = {member.number for member in members}
        self.left += [(member, code, LEFT_OUT[code]) for member in self.kept if member.number in gone]
        self.kept = [member for member in self.kept if member.number not in gone]

    def done(self, by: Literal["position", "instance", "upload"], series: str) -> Arranged:
        """The outcome; a file left out counts as missing unless it is known to be none of this series' slices."""
        missing = any(
            code not in HARMLESS and (not series or member.geometry is None or member.geometry.series in ("", series))
            for member, code, _ in self.left
        )
        geometries = [member.geometry for member in self.members if member.geometry and member.geometry.series == series]
        gap = by != "upload" and has_number_gap(
            [_of(member).instance for member in self.kept], [geometry.instance for geometry in geometries]
        )
        if by == "position":
            gap |= has_gap(*zip(*((_position(member), _of(member).thickness_mm) for member in self.kept), strict=True))
        left = sorted((member.number, code, message) for member, code, message in self.left)
        return Arranged(self.kept, left, by, missing or gap, _several(self.members))


def _of(member: Member) -> Geometry:
    assert member.geometry is not None  # `arrange` has dropped the pictures
    return member.geometry


def _position(member: Member) -> float:
    position = _of(member).position_mm
    assert position is not None  # it goes with the normal
    return position


def _tie(member: Member) -> tuple[float, str]:
    """What decides between slices at one place: the earlier instance, then the bytes; never the place in the upload."""
    instance = _of(member).instance
    return float("inf") if instance is None else instance, member.sha256


def _repeated(members: Sequence[Member], key: Callable[[Member], str]) -> list[Member]:
    """Those whose key an earlier one has."""
    first: dict[str, Member] = {}
    return [member for member in members if first.setdefault(key(member), member) is not member]


def _largest(members: Sequence[Member], key: Callable[[Member], str]) -> str:
    """The key that most slices have; hashes of UIDs differ between processes, so the files' hashes break a tie."""
    groups: dict[str, list[str]] = {}
    for member in members:
        groups.setdefault(key(member), []).append(member.sha256)
    return min(groups, key=lambda group: (-len(groups[group]), min(groups[group])))


def _several(members: Sequence[Member]) -> bool:
    """Whether DICOM files are of more than one study or patient. A slice that does not say so counts as one of its own."""
    known = [(member.geometry, member.error) for member in members if member.geometry]
    studies = {geometry.study for geometry, error in known if geometry.study or not error}
    patients = {geometry.patient for geometry, error in known if geometry.patient or not error}
    return len(studies) > 1 or len(patients) > 1


def _askew(members: Sequence[Member]) -> list[Member]:
    """Slices that are not parallel to most: an older scanner may change its tilt half-way up."""
    normals = np.array([_of(member).normal for member in members])
    parallel = normals @ normals.T > np.cos(np.radians(SAME_TILT_DEG))  # (n, n)
    most = min(range(len(members)), key=lambda i: (-parallel[i].sum(), *_tie(members[i])))
    return [member for member, alike in zip(members, parallel[most], strict=True) if not alike]


def _drop_same_place(sorting: _Sorting) -> None:
    """Of slices at one place the first stays. One with the same pixels is a duplicate, another one has not been looked at."""
    below: Member | None = None
    for member in list(sorting.kept):
        if below is None or _position(member) - _position(below) > SAME_POSITION_MM:
            below = member
            continue
        assert below.picture is not None and member.picture is not None  # they are kept
        same = np.array_equal(below.picture.planes, member.picture.planes)
        sorting.drop("duplicate" if same else "same_position", [member])
