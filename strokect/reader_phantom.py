"""The synthetic cohort. `labels: folder` calls every slice of a positive patient positive, as folder copies do."""

from dataclasses import replace
from pathlib import Path

from strokect import phantom
from strokect.files import sha256_bytes
from strokect.params import DataParams
from strokect.slices import Picture, picture_of_hu, resize_planes
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
        pixels = resize_planes(picture.planes, params.image_size)
        made[file] = Pixels(pixels, sha256_bytes(picture.planes.tobytes()), width, height, piece.mask)
        rows.append(Row(file, piece.patient, piece.slice, int(piece.lesion != ""), {"subtype": piece.lesion}))
    target, unit = "synthetic bleed or infarct on this slice", "slice"
    if params.labels != "slice":
        positive = {row.patient for row in rows if row.label}
        rows = [replace(row, label=int(row.patient in positive)) for row in rows]
        target, unit = "slice of a synthetic patient who has a bleed or infarct somewhere", "patient"
    return Source(rows, lambda row: made[row.file], lambda row: pictures[row.file], target, unit)
