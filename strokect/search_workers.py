"""Where a search keeps its trials, and what becomes of a trial whose process has died: it is tried again, once for each death.

A database has heartbeats for that (Optuna's). A journal file has none; there every worker holds a lock that the kernel frees
when it ends, however it ends, so a trial is given up at once and only when its worker is gone. Journal and locks are for the
processes of one machine.
"""

import contextlib
import fcntl
import json
import os
import random
import secrets
import time
import warnings
from pathlib import Path
from typing import IO, Protocol

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError

from strokect.errors import DataError
from strokect.run_params import SearchParams

MAX_DEATHS = 3  # values that kill their process (memory) must not do so for ever
NO_LOG = "is none of Optuna's: bring back a copy of the file, or name another and begin a new search"
ERROR = "error"  # user attribute of a trial that failed by its values: not tried again


class Workers(Protocol):
    """The processes that work on a study, as one of them sees them."""

    name: str

    def begin(self) -> None:
        """Before looking for a trial to take; until `end`, nobody else looks."""

    def end(self) -> None:
        """After taking a trial, or finding none."""

    def retry_abandoned(self, study: optuna.Study) -> int:
        """Queue again each trial whose worker is dead; how many must be waited for, because somebody may be doing it."""

    def give_back(self, study: optuna.Study, number: int) -> None:
        """Queue again a trial of one's own, which is to end unfinished."""


class DatabaseWorkers:
    """On any number of machines. Several may take the last trial at once: each further worker can make one trial too many."""

    def __init__(self, grace_s: float):
        self.name, self.grace_s = _new_name(), grace_s
        self._unsigned: dict[int, float] = {}  # trial → when it was first seen without the signature of its worker
        self._dropped: dict[int, float] = {}  # … and when it was first seen given up and queued again by nobody
        self._patience_s = grace_s * random.uniform(1, 2)  # workers must not queue a dropped one in the same moment

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass

    def retry_abandoned(self, study: optuna.Study) -> int:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            optuna.storages.fail_stale_trials(study)
        # A worker that dies between taking a trial and its first heartbeat leaves one that Optuna never calls stale.
        running, now = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)), time.monotonic()
        self._unsigned = {t.number: self._unsigned.get(t.number, now) for t in running if not signature(t)}
        for number, since in self._unsigned.items():
            if now - since > self.grace_s:
                with contextlib.suppress(ValueError, UpdateFinishedTrialError):  # another worker was first
                    study.tell(number, state=TrialState.FAIL)
                    self.give_back(study, number)
        # To give up and to queue again are two steps, and whoever does them may die between.
        self._dropped = {t.number: self._dropped.get(t.number, now) for t in dropped(study)}
        late = [number for number, since in self._dropped.items() if now - since > self._patience_s]
        for number in late:
            self.give_back(study, number)
        return len(self._dropped) - len(late)

    def give_back(self, study: optuna.Study, number: int) -> None:
        _retry()(study, study.trials[number])


class JournalWorkers:
    """On one machine. `folder` holds a locked file for each living worker, and `turn`, which is held while taking a trial."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name = folder, _new_name()
        self._alive = self._lock(self.name, "w")
        self._turn = (folder / "turn").open("w")

    def begin(self) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_EX)

    def end(self) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_UN)

    def retry_abandoned(self, study: optuna.Study) -> int:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._lives(signature(trial)):
                study.tell(trial.number, state=TrialState.FAIL)
        # Found again from what is in the journal, so that none is lost if this process dies between the two steps.
        for trial in dropped(study):
            _retry()(study, trial)
        return 0

    def give_back(self, study: optuna.Study, number: int) -> None:
        pass  # it has failed without an error: whoever looks next finds it

    def _lock(self, name: str, mode: str) -> IO[str]:
        """The worker's file, locked. Raises BlockingIOError while that worker lives, FileNotFoundError where it has no file."""
        stream: IO[str] = (self.folder / name).open(mode)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            raise
        return stream

    def _lives(self, name: str) -> bool:
        if not name:  # killed between taking the trial and signing it
            return False
        try:
            self._lock(name, "r").close()
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        (self.folder / name).unlink(missing_ok=True)
        return False


