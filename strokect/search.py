"""The hyperparameter search: `make search`, or `python -m strokect.search`. It goes on where it was stopped or killed.

python -m strokect.search                       # until search.trials are done; again on another machine to share the work
python -m strokect.search --report              # write metrics/search.json and reports/search/ of what there is so far
python -m strokect.search --apply [-S …]        # run the pipeline with the winner: `dvc exp run -S train.learning_rate=… …`
"""

import argparse
import json
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.trial import TrialState

from strokect.conf import settings_of
from strokect.errors import DataError, TrainingError, run_stage
from strokect.files import read_json, sha256_file
from strokect.fold import device_name, weights_sha256
from strokect.manifest import Prepared, load_prepared
from strokect.params import Params, load_params
from strokect.run_params import SearchParams
from strokect.search_report import PLOTS, RESULT, Counts, best_trial, count, write_report
from strokect.search_space import KEYS, Values, current_values, overrides, suggest, what_stays, with_values
from strokect.search_trial import FailedTrialError, make_tuning_set, train_trial
from strokect.search_workers import ERROR, Workers, open_storage, sign
from strokect.splits import SPLIT, read_split
from strokect.tracking import Tracker, start_tracker
from strokect.training import pick_device

PARAMS = Path("params.yaml")
POLL_S = 1.0
HOPELESS = 3  # failed trials before any that worked
Objective = Callable[[Values, str, Callable[[int, float], None]], float]  # values, name, report(epoch, value) → value
Track = Callable[[str, Values], Tracker]


def open_study(params: Params, setting: dict[str, Any]) -> tuple[optuna.Study, Workers]:
    """Make or load `search.study`. Raises DataError where its trials were of another `setting`: they would not compare."""
    search = params.search
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it has to say is said by Search
    storage, workers = open_storage(search)
    pruner = optuna.pruners.MedianPruner(search.prune_after_trials, search.prune_after_epochs)
    setting = json.loads(json.dumps(setting))  # as it comes back from the storage
    workers.begin()
    try:
        study = optuna.create_study(storage=storage, study_name=search.study, pruner=pruner)
        if current := current_values(params):  # what the others have to beat
            study.enqueue_trial(current, user_attrs={"baseline": True})
    except DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=search.study, pruner=pruner)
    finally:
        workers.end()
    given = study.user_attrs.get("setting")
    if given is None:
        study.set_user_attr("setting", setting)
    elif given != setting:
        keys = {(part, key) for one in (given, setting) for part in one for key in one[part]}
        differ = sorted(f"{part}.{key}" for part, key in keys if given.get(part, {}).get(key) != setting.get(part, {}).get(key))
        raise DataError(
            f"search.study {search.study!r} has trials of another setting, which do not compare ({', '.join(differ)}): "
            "set search.study to a new name, or go back to the params and data it was begun with"
        )
    return study, workers


class Search:
    """One worker of a study."""

    def __init__(self, study: optuna.Study, workers: Workers, params: Params, objective: Objective, device: str, track: Track):
        self.study, self.workers, self.params, self.objective, self.device = study, workers, params, objective, device
        self.track = track
        self.taken: int | None = None  # number of the trial at work
        self.crash: BaseException | None = None

    def run(self) -> None:
        """Work until `search.trials` trials are done by all workers together, those of workers that died among them."""
        while True:
            self.workers.begin()
            coming = self.workers.retry_abandoned(self.study)
            counts = count(self.study)
            if counts.failed >= HOPELESS and not counts.complete:
                self.workers.end()
                raise TrainingError(f"{counts.failed} trials failed before any worked, one with: {self._an_error()}")
            if counts.waiting or counts.done + counts.running + coming < self.params.search.trials:
                self._next_trial()
                continue
            self.workers.end()
            if not counts.running and not coming:
                return
            time.sleep(POLL_S)  # for another worker's trial: if that one dies, it is this one's to do again

    def _next_trial(self) -> None:
        self.taken = self.crash = None
        try:
            self.study.optimize(self._one, n_trials=1, catch=(FailedTrialError,))
        except BaseException as error:
            # Optuna's way to say that the trial has been ended by somebody else.
            if isinstance(error, UpdateFinishedTrialError | ValueError) and self.crash is None and self.taken is not None:
                print(f"trial {self.taken}: not heard of for too long, another worker has it now", flush=True)
                return
            # Stopped, or a fault of this process or machine, which says nothing of the trial's values.
            if self.taken is not None and self.study.trials[self.taken].state is TrialState.FAIL:
                self.workers.give_back(self.study, self.taken)
            raise
        self._show(count(self.study))

    def _one(self, trial: optuna.Trial) -> float:
        sign(trial, self.workers)
        self.taken = trial.number
        self.workers.end()
        trial.set_user_attr("device", self.device)
        self.study.sampler = sampler(self.params.search, trial.number)
        values = suggest(trial, self.params)
        print(f"trial {trial.number}: {'  '.join(f'{name} {value:g}' for name, value in values.items())}", flush=True)

        inherited = self.study.trials[trial.number].intermediate_values  # of the trial that this one repeats

        def report(epoch: int, value: float) -> None:
            tracker.epoch({"epoch": epoch, "log_loss": value})
            if epoch not in inherited:
                trial.report(value, epoch)
            print(f"trial {trial.number}: epoch {epoch}/{self.params.train.epochs}  log loss {value:.4f}", flush=True)
            if trial.should_prune():
                tracker.summary({"state": "pruned", "log_loss": value})
                tracker.finish()
                raise optuna.TrialPruned

        with self.track(f"trial-{trial.number}", values) as tracker:
            try:
                value = self.objective(values, f"trial {trial.number}", report)
            except FailedTrialError as error:
                trial.set_user_attr(ERROR, str(error))
                raise
            except (optuna.TrialPruned, UpdateFinishedTrialError):
                raise
            except BaseException as error:
                self.crash = error
                raise
            tracker.summary({"state": "complete", "log_loss": value})
        return value

    def _show(self, counts: Counts) -> None:
        """What became of the trial, the best so far and how long it may still take."""
        trial, best = self.study.trials[self.taken or 0], best_trial(self.study)
        outcome = {
            TrialState.COMPLETE: f"log loss {trial.value or 0:.4f}",
            TrialState.PRUNED: f"ended after epoch {trial.last_step}: not among the better half",
            TrialState.FAIL: f"failed ({trial.user_attrs.get(ERROR)})",
        }[trial.state]
        spent = [t.duration.total_seconds() for t in self.study.trials if t.state.is_finished() and t.duration is not None]
        left = max(0, self.params.search.trials - counts.done) * sum(spent) / len(spent) / 60
        so_far = f"best {best.value:.4f} (trial {best.number})" if best is not None else "none complete yet"
        print(
            f"trial {trial.number}: {outcome}  |  {so_far}  |  {counts.done} of {self.params.search.trials} done, "
            f"{counts.pruned} pruned, {counts.failed} failed, about {left:.0f} min left for one worker",
            flush=True,
        )

    def _an_error(self) -> str:
        return next(str(trial.user_attrs[ERROR]) for trial in self.study.trials if ERROR in trial.user_attrs)


