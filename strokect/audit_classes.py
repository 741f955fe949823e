"""Checks of the audit for what differs between the classes without being anatomy. Warnings: none of it is a leak by itself."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from strokect.finding import Evidence, Finding, count, first
from strokect.shortcuts import MIN_FILES, Probe, only_one_class, probe, slice_thirds


def resolution_by_class(evidence: Evidence) -> Finding | None:
    """Pictures of one size are rather of one class: another scanner, another export."""
    if not {"width", "height"} <= set(evidence.manifest):
        return None
    sizes = evidence.manifest["width"].astype(str) + "×" + evidence.manifest["height"].astype(str)
    return _values_by_class("resolution_by_class", evidence, sizes)


def encoding_by_class(evidence: Evidence) -> Finding | None:
    """Pictures of one format or JPEG quantisation are rather of one class."""
    return None if evidence.facts is None else _values_by_class("encoding_by_class", evidence, evidence.facts["encoding"])


def frame_by_class(evidence: Evidence) -> Finding | None:
    """Pictures with a drawn frame are rather of one class."""
    if evidence.facts is None:
        return None
    framed = np.where(evidence.facts["frame_px"] > 0, "a frame around the picture", "")
    return _values_by_class("frame_by_class", evidence, pd.Series(framed))


def text_by_class(evidence: Evidence) -> Finding | None:
    """Pictures with text burned in beside the head are rather of one class."""
    if evidence.facts is None:
        return None
    written = np.where(evidence.facts["letters"] >= 3, "marks like letters beside the head", "")
    return _values_by_class("text_by_class", evidence, pd.Series(written))


def shortcut_probes(evidence: Evidence) -> Finding | None:
    """File size and the level of the outermost pixels predict the class at the same slice position.

    Without patients nobody knows the position, and both go with it as bleeds do: then this says nothing.
    """
    if evidence.facts is None or not evidence.has_patients:
        return None
    tests = {
        name: _probe(evidence, evidence.facts[column].to_numpy(np.float64))
        for name, column in (("file size", "file_kb"), ("grey level of the picture's edge", "frame_level"))
    }
    told = [f"{name}: AUC {test.auc:.3f}, z {test.z:.1f}" for name, test in tests.items() if test.stands_out]
    if not told:
        return None
    message = f"the class can be guessed, at the same slice position, from {'; '.join(told)}"
    return Finding("shortcut_probes", "warning", message, ())


def _values_by_class(check: str, evidence: Evidence, values: pd.Series) -> Finding | None:
    """Each value of a property that MIN_FILES files have, and not all, is tested as a mark that is there or not."""
    labels = evidence.manifest["label"].to_numpy(np.int64)
    at = " at the same slice position" if evidence.has_patients else ", slice positions unknown"
    told: list[str] = []
    files: list[str] = []
    for value in sorted(set(values) - {""}):
        marked = (values == value).to_numpy()
        if not MIN_FILES <= np.count_nonzero(marked) < len(marked):
            continue
        test, alone = _probe(evidence, marked.astype(np.float64)), only_one_class(marked, labels)
        if alone is None and not test.stands_out:
            continue
        ones, all_ones = int(labels[marked].sum()), int(labels.sum())
        told.append(
            f"{value}: {ones} of {all_ones} positive and {int(marked.sum()) - ones} of {len(labels) - all_ones} negative slices "
            f"(AUC {test.auc:.3f}{at}, z {test.z:.1f})"
        )
        files += evidence.manifest["file"][marked].tolist()
    if not told:
        return None
    message = f"{count(len(files), 'file')} by a property that differs between the classes: {first(told, '; ')}"
    return Finding(check, "warning", message, tuple(sorted(files)))


def _probe(evidence: Evidence, values: NDArray[np.float64]) -> Probe:
    manifest = evidence.manifest
    patients = manifest["patient"].to_numpy(np.str_)
    thirds = slice_thirds(manifest) if evidence.has_patients else np.zeros(len(manifest), np.int64)
    return probe(values, manifest["label"].to_numpy(np.int64), thirds, patients)
