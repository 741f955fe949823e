"""What the search may change, and how a choice becomes params and a command line."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from strokect.conf import as_override
from strokect.params import ModelParams, Params, TrainParams

if TYPE_CHECKING:
    import optuna

Values = dict[str, float | int]  # by the names of search.ranges
# Where each is in params.yaml.
KEYS = {
    "learning_rate": "train.learning_rate",
    "weight_decay": "train.weight_decay",
    "dropout": "model.dropout",
    "batch_size": "train.batch_size",
    "focal_gamma": "train.focal_gamma",
    "label_smoothing": "train.label_smoothing",
    "augment_strength": "train.augment.strength",
}
LOGARITHMIC = ("learning_rate", "weight_decay")


def tuned_names(params: Params) -> list[str]:
    """The names that are tuned: focal γ only where the loss has one."""
    return [name for name in KEYS if name != "focal_gamma" or params.train.loss == "focal"]


def suggest(trial: "optuna.Trial", params: Params) -> Values:
    """Ask Optuna for a value of each; rounded, so that what is printed is what was trained."""
    values: Values = {}
    for name in tuned_names(params):
        given = getattr(params.search.ranges, name)
        if name == "batch_size":
            values[name] = int(trial.suggest_categorical(name, given))
        else:
            values[name] = _rounded(name, trial.suggest_float(name, *given, log=name in LOGARITHMIC))
    return values


def _rounded(name: str, value: float) -> float:
    return float(f"{value:.3g}") if name in LOGARITHMIC else round(value, 3)


def values_of(trial: "optuna.trial.FrozenTrial") -> Values:
    """What a trial was trained with."""
    return {name: value if name == "batch_size" else _rounded(name, value) for name, value in sorted(trial.params.items())}


def current_values(params: Params) -> Values | None:
    """What params.yaml has now, None where that is outside of a range."""
    values: Values = {}
    for name in tuned_names(params):
        section: Any = params
        for part in KEYS[name].split("."):
            section = getattr(section, part)
        given = getattr(params.search.ranges, name)
        if not (section in given if name == "batch_size" else given[0] <= section <= given[1]):
            return None
        values[name] = section
    return values


def with_values(params: Params, values: Values) -> tuple[ModelParams, TrainParams]:
    """The params of a trial's networks and of their training."""
    given: dict[str, Any] = dict(values)
    augment = replace(params.train.augment, strength=given.pop("augment_strength"))
    model = replace(params.model, dropout=given.pop("dropout"))
    return model, replace(params.train, augment=augment, **given)


def what_stays(params: Params) -> dict[str, Any]:
    """Everything of the params that trials of one study must share: one section deep, without what is tuned."""
    model, train = asdict(params.model), asdict(params.train)
    del train["devices"]  # a trial has one
    for name in tuned_names(params):
        section, *path = KEYS[name].split(".")
        owner = model if section == "model" else train
        for part in path[:-1]:
            owner = owner[part]
        del owner[path[-1]]
    search = params.search
    kept = ("folds", "split_seed", "seed", "startup_trials", "prune_after_trials", "prune_after_epochs")
    shared = {"model": model, "train": train, "search": {key: getattr(search, key) for key in kept}}
    return shared | {"ranges": {name: getattr(search.ranges, name) for name in tuned_names(params)}}


def overrides(values: Values) -> list[str]:
    """`train.learning_rate=0.0003` and so on."""
    return [f"{KEYS[name]}={as_override(value)}" for name, value in values.items()]
