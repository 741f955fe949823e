"""CT volumes in NIfTI (.nii, .nii.gz) in Hounsfield units, cut into axial slices; docs/data/nifti.md. Needs nibabel."""

import posixpath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strokect.errors import DataError, ImageError, NotInstalledError
from strokect.files import sha256_bytes
from strokect.params import DataParams, NiftiParams
from strokect.slices import Picture, check_aspect, model_input, picture_of_hu
from strokect.sources import Pixels, Row, Source, files_below, natural, patient_pattern
from strokect.tables import OPTIONAL, TableRows, by_key, extra_columns, label_of, nfc, patient_of, read_table

try:
    from strokect.nifti_volumes import Volume, Volumes, open_volume, positive_slices
except ModuleNotFoundError as missing:
    raise NotInstalledError(
        f"data.source: nifti needs the package {missing.name}: pip install nibabel (the extra `nifti` of pyproject.toml)"
    ) from None

SUFFIXES = (".nii.gz", ".nii")
Found = tuple[str, str, Volume, NDArray[np.bool_], dict[str, Any]]  # patient, file, volume, labels (slices,), further columns


def read(params: DataParams, root: Path) -> Source:
    """One row per axial slice, `<volume>/<slice from below>`. Reads headers and, for their labels, one mask after the other."""
    p = params.nifti
    files, left_out = files_below(root)
    left_out = [(file, reason) for file, reason in left_out if file != p.table]
    left_out += [(file, "not a NIfTI volume by its name") for file in files if not file.lower().endswith(SUFFIXES)]
    volumes, masks = _pair(p, [file for file in files if file.lower().endswith(SUFFIXES)])
    left_out += [(file, "the mask of a volume") for file in sorted(set(masks.values()), key=natural)]
    table = _read_table(p, root, volumes)
    pattern = patient_pattern(p.patient_regex, "data.nifti.patient_regex")
    found: list[Found] = []
    unreadable = []
    for file in volumes:
        line, row = table.get(nfc(file), (0, {}))
        where = f"{root / p.table}, row {line}"
        match = pattern.search(file)
        patient = patient_of(row, where) or (match["patient"] if match else "")
        if p.labels == "masks" and file not in masks:
            left_out.append((file, f"no mask where data.nifti.mask says ({p.mask})"))
        elif p.labels == "table" and not line:
            left_out.append((file, "no label in the table"))
        elif not line and any("patient_id" in named for _, named in table.values()):
            raise DataError(f"{root / p.table}: no row for {file}, though the table says whose the others are (patient_id)")
        elif not patient:
            raise DataError(f"{root / file}: data.nifti.patient_regex {p.patient_regex!r} finds no patient in this name")
        else:
            try:
                volume = open_volume(root / file)
            except ImageError as error:
                unreadable.append((file, str(error)))
                continue
            if p.labels == "masks":
                labels = positive_slices(root / masks[file], volume)
            else:
                label = label_of(row["label"], p.positive, p.negative, f"{where}: label {row['label']!r}")
                labels = np.full(volume.slices, bool(label))
            found.append((patient, file, volume, labels, extra_columns(row, where)))
    rows, places = _rows(found)
    unit = "slice" if p.labels == "masks" else "series"
    readers = _readers(params, places)
    return Source(rows, *readers, p.target, unit, left_out, unreadable, path=lambda row: places[row.file][0].path)


def _pair(p: NiftiParams, files: list[str]) -> tuple[list[str], dict[str, str]]:
    """Volumes, and volume → mask. A file that lies where the mask of another would lie is a mask."""
    if p.labels == "table":
        return files, {}
    known, masks, targets = set(files), {}, set()
    for file in files:
        folder, name = posixpath.split(file)
        stem = next(name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix))
        try:
            target = posixpath.normpath(p.mask.format(folder=folder or ".", name=stem))
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(
                f"params.yaml: data.nifti.mask {p.mask!r} is no path with {{folder}} and {{name}} ({error!r})"
            ) from None
        for mask in [target + suffix for suffix in SUFFIXES if target + suffix in known]:
            targets.add(mask)
            if mask != file:
                masks[file] = mask
    return [file for file in files if file not in targets], {file: mask for file, mask in masks.items() if file not in targets}


def _read_table(p: NiftiParams, root: Path, volumes: list[str]) -> dict[str, tuple[int, dict[str, str]]]:
    """Volume → row of the table; with masks a table is not needed, and its column label is not read."""
    path = root / p.table
    if p.labels == "masks" and not path.is_file():
        return {}
    lines: TableRows = read_table(path, ("file",) if p.labels == "masks" else ("file", "label"), OPTIONAL)
    table = by_key(lines, "file", path)
    known = {nfc(file) for file in volumes}
    for file, (line, _) in table.items():
        if file not in known:
            raise DataError(f"{path}, row {line}: {root / file} is no volume; paths are relative to {root}, with .nii or .nii.gz")
    return table


def _rows(found: list[Found]) -> tuple[list[Row], dict[str, tuple[Volume, int]]]:
    """Rows by patient, volume and height; the volumes of a patient follow each other."""
    rows, places = [], {}
    next_slice: dict[str, int] = {}
    for patient, file, volume, labels, extra in sorted(found, key=lambda item: (natural(item[0]), natural(item[1]))):
        for k, label in enumerate(labels.tolist()):
            # The table's subtype is of the volume: where only some slices have the lesion, the others have none of it.
            of_slice = extra | {"subtype": ""} if "subtype" in extra and not label and labels.any() else extra
            at = next_slice.get(patient, 0)
            next_slice[patient] = at + 1
            rows.append(Row(f"{file}/{k:04d}", patient, at, int(label), {"series": file, **of_slice}))
            places[rows[-1].file] = volume, k
    return rows, places


def _readers(params: DataParams, places: dict[str, tuple[Volume, int]]) -> tuple[Any, Any]:
    """`Source.read` and `Source.picture`: a slice in the windows of `data.windows`."""
    held = Volumes()

    def windowed(row: Row) -> tuple[Picture, str]:
        hu = held.slice_hu(*places[row.file])
        return picture_of_hu(hu, params.windows), sha256_bytes(hu.tobytes())

    def read(row: Row) -> Pixels:
        picture, sha256 = windowed(row)
        height, width = picture.grey.shape
        check_aspect(width, height)
        return Pixels(model_input(picture, params.image_size, params.crop), sha256, width, height)

    return read, lambda row: windowed(row)[0]
