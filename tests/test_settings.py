"""Settings: each variable is checked, messages say what is allowed, secrets are never shown."""

import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from strokect.errors import SettingsError
from strokect.settings import NOT_OURS, Settings, read_settings, settings_table

SECRET = "s3cret-of-the-radiology-ward"
KEY = "k" * 32
VARIABLES = set(re.findall(r"STROKECT_[A-Z_]+", settings_table().replace("STROKECT_COMPUTING + 1", "")))


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(environ)
    return str(caught.value)


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    settings = read_settings({"HOME": "/root", "PORT": "8080"})
    assert settings.release == ROOT / "models" / "release"
    assert (settings.tokens, settings.audit_log, settings.audit_key, settings.cors_origins) == ((), None, None, ())
    assert (settings.rate_per_minute, settings.computing, settings.queue, settings.decode_workers) == (0, 3, 4, 4)
    assert (settings.deadline_s, settings.series_deadline_s, settings.decode_timeout_s) == (30.0, 120.0, 10.0)
    assert (settings.max_body_mb, settings.max_slices, settings.decode_memory_mb) == (31, 400, 256)
    assert (settings.log_format, settings.exit_after_s) == ("json", 60.0)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_one_computing_request_per_two_cores_but_at_least_one(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert read_settings({}).computing == 1


def test_every_variable_arrives(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("other-token-of-16-characters\n")
    environ = {
        "STROKECT_RELEASE": "/somewhere",
        "STROKECT_TOKEN": f"pacs:{SECRET}",
        "STROKECT_TOKEN_FILE": str(tmp_path / "tokens"),
        "STROKECT_RATE_PER_MINUTE": "60",
        "STROKECT_COMPUTING": "8",
        "STROKECT_QUEUE": "0",
        "STROKECT_DEADLINE_S": "1.5",
        "STROKECT_SERIES_DEADLINE_S": "90",
        "STROKECT_MAX_BODY_MB": "10",
        "STROKECT_MAX_SLICES": "50",
        "STROKECT_DECODE_WORKERS": "2",
        "STROKECT_DECODE_TIMEOUT_S": "3",
        "STROKECT_DECODE_MEMORY_MB": "300",
        "STROKECT_AUDIT_LOG": str(tmp_path / "audit.jsonl"),
        "STROKECT_AUDIT_KEY": KEY,
        "STROKECT_CORS_ORIGINS": "https://a.example, http://localhost:8000",
        "STROKECT_LOG": "text",
        "STROKECT_EXIT_AFTER_S": "5",
    }
    assert environ.keys() == VARIABLES
    digest = hashlib.sha256(b"other-token-of-16-characters").hexdigest()[:8]
    assert read_settings(environ) == Settings(
        release=Path("/somewhere"),
        tokens=(("pacs", SECRET), (digest, "other-token-of-16-characters")),
        rate_per_minute=60,
        computing=8,
        queue=0,
        deadline_s=1.5,
        series_deadline_s=90.0,
        max_body_mb=10,
        max_slices=50,
        decode_workers=2,
        decode_timeout_s=3.0,
        decode_memory_mb=300,
        audit_log=tmp_path / "audit.jsonl",
        audit_key=KEY,
        cors_origins=("https://a.example", "http://localhost:8000"),
        log_format="text",
        exit_after_s=5.0,
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("RATE_PER_MINUTE", "-1", "a whole number from 0 to 100000"),
        ("COMPUTING", "0", "a whole number from 1 to 256"),
        ("COMPUTING", "1.5", "a whole number from 1 to 256"),
        ("QUEUE", "many", "a whole number from 0 to 1000"),
        ("DEADLINE_S", "nan", "a number from 0.1 to 3600"),
        ("DEADLINE_S", "inf", "a number from 0.1 to 3600"),
        ("SERIES_DEADLINE_S", "0", "a number from 0.1 to 3600"),
        ("MAX_BODY_MB", "31 MiB", "a whole number from 1 to 1024"),
        ("MAX_SLICES", "0", "a whole number from 1 to 10000"),
        ("DECODE_WORKERS", "0", "a whole number from 1 to 256"),
        ("DECODE_TIMEOUT_S", "1e9", "a number from 0.1 to 600"),
        ("DECODE_MEMORY_MB", "1", "a whole number from 100 to 65536"),
        ("LOG", "yaml", "json or text"),
        ("EXIT_AFTER_S", "0", "a number from 1 to 3600"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(name: str, value: str, allowed: str) -> None:
    message = refusal(**{f"STROKECT_{name}": value})
    assert message.startswith(f"STROKECT_{name} is {value!r}") and f"allowed: {allowed}" in message


@pytest.mark.parametrize("name", sorted(VARIABLES))
def test_an_empty_variable_is_no_unset_one(name: str) -> None:
    assert refusal(**{name: " "}).startswith(f"{name} is set but empty")


def test_an_unknown_variable_is_an_error_with_a_suggestion() -> None:
    assert refusal(STROKECT_TOKENS=SECRET) == "STROKECT_TOKENS is not a known setting; did you mean STROKECT_TOKEN?"
    assert "did you mean STROKECT_DEADLINE_S?" in refusal(STROKECT_DEADLINES="1")
    assert "known: STROKECT_RELEASE" in refusal(STROKECT_XYZZY_PLUGH="1")
    assert read_settings(dict.fromkeys(NOT_OURS, "/somewhere")) == read_settings({})


def test_every_variable_that_the_repository_reads_is_known() -> None:
    text = "\n".join(
        path.read_text()
        for folder in ("strokect", "stages", "benchmarks", "docs", "deploy")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".yaml", ".sh")
    )
    text += "".join((ROOT / name).read_text() for name in ("README.md", "Makefile", "service.py", "tests/conftest.py"))
    assert set(re.findall(r"\bSTROKECT_[A-Z_]*[A-Z]\b", text)) <= VARIABLES | set(NOT_OURS)


def test_tokens_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# the PACS router\n\npacs:{SECRET}\n  page:another-token-of-24-charac==  \n")
    tokens = read_settings({"STROKECT_TOKEN_FILE": str(path)}).tokens
    assert tokens == (("pacs", SECRET), ("page", "another-token-of-24-charac=="))


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ("", "it holds no token"),
        ("# none yet\n", "it holds no token"),
        ("short", "line 1 is no token of at least 16"),
        (f"pacs:{SECRET}\nhas a space in the middle", "line 2 is no token"),
        (f"Erika Mustermann:{SECRET}", "line 1: an id is 1 to 32"),
        (f":{SECRET}", "line 1: an id is 1 to 32"),
    ],
)
def test_a_token_file_that_cannot_be_used(tmp_path: Path, content: str, detail: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(content)
    message = refusal(STROKECT_TOKEN_FILE=str(path))
    assert message.startswith("STROKECT_TOKEN_FILE has a value that is not allowed (") and detail in message
    assert SECRET not in message and "Mustermann" not in message


def test_a_token_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "the file cannot be read" in refusal(STROKECT_TOKEN_FILE=str(tmp_path / "missing"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 20)
    assert "the file cannot be read" in refusal(STROKECT_TOKEN_FILE=str(tmp_path / "binary"))


def test_the_same_token_or_id_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"a:{SECRET}\n")
    assert "two of the tokens are the same" in refusal(STROKECT_TOKEN=SECRET, STROKECT_TOKEN_FILE=str(path))
    path.write_text(f"a:{SECRET}\na:{SECRET}2\n")
    assert "two of the ids are the same" in refusal(STROKECT_TOKEN_FILE=str(path))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("TOKEN", "s3cret-short", "a token of at least 16 characters"),
        ("TOKEN_FILE", SECRET, "a file with one token, or id:token, a line"),  # the token itself instead of its file
        ("AUDIT_KEY", "s3cret-but-too-short", "at least 32 characters"),
        ("AUDIT_LOG", "/s3cret/folder/audit.jsonl", "a file in a folder that exists"),
        ("AUDIT_LOG", "/", "a file in a folder that exists"),
        ("CORS_ORIGINS", "https://s3cret.example/", "origins such as"),
        ("CORS_ORIGINS", "s3cret.example", "origins such as"),
    ],
)
def test_an_error_never_shows_a_secret_nor_what_tells_about_the_host(name: str, value: str, allowed: str) -> None:
    message = refusal(**{f"STROKECT_{name}": value})
    assert message.startswith(f"STROKECT_{name} has a value that is not allowed") and f"allowed: {allowed}" in message
    assert "s3cret" not in message


