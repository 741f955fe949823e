"""Nothing half-written survives."""

from pathlib import Path

import pytest

from strokect.errors import DataError
from strokect.files import atomic_folder, atomic_path, read_json, write_json


def test_atomic_path_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_folder_replaces_the_whole_folder_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "stale").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(target) as folder:
        (folder / "new").write_text("half")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["stale"]
    with atomic_folder(target) as folder:
        (folder / "new").write_text("whole")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_killed_process_left_behind_is_removed_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / ".out.abc.partial").mkdir()
    (tmp_path / ".out.abc.partial/half").write_text("half")
    (tmp_path / ".other.abc.partial").mkdir()  # of another target: not ours to remove
    with atomic_folder(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.abc.partial", "out"]


def test_json_refuses_nan_and_names_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"auc": float("nan")})
    assert not (tmp_path / "x.json").exists()
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match=r"x\.json is not valid JSON"):
        read_json(tmp_path / "x.json")
    with pytest.raises(DataError, match=r"y\.json is missing"):
        read_json(tmp_path / "y.json")
