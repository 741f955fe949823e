"""What a deployment sets: STROKECT_* environment variables, all checked at the start. Nothing else of the service reads them.

A service that runs with a misspelt limit or without the token it was meant to have is worse than one that does not start.
"""

import difflib
import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from strokect.errors import SettingsError

PREFIX = "STROKECT_"
RELEASE = Path(__file__).parents[1] / "models" / "release"
NOT_OURS = (
    "STROKECT_RESUME_DIR",
    "STROKECT_REALDATA",
    "STROKECT_PATIENT_KEY_FILE",
    "STROKECT_PREPARE_CACHE",
)  # of the pipeline and of the tests
MIN_TOKEN, MIN_KEY = 16, 32  # characters
TOKEN_SHAPE = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # what a bearer token may be (RFC 6750): no colon, so one ends an id
TOKEN_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")  # it is written to the audit log
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?")  # as browsers write it: lower case, no path, no slash at its end

Tokens = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Kind:
    """What the values of a variable look like. `parse` raises ValueError; its text, if any, says more than `allowed`."""

    allowed: str
    parse: Callable[[str], Any]
    hidden: bool = False  # a secret, or tells about the host: GET /model says only whether it is set, an error not what it is


@dataclass(frozen=True)
class Variable:
    """One environment variable, `name` without its prefix. `default` may be a function of the settings read before it."""

    name: str
    kind: Kind
    default: Any
    meaning: str
    shown: str = ""  # the default, for people

    @property
    def full_name(self) -> str:
        """As it is in the environment."""
        return PREFIX + self.name


def _number(convert: type[int] | type[float], low: float, high: float) -> Kind:
    def parse(text: str) -> float:
        value = convert(text)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError
        return value

    return Kind(f"a {'whole ' if convert is int else ''}number from {low:g} to {high:g}", parse)


def _log_format(text: str) -> str:
    if text not in ("json", "text"):
        raise ValueError
    return text


