"""The benchmark of prepare: it measures what it says, and its page says what it measured."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import prepare as bench
from docs.prepare_page import prepare_page
from strokect.files import read_json


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """350 slices of 64 px instead of 512, and 200 for the memory."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "SIDE", 64)
        patch.setattr(bench, "SMALL_KINDS", 70)
        arguments = ["--slices", "350", "--many", "200", "--scratch", str(folder), "--out", str(folder / "out.json")]
        bench.main(arguments)
    assert [path.name for path in folder.iterdir()] == ["out.json"]
    return dict(read_json(folder / "out.json"))


def test_it_counts_what_is_read_again(result: dict[str, Any]) -> None:
    speed, killed = result["speed"], result["killed"]
    assert speed["equal_to_plain_loop"] is True
    assert (speed["nothing_changed"]["decoded"], speed["one_patient_added"]["decoded"]) == (0, bench.PER_PATIENT)
    assert killed["nothing_half_written"] and killed["same_array_as_in_peace"]
    assert killed["in_the_cache_when_killed"] + killed["decoded_after"] == killed["slices"] == 385
    assert killed["in_the_cache_when_killed"] >= 193
    assert 40 < result["memory"]["peak_mb"] < 1000
    assert [row["met"] for row in result["targets"]] == [True] * 4


def test_a_missed_target_is_called_one(result: dict[str, Any]) -> None:
    slow = {**result, "speed": {**result["speed"], "ours_s": {"min": 61.0, "median": 61.0}}}
    assert [row["met"] for row in bench.targets(slow)] == [False, True, True, True]
    page = prepare_page({**slow, "targets": bench.targets(slow)})
    assert "| 350 PNG of 512² pixels, seconds | ≤ 60 | 61 | **missed** |" in page
    other = {**result, "killed": {**result["killed"], "same_array_as_in_peace": False}}
    assert [row["met"] for row in bench.targets(other)] == [True, True, True, False]
    assert "in peace: **no**" in prepare_page(other)


def test_a_loop_that_gives_other_pixels_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIDE", 64)
    monkeypatch.setattr(bench.time, "sleep", lambda seconds: None)
    plain = bench.plain_loop

    def other(root: Path, target: Path) -> None:
        plain(root, target)
        with open(target, "r+b") as stream:
            stream.seek(500)
            stream.write(b"\xfe\x01")

    monkeypatch.setattr(bench, "plain_loop", other)
    assert bench.speed(tmp_path, 70)["equal_to_plain_loop"] is False
