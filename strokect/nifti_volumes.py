"""NIfTI-1/2 volumes as axial slices from the skull base up, seen as radiologists do: nose up, the patient's right on the left.

Only stored values are held, of a few volumes at a time; a slice becomes Hounsfield units when it is asked for. Needs nibabel.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from strokect.dicom import MAX_TILT_DEG, tilt_degrees
from strokect.errors import DataError, ImageError
from strokect.images import check_geometry

MAX_VOXELS = 2**28  # 512 × 512 × 1024
KEPT = 2  # volumes held: several threads work on neighbouring slices
SQUARE = 1.5  # ratio of an axial pixel's sides; a coronal or sagittal scan has long ones
SAME_PLACE_MM = 0.1  # how far the affines of a volume and its mask may be apart
AIR_HU = -1024.0  # stands for voxels that are no number


@dataclass(frozen=True)
class Volume:
    """A volume by its header. Canonical axes are x to the right, y to the front, z up (RAS+)."""

    path: Path
    shape: tuple[int, int, int]  # as stored
    axes: tuple[int, int, int]  # the stored axis that runs along x, y and z
    flipped: tuple[bool, bool, bool]  # whether it runs against it
    affine: NDArray[np.float64]  # (4, 4), stored indices → mm

    @property
    def slices(self) -> int:
        """Number of axial slices."""
        return self.shape[self.axes[2]]


def open_volume(path: Path) -> Volume:
    """The header of a volume. Raises ImageError where it cannot be cut into axial CT slices."""
    image = _load(path)
    shape = tuple(int(side) for side in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise ImageError("multi_frame", f"the volume has {len(shape)} dimensions; 3 are read")
    if int(np.prod(shape, dtype=np.float64)) > MAX_VOXELS:
        raise ImageError("too_many_pixels", f"{'×'.join(map(str, shape))} voxels; at most {MAX_VOXELS:,} are accepted")
    if (stored := image.get_data_dtype()).kind not in "iuf":
        raise ImageError("not_hounsfield", f"voxels of the type {stored} (colour, or complex numbers) are no Hounsfield units")
    header, affine = image.header, np.asarray(image.affine, np.float64)
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        raise ImageError("not_axial", "the volume does not say how the head lies in it (sform and qform codes are 0)")
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * sides.prod() or not sides.all():
        raise ImageError("not_axial", "the volume's affine is unusable")
    orientation = nibabel.orientations.io_orientation(affine)  # (3, 2): canonical axis, direction
    axes = tuple(int(axis) for axis in np.argsort(orientation[:, 0]))
    x, y, z = axes
    normal = np.cross(affine[:3, x], affine[:3, y])
    if tilt_degrees(normal / np.linalg.norm(normal)) > MAX_TILT_DEG or max(sides[x], sides[y]) > SQUARE * min(sides[x], sides[y]):
        raise ImageError("not_axial", "the volume was not taken in axial slices")
    check_geometry(shape[x], shape[y])
    flipped = tuple(bool(orientation[axis, 1] < 0) for axis in axes)
    return Volume(path, shape, (x, y, z), flipped, affine)  # type: ignore[arg-type]


def axial_slice(stored: NDArray[Any], volume: Volume, k: int) -> NDArray[Any]:
    """(H, W) of any dtype: slice `k` from below of `stored` (volume.shape)."""
    x, y, z = volume.axes
    plane = np.take(stored, volume.slices - 1 - k if volume.flipped[2] else k, axis=z)
    if x > y:
        plane = plane.T  # → x, y
    # A picture's rows run to the back and its columns to the patient's left, both against RAS+.
    return plane[:: 1 if volume.flipped[0] else -1, :: 1 if volume.flipped[1] else -1].T


def positive_slices(path: Path, volume: Volume) -> NDArray[np.bool_]:
    """(slices,) whether any voxel of the mask at `path` is above 0. Raises DataError for a mask of another place or shape."""
    try:
        mask = open_volume(path)
        stored, slope, intercept = _stored(path)
    except ImageError as error:
        raise DataError(f"{path}: the mask cannot be used: {error}") from None
    if mask.shape != volume.shape or np.abs(mask.affine - volume.affine).max() > SAME_PLACE_MM:
        raise DataError(
            f"{path}: the mask does not lie on {volume.path}: shape {mask.shape} on {volume.shape}, or another affine"
        )
    values = stored.reshape(mask.shape)
    return np.array([(axial_slice(values, mask, k) * slope + intercept > 0).any() for k in range(mask.slices)])


class Volumes:
    """Hounsfield units of slices, for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, tuple[NDArray[Any], float, float] | ImageError] = OrderedDict()

    def slice_hu(self, volume: Volume, k: int) -> NDArray[np.float32]:
        """(H, W) float32. Raises ImageError for a file that is damaged or holds no Hounsfield units."""
        with self._lock:
            if volume.path not in self._kept:
                self._kept[volume.path] = _checked(volume)
            self._kept.move_to_end(volume.path)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            kept = self._kept[volume.path]
        if isinstance(kept, ImageError):
            raise kept
        stored, slope, intercept = kept
        hu = axial_slice(stored, volume, k).astype(np.float32) * np.float32(slope) + np.float32(intercept)
        return np.where(np.isfinite(hu), hu, np.float32(AIR_HU))


def _checked(volume: Volume) -> tuple[NDArray[Any], float, float] | ImageError:
    try:
        stored, slope, intercept = _stored(volume.path)
        known = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored
        if not known.size:
            return ImageError("not_hounsfield", "no voxel is a number")
        ends = np.array([known.min(), known.max()], np.float64) * slope + intercept
        if not ends.max() > 1 or (ends.min() >= 0 and ends.max() <= 255):
            return ImageError("not_hounsfield", f"values from {ends.min():g} to {ends.max():g} are no Hounsfield units")
        return stored.reshape(volume.shape), slope, intercept
    except ImageError as error:
        return error


def _load(path: Path) -> Any:
    try:
        image: Any = nibabel.load(path)
        image.get_data_dtype()  # raises for a type that numpy lacks here
        return image
    except Exception:  # hostile headers raise anything; the text may echo file content
        raise ImageError("unreadable_file", "not a readable NIfTI file (damaged, truncated or of another kind)") from None


def _stored(path: Path) -> tuple[NDArray[Any], float, float]:
    """Stored values, slope and intercept; an uncompressed file is mapped and not read."""
    image = _load(path)
    try:
        return np.asanyarray(image.dataobj.get_unscaled()), float(image.dataobj.slope), float(image.dataobj.inter)
    except Exception:
        raise ImageError("unreadable_file", "the NIfTI file's voxels cannot be read (damaged or truncated)") from None
