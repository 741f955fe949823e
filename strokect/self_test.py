"""The self-test of a release: a stored synthetic slice, judged at every start and compared with the stored answer.

Hashes prove that the files are the ones that were sealed; this proves that this machine computes with them what the machine
computed that sealed them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from strokect.errors import DataError, ImageError, ReleaseError
from strokect.files import read_json, sha256_bytes
from strokect.judge import Judge
from strokect.slices import decode

SCHEMA = 1
# How far a number may be from the stored one: processors round differently, and with int8 they choose other kernels.
TOLERANCE = {"fp32": 0.02, "int8": 0.5}


def self_test_answer(folder: Path, judge: Judge) -> dict[str, Any]:
    """What `judge` says about slice.png in `folder`: the form of expected.json."""
    try:
        data = (folder / "slice.png").read_bytes()
        evidence = judge.examine(decode(data), sha256_bytes(data)).evidence
    except (OSError, ImageError) as error:
        raise ReleaseError(f"self_test/slice.png cannot be used ({type(error).__name__})") from None
    numbers = {"logits": evidence.logits.tolist(), "gate_scores": evidence.gate_scores.tolist(), "mc_std": evidence.mc_std}
    precision = str(judge.engine.models[0].sidecar.get("precision", "fp32"))
    return {"schema": SCHEMA, "precision": precision, "flags": list(evidence.flags), **numbers}


def check_self_test(folder: Path, judge: Judge) -> None:
    """Raise ReleaseError naming the number that is not what expected.json says."""
    try:
        expected = read_json(folder / "expected.json")
        if expected["schema"] != SCHEMA:
            raise ReleaseError(f"self_test/expected.json: schema {expected['schema']}, this version reads {SCHEMA}")
        found = self_test_answer(folder, judge)
        tolerance = TOLERANCE[expected["precision"]]
        for name in ("logits", "gate_scores", "mc_std"):
            stored, now = np.atleast_1d(expected[name]).astype(float), np.atleast_1d(found[name]).astype(float)
            # A strange slice may have a large gate score, so the tolerance is absolute near 1 and relative above.
            if stored.shape != now.shape or not (np.abs(stored - now) <= tolerance * np.maximum(1, np.abs(stored))).all():
                raise ReleaseError(
                    f"self-test failed: {name} is {now.round(4).tolist()} on self_test/slice.png, stored is "
                    f"{stored.round(4).tolist()}: this machine does not compute what the release was sealed with"
                )
        if found["flags"] != expected["flags"]:
            raise ReleaseError(f"self-test failed: pixel checks say {found['flags']}, stored is {expected['flags']}")
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"self_test/expected.json is missing or malformed ({type(error).__name__})") from None
