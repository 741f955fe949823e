"""The self-test of a release: a stored synthetic slice, judged at every start and compared with the stored answer.

Hashes prove that the files are the ones that were sealed; this proves that this machine computes with them what the machine
computed that sealed them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from strokect.errors import DataError, ImageError, ReleaseError
from strokect.files import read_json, sha256_bytes
from strokect.hounsfield import BRAIN_ONLY, Windows
from strokect.judge import Judge
from strokect.slices import decode

SCHEMA = 1
# How far a number may be from the stored one, as a share of it or of this floor, whichever is more: processors round differently,
# and with int8 they choose other kernels.
TOLERANCE = {"fp32": 0.01, "int8": 0.1}
FLOOR = {"logits": 1.0, "probabilities": 0.1, "gate_scores": 1.0, "mc_std": 0.01}
DIGITS = 6  # kept, so that the release's version does not depend on the last bits of a processor


def slice_name(windows: Windows) -> str:
    """The file of the slice: a picture where the models see what pictures have, else DICOM."""
    return "slice.png" if windows == BRAIN_ONLY else "slice.dcm"


def self_test_answer(folder: Path, judge: Judge) -> dict[str, Any]:
    """What `judge` says about the slice in `folder`: the form of expected.json."""
    name = slice_name(judge.windows)
    try:
        data = (folder / name).read_bytes()
        evidence = judge.examine(decode(data, judge.windows), sha256_bytes(data)).evidence
    except (OSError, ImageError) as error:
        raise ReleaseError(f"self_test/{name} cannot be used ({type(error).__name__})") from None
    numbers = {name: np.atleast_1d(getattr(evidence, name)).astype(float) for name in FLOOR}
    for name, values in numbers.items():
        if not np.isfinite(values).all():
            raise ReleaseError(f"self-test failed: {name} is not finite on the slice of self_test")
    precision = str(judge.engine.models[0].sidecar.get("precision", "fp32"))
    rounded = {name: values.round(DIGITS).tolist() for name, values in numbers.items()}
    return {"schema": SCHEMA, "precision": precision, "flags": list(evidence.flags), **rounded}


def check_self_test(folder: Path, judge: Judge) -> None:
    """Raise ReleaseError naming the number that is not what expected.json says."""
    try:
        expected = read_json(folder / "expected.json")
        if expected["schema"] != SCHEMA:
            raise ReleaseError(f"self_test/expected.json: schema {expected['schema']}, this version reads {SCHEMA}")
        found = self_test_answer(folder, judge)
        tolerance = TOLERANCE[expected["precision"]]
        for name, floor in FLOOR.items():
            stored, now = np.array(expected[name], float), np.array(found[name], float)
            if stored.shape != now.shape or not (np.abs(stored - now) <= tolerance * np.maximum(floor, np.abs(stored))).all():
                raise ReleaseError(
                    f"self-test failed: {name} is {now.round(4).tolist()} on the slice of self_test, stored is "
                    f"{stored.round(4).tolist()}: this machine does not compute what the release was sealed with"
                )
        if found["flags"] != expected["flags"]:
            raise ReleaseError(f"self-test failed: pixel checks say {found['flags']}, stored is {expected['flags']}")
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"self_test/expected.json is missing or malformed ({type(error).__name__})") from None
