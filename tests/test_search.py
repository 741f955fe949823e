"""The search: what a trial is judged by, that a study goes on after any end of a worker, and what it tells in the end."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, composed, copy_repository, run, tiny_params, workspace
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as sklearn_log_loss
from test_dvc import shell
from test_training import fake_net

from strokect import search
from strokect.conf import settings_of
from strokect.errors import DataError, ParamsError, TrainingError
from strokect.files import read_json, write_json
from strokect.manifest import Prepared, load_prepared
from strokect.params import Params, load_params
from strokect.search import Objective, Search, open_study, winning_command
from strokect.search_report import count, write_report
from strokect.search_space import KEYS, Values, current_values, overrides, values_of, what_stays, with_values
from strokect.search_trial import FailedTrialError, TuningSet, calibrated_log_loss, make_tuning_set, train_trial
from strokect.search_workers import ERROR, history, signature
from strokect.splits import SPLIT, development_rows, read_split, rows_of_test_part, training_rows
from strokect.tracking import Tracker

SETTING: dict[str, Any] = {"data": {"data_sha256": "d"}}


def search_params(tmp_path: Path, **changes: Any) -> Params:
    params = tiny_params()
    params["search"].update(storage=str(tmp_path / "search/journal.log"), trials=8, startup_trials=3, prune_after_trials=3)
    params["search"].update(changes)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params))
    return load_params(path)


def bowl(values: Values, name: str, report: Callable[[int, float], None]) -> float:
    """Best at a learning rate of 0.001, worse by each halving or doubling; falls with every epoch."""
    value = abs(math.log2(values["learning_rate"] / 0.001))
    for epoch in (1, 2, 3):
        report(epoch, value + 1 / epoch)
    return value


def work(params: Params, objective: Objective = bowl, track: Any = lambda name, values: Tracker()) -> optuna.Study:
    study, workers = open_study(params, SETTING)
    Search(study, workers, params, objective, "cpu", track).run()
    return study


def test_it_finds_the_bottom_prunes_what_is_worse_and_says_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = work(search_params(tmp_path, trials=30))
    counts = count(study)
    assert counts.complete + counts.pruned == 30 and counts.pruned > 5 and counts.complete > 5
    baseline = study.trials[0]
    assert baseline.user_attrs["baseline"] and values_of(baseline)["learning_rate"] == 0.0006
    assert study.best_value < baseline.value
    values = [trial.value for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert study.best_value == min(v for v in values if v is not None)
    assert np.mean([t.value for t in study.trials[20:] if t.value]) < np.mean([t.value for t in study.trials[1:10] if t.value])
    said = [line for line in capsys.readouterr().out.splitlines() if " of 30 done" in line]
    assert len(said) == 30 and f"best {study.best_value:.4f} (trial {study.best_trial.number})" in said[-1]


def test_a_search_in_two_goes_is_the_search_in_one(tmp_path: Path) -> None:
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    whole = work(search_params(tmp_path / "whole", trials=9))
    work(search_params(tmp_path / "halves", trials=4))
    halves = work(search_params(tmp_path / "halves", trials=9))
    assert [trial.params for trial in halves.trials] == [trial.params for trial in whole.trials]
    assert len({json.dumps(trial.params) for trial in halves.trials}) == 9  # none drawn twice


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; returns its id at once."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def test_the_trial_of_a_killed_worker_is_tried_again_once(tmp_path: Path) -> None:
    params, marks = search_params(tmp_path, trials=6), tmp_path / "marks"

    def hang_in_trial_2(values: Values, name: str, report: Callable[[int, float], None]) -> float:
        if name == "trial 2":
            report(1, 9.0)
            marks.write_text("hanging")
            time.sleep(60)
        return bowl(values, name, report)

    child = in_child(lambda: work(params, hang_in_trial_2))
    while not marks.exists():
        time.sleep(0.02)
    study, workers = open_study(params, SETTING)
    workers.retry_abandoned(study)
    assert study.trials[2].state is TrialState.RUNNING, "taken from a worker that lives"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    for _ in range(3):  # going on again and again repeats it no further
        study = work(params)
    dead, again = study.trials[2], [trial for trial in study.trials if history(trial)]
    assert dead.state is TrialState.FAIL
    assert len(again) == 1 and history(again[0]) == [2] and again[0].params == dead.params
    assert again[0].state in (TrialState.COMPLETE, TrialState.PRUNED) and again[0].intermediate_values[1] == 9.0
    counts = count(study)
    assert (counts.done, counts.abandoned, counts.running, counts.waiting, counts.failed) == (6, 1, 0, 0, 0)


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_a_trial_taken_but_not_signed_is_not_lost(tmp_path: Path, kind: str) -> None:
    params = search_params(tmp_path, trials=3, heartbeat_s=1)
    if kind == "database":  # alone, SQLite will do
        params = replace(params, search=replace(params.search, storage=f"sqlite:///{tmp_path}/search.db"))
    study, _ = open_study(params, SETTING)
    study.ask()  # what a process leaves that is killed right here
    study = work(params)
    assert [history(trial) for trial in study.trials if history(trial)] == [[0]]
    assert count(study).done == 3


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_the_trial_of_a_worker_that_breaks_is_tried_again(tmp_path: Path, kind: str) -> None:
    params = search_params(tmp_path, trials=3)
    if kind == "database":
        params = replace(params, search=replace(params.search, storage=f"sqlite:///{tmp_path}/search.db"))

    def broken(values: Values, name: str, report: Callable[[int, float], None]) -> float:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        work(params, broken)
    study = work(params)
    assert [history(trial) for trial in study.trials if history(trial)] == [[0]]
    counts = count(study)
    assert (counts.done, counts.abandoned, counts.failed) == (3, 1, 0)
    assert any(trial.user_attrs.get("baseline") for trial in study.trials if trial.state is TrialState.COMPLETE)


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_a_trial_whose_rescuer_died_is_queued_again_once(tmp_path: Path, kind: str) -> None:
    params = search_params(tmp_path, trials=3, heartbeat_s=1)
    if kind == "database":
        params = replace(params, search=replace(params.search, storage=f"sqlite:///{tmp_path}/search.db"))
    study, workers = open_study(params, SETTING)
    for error in ("", "the loss is not finite"):
        trial = study.ask()
        if error:
            trial.set_user_attr(ERROR, error)
        study.tell(trial, state=TrialState.FAIL)  # given up, and the process that would queue it again is gone
    workers.retry_abandoned(study)
    at_once = [history(trial) for trial in study.trials if history(trial)]
    assert at_once == ([[0]] if kind == "journal" else [])  # where nobody else looks; else someone may be about to do it
    deadline = time.monotonic() + 20
    while not any(history(trial) for trial in study.trials) and time.monotonic() < deadline:
        time.sleep(0.2)
        workers.retry_abandoned(study)
    workers.retry_abandoned(study)
    assert [history(trial) for trial in study.trials if history(trial)] == [[0]]


def test_values_that_kill_every_worker_are_given_up(tmp_path: Path) -> None:
    params = search_params(tmp_path, trials=2)

    def deadly(values: Values, name: str, report: Callable[[int, float], None]) -> float:
        if values["learning_rate"] == 0.0006:  # the baseline
            os.kill(os.getpid(), signal.SIGKILL)
        return bowl(values, name, report)

    for _ in range(5):
        os.waitpid(in_child(lambda: work(params, deadly)), 0)
    study, _ = open_study(params, SETTING)
    assert sum(trial.params["learning_rate"] == 0.0006 for trial in study.trials) == 4  # once, and three times again
    assert count(study).done == 2


def test_a_stopped_search_gives_its_trial_back(tmp_path: Path) -> None:
    params = search_params(tmp_path, trials=4)

    def stop(values: Values, name: str, report: Callable[[int, float], None]) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(params, stop)
    study = work(params)
    assert [history(trial) for trial in study.trials if history(trial)] == [[0]]
    assert count(study).done == 4


def test_two_workers_share_a_journal_without_a_trial_too_many(tmp_path: Path) -> None:
    params = search_params(tmp_path, trials=12)

    def slow(values: Values, name: str, report: Callable[[int, float], None]) -> float:
        time.sleep(0.05)
        return bowl(values, name, report)

    children = [in_child(lambda: work(params, slow)) for _ in range(2)]
    for child in children:
        os.waitpid(child, 0)
    study, _ = open_study(params, SETTING)
    assert len(study.trials) == 12 == count(study).done
    assert len({signature(trial) for trial in study.trials}) == 2


def test_values_that_cannot_be_trained_with_cost_one_trial(tmp_path: Path) -> None:
    def fail_above(values: Values, name: str, report: Callable[[int, float], None]) -> float:
        if values["learning_rate"] > 0.001:
            raise FailedTrialError("the loss is not finite")
        return bowl(values, name, report)

    study = work(search_params(tmp_path, trials=10), fail_above)
    counts = count(study)
    assert counts.failed > 0 and counts.done == 10 and counts.abandoned == 0
    assert {trial.user_attrs["error"] for trial in study.trials if trial.state is TrialState.FAIL} == {"the loss is not finite"}


def test_a_search_in_which_nothing_works_stops(tmp_path: Path) -> None:
    def fail(values: Values, name: str, report: Callable[[int, float], None]) -> float:
        raise FailedTrialError("CUDA out of memory")

    with pytest.raises(TrainingError, match="3 trials failed before any worked, one with: CUDA out of memory"):
        work(search_params(tmp_path, trials=10), fail)


def test_an_error_of_the_program_is_not_taken_for_another_workers_doing(tmp_path: Path) -> None:
    def broken(values: Values, name: str, report: Callable[[int, float], None]) -> float:
        raise ValueError("shapes differ")

    with pytest.raises(ValueError, match="shapes differ"):
        work(search_params(tmp_path), broken)


def test_trials_of_another_setting_are_refused_by_name(tmp_path: Path) -> None:
    params = search_params(tmp_path)
    open_study(params, what_stays(params))
    tuned_elsewhere = replace(params, train=replace(params.train, learning_rate=0.0009))
    open_study(tuned_elsewhere, what_stays(tuned_elsewhere))  # what is tuned is no setting
    longer = replace(params, train=replace(params.train, epochs=9))
    with pytest.raises(DataError, match=r"\(train\.epochs\): set search\.study to a new name"):
        open_study(longer, what_stays(longer))


def test_a_journal_that_a_power_cut_left_half_written_goes_on(tmp_path: Path) -> None:
    params = search_params(tmp_path)
    before = work(replace(params, search=replace(params.search, trials=4))).trials
    journal = Path(params.search.storage)
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:20])
    after = work(params).trials
    assert [trial.params for trial in after[:4]] == [trial.params for trial in before] and len(after) == 8
    assert journal.read_bytes().startswith(whole)


@pytest.mark.parametrize("foreign", [b'{"op_\n', b'{"a": 1}\n', b"7\n"])
@pytest.mark.parametrize("line", [1, 3, 0])  # from the front; 0: the last
def test_a_journal_with_a_foreign_line_is_left_as_it_is_and_the_line_is_named(foreign: bytes, line: int, tmp_path: Path) -> None:
    params = search_params(tmp_path)
    work(params)
    journal = Path(params.search.storage)
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[line - 1] = foreign
    journal.write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=rf"line {line or len(lines)} of .*journal\.log is none of Optuna's: bring back a copy"):
        open_study(params, SETTING)
    assert journal.read_bytes() == b"".join(lines)


@pytest.mark.parametrize("content", [b"hello", b'{"a": 1}', b"a,b\n1,2\n"])
def test_another_file_is_not_taken_for_a_journal(content: bytes, tmp_path: Path) -> None:
    params = search_params(tmp_path)
    journal = Path(params.search.storage)
    journal.parent.mkdir(parents=True)
    journal.write_bytes(content)
    with pytest.raises(DataError, match="line 1 of"):
        open_study(params, SETTING)
    assert journal.read_bytes() == content


def test_a_lock_that_a_dead_process_left_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = search_params(tmp_path)
    params = replace(params, search=replace(params.search, storage="search/journal.log", trials=4))
    Path("search").mkdir()
    Path("search/journal.lock").write_text("")
    Path("search/journal.log.lock").symlink_to("search/journal.log")  # as Optuna's own would be
    assert count(work(params)).done == 4


def test_weights_that_are_not_there_begin_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = search_params(tmp_path)
    params = replace(params, model=replace(params.model, weights="phantom.safetensors"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "load_params", lambda: params)
    monkeypatch.setattr(search, "load_prepared", lambda: SimpleNamespace(cohort={"data_sha256": "d" * 64}))
    monkeypatch.setattr(search, "sha256_file", lambda path: "s" * 64)
    with pytest.raises(DataError, match=r"phantom\.safetensors is not there yet"):
        search.prepare_search()
    assert not Path(params.search.storage).exists()
    Path("phantom.safetensors").write_bytes(b"one")
    search.prepare_search()
    Path("phantom.safetensors").write_bytes(b"another")
    with pytest.raises(DataError, match=r"weights\.sha256"):
        search.prepare_search()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("split_seed", 0, "another than split.seed"),
        ("folds", [5], "folds of split.folds"),
        ("folds", [], "folds of split.folds"),
        ("storage", "postgresql+psycopg://me:secret@host/db", "without a password"),
        ("storage", "postgresql+psycopg://me@host/db?password=secret", "without a password"),
        ("storage", "sqlite:///x.db", "no SQLite"),
        ("ranges", {"learning_rate": [0.1, 0.01]}, r"search\.ranges\.learning_rate .* \[lowest, highest\]"),
        ("ranges", {"dropout": [0.0, 1.0]}, "from 0 to below 1"),
        ("ranges", {"batch_size": [1]}, "batch sizes of 2 or more"),
    ],
)
def test_params_that_cannot_work_say_what_would(tmp_path: Path, key: str, value: Any, message: str) -> None:
    given = composed()["search"]["ranges"] | value if key == "ranges" else value
    with pytest.raises(ParamsError, match=message):
        search_params(tmp_path, **{key: given})


def test_the_winner_becomes_the_params_it_was_trained_with(tmp_path: Path) -> None:
    params = search_params(tmp_path)
    assert current_values(params) is not None
    values: Values = {name: 0.0000123 if name != "batch_size" else 64 for name in KEYS}
    written = composed(*overrides(values))
    model, train = with_values(params, values)
    assert written["train"]["learning_rate"] == train.learning_rate == 0.0000123
    assert written["train"]["augment"]["strength"] == train.augment.strength == 0.0000123
    assert written["train"]["batch_size"] == train.batch_size == 64
    assert written["model"]["dropout"] == model.dropout == 0.0000123
    path = tmp_path / "winner.yaml"
    path.write_text(yaml.safe_dump(written))
    load_params(path)
    command = winning_command({"best": {"params": values}, "settings": ["profile=ct_ich"]}, ["-S", "train.epochs=3"])
    assert command[:5] == ["dvc", "exp", "run", "-S", "profile=ct_ich"] and command[-1] == "train.epochs=3"
    assert "train.learning_rate=0.0000123" in command


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("profile=ct_ich",),
        ("profile=tiny", "model=b3", "data.image_size=200"),
        ("safety.refer_error_rate=0.000025", "data.crop=head", "tracking.project='null'", "data.folder.patient_regex='a \\'(b)'"),
        ("data.windows=[{level_hu:40,width_hu:80},{level_hu:80,width_hu:200},{level_hu:40,width_hu:40}]", "split.folds=[0,1]"),
    ],
)
def test_the_settings_of_what_was_searched_compose_to_it(settings: tuple[str, ...]) -> None:
    params = composed(*settings, "search.trials=77", "train.learning_rate=0.5")
    found = settings_of(params, without=("search", "train.learning_rate"), conf=ROOT / "conf")
    usual = composed()
    params["search"], params["train"]["learning_rate"] = usual["search"], usual["train"]["learning_rate"]
    assert composed(*found) == params
    assert len(found) <= len(settings) and (not settings or found)


def test_a_report_of_another_worker_does_not_disturb_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of one folder end at once; each would take the other's half-made plots for those of a dead process."""
    study = work(search_params(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("strokect.search_report.search_result", lambda *given: {"best": None})

    def slow(study: object, seed: int, folder: Path) -> None:
        time.sleep(0.5)
        (folder / "history.png").write_bytes(b"drawn")

    monkeypatch.setattr("strokect.search_report.draw", slow)
    params: Any = search_params(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(write_report, study, params, None) for _ in range(3)]:  # type: ignore[arg-type]
            done.result()
    assert (tmp_path / "reports/search/history.png").read_bytes() == b"drawn"
    assert not list((tmp_path / "reports").glob(".search*"))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Params, Prepared, Path]]:
    """A workspace with a split cohort, entered."""
    with workspace(tmp_path_factory.mktemp("search"), tiny_params()) as folder:
        for stage in ("prepare", "audit", "split"):
            run(stage)
        yield load_params(), load_prepared(), folder


