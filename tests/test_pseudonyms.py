"""The key of the pseudonyms: made once, readable to its owner only, never inside the repository."""

import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT

from strokect.errors import DataError
from strokect.pseudonyms import VARIABLE, Pseudonyms, load_key


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, with the current folder elsewhere."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_the_key_is_made_on_first_use_for_its_owner_alone(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    key = load_key()
    path = home / ".config/strokect/patient.key"
    assert len(key) == 64 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in caplog.text and key.decode() not in caplog.text
    assert load_key() == key and len(caplog.records) == 1
    assert [*path.parent.iterdir()] == [path]


def test_processes_that_start_together_agree_on_one_key(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: load_key(), range(32)))) == 1
    assert home.is_dir()


def test_a_named_key_that_is_not_there_is_an_error_and_is_not_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(home / "typo.key"))
    with pytest.raises(DataError, match=r"typo\.key is missing: copy the key there"):
        load_key()
    assert [*home.iterdir()] == []


@pytest.mark.parametrize("place", ["here", "package", "link"])
def test_a_key_inside_the_repository_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    path = {"here": Path("patient.key").absolute(), "package": ROOT / "data/patient.key", "link": home / "k/patient.key"}[place]
    if place == "link":
        (home / "k").symlink_to(Path.cwd())
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(DataError, match="lies inside"):
        load_key()
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [("0" * 64, 0o640, "chmod 600"), ("secret\n", 0o600, "has 6 bytes; 32 or more"), ("", 0o600, "0 bytes")],
)
def test_an_open_or_short_key_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, text: str, mode: int, message: str) -> None:
    path = home / "patient.key"
    path.write_text(text)
    path.chmod(mode)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(DataError, match=message):
        load_key()


def test_a_pseudonym_hangs_on_key_kind_and_text() -> None:
    one = Pseudonyms(b"k" * 32)
    assert one("patient", "4711") == Pseudonyms(b"k" * 32)("patient", "4711")
    assert (
        len({one("patient", "4711"), one("series", "4711"), one("patient", "4712"), Pseudonyms(b"l" * 32)("patient", "4711")})
        == 4
    )
    # printf 'patient\0004711' | openssl dgst -sha256 -hmac kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk
    assert one("patient", "4711") == "8a4f7a3b2087e1c4"
