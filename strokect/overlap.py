"""Whether a model was trained on pictures of a cohort that is called external: by their bytes, and by what they show."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.duplicates import MAX_DISTANCE, PAIR_BLOCK, is_blank, perceptual_hash
from strokect.manifest import PREPARED, Prepared, load_prepared

Hashes = NDArray[np.uint8]  # (n, B) packed bits of `duplicates.perceptual_hash`


def training_cohort(data_sha256: str | None, folder: Path = PREPARED) -> Prepared | None:
    """data/prepared if it is what the release was made from, otherwise None."""
    if data_sha256 is None or not (folder / "cohort.json").is_file():
        return None
    prepared = load_prepared(folder)
    return prepared if prepared.cohort["data_sha256"] == data_sha256 else None


def fingerprint(image: NDArray[np.uint8]) -> tuple[Hashes, bool]:
    """(S, S) uint8 → its perceptual hash (B,), and whether it shows nothing: such pictures are alike without being copies."""
    return perceptual_hash(image[None])[0], bool(is_blank(image[None])[0])


def find_overlap(
    sha256: NDArray[np.str_], hashes: Hashes, blank: NDArray[np.bool_], patients: NDArray[np.str_], prepared: Prepared
) -> dict[str, Any]:
    """How many external slices (n,) are, byte for byte or nearly, slices of the prepared cohort, its test part included."""
    identical = np.isin(sha256, prepared.manifest["sha256"].to_numpy(str))
    images = prepared.images[:, 0]
    textured = ~is_blank(images)
    near = near_any(hashes, perceptual_hash(images)[textured]) & ~blank & ~identical
    return {
        "checked": True,
        "identical": int(identical.sum()),
        "near_duplicates": int(near.sum()),
        "slices": len(sha256),
        "patients": len(np.unique(patients[identical | near])),
        "of_patients": len(np.unique(patients)),
    }


def near_any(hashes: Hashes, others: Hashes, max_distance: int = MAX_DISTANCE) -> NDArray[np.bool_]:
    """(n,) whether any of `others` (m, B) is within `max_distance` bits; in blocks, as `duplicates.near_duplicate_pairs`."""
    bits = 8 * hashes.shape[1]
    a, b = (np.unpackbits(h, axis=1).astype(np.float32) * 2 - 1 for h in (hashes, others))
    found = np.zeros(len(a), bool)
    for top in range(0, len(a), PAIR_BLOCK):
        for left in range(0, len(b), PAIR_BLOCK):
            agreement = a[top : top + PAIR_BLOCK] @ b[left : left + PAIR_BLOCK].T
            found[top : top + PAIR_BLOCK] |= (agreement >= bits - 2 * max_distance).any(axis=1)
    return found
