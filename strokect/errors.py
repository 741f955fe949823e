"""Errors that a person can act on: what was wrong, where, and what to do."""

import os
import select
import signal
import sys
from collections.abc import Callable


class StrokectError(Exception):
    """Base of every error this project raises on purpose. Its message is written for the person who runs the command."""


class ParamsError(StrokectError):
    """params.yaml has an unknown, missing or ill-typed key."""


class DataError(StrokectError):
    """The data set is absent, incomplete or contradicts itself."""


class ImageError(StrokectError):
    """One picture cannot be used. `code` is a stable machine-readable reason, safe to show to a client."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class AuditError(StrokectError):
    """The audit found something of severity `error` that `audit.allow` does not list."""


class TrainingError(StrokectError):
    """Training cannot start or go on."""


class ReleaseError(StrokectError):
    """A model folder is incomplete, corrupt or inconsistent."""


class NoResultError(StrokectError):
    """No label may be made of what the models and the gate said: a number is missing or not finite."""


class DeadlineError(StrokectError):
    """The time allowed for a request is over."""


class SettingsError(StrokectError):
    """A STROKECT_* variable is unknown or has a value that is not allowed."""


class AuditLogError(StrokectError):
    """The audit log cannot be continued or written: no answer may go out without its line."""


class NotInstalledError(StrokectError):
    """What was asked for needs an optional package; the message names it."""


class SafetyError(StrokectError):
    """The safety layer cannot be fitted on this cohort."""


class NotEstimableError(StrokectError):
    """A statistic is not defined on this input (one class only, one patient, non-finite scores)."""


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a StrokectError becomes one readable line and exit code 1 instead of a traceback.

    Where nobody reads on (`… | head`), it ends quietly with the exit code that SIGPIPE gives.
    """
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not any(event & select.POLLERR for _, event in output.poll(0)):
            raise  # another pipe than the one to the reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at its end
        raise SystemExit(128 + signal.SIGPIPE) from None
    except StrokectError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
