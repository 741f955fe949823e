"""The synthetic cohort. `labels: folder` calls every slice of a positive patient positive, as folder copies do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from strokect import phantom
from strokect.files import sha256_bytes
from strokect.head_crop import seen_square
from strokect.params import DataParams
from strokect.slices import Picture, model_input, picture_of_hu
from strokect.sources import Pixels, Row, Source


def read(params: DataParams, root: Path) -> Source:
    """Draw the cohort; `root` holds nothing of it."""
    made: dict[str, Pixels] = {}
    pictures: dict[str, Picture] = {}
    rows: list[Row] = []
    p = params.phantom
    for piece in phantom.make_cohort(patients=p.patients, slices=p.slices, size=params.image_size, seed=p.seed):
        file = f"{piece.patient}/{piece.slice:02d}.png"
        picture = pictures[file] = picture_of_hu(piece.hu, params.windows)
        height, width = picture.grey.shape
        pixels = model_input(picture, params.image_size, params.crop)
        mask = seen_square(picture.grey, params.crop).cut(piece.mask)
        mask = np.asarray(Image.fromarray(mask).resize(pixels.shape[1:], Image.Resampling.NEAREST))  # codes have no in-between
        made[file] = Pixels(pixels, sha256_bytes(picture.planes.tobytes()), width, height, mask)
        rows.append(Row(file, piece.patient, piece.slice, int(piece.lesion != ""), {"subtype": piece.lesion}))
    target, unit = "synthetic bleed or infarct on this slice", "slice"
    if params.labels != "slice":
        positive = {row.patient for row in rows if row.label}
        rows = [replace(row, label=int(row.patient in positive)) for row in rows]
        target, unit = "slice of a synthetic patient who has a bleed or infarct somewhere", "patient"
    return Source(rows, lambda row: made[row.file], lambda row: pictures[row.file], target, unit)