def test_the_tuning_split_leaves_the_test_part_alone_and_deals_patients_anew(cohort: tuple[Params, Prepared, Path]) -> None:
    params, prepared, _ = cohort
    reported = read_split(SPLIT, prepared.manifest)
    given = make_tuning_set(params, prepared, reported)
    np.testing.assert_array_equal(rows_of_test_part(given.split), rows_of_test_part(reported))
    assert set(given.rows) == set(development_rows(reported))  # both folds of two
    assert not (given.split["part"] == reported["part"]).all()
    for fold in (0, 1):
        assert not set(prepared.patients[training_rows(given.split, fold)]) & set(
            prepared.patients[given.split["part"].to_numpy(str) == str(fold)]
        )
    for group in np.unique(given.groups):
        inside = given.groups == group
        assert not set(prepared.patients[given.rows[inside]]) & set(prepared.patients[given.rows[~inside]])


def test_a_trial_is_judged_after_calibration_that_never_saw_its_patients(cohort: tuple[Params, Prepared, Path]) -> None:
    params, prepared, _ = cohort
    given = make_tuning_set(params, prepared, read_split(SPLIT, prepared.manifest))
    labels = prepared.labels[given.rows]
    logits = (np.random.default_rng(0).normal(size=len(labels)) + labels).astype(np.float32)
    by_hand = np.empty(len(labels))
    for group in np.unique(given.groups):
        own = given.groups == group
        platt = LogisticRegression(C=1e10).fit(logits[~own, None], labels[~own])
        by_hand[own] = platt.predict_proba(logits[own, None])[:, 1]
    assert calibrated_log_loss(given, logits) == pytest.approx(sklearn_log_loss(labels, by_hand), abs=1e-4)
    assert calibrated_log_loss(given, 3 * logits - 5) == pytest.approx(calibrated_log_loss(given, logits), abs=1e-4)


