"""prepare: raw files of any source → one packed uint8 array, its manifest and a description of the cohort."""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from strokect.clusters import by_cluster
from strokect.errors import DataError, SettingsError, run_stage
from strokect.file_names import behind_pseudonyms
from strokect.files import atomic_folder, sha256_file, write_json
from strokect.head_crop import crop_to_json
from strokect.hounsfield import windows_to_json
from strokect.manifest import COLUMNS, NOT_VERIFIABLE, PREPARED
from strokect.npy_rows import row_shape
from strokect.packing import Packed, cache_key, pack, pixel_cache, publish
from strokect.params import DataParams, load_params
from strokect.pixel_cache import IMAGES, MASKS, Entry
from strokect.row_checks import check_rows
from strokect.sources import Row, Source, read_source, shuffle_patient_labels

CACHE = Path(".strokect/prepare")
CACHE_VARIABLE = "STROKECT_PREPARE_CACHE"  # on | off; no param: it changes no output


def prepare(
    params: DataParams, raw_root: Path, target: Path, cache: Path | None = None, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Write images.npy, masks.npy, manifest.csv and cohort.json into `target`, all or nothing. Returns the cohort description.

    images.npy: (N, C, S, S) uint8, C = 1 or 3 windows. masks.npy: (N, S, S) uint8 lesion codes, or (0, S, S) where the source
    has no masks.
    What is decoded is kept under `cache` for the next run; without one a run starts from nothing.
    Raises DataError when more than `data.max_unreadable` files cannot be read, or some change meanwhile.
    """
    source = read_source(params, raw_root)
    check_rows(source.rows, raw_root)
    with atomic_folder(target) as folder:
        with pixel_cache(cache or folder / "cache", params.source, cache_key(params, source)) as pixels:
            packed = pack(source, raw_root, pixels, params.max_unreadable)
            publish(packed.pack, folder)
            again = packed.from_files
            if not again:  # drawn, not read: the next run can only draw it again
                shutil.rmtree(pixels.folder)
        if cache is None:
            shutil.rmtree(folder / "cache")
        if not (folder / MASKS).exists():
            np.save(folder / MASKS, np.zeros((0, params.image_size, params.image_size), np.uint8))
        images = np.load(folder / IMAGES, mmap_mode="r")
        source = replace(source, rows=[row for row, _ in packed.slices])
        if not source.patient_ids:
            source = replace(source, rows=by_cluster(source.rows, images[:, 0]))
            if params.labels == "shuffled":
                source = shuffle_patient_labels(source, params.shuffle_seed)
        manifest = _manifest(source.rows, [entry for _, entry in packed.slices], params.source)
        _check_manifest(manifest, raw_root)
        manifest.to_csv(folder / "manifest.csv", index=False)
        cohort = _describe(params, source, manifest, packed.unreadable, folder)
        if source.warnings:
            cohort["warnings"] = source.warnings
        if source.look_up and source.path:  # pseudonyms: the audit may not see the names behind them
            real = {row.file: source.path(row).relative_to(raw_root).as_posix() for row in source.rows}
            cohort["named_behind_pseudonyms"] = behind_pseudonyms(real)
        write_json(folder / "cohort.json", cohort)
    say(_account(packed, cache if again else None))
    if again and cache is None:
        say(f"nothing is kept for the next run ({CACHE_VARIABLE})")
    return cohort


def _manifest(rows: Sequence[Row], entries: Sequence[Entry], source: str) -> pd.DataFrame:
    lines = []
    for row, entry in zip(rows, entries, strict=True):
        fixed = (row.file, row.patient, row.slice, row.label, entry.sha256, source, entry.width, entry.height)
        lines.append({**dict(zip(COLUMNS, fixed, strict=True)), **row.extra})
    return pd.DataFrame(lines)


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
        **crop_to_json(params.crop),
        "channels": row_shape(folder / IMAGES)[0],
        "windows": windows_to_json(params.windows),
        "data_sha256": digest.hexdigest(),
        "n_slices": len(manifest),
        "n_positive_slices": len(positive),
        "patient_level_verifiable": source.patient_ids,
        "n_patients": int(manifest["patient"].nunique()),
        "n_positive_patients": int(positive["patient"].nunique()),
        "left_out": [{"file": file, "reason": reason} for file, reason in source.left_out],
        "unreadable": unreadable,
        "patient_labels": source.patient_labels,
    }


def _account(packed: Packed, cache: Path | None) -> str:
    damaged = f", {packed.n_damaged} of them because the cache was damaged" if packed.n_damaged else ""
    lines = [f"decoded {packed.n_decoded} slices{damaged}; {packed.n_kept} as the last run left them"]
    if cache is not None:
        size = sum(path.stat().st_size for path in packed.pack.arrays()) / 1e6
        lines.append(
            f"kept for the next run: {cache}, {size:.0f} MB beside what {PREPARED} and DVC's cache take; delete it at any time"
        )
    return "\n".join(lines)


def _cache_folder() -> Path | None:
    """CACHE, or None where the variable switches it off. What an earlier run left there stays until it is deleted."""
    value = os.environ.get(CACHE_VARIABLE, "on")
    if value not in ("on", "off"):
        raise SettingsError(f"{CACHE_VARIABLE} is {value!r}; allowed: on, off")
    if value == "off" and CACHE.exists():
        print(f"{CACHE} holds the slices of an earlier run and is not used ({CACHE_VARIABLE}); delete it at any time")
    return CACHE if value == "on" else None


def main() -> None:
    """Read params.yaml, write data/prepared/."""
    params = load_params().data
    cohort = prepare(params, Path("data/raw") / params.source, PREPARED, _cache_folder(), print)
    print(
        f"{cohort['n_slices']} slices of {cohort['n_patients']} patients; {cohort['n_positive_slices']} positive slices of "
        f"{cohort['n_positive_patients']} patients; target: {cohort['target']}"
    )
    if not cohort["patient_level_verifiable"]:
        print(f"{NOT_VERIFIABLE} The patients counted above are such clusters.")
    for warning in cohort.get("warnings", ()):
        print(f"warning: {warning}")
    for reason, count in Counter(item["reason"] for item in cohort["left_out"]).items():
        print(f"left out: {count} × {reason}")
    for item in cohort["unreadable"]:
        print(f"unreadable: {item['file']}: {item['reason']}")


if __name__ == "__main__":
    run_stage(main)
