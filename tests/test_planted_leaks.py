"""The benchmark of planted leaks: what it plants is there, the audit catches it, and the page says what was counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import composed
from PIL import Image

from benchmarks import planted_leaks
from benchmarks.audit_page_md import render
from benchmarks.plants import ALTERED, contour, crop, plant, plant_two_classes, read, tissue_share
from strokect.params import Params, build

KINDS = {
    *("copy", "aug_ file", "grey contour", "grey contour anywhere", "coloured contour", "frame around one class"),
    "white contour in a small picture",
    *ALTERED,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Params:
    """Fewer heads than the benchmark has."""
    monkeypatch.setattr(planted_leaks, "PATIENTS", 16)
    monkeypatch.setattr(planted_leaks, "SLICES", 6)
    return build(Params, composed(), "params.yaml")


def test_every_kind_is_planted_where_it_says(small: Params, tmp_path: Path) -> None:
    items = planted_leaks.phantom_tree(tmp_path, seed=0)
    before = {item.path: item.path.read_bytes() for item in items}
    planted = plant(items, tmp_path, 2, np.random.default_rng(0))
    assert set(planted) == KINDS and {len(files) for files in planted.values()} == {2}
    files = [file for kind in planted.values() for file in kind]
    assert len(set(files)) == len(files) and all((tmp_path / file).is_file() for file in files)
    for file in planted["copy"]:
        assert (tmp_path / file).read_bytes() in before.values()
    for file in planted["frame around one class"]:
        assert file.startswith("stroke/") and len(set(read(tmp_path / file)[0])) == 1
    for file in planted["coloured contour"]:
        assert Image.open(tmp_path / file).mode == "RGB"
    changed = sum(path.read_bytes() != content for path, content in before.items())
    assert changed == 2 * 5  # contours and frames; copies are further files


def test_a_moved_slice_puts_its_patient_into_two_classes(small: Params, tmp_path: Path) -> None:
    items = planted_leaks.by_patient(planted_leaks.phantom_tree(tmp_path, seed=0), tmp_path)
    moved = plant_two_classes(items, tmp_path, 3, np.random.default_rng(0))
    for file in moved:
        folder, name = file.split("/")
        patient = name.split("_")[0]
        assert {path.parent.name for path in tmp_path.glob(f"*/{patient}_*")} == {"stroke", "normal"}
        assert len(list((tmp_path / folder).glob(f"{patient}_*"))) == 1


def test_what_is_planted_is_caught_and_what_is_not_is_no_error(small: Params) -> None:
    counts = planted_leaks.planted_run("phantom", None, 0, 2, small)["kinds"]
    assert set(counts) == KINDS | {"patient in two classes"}
    rare = {"frame around one class"}  # two frames are no pattern: see test_audit
    assert {kind: caught for kind, (caught, _) in counts.items() if kind not in rare} == dict.fromkeys(set(counts) - rare, 2)
    untouched = planted_leaks.untouched_run("phantom", None, 0, small)
    assert [check for check, (severity, *_) in untouched.items() if severity == "error"] == []


def test_crop_keeps_four_fifths_of_each_side_and_contour_stays_grey(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = np.full((100, 200), 120, np.uint8)
    for _ in range(20):
        height, width = crop(grey, rng).shape
        assert 80 <= height <= 96 and 160 <= width <= 192
    assert tissue_share(grey) == 1.0
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert contour(tmp_path / "a.png", rng, colour=False).mode == "L"


def test_the_page_says_what_was_counted() -> None:
    kinds = {"copy": {"caught": 59, "planted": 60}, "cropped copy": {"caught": 60, "planted": 60}}
    untouched: list[dict[str, list[Any]]] = [{"label_conflict": ["error", 121, 0]}, {}]
    run = {"command": "python -m x", "commit": "0123456789" * 4 + " and uncommitted changes", "machine": {"date": "2026-11-26"}}
    result = {"sets": {"phantom": {"run": run, "kinds": kinds, "untouched": untouched}}}
    page = render(result, None, None)
    assert "| copy | 59 of 60: 0.983 [0.911, 1.000] |" in page
    assert "| cropped copy | 60 of 60: 1.000 [0.940, 1.000] |" in page
    assert "| phantom | `label_conflict` | error | 1 of 2 | 121 |" in page
    assert "Shuffle control" not in page
    assert "phantom: `python -m x` on 2026-11-26, commit 0123456 and uncommitted changes" in page
    shuffle = {
        "runs": {"phantom": run | {"command": "y"}},
        "rows": [{"set": "phantom", "group_by": "none", "seeds": 20, "flagged": 20}],
    }
    assert "| phantom | none | 20 | 20 |" in (page := render(result, shuffle, None)) and "phantom: `y`" in page
