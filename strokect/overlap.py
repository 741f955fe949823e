"""Whether a model was trained on pictures of a cohort that is called external: by their bytes, and by what they show.

This needs the prepared cohort that the release was made from, beside the external pictures: a release carries only its data hash.
Hashes that survive alteration are made of what a picture shows, and so would tell whoever holds a release whether a given patient
was trained on; they stay where the data is. Elsewhere the report says that nothing was checked.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from strokect.duplicates import linked_rows
from strokect.errors import DataError
from strokect.manifest import PREPARED, Prepared, load_prepared

Images = NDArray[np.uint8]


class Joined:
    """Two arrays (n, S, S) and (m, S, S) as one of n + m pictures, without a copy: the second may be memory-mapped."""

    def __init__(self, first: Images, second: Images) -> None:
        self.first, self.second = first, second
        self.shape, self.ndim = (len(first) + len(second), *first.shape[1:]), 3

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: int | slice) -> Images:
        n = len(self.first)
        if not isinstance(at, slice):
            return np.asarray(self.first[at] if at < n else self.second[at - n])
        start, stop, _ = at.indices(len(self))
        return np.concatenate([self.first[min(start, n) : min(stop, n)], self.second[max(start - n, 0) : max(stop - n, 0)]])


def training_cohort(data_sha256: str | None, folder: Path = PREPARED) -> Prepared | None:
    """data/prepared if it is what the release was made from, otherwise None."""
    if data_sha256 is None or not (folder / "cohort.json").is_file():
        return None
    prepared = load_prepared(folder)
    return prepared if prepared.cohort["data_sha256"] == data_sha256 else None


def find_overlap(sha256: NDArray[np.str_], images: Images, patients: NDArray[np.str_], prepared: Prepared) -> dict[str, Any]:
    """How many external slices (n,) are, byte for byte or altered, slices of the prepared cohort, its test part included.

    `images` (n, S, S) uint8 at the size of the cohort, first channel. Altered: re-encoded, resized, mirrored, turned by a few
    degrees, cropped, brightened; `near_duplicates` says how, and docs/results/audit.md how well.
    """
    identical = np.isin(sha256, prepared.manifest["sha256"].to_numpy(str))
    joined = Joined(images, prepared.images[:, 0])
    whose = np.repeat(["external", "training"], [len(images), len(prepared.manifest)])
    pairs = linked_rows(cast(Images, joined), whose)
    across = pairs[(pairs[:, 0] < len(images)) & (pairs[:, 1] >= len(images))]
    near = np.isin(np.arange(len(images)), across[:, 0]) & ~identical
    return {
        "checked": True,
        "identical": int(identical.sum()),
        "near_duplicates": int(near.sum()),
        "slices": len(sha256),
        "patients": len(np.unique(patients[identical | near])),
        "of_patients": len(np.unique(patients)),
    }


def check_overlap(
    data_sha256: str | None,
    sha256: NDArray[np.str_],
    read: Callable[[], Images],
    patients: NDArray[np.str_],
    *,
    allowed: bool,
) -> dict[str, Any]:
    """`find_overlap` where the cohort that the release was made from is here. Raises DataError for any, unless `allowed`.

    `read` gives the external images, and is called only if there is something to compare them with.
    """
    prepared = training_cohort(data_sha256)
    if prepared is None:
        return {"checked": False}
    found = find_overlap(sha256, read(), patients, prepared)
    if (found["identical"] or found["near_duplicates"]) and not allowed:
        raise DataError(
            f"{found['identical']} of {found['slices']} slices are byte for byte in the cohort that this release was made from, "
            f"{found['near_duplicates']} more are altered copies ({found['patients']} of {found['of_patients']} patients): "
            "this is no external data. Leave these patients out (--where, --patients), or --allow-overlap: all figures say so"
        )
    return found


def overlap_notes(found: dict[str, Any]) -> list[str]:
    """What the figures must not be shown without."""
    if not found["checked"]:
        return ["Overlap with the training data was NOT checked: data/prepared here is not what this release was made from."]
    if not (found["identical"] or found["near_duplicates"]):
        return []
    return [
        f"NOT external: {found['identical']} slices are identical to some that the release was made from, and "
        f"{found['near_duplicates']} altered copies ({found['patients']} of {found['of_patients']} patients; --allow-overlap)."
    ]
