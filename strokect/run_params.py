"""Params of what happens beside the pipeline: the search and tracking. No stage lists them, so none goes stale by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from strokect.params import Params

Rule = tuple[bool, str, str]  # whether it holds, the key, what its value must be


@dataclass(frozen=True)
class SearchRanges:
    """(lowest, highest) of what is tuned; equal ends fix a value. `batch_size` lists its values."""

    learning_rate: tuple[float, ...]  # on a logarithmic scale
    weight_decay: tuple[float, ...]  # on a logarithmic scale
    dropout: tuple[float, ...]
    batch_size: tuple[int, ...]
    focal_gamma: tuple[float, ...]
    label_smoothing: tuple[float, ...]
    augment_strength: tuple[float, ...]


@dataclass(frozen=True)
class SearchParams:
    """The hyperparameter search (`make search`)."""

    trials: int  # of all workers together
    folds: tuple[int, ...]  # the folds of the tuning split that each trial trains
    split_seed: int  # deals the development patients into folds anew, so never split.seed
    seed: int
    study: str
    storage: str  # path of a journal file, or a database URL
    heartbeat_s: int  # in a database; a worker that misses two is taken for dead
    startup_trials: int  # random ones, before TPE has something to go by
    prune_after_trials: int
    prune_after_epochs: int
    ranges: SearchRanges


@dataclass(frozen=True)
class TrackingParams:
    """Weights & Biases."""

    wandb: Literal["disabled", "offline", "online"]
    project: str
    log_images: bool


def run_rules(p: Params) -> list[Rule]:
    """What `search` and `tracking` must hold, for strokect.param_ranges."""
    s, r = p.search, p.search.ranges
    return [
        (s.trials >= 1, "search.trials", "1 or more"),
        (bool(s.folds) and set(s.folds) <= set(p.split.folds), "search.folds", "a list of folds of split.folds"),
        (len(set(s.folds)) == len(s.folds), "search.folds", "without repetitions"),
        (
            s.split_seed != p.split.seed,
            "search.split_seed",
            "another than split.seed: what is chosen on the reported split makes its figures too good",
        ),
        (s.split_seed >= 0, "search.split_seed", "0 or more"),
        (s.seed >= 0, "search.seed", "0 or more"),
        (bool(s.study.strip()), "search.study", "a name"),
        (bool(s.storage.strip()), "search.storage", "the path of a journal file or a database URL"),
        (
            "://" not in s.storage
            or (urlsplit(s.storage).password is None and "password" not in parse_qs(urlsplit(s.storage).query)),
            "search.storage",
            "without a password, as params.yaml is in git: ~/.pgpass or PGPASSWORD gives it to PostgreSQL",
        ),
        (not s.storage.startswith("sqlite"), "search.storage", "no SQLite: its locks lose trials of parallel workers"),
        (s.heartbeat_s >= 1, "search.heartbeat_s", "1 or more"),
        (s.startup_trials >= 1, "search.startup_trials", "1 or more"),
        (s.prune_after_trials >= 1, "search.prune_after_trials", "1 or more"),
        (s.prune_after_epochs >= 0, "search.prune_after_epochs", "0 or more"),
        *[
            (len(given) == 2 and low <= given[0] <= given[-1] < high, f"search.ranges.{name}", f"[lowest, highest] {within}")
            for name, given, low, high, within in (
                ("learning_rate", r.learning_rate, 1e-9, 10.0, "from 1e-9 to below 10"),
                ("weight_decay", r.weight_decay, 1e-9, 10.0, "from 1e-9 to below 10"),
                ("dropout", r.dropout, 0.0, 1.0, "from 0 to below 1"),
                ("focal_gamma", r.focal_gamma, 0.0, 100.0, "from 0 to below 100"),
                ("label_smoothing", r.label_smoothing, 0.0, 0.5, "from 0 to below 0.5"),
                ("augment_strength", r.augment_strength, 0.0, 10.0, "from 0 to below 10"),
            )
        ],
        (bool(r.batch_size) and min(r.batch_size) >= 2, "search.ranges.batch_size", "a list of batch sizes of 2 or more"),
        (bool(p.tracking.project.strip()), "tracking.project", "a name"),
    ]
