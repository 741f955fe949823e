"""prepare: raw files of any source → one packed uint8 array, its manifest and a description of the cohort."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from strokect.errors import DataError, ImageError, run_stage
from strokect.files import atomic_folder, sha256_file, write_json
from strokect.hounsfield import windows_to_json
from strokect.manifest import COLUMNS, PREPARED
from strokect.params import DataParams, load_params
from strokect.sources import Pixels, Row, Source, read_source

MAX_LISTED = 50  # unreadable files named in an error


def prepare(params: DataParams, raw_root: Path, target: Path) -> dict[str, Any]:
    """Write images.npy, masks.npy, manifest.csv and cohort.json into `target`, all or nothing. Returns the cohort description.

    images.npy: (N, C, S, S) uint8, C = 1 or 3 windows. masks.npy: (N, S, S) uint8 lesion codes, or (0, S, S) where the
    source has no masks.
    Raises DataError when more than `data.max_unreadable` files cannot be read.
    """
    source = read_source(params, raw_root)
    size, channels = params.image_size, len(params.windows)
    with atomic_folder(target) as folder:
        shape = (len(source.rows), channels, size, size)
        images = np.lib.format.open_memmap(folder / "all.npy", mode="w+", dtype=np.uint8, shape=shape)
        kept: list[dict[str, Any]] = []
        masks: list[NDArray[np.uint8]] = []
        unreadable = [{"file": file, "reason": reason} for file, reason in source.unreadable]
        for row, pixels in _decode(source):
            if isinstance(pixels, ImageError):
                unreadable.append({"file": row.file, "reason": str(pixels)})
                continue
            images[len(kept)] = pixels.image
            kept.append(_manifest_row(row, pixels, params.source))
            if pixels.mask is not None:
                masks.append(pixels.mask)
        if len(unreadable) > params.max_unreadable:
            raise DataError(_unreadable_message(unreadable, params, raw_root, source.look_up))
        if not kept:
            raise DataError(f"{raw_root}: no slice could be read")
        images.flush()
        np.save(folder / "images.npy", images[: len(kept)])
        del images
        (folder / "all.npy").unlink()
        np.save(folder / "masks.npy", np.stack(masks) if masks else np.zeros((0, size, size), np.uint8))
        manifest = pd.DataFrame(kept)
        _check_manifest(manifest, raw_root)
        manifest.to_csv(folder / "manifest.csv", index=False)
        cohort = _describe(params, source, manifest, unreadable, folder)
        write_json(folder / "cohort.json", cohort)
    return cohort


def _decode(source: Source) -> Iterator[tuple[Row, Pixels | ImageError]]:
    """Yield (row, pixels or the ImageError) in the order of the rows; Pillow releases the lock, so threads help."""

    def read(row: Row) -> tuple[Row, Pixels | ImageError]:
        try:
            return row, source.read(row)
        except ImageError as error:
            return row, error

    with ThreadPoolExecutor() as pool:
        yield from tqdm(pool.map(read, source.rows), total=len(source.rows), desc="prepare", unit="slice", mininterval=1)


def _unreadable_message(unreadable: list[dict[str, str]], params: DataParams, root: Path, look_up: str) -> str:
    listed = "\n".join(f"  {root / item['file']}: {item['reason']}" for item in unreadable[:MAX_LISTED])
    if len(unreadable) > MAX_LISTED:
        listed += f"\n  … and {len(unreadable) - MAX_LISTED} more"
    if look_up:
        listed += f"\nThese names are pseudonyms; `{look_up} <name without {root}/>` says which file one is"
    return (
        f"{len(unreadable)} file(s) cannot be used and data.max_unreadable is {params.max_unreadable}:\n{listed}\n"
        "Mend or remove them, or raise data.max_unreadable in params.yaml: they are then left out and listed"
    )


def _manifest_row(row: Row, pixels: Pixels, source: str) -> dict[str, Any]:
    fixed = (row.file, row.patient, row.slice, row.label, pixels.sha256, source, pixels.width, pixels.height)
    return {**dict(zip(COLUMNS, fixed, strict=True)), **row.extra}


def _check_manifest(manifest: pd.DataFrame, root: Path) -> None:
    if manifest["label"].nunique() < 2:
        present = "stroke" if manifest["label"].iloc[0] else "normal"
        raise DataError(f"{root}: every slice is labelled {present}; two classes are needed")


def _describe(
    params: DataParams, source: Source, manifest: pd.DataFrame, unreadable: list[dict[str, str]], folder: Path
) -> dict[str, Any]:
    # The data hash covers what was learned from: the pixels and who they belong to and are called.
    digest = hashlib.sha256((sha256_file(folder / "images.npy") + sha256_file(folder / "manifest.csv")).encode())
    positive = manifest.loc[manifest["label"] == 1]
    return {
        "source": params.source,
        "synthetic": params.source == "phantom",
        "labels": params.labels,
        "label_unit": source.label_unit,
        "target": source.target,
        "image_size": params.image_size,
        "channels": len(params.windows),
        "windows": windows_to_json(params.windows),
        "data_sha256": digest.hexdigest(),
        "n_slices": len(manifest),
        "n_positive_slices": len(positive),
        "n_patients": int(manifest["patient"].nunique()),
        "n_positive_patients": int(positive["patient"].nunique()),
        "left_out": [{"file": file, "reason": reason} for file, reason in source.left_out],
        "unreadable": unreadable,
        "patient_labels": source.patient_labels,
    }


def main() -> None:
    """Read params.yaml, write data/prepared/."""
    params = load_params().data
    cohort = prepare(params, Path("data/raw") / params.source, PREPARED)
    print(
        f"{cohort['n_slices']} slices of {cohort['n_patients']} patients; {cohort['n_positive_slices']} positive slices of "
        f"{cohort['n_positive_patients']} patients; target: {cohort['target']}"
    )
    for reason, count in Counter(item["reason"] for item in cohort["left_out"]).items():
        print(f"left out: {count} × {reason}")
    for item in cohort["unreadable"]:
        print(f"unreadable: {item['file']}: {item['reason']}")


if __name__ == "__main__":
    run_stage(main)
