"""The synthetic cohort. `labels: folder` calls every slice of a positive patient positive, as folder copies do."""

import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from strokect import phantom
from strokect.files import sha256_bytes
from strokect.head_crop import seen_square
from strokect.params import DataParams
from strokect.slices import Picture, model_input, picture_of_hu
from strokect.sources import Pixels, Row, Source


class _Drawn:
    """Slices of one shape (P, S, S) uint8, in a file without a name that goes with this object: a cohort may exceed memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the cohort
        self._shape: tuple[int, ...] = ()

    def append(self, planes: NDArray[np.uint8]) -> None:
        self._shape = planes.shape
        self._file.write(planes.tobytes())

    def flush(self) -> None:
        """To be called before the first `read`."""
        self._file.flush()

    def read(self, number: int) -> NDArray[np.uint8]:
        """The slice that was appended as this one, counted from 0. May be called from several threads."""
        size = math.prod(self._shape)
        return np.frombuffer(os.pread(self._file.fileno(), size, number * size), np.uint8).reshape(self._shape)


def read(params: DataParams, root: Path) -> Source:
    """Draw the cohort; `root` holds nothing of it."""
    drawn = _Drawn()
    number: dict[str, int] = {}
    rows: list[Row] = []
    p = params.phantom
    cohort = phantom.make_cohort(patients=p.patients, slices=p.slices, size=params.image_size, seed=p.seed)
    for piece in tqdm(cohort, total=p.patients * p.slices, desc="draw", unit="slice", mininterval=1):
        file = f"{piece.patient}/{piece.slice:02d}.png"
        made = picture_of_hu(piece.hu, params.windows)
        windows = made.grey[:0] if made.windows is None else made.windows
        drawn.append(np.stack([piece.mask, made.grey, *windows]))
        number[file] = len(rows)
        rows.append(Row(file, piece.patient, piece.slice, int(piece.lesion != ""), {"subtype": piece.lesion}))
    drawn.flush()
    target, unit = "synthetic bleed or infarct on this slice", "slice"
    if params.labels != "slice":
        positive = {row.patient for row in rows if row.label}
        rows = [replace(row, label=int(row.patient in positive)) for row in rows]
        target, unit = "slice of a synthetic patient who has a bleed or infarct somewhere", "patient"

    def picture(row: Row) -> Picture:
        _, grey, *windows = drawn.read(number[row.file])
        return Picture(grey, 0, np.stack(windows) if windows else None)

    def pixels(row: Row) -> Pixels:
        mask, made = drawn.read(number[row.file])[0], picture(row)
        seen = model_input(made, params.image_size, params.crop)
        height, width = mask.shape
        mask = seen_square(made.grey, params.crop).cut(mask)
        mask = np.asarray(Image.fromarray(mask).resize(seen.shape[1:], Image.Resampling.NEAREST))  # codes have no in-between
        return Pixels(seen, sha256_bytes(made.planes.tobytes()), width, height, mask)

    return Source(rows, pixels, picture, target, unit)