def test_a_killed_trial_goes_on_where_it_was(cohort: tuple[Params, Prepared, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strokect.search_trial.build_network", lambda *model: fake_net())
    params, prepared, folder = cohort
    given = make_tuning_set(params, prepared, read_split(SPLIT, prepared.manifest))
    values = current_values(params)
    assert values is not None
    reports: list[tuple[int, float]] = []
    whole = train_trial(given, values, "whole", lambda *row: reports.append(row))

    again: list[tuple[int, float]] = []
    for death in (KeyboardInterrupt, OSError, StorageInternalError):  # Ctrl-C, a full disk, a lost database

        def stop(epoch: int, value: float, death: type[BaseException] = death) -> None:
            if epoch == 2:
                raise death

        with pytest.raises(death):
            train_trial(given, values, "stopped", stop)
        again.clear()
        assert train_trial(given, values, "again", lambda *row: again.append(row)) == whole
        assert again == reports[1:] and len(reports) == 2  # the first epoch was neither trained nor reported again
        assert not list((folder / ".strokect/resume").glob("search-*"))

    def end(epoch: int, value: float) -> None:
        raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        train_trial(given, values, "pruned", end)
    assert not list((folder / ".strokect/resume").glob("search-*"))
    wild = TuningSet(replace(params, train=replace(params.train, clip_norm=1e30)), *list(vars(given).values())[1:])
    with pytest.raises(FailedTrialError, match="not finite"):
        train_trial(wild, values | {"learning_rate": 1e30}, "wild", lambda *row: None)
    assert not list((folder / ".strokect/resume").glob("search-*"))

    def too_much(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("strokect.search_trial._held_out_logits", too_much)  # where all folds share the device
    with pytest.raises(FailedTrialError, match="CUDA out of memory"):
        train_trial(given, values, "large", lambda *row: None)
    assert not list((folder / ".strokect/resume").glob("search-*"))


def test_the_report_holds_what_was_found_and_under_which_conditions(cohort: tuple[Params, Prepared, Path]) -> None:
    params, prepared, folder = cohort
    params = search_params(folder, trials=14, prune_after_trials=8)
    study = work(params)
    write_report(study, params, prepared)
    result = json.loads((folder / "metrics/search.json").read_text())
    assert result["best"]["value"] == study.best_value and result["best"]["params"]["learning_rate"] > 0
    assert result["baseline"]["value"] == pytest.approx(math.log2(0.001 / 0.0006))
    assert sum(result["n_trials"].values()) == 14
    assert (result["split_seed"], result["reported_split_seed"], result["folds"]) == (1000, 0, [0, 1])
    assert result["device"] == ["cpu"] and result["data_sha256"] == prepared.cohort["data_sha256"]
    assert max(result["importance"], key=result["importance"].__getitem__) == "learning_rate"
    assert sum(result["importance"].values()) == pytest.approx(1.0, abs=1e-3)
    for name in ("history", "slices", "curves", "importance"):
        assert (folder / f"reports/search/{name}.png").stat().st_size > 5_000


def test_trials_are_tracked_each_with_its_end(tmp_path: Path) -> None:
    told: dict[str, list[Any]] = {}

    class Note(Tracker):
        def __init__(self, name: str):
            self.rows = told.setdefault(name, [])

        def epoch(self, row: Any) -> None:
            self.rows.append(row["log_loss"])

        def summary(self, values: Any) -> None:
            self.rows.append(values["state"])

    study = work(search_params(tmp_path, trials=12), track=lambda name, values: Note(name))
    for trial in study.trials:
        assert told[f"trial-{trial.number}"][-1] == trial.state.name.lower()
        assert len(told[f"trial-{trial.number}"]) == len(trial.intermediate_values) + 1


WORKER = """
import os, sys, time
from strokect.params import load_params
from strokect.search import Search, open_study
from strokect.tracking import Tracker

params = load_params(sys.argv[1])
def objective(values, name, report):
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()} {name}\\n")
    for epoch in (1, 2):
        time.sleep(0.3)
        report(epoch, values["learning_rate"])
    if name == "trial 4":
        time.sleep(600)
    return values["learning_rate"]
study, workers = open_study(params, {"data": {}})
Search(study, workers, params, objective, "cpu", lambda name, values: Tracker()).run()
"""


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server of its own on a Unix socket, as a user who is not root; yields the URL of an empty database."""
    found = [shutil.which("initdb"), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")))]
    initdb = next((Path(path).resolve() for path in found if path), None)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        prefix: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(scratch, "nobody")
            prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        data = f"{scratch}/data"
        setup = [*prefix, str(initdb), "-D", data, "-U", "strokect", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(setup, check=True, capture_output=True, cwd=scratch)
        command = [*prefix, str(initdb.parent / "postgres"), "-D", data, "-k", scratch, "-c", "listen_addresses=", "-F"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=scratch)
        try:
            import psycopg

            for _ in range(200):
                try:
                    psycopg.connect(host=scratch, user="strokect", dbname="postgres").close()
                    break
                except psycopg.OperationalError:
                    time.sleep(0.1)
            yield f"postgresql+psycopg://strokect@/postgres?host={scratch}"
        finally:
            server.send_signal(signal.SIGINT)  # ends its connections, too
            server.wait(30)


@pytest.mark.slow
def test_three_workers_on_postgresql_and_one_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with postgres() as url:
        params = search_params(tmp_path, storage=url, trials=15, heartbeat_s=3, prune_after_trials=100)
        command = [sys.executable, "-c", WORKER, str(tmp_path / "params.yaml"), str(log)]
        workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        hung = None
        while hung is None:
            assert all(worker.poll() is None for worker in workers), "a worker ended early"
            time.sleep(0.1)
            lines = log.read_text().splitlines() if log.exists() else []
            hung = next((int(line.split()[0]) for line in lines if line.endswith("trial 4")), None)
        time.sleep(1.0)
        os.kill(hung, signal.SIGKILL)
        for worker in workers:
            worker.communicate(timeout=300)
        assert sorted(worker.returncode for worker in workers) == [-signal.SIGKILL, 0, 0]
        study, _ = open_study(params, {"data": {}})
        trials = study.trials
        study._storage.remove_session()

    assert [trial.number for trial in trials] == list(range(len(trials)))
    started = [line.split(" ", 1)[1] for line in log.read_text().splitlines()]
    assert sorted(started) == sorted(f"trial {trial.number}" for trial in trials)  # each was run, and none twice
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == 3
    again = [trial for trial in trials if history(trial)]
    assert trials[4].state is TrialState.FAIL
    assert len(again) == 1 and history(again[0]) == [4] and again[0].params == trials[4].params
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert again[0] in done and len(done) == len(trials) - 1
    assert 15 <= len(done) <= 17


def test_a_database_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    params = search_params(tmp_path, storage=f"postgresql+psycopg://nobody@/postgres?host={tmp_path}")
    with pytest.raises(DataError, match=r"search\.storage: cannot use the database postgresql\+psycopg://nobody@/postgres"):
        open_study(params, SETTING)


@pytest.mark.slow
def test_apply_runs_the_pipeline_with_the_winner(tmp_path: Path) -> None:
    """In a copy of the repository: the params, the fold trained with them, and DVC's exit status."""
    copy_repository(tmp_path)
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    shell(tmp_path, *git, "add", "-A")
    shell(tmp_path, *git, "commit", "-qm", "start")
    values: Values = {
        "learning_rate": 0.0012, "weight_decay": 0.05, "dropout": 0.45, "batch_size": 32,
        "focal_gamma": 2.5, "label_smoothing": 0.1, "augment_strength": 0.5,
    }  # fmt: skip
    found = {"settings": ["profile=tiny"], "best": {"trial": 3, "value": 0.4, "params": values}}
    write_json(tmp_path / "metrics/search.json", found)
    apply = (sys.executable, "-m", "strokect.search", "--apply")
    said = shell(tmp_path, *apply, "train_fold@0")
    assert said.startswith("dvc exp run -S profile=tiny -S train.learning_rate=0.0012 ") and " train_fold@0\n" in said
    params = load_params(tmp_path / "params.yaml")
    assert params.data.phantom.patients == 20 and current_values(params) == values
    trained = read_json(tmp_path / "models/folds/0/model.json")
    assert trained["dropout"] == 0.45
    rates = pd.read_csv(tmp_path / "models/folds/0/history.csv")["learning_rate"]
    assert 0 < rates[1] < rates[0] <= 0.0012
    done = subprocess.run([*apply, "-S", "train.no_such_key=1"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "no_such_key" in done.stderr
