"""What a search found: metrics/search.json and the pictures in reports/search/."""

import fcntl
import platform
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from strokect.files import atomic_folder, atomic_path, sha256_file, write_json
from strokect.manifest import Prepared
from strokect.params import Params
from strokect.search_space import values_of
from strokect.search_trial import OBJECTIVE
from strokect.search_workers import ERROR, history
from strokect.splits import SPLIT

RESULT, PLOTS = Path("metrics/search.json"), Path("reports/search")
TURN = Path(".strokect/search/report.turn")  # locked while writing them
MIN_FOR_IMPORTANCE = 4  # complete trials; with fewer, fANOVA has next to nothing to split


@dataclass(frozen=True)
class Counts:
    """The trials of a study by what became of them. Every trial but the abandoned ones is in exactly one."""

    complete: int
    pruned: int
    failed: int  # by their values
    running: int
    waiting: int
    abandoned: int  # their worker died or was stopped; tried again under another number

    @property
    def done(self) -> int:
        return self.complete + self.pruned + self.failed


def count(study: optuna.Study) -> Counts:
    """How many trials there are of each kind."""
    trials = study.get_trials(deepcopy=False)
    states = [trial.state for trial in trials]
    errors = sum(trial.state is TrialState.FAIL and ERROR in trial.user_attrs for trial in trials)
    return Counts(
        complete=states.count(TrialState.COMPLETE),
        pruned=states.count(TrialState.PRUNED),
        failed=errors,
        running=states.count(TrialState.RUNNING),
        waiting=states.count(TrialState.WAITING),
        abandoned=states.count(TrialState.FAIL) - errors,
    )


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the lowest value, None without one."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def importance(study: optuna.Study, seed: int) -> dict[str, float] | None:
    """Share of the variance among complete trials that fANOVA (Hutter et al. 2014) puts down to each; None with too few."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < MIN_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
        return None
    found = optuna.importance.get_param_importances(study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed))
    return {name: round(value, 4) for name, value in found.items()}


def search_result(study: optuna.Study, params: Params, prepared: Prepared, settings: Sequence[str]) -> dict[str, Any]:
    """metrics/search.json. `settings`: see `conf.settings_of`; with the winner's they make the run that was searched for."""
    best, search = best_trial(study), params.search
    trials = study.get_trials(deepcopy=False)
    baseline = [trial for trial in trials if trial.user_attrs.get("baseline") and trial.state is TrialState.COMPLETE]
    return {
        "objective": OBJECTIVE,
        "best": None if best is None else {"trial": best.number, "value": best.value, "params": values_of(best)},
        "settings": list(settings),
        "baseline": {"value": baseline[0].value, "params": values_of(baseline[0])} if baseline else None,
        "n_trials": asdict(count(study)),
        "n_retries": sum(bool(history(trial)) for trial in trials),
        "importance": importance(study, search.seed),
        "study": search.study,
        "storage": search.storage.split(":")[0] if "://" in search.storage else "journal",
        "seed": search.seed,
        "split_seed": search.split_seed,
        "reported_split_seed": params.split.seed,
        "folds": list(search.folds),
        "epochs": params.train.epochs,
        "image_size": params.data.image_size,
        "backbone": params.model.backbone,
        "ranges": asdict(search.ranges),
        "source": prepared.cohort["source"],
        "data_sha256": prepared.cohort["data_sha256"],
        "split_sha256": sha256_file(SPLIT),
        "device": sorted({trial.user_attrs["device"] for trial in trials if "device" in trial.user_attrs}),
        "training_minutes": round(sum(_seconds(trials)) / 60, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "optuna": optuna.__version__},
        "notes": [
            "The best value is the lowest of many and therefore too good: it serves to choose, not to report.",
            "Chosen on a deal of the development patients that no reported figure uses; the test part was not looked at.",
        ],
    }


def _seconds(trials: Iterable[FrozenTrial]) -> list[float]:
    return [trial.duration.total_seconds() for trial in trials if trial.state.is_finished() and trial.duration is not None]


def write_report(study: optuna.Study, params: Params, prepared: Prepared, settings: Sequence[str] = ()) -> dict[str, Any]:
    """Write metrics/search.json and the plots; returns the former. Workers of one folder end together and take turns here."""
    result = search_result(study, params, prepared, settings)
    TURN.parent.mkdir(parents=True, exist_ok=True)
    with TURN.open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        write_json(RESULT, result)
        with atomic_folder(PLOTS) as folder:
            draw(study, params.search.seed, folder)
    return result


def draw(study: optuna.Study, seed: int, folder: Path) -> None:
    """history.png, slices.png, curves.png and, with enough complete trials, importance.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from optuna.visualization import matplotlib as drawing

    if best_trial(study) is None:
        return
    with warnings.catch_warnings(action="ignore"):
        drawn: dict[str, Any] = {
            "history": drawing.plot_optimization_history(study, target_name="log loss"),
            "slices": drawing.plot_slice(study, target_name="log loss"),
            "curves": drawing.plot_intermediate_values(study),
        }
        if importance(study, seed) is not None:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
            drawn["importance"] = drawing.plot_param_importances(study, evaluator=evaluator, target_name="log loss")
        for name, axes in drawn.items():
            first = axes if name != "slices" or not hasattr(axes, "__len__") else axes[0]
            with atomic_path(folder / f"{name}.png") as path:
                first.figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close("all")
