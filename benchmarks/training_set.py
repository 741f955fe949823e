"""A phantom cohort made in place, in the two forms that training may want it in: packed, and as a folder of pictures."""

import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import cores
from strokect.phantom import make_patient, window
from strokect.slices import resize_slice

SLICES, MADE_AT = 10, 128  # of a patient; pixels at which heads are drawn: drawing them larger takes longer than training


@dataclass(frozen=True)
class TrainingSet:
    """Slices in the order of their patients."""

    images: NDArray[np.uint8]  # (n, 1, S, S)
    labels: NDArray[np.int64]  # (n,)
    patients: NDArray[np.int64]  # (n,)

    def part(self, which: NDArray[np.bool_]) -> "TrainingSet":
        """The slices that `which` (n,) marks."""
        return TrainingSet(self.images[which], self.labels[which], self.patients[which])

    def write(self, folder: Path) -> list[Path]:
        """One PNG for each slice, in order."""
        folder.mkdir()
        paths = [folder / f"{k:05}.png" for k in range(len(self.images))]
        for path, image in zip(paths, self.images, strict=True):
            Image.fromarray(image[0]).save(path)
        return paths


def make_set(slices: int, size: int) -> TrainingSet:
    """`slices` slices at `size` pixels, of as many patients as that takes."""
    patients = math.ceil(slices / SLICES)
    with ProcessPoolExecutor(cores()) as pool:
        made = list(pool.map(partial(_patient, size=size), range(patients)))
    images = np.concatenate([images for images, _ in made])[:slices]
    labels = np.concatenate([labels for _, labels in made])[:slices]
    return TrainingSet(images, labels, np.repeat(np.arange(patients), SLICES)[:slices])


def _patient(patient: int, size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    pieces = make_patient(patient, seed=0, slices=SLICES, size=MADE_AT)
    images = np.stack([resize_slice(window(piece.hu), size) for piece in pieces])
    return images, np.array([piece.lesion != "" for piece in pieces], np.int64)
