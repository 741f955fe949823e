"""What a long command has found out so far, one JSON line a picture, so that a killed run goes on where it was."""

import json
import threading
from pathlib import Path
from typing import Any

SCHEMA = 1


class Journal:
    """Records of one release by kind and SHA-256 of the picture. Lines of other releases are passed over, and so is half a line.

    No file name and no patient: only the hash of the picture and numbers. Several threads may add.
    """

    def __init__(self, path: Path, release: str):
        self.path, self.release = path, release
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                if (entry["schema"], entry["release"]) == (SCHEMA, release):
                    self._known[entry["kind"], entry["sha256"]] = entry["found"]
            except (ValueError, KeyError, TypeError):  # a line that a killed process did not finish
                continue
        self._stream = path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._stream.write("\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def get(self, kind: str, sha256: str) -> dict[str, Any] | None:
        """What was found, or None."""
        return self._known.get((kind, sha256))

    def add(self, kind: str, sha256: str, found: dict[str, Any]) -> None:
        """Keep `found` (JSON with NaN) and write it out at once."""
        entry = {"schema": SCHEMA, "release": self.release, "kind": kind, "sha256": sha256, "found": found}
        with self._lock:
            self._known[kind, sha256] = found
            self._stream.write(json.dumps(entry) + "\n")
            self._stream.flush()
