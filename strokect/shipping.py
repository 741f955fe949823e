"""Which models ship: the exported folds, or one student. Needs no package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXPORTS = Path("models/export")
STUDENT = "student"
STUDENT_FOLDER = Path("models/student/release")


def shipped_names(folds: Sequence[int], student: bool) -> list[str]:
    """The names that operating_point.json gives to the models that ship: one per fold, or "student"."""
    return [STUDENT] if student else [str(fold) for fold in folds]


def shipped_folder(name: str) -> Path:
    """The folder of a model that ships (model.onnx, head.npz, model.json), from the repository root."""
    return STUDENT_FOLDER if name == STUDENT else EXPORTS / name


def shipped_folders(point: dict[str, Any]) -> list[Path]:
    """The folders of the models that operating_point.json was written for, in the order of its `exports`."""
    return [shipped_folder(name) for name in point["exports"]]
