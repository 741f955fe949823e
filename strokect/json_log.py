"""The server's log as one JSON object a line, without what exceptions and libraries may quote from a client's file.

`bentoml serve` sets up logging before it imports the service, in the process that supervises and in each worker: one handler to
standard output on the root, "bentoml", "uvicorn.error" and "circus" loggers. So `install`, called when the service is imported,
finds the handlers and changes how they write. Lines before that and those of C libraries are not ours (see docs/operations.md).
"""

import json
import logging
import traceback
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from strokect.errors import StrokectError
from strokect.http import request_id

OURS = "bentoml.strokect"  # BentoML shows INFO of its own loggers only
# Loggers whose messages never quote a file. Others' are dropped: pydicom, Pillow and asyncio put values into theirs.
TRUSTED = ("bentoml", "circus", "uvicorn")
MAX_FRAMES = 30  # innermost ones, per exception; the server's own middlewares alone are more than ten


class JsonFormatter(logging.Formatter):
    """A record → {"time", "level", "severity", "logger", "message"} and, where there is one, "request_id" and "exceptions"."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of ASCII JSON. Of exceptions types and places; the text only of a StrokectError, which is ours."""
        trusted = record.name.split(".")[0] in TRUSTED
        message = (
            record.getMessage() if trusted else f"({record.levelname.lower()} of {record.name}:{record.lineno}, text withheld)"
        )
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "severity": record.levelname,  # where Google Cloud looks for it
            "logger": record.name,
            "message": message,
        }
        # From the context, not the record: BentoML puts a request id of its own there.
        if current := request_id():
            line["request_id"] = current
        if record.exc_info and record.exc_info[1]:
            line["exceptions"] = list(describe(record.exc_info[1]))
        return json.dumps(line)


def describe(error: BaseException) -> Iterator[dict[str, Any]]:
    """An exception and what caused it, outermost first, as {"type", "frames": ["folder/file.py:line", …]}."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        entry: dict[str, Any] = {"type": type(current).__name__, "frames": _frames(current.__traceback__)}
        if isinstance(current, StrokectError):
            entry["message"] = str(current)
        yield entry
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _frames(trace: TracebackType | None) -> list[str]:
    """Innermost last. Two parts of the path are enough to find the file and tell nothing about the host."""
    frames = [(Path(frame.f_code.co_filename), number) for frame, number in traceback.walk_tb(trace)]
    return [f"{'/'.join(path.parts[-2:])}:{number}" for path, number in frames[-MAX_FRAMES:]]


def install() -> None:
    """Make every handler that writes to a stream write JSON, and send warnings there too. A second call changes nothing.

    A logger that also propagates loses its own handler: BentoML sets both for uvicorn's and circus's, and each line came twice.
    """
    root = logging.getLogger()
    others = [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in (root, *others):
        for handler in list(logger.handlers):
            if type(handler) is not logging.StreamHandler:  # not those of test runners
                continue
            if logger is not root and logger.propagate and handler in root.handlers:
                logger.removeHandler(handler)
            else:
                handler.setFormatter(JsonFormatter())
    warnings.showwarning = _log_warning


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In the place of warnings.showwarning, which prints the text: pydicom's quotes values."""
    place = "/".join(Path(filename).parts[-2:])
    logging.getLogger(OURS).warning("%s at %s:%d, text withheld", category.__name__, place, lineno)
