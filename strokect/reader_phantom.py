"""The synthetic cohort. `labels: folder` calls every slice of a positive patient positive, as folder copies do."""

from dataclasses import replace
from pathlib import Path

from strokect import phantom
from strokect.files import sha256_bytes
from strokect.params import DataParams
from strokect.slices import Picture, resize_slice
from strokect.sources import Pixels, Row, Source


def read(params: DataParams, root: Path) -> Source:
    """Draw the cohort; `root` holds nothing of it."""
    made: dict[str, Pixels] = {}
    rows: list[Row] = []
    p = params.phantom
    for piece in phantom.make_cohort(patients=p.patients, slices=p.slices, size=params.image_size, seed=p.seed):
        grey = phantom.window(piece.hu)
        file = f"{piece.patient}/{piece.slice:02d}.png"
        height, width = grey.shape
        made[file] = Pixels(resize_slice(grey, params.image_size), sha256_bytes(grey.tobytes()), width, height, piece.mask)
        rows.append(Row(file, piece.patient, piece.slice, int(piece.lesion != ""), {"subtype": piece.lesion}))
    target, unit = "synthetic bleed or infarct on this slice", "slice"
    if params.labels != "slice":
        positive = {row.patient for row in rows if row.label}
        rows = [replace(row, label=int(row.patient in positive)) for row in rows]
        target, unit = "slice of a synthetic patient who has a bleed or infarct somewhere", "patient"
    # The phantom is drawn at the size that the models see: its file, had it one, would hold the same pixels.
    return Source(rows, lambda row: made[row.file], lambda row: Picture(made[row.file].image[0], 0), target, unit)
