"""Keyed hashes in place of patient ids, UIDs and file names: the same for one key, and not to be looked up without it.

A plain hash of a patient id is undone by hashing all ids, so the key lies outside the repository. Whoever has the key and the raw
data can tell who is who; a team that compares manifests shares one key.
"""

import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path

from strokect.errors import DataError

VARIABLE = "STROKECT_PATIENT_KEY_FILE"
DEFAULT = "~/.config/strokect/patient.key"
MIN_KEY_BYTES = 32
HEX_DIGITS = 16  # 64 bits: among a million ids two share one with a probability of 3e-8

log = logging.getLogger(__name__)


class Pseudonyms:
    """HMAC-SHA256 (RFC 2104) under the key of `load_key`, cut to HEX_DIGITS."""

    def __init__(self, key: bytes):
        self._key = key

    def __call__(self, kind: str, text: str) -> str:
        """The pseudonym of `text`; that of another `kind` (patient, series, file) is unrelated to it."""
        message = f"{kind}\0{text}".encode(errors="surrogateescape")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:HEX_DIGITS]


def load_key() -> bytes:
    """The key in the file that STROKECT_PATIENT_KEY_FILE names, else in ~/.config/strokect/patient.key, made on first use.

    Raises DataError for a file inside the repository, readable to others, too short or, where the variable names it, absent.
    """
    named = os.environ.get(VARIABLE, "")
    path = Path(named or DEFAULT).expanduser().resolve()
    for repository in (Path(__file__).resolve().parents[1], Path.cwd().resolve()):
        if path.is_relative_to(repository):
            raise DataError(
                f"the patient key {path} lies inside {repository}, where it could be committed: move it out ({VARIABLE})"
            )
    if not path.exists():
        if named:
            raise DataError(
                f"{VARIABLE}={path} is missing: copy the key there, or unset the variable to have one made in {DEFAULT}"
            )
        _create(path)
    try:
        key = path.read_bytes().strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(f"the patient key {path} cannot be read ({type(error).__name__})") from None
    if mode & 0o077:
        raise DataError(f"the patient key {path} can be read by others: chmod 600 {path}")
    if len(key) < MIN_KEY_BYTES:
        raise DataError(f"the patient key {path} has {len(key)} bytes; {MIN_KEY_BYTES} or more are needed (openssl rand -hex 32)")
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32) + "\n")
        os.link(temporary, path)  # unlike a rename it never replaces the key that another process has just made
    except FileExistsError:
        return
    finally:
        temporary.unlink()
    log.warning(
        "made the patient key %s: pseudonyms of this cohort hang on it. Keep a copy in a safe place, never in the repository",
        path,
    )