def test_no_wildcard_origin_together_with_tokens() -> None:
    assert read_settings({"STROKECT_CORS_ORIGINS": "*"}).cors_origins == ("*",)
    assert "STROKECT_CORS_ORIGINS has *" in refusal(STROKECT_CORS_ORIGINS="*", STROKECT_TOKEN=SECRET)
    assert "STROKECT_CORS_ORIGINS has *" in refusal(STROKECT_CORS_ORIGINS="https://a.example,*")


def test_what_is_shown_holds_neither_secrets_nor_paths(tmp_path: Path) -> None:
    environ = {
        "STROKECT_TOKEN": SECRET,
        "STROKECT_AUDIT_KEY": KEY,
        "STROKECT_AUDIT_LOG": str(tmp_path / "audit.jsonl"),
        "STROKECT_RELEASE": str(tmp_path),
        "STROKECT_CORS_ORIGINS": "https://inside.example",
    }
    settings = read_settings(environ)
    public: dict[str, Any] = settings.public()
    assert public["STROKECT_TOKEN"] == public["STROKECT_RELEASE"] == public["STROKECT_AUDIT_LOG"] == "set"
    assert (public["STROKECT_QUEUE"], public["STROKECT_LOG"]) == (4, "json")
    shown = json.dumps(public)
    assert not any(secret in shown for secret in (SECRET, KEY, "/", "inside.example"))
    assert SECRET not in repr(settings) and KEY not in repr(settings)
    assert read_settings({}).public()["STROKECT_TOKEN"] == "default"


def test_the_table_lists_every_setting() -> None:
    rows = settings_table().splitlines()
    assert rows[0] == "| variable | default | allowed | meaning |" and all(row.count("|") == 5 for row in rows)
    assert len(rows) - 2 == len(fields(Settings)) + 1  # two variables give tokens
    assert "| `STROKECT_QUEUE` | 4 | a whole number from 0 to 1000 | requests that wait; one more is answered 429 |" in rows
