"""make import: a copy, all or nothing, and no name of a file on the screen."""

import subprocess
import sys
from pathlib import Path

import pytest

from strokect import import_data as module
from strokect.errors import DataError
from strokect.import_data import SOURCES, import_data
from strokect.readers import READERS

SECRET = "Doe_Jane_1970"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / f"export of {SECRET}ü"
    (folder / SECRET / "st 1").mkdir(parents=True)
    (folder / SECRET / "st 1/IM 1").write_bytes(b"1")
    (folder / SECRET / "st 1/IM 2").symlink_to("IM 1")
    return folder


def test_every_reader_of_files_can_be_imported() -> None:
    assert set(SOURCES) == {*READERS, "outliers"} - {"phantom"}
    told = {"dicom": "profile=dicom", "kaggle_ct_ich": "profile=ct_ich", "dropped_in": "data.source=dropped_in"}
    assert {name: module.next_step(name).split()[1] for name in told} == told


def test_an_export_is_copied_versioned_and_not_named(export: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=repository, check=True)
    code = f"import sys; sys.argv = ['import_data', 'dicom', {str(export)!r}]; from strokect.import_data import main; main()"
    environment = {"PYTHONPATH": str(Path(module.__file__).parents[1]), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "2 files in data/raw/dicom, versioned in data/raw/dicom.dvc" in done.stdout and "profile=dicom" in done.stdout
    assert SECRET not in done.stdout + done.stderr + (repository / "data/raw/dicom.dvc").read_text()
    copied = repository / f"data/raw/dicom/{SECRET}/st 1/IM 2"
    assert copied.read_bytes() == b"1"


def test_links_in_a_circle_and_second_copies_are_refused_before_anything_is_copied(export: Path, tmp_path: Path) -> None:
    for target in (export, export.parent, export / SECRET):
        link = export / SECRET / "st 1/link"
        link.symlink_to(target)
        with pytest.raises(DataError, match="holds a link to a folder of itself"):
            import_data("dicom", export, tmp_path / "raw")
        link.unlink()
    assert not (tmp_path / "raw").exists()


def test_a_link_to_nowhere_stops_the_import_without_a_name(export: Path, tmp_path: Path) -> None:
    (export / SECRET / "gone").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"1 file\(s\) or folder\(s\) cannot be copied") as caught:
        import_data("dicom", export, tmp_path / "raw")
    assert SECRET not in str(caught.value).replace(str(export), "")
    assert list((tmp_path / "raw").iterdir()) == []
