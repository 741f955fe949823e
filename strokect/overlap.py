"""Whether a model was trained on pictures of a cohort that is called external: by their bytes, and by what they show."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.duplicates import MAX_DISTANCE, PAIR_BLOCK, is_blank, perceptual_hash
from strokect.errors import DataError
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


def check_overlap(
    data_sha256: str | None,
    sha256: NDArray[np.str_],
    hashes: Hashes,
    blank: NDArray[np.bool_],
    patients: NDArray[np.str_],
    *,
    allowed: bool,
) -> dict[str, Any]:
    """`find_overlap` where the cohort that the release was made from is here. Raises DataError for any, unless `allowed`."""
    prepared = training_cohort(data_sha256)
    if prepared is None:
        return {"checked": False}
    found = find_overlap(sha256, hashes, blank, patients, prepared)
    if (found["identical"] or found["near_duplicates"]) and not allowed:
        raise DataError(
            f"{found['identical']} of {found['slices']} slices are byte for byte in the cohort that this release was made from, "
            f"{found['near_duplicates']} more nearly so ({found['patients']} of {found['of_patients']} patients): this is no "
            "external data. Leave these patients out (--where, --patients), or --allow-overlap, and every figure will say so"
        )
    return found


def overlap_notes(found: dict[str, Any]) -> list[str]:
    """What the figures must not be shown without."""
    if not found["checked"]:
        return ["Overlap with the training data was NOT checked: data/prepared here is not what this release was made from."]
    if not (found["identical"] or found["near_duplicates"]):
        return []
    return [
        f"NOT external: {found['identical']} slices are identical to some, {found['near_duplicates']} nearly, that the "
        f"release was made from ({found['patients']} of {found['of_patients']} patients; --allow-overlap)."
    ]


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