def sign(trial: optuna.Trial, workers: Workers) -> None:
    """Write down whose trial it is; with its number, as a trial that is tried again inherits what was written before."""
    trial.set_user_attr("worker", [workers.name, trial.number])


def signature(trial: FrozenTrial) -> str:
    """The name of the worker that took a trial, empty if it died before signing."""
    name, number = trial.user_attrs.get("worker", ["", -1])
    return str(name) if number == trial.number else ""


def dropped(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that failed with their process and not by their values, that none repeats yet and that may be tried again."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in history(trial)}
    failed = [t for t in trials if t.state is TrialState.FAIL and ERROR not in t.user_attrs and t.number not in retried]
    return [trial for trial in failed if len(history(trial)) < MAX_DEATHS]


def history(trial: FrozenTrial) -> list[int]:
    """Numbers of the trials that died and that this one repeats, oldest first."""
    numbers: list[int] = trial.system_attrs.get("retry_history", [])
    return numbers


def _new_name() -> str:
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def _retry() -> RetryHeartbeatStaleTrialCallback:
    """Queues a dead trial's values again, with what it reported: it goes on where its checkpoints are."""
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return RetryHeartbeatStaleTrialCallback(max_retry=MAX_DEATHS, inherit_intermediate_values=True)


def open_storage(params: SearchParams) -> tuple[BaseStorage, Workers]:
    """The storage that `search.storage` names, and its workers with this process among them."""
    if "://" in params.storage:
        return _open_database(params), DatabaseWorkers(2.0 * params.heartbeat_s)
    journal = Path(params.storage)
    journal.parent.mkdir(parents=True, exist_ok=True)
    return _open_journal(journal), JournalWorkers(journal.with_suffix(".workers"))


class _JournalLock(JournalFileOpenLock):
    """Held while the journal is written to. Of the kernel, so it ends with its process; a dead one would leave Optuna's own."""

    def __init__(self, path: Path):
        self._path = path

    def acquire(self) -> bool:
        stream = self._path.open("w")
        fcntl.flock(stream, fcntl.LOCK_EX)
        self._held = stream
        return True

    def release(self) -> None:
        self._held.close()


def _open_journal(journal: Path) -> JournalStorage:
    lock = _JournalLock(journal.with_suffix(".lock"))
    lock.acquire()
    try:
        _check_journal(journal)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(journal), lock))


def _check_journal(journal: Path) -> None:
    """Cut off a last line that a full disk or a power cut left half written: all that came after it would be lost with it.

    Raises DataError where another line is none of Optuna's. Leaving it out is no remedy: numbers of trials are counted in lines.
    """
    content = journal.read_bytes() if journal.exists() else b""
    *lines, torn = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not _is_log(line):
            raise DataError(f"search.storage: line {number} of {journal} {NO_LOG}")
    if not torn:
        return
    if not lines and not b'{"op_code":'.startswith(torn[:11]):
        raise DataError(f"search.storage: line 1 of {journal} {NO_LOG}")
    with journal.open("rb+") as stream:
        stream.truncate(len(content) - len(torn))


def _is_log(line: bytes) -> bool:
    try:
        return "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _open_database(params: SearchParams) -> RDBStorage:
    for _ in range(10):
        try:
            with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
                return RDBStorage(
                    params.storage,
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=params.heartbeat_s,
                    grace_period=2 * params.heartbeat_s,
                    heartbeat_stale_trial_callback=_retry(),
                )
        except (ProgrammingError, IntegrityError):  # several workers make the tables of an empty database at once
            time.sleep(0.5)
        except (OperationalError, ArgumentError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"search.storage: cannot use the database {params.storage} ({reason})") from None
    raise DataError(f"search.storage: the tables of {params.storage} cannot be made; does another program make them?")