def _writable(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError
    return path


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(","))
    if not all(origin == "*" or ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError
    return origins


def read_tokens(text: str) -> Tokens:
    """One `token` or `id:token` a line, `#` begins a comment line → (id, token) pairs. Raises ValueError.

    A token without an id gets the first 8 hex of its SHA-256: the audit log can tell tokens apart and holds none.
    """
    found: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        name, colon, token = line.strip().rpartition(":")
        if len(token) < MIN_TOKEN or not TOKEN_SHAPE.fullmatch(token):
            raise ValueError(f"line {number} is no token of at least {MIN_TOKEN} of the characters A-Z a-z 0-9 . _ ~ + / -")
        if colon and not TOKEN_ID.fullmatch(name):
            raise ValueError(f"line {number}: an id is 1 to 32 of the characters A-Z a-z 0-9 . _ -")
        found.append((name or hashlib.sha256(token.encode()).hexdigest()[:8], token))
    if not found:
        raise ValueError("it holds no token")
    return tuple(found)


def _token_file(text: str) -> Tokens:
    try:
        return read_tokens(Path(text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise ValueError("the file cannot be read") from None


def _key(text: str) -> str:
    if len(text) < MIN_KEY:
        raise ValueError
    return text


def _cores() -> int:
    return len(os.sched_getaffinity(0))  # os.cpu_count counts those that this process may not use


FOLDER = Kind("a folder", Path, hidden=True)
ONE_TOKEN = Kind(f"a token of at least {MIN_TOKEN} characters, or id:token", read_tokens, hidden=True)
TOKEN_FILE = Kind("a file with one token, or id:token, a line", _token_file, hidden=True)
LOG_FILE = Kind("a file in a folder that exists", _writable, hidden=True)
KEY = Kind(f"at least {MIN_KEY} characters", _key, hidden=True)
ORIGINS = Kind("origins such as https://pacs.example.org, comma separated; * only without tokens", _origins, hidden=True)
DEADLINE = _number(float, 0.1, 3600)
LOG_FORMAT = Kind("json or text", _log_format)


TOKEN = Variable("TOKEN", ONE_TOKEN, (), "bearer token that clients must send; without any token the service is open", "none")
FROM_FILE = Variable("TOKEN_FILE", TOKEN_FILE, (), "more bearer tokens, for example of a mounted secret", "none")
COMPUTING = Variable(
    *("COMPUTING", _number(int, 1, 256), lambda _: max(1, _cores() // 2)),
    *("requests that compute at the same time", "half the cores"),
)
DECODE_WORKERS = Variable(
    *("DECODE_WORKERS", _number(int, 1, 256), lambda before: before["computing"] + 1),
    *("processes that decode", "STROKECT_COMPUTING + 1"),
)
CORS_ORIGINS = Variable("CORS_ORIGINS", ORIGINS, (), "web origins whose pages may call the API", "none")
AUDIT_LOG = Variable("AUDIT_LOG", LOG_FILE, None, "where the audit log is appended", "standard output")
AUDIT_KEY = Variable("AUDIT_KEY", KEY, None, "key of the audit log's hashes (HMAC)", "none")
LOG = Variable("LOG", LOG_FORMAT, "json", "form of the log lines")
EXIT_AFTER_S = Variable("EXIT_AFTER_S", _number(float, 1, 3600), 60.0, "seconds until a service without model exits")


@dataclass(frozen=True)
class Settings:
    """Every setting under its own name; times in seconds, MiB of memory. Made by `read_settings`."""

    release: Annotated[Path, Variable("RELEASE", FOLDER, RELEASE, "the release to serve", "models/release")]
    tokens: Annotated[Tokens, TOKEN, FROM_FILE] = field(repr=False)
    rate_per_minute: Annotated[
        int, Variable("RATE_PER_MINUTE", _number(int, 0, 100_000), 0, "requests a minute per token; 0: no limit")
    ]
    computing: Annotated[int, COMPUTING]
    queue: Annotated[int, Variable("QUEUE", _number(int, 0, 1000), 4, "requests that wait; one more is answered 429")]
    deadline_s: Annotated[float, Variable("DEADLINE_S", DEADLINE, 30.0, "seconds for one picture, then 504")]
    series_deadline_s: Annotated[float, Variable("SERIES_DEADLINE_S", DEADLINE, 120.0, "seconds for one series, then 504")]
    max_body_mb: Annotated[int, Variable("MAX_BODY_MB", _number(int, 1, 1024), 31, "MiB of a request; Cloud Run takes 32")]
    max_slices: Annotated[int, Variable("MAX_SLICES", _number(int, 1, 10_000), 400, "files of one series")]
    decode_workers: Annotated[int, DECODE_WORKERS]
    decode_timeout_s: Annotated[float, Variable("DECODE_TIMEOUT_S", _number(float, 0.1, 600), 10.0, "seconds to decode one file")]
    decode_memory_mb: Annotated[int, Variable("DECODE_MEMORY_MB", _number(int, 100, 65_536), 256, "MiB to decode one file")]
    audit_log: Annotated[Path | None, AUDIT_LOG]
    audit_key: Annotated[str | None, AUDIT_KEY] = field(repr=False)
    cors_origins: Annotated[tuple[str, ...], CORS_ORIGINS]
    log_format: Annotated[Literal["json", "text"], LOG]
    exit_after_s: Annotated[float, EXIT_AFTER_S]

    def public(self) -> dict[str, Any]:
        """For GET /model: variable → value; of secrets and of what tells about the host only whether it is the default."""
        answer = {}
        for name, (variable, *_) in _variables().items():
            value, kind = getattr(self, name), variable.kind
            same = value == variable.default
            answer[variable.full_name] = ("default" if same else "set") if kind.hidden else value
        return answer


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read and check every STROKECT_* variable. Raises SettingsError naming the variable and what is allowed."""
    known = [variable.full_name for variables in _variables().values() for variable in variables]
    for name in sorted(name for name in environ if name.startswith(PREFIX) and name not in (*known, *NOT_OURS)):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)  # the prefix alone makes all of them alike
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        raise SettingsError(f"{name} is not a known setting; {hint}")
    values: dict[str, Any] = {}
    for field_name, (first, *more) in _variables().items():
        values[field_name] = _read(first, environ, values)
        for variable in more:
            values[field_name] += _read(variable, environ, values)
    settings = Settings(**values)
    _check_together(settings)
    return settings


def _variables() -> dict[str, tuple[Variable, ...]]:
    """Field of Settings → the variables that set it."""
    return {name: hint.__metadata__ for name, hint in get_type_hints(Settings, include_extras=True).items()}


def _read(variable: Variable, environ: Mapping[str, str], before: Mapping[str, Any]) -> Any:
    kind = variable.kind
    if variable.full_name not in environ:
        return variable.default(before) if callable(variable.default) else variable.default
    text = environ[variable.full_name]
    if not text.strip():  # a secret that was not mounted, say: that must not open the service
        raise SettingsError(f"{variable.full_name} is set but empty; unset it or give {kind.allowed}")
    try:
        return kind.parse(text)
    except ValueError as error:
        # Text of our own only: that of int() quotes the value, which may be a secret.
        detail = f" ({error})" if kind.parse in (read_tokens, _token_file) else ""
        # A value in the wrong place may be a secret too: a token as the name of its file.
        was = "has a value that is not allowed" if kind.hidden else f"is {text!r}"
        raise SettingsError(f"{variable.full_name} {was}{detail}; allowed: {kind.allowed}") from None


def _check_together(settings: Settings) -> None:
    """What one variable alone cannot get wrong."""
    for column, what in enumerate(("ids", "tokens")):
        if len({pair[column] for pair in settings.tokens}) < len(settings.tokens):
            raise SettingsError(f"STROKECT_TOKEN, STROKECT_TOKEN_FILE: two of the {what} are the same")
    if "*" in settings.cors_origins and (settings.tokens or len(settings.cors_origins) > 1):
        raise SettingsError(
            f"STROKECT_CORS_ORIGINS has *, which is for a service without tokens and alone; allowed: {ORIGINS.allowed}"
        )


def settings_table() -> str:
    """The settings as a Markdown table, for docs/operations.md."""
    rows = ["| variable | default | allowed | meaning |", "|---|---|---|---|"]
    for variable in (variable for variables in _variables().values() for variable in variables):
        default = variable.shown or (variable.default if isinstance(variable.default, str) else f"{variable.default:g}")
        rows.append(f"| `{variable.full_name}` | {default} | {variable.kind.allowed} | {variable.meaning} |")
    return "\n".join(rows) + "\n"