def sampler(search: SearchParams, number: int) -> optuna.samplers.BaseSampler:
    """TPE, seeded by the trial and not by the process: a search that goes on must not draw what it drew before it stopped."""
    seed = (search.seed * 1_000_003 + number) % 2**32
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials, multivariate=True, constant_liar=True)


def prepare_search() -> tuple[Params, Prepared, optuna.Study, Workers]:
    """Params, cohort and study of the workspace."""
    params, prepared = load_params(), load_prepared()
    data = {"data_sha256": prepared.cohort["data_sha256"], "split_sha256": sha256_file(SPLIT)}
    weights = weights_sha256(params.model)  # a file of weights can change under its name
    if weights is None and params.model.weights_kind == "file":
        raise DataError(f"model.weights: {params.model.weights} is not there yet; make it first, or set another")
    return params, prepared, *open_study(params, what_stays(params) | {"data": data, "weights": {"sha256": weights}})


def run_search(params: Params, prepared: Prepared, study: optuna.Study, workers: Workers) -> None:
    """Be a worker of the study, with the real objective."""
    given = make_tuning_set(params, prepared, read_split(SPLIT, prepared.manifest))
    folds, cohort = params.search.folds, prepared.cohort
    print(
        f"search {params.search.study!r}: folds {', '.join(map(str, folds))} of split seed {params.search.split_seed}, "
        f"{len(given.rows)} slices held out, {params.train.epochs} epochs; stop it at any time, the same command goes on",
        flush=True,
    )

    def track(name: str, values: Values) -> Tracker:
        model, train = with_values(params, values)
        shown = replace(params, model=model, train=train, split=replace(params.split, seed=params.search.split_seed))
        group = f"search-{params.search.study}"
        return start_tracker(shown, "search", name, cohort, sha256_file(SPLIT), group=group, config={"folds": list(folds)})

    def objective(values: Values, name: str, report: Callable[[int, float], None]) -> float:
        return train_trial(given, values, name, report)

    try:
        Search(study, workers, params, objective, device_name(pick_device(params.train)), track).run()
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this one was", flush=True)
        raise SystemExit(130) from None


def winning_command(result: dict[str, Any], more: list[str]) -> list[str]:
    """The `dvc exp run` that trains what was searched, with the winner of metrics/search.json. Raises DataError without one."""
    if result["best"] is None:
        raise DataError(f"{RESULT}: no trial is complete yet; run `make search` first")
    given = [*result["settings"], *overrides(result["best"]["params"])]
    settings = [part for setting in given for part in ("-S", setting)]
    return ["dvc", "exp", "run", *settings, *more]


def main() -> None:
    """Search, report, or run the winner."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--apply", action="store_true")
    args, more = parser.parse_known_args()
    if args.apply:
        command = winning_command(read_json(RESULT), more)
        print(shlex.join(command), flush=True)
        raise SystemExit(subprocess.run(command, check=False).returncode)
    if more:
        parser.error(f"unknown: {' '.join(more)} (what follows --apply goes to dvc exp run)")
    params, prepared, study, workers = prepare_search()
    searched = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    settings = settings_of(searched, without=(*KEYS.values(), "search", "tracking"))  # before the hours, not after them
    if not args.report:
        run_search(params, prepared, study, workers)
    result = write_report(study, params, prepared, settings)
    print(f"{RESULT} and {PLOTS}/ written: {json.dumps(result['n_trials'])}")
    if result["best"] is not None:
        print(f"best: {result['best']['value']:.4f} (trial {result['best']['trial']}); a run with it:")
        print(f"  {shlex.join(winning_command(result, []))}")


if __name__ == "__main__":
    run_stage(main)
