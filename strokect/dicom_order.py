"""The slices of one DICOM series from the skull base up, by where they lie and not by what their files are called.

The rules are those of `strokect.series`, which orders what the service is sent.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from strokect.dicom_headers import Header
from strokect.geometry import SAME_POSITION_MM, SAME_TILT_DEG

Left = list[tuple[Header, str]]  # (slice, why it is left out)
By = Literal["position", "instance"]


def order_series(series: Sequence[Header]) -> tuple[list[Header], By, Left]:
    """Slices in order, what the order stands on, and what has no place in it.

    `position`: ImagePositionPatient projected on the normal of the slices (PS3.3 C.7.6.2.1.1), so a tilted gantry and a numbering
    from the top do no harm. `instance`: InstanceNumber, for a series of which no slice says where it lies.
    """
    left: Left = []
    kept = _drop(list(series), _repeated(series, lambda header: header.instance_uid), "the same SOPInstanceUID twice", left)
    placed = [header for header in kept if header.normal is not None]
    if not placed:
        return _by_instance(kept, left)
    kept = _drop(kept, [header for header in kept if header.normal is None], "does not say where it lies in its series", left)
    frame = _most([header.frame_uid for header in kept])
    others = [header for header in kept if header.frame_uid != frame]
    kept = _drop(kept, others, "of another frame of reference than most of its series", left)
    normals = np.array([header.normal for header in kept])  # (n, 3)
    parallel = normals @ normals.T > np.cos(np.radians(SAME_TILT_DEG))  # (n, n)
    most = int(parallel.sum(axis=1).argmax())
    askew = [header for header, alike in zip(kept, parallel[most], strict=True) if not alike]
    kept = _drop(kept, askew, "not parallel to most slices of its series", left)
    height = {header.file: float(header.corner @ normals[most]) for header in kept if header.corner is not None}
    kept.sort(key=lambda header: (height[header.file], *_tie(header)))
    below, doubled = -np.inf, []
    for header in kept:
        if height[header.file] - below <= SAME_POSITION_MM:
            doubled.append(header)
        else:
            below = height[header.file]
    return _drop(kept, doubled, "another slice of its series lies at the same place", left), "position", left


def _by_instance(kept: list[Header], left: Left) -> tuple[list[Header], By, Left]:
    if len(kept) > 1:
        unknown = [header for header in kept if header.instance is None]
        kept = _drop(kept, unknown, "neither a position nor an InstanceNumber says its place in the series", left)
    kept.sort(key=_tie)
    doubled = _repeated(kept, lambda header: str(header.instance))
    return _drop(kept, doubled, "the same InstanceNumber as another slice of its series", left), "instance", left


def _drop(kept: list[Header], gone: Sequence[Header], reason: str, left: Left) -> list[Header]:
    left += [(header, reason) for header in gone]
    files = {header.file for header in gone}
    return [header for header in kept if header.file not in files]


def _repeated(headers: Sequence[Header], key: Callable[[Header], str]) -> list[Header]:
    """Those whose key an earlier one has."""
    first: dict[str, Header] = {}
    return [header for header in headers if key(header) and first.setdefault(key(header), header) is not header]


def _most(values: Sequence[str]) -> str:
    return min(set(values), key=lambda value: (-values.count(value), value))


def _tie(header: Header) -> tuple[float, str]:
    """What decides between slices at one place: the earlier instance, then the UID; never the file's name."""
    return float("inf") if header.instance is None else header.instance, header.instance_uid
