"""params.yaml as `dvc exp run -S …` composes it from conf/, and the other way round. Needs Hydra, which DVC brings."""

import re
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from strokect.errors import DataError

CONF = Path("conf")
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")  # what Hydra needs no quotes around, unless it reads it as null or a truth value
Leaves = dict[str, Any]  # dotted key → value


def composed(*overrides: str, conf: Path = CONF) -> dict[str, Any]:
    """What `dvc exp run -S …` would write to params.yaml."""
    with initialize_config_dir(str(conf.absolute()), version_base=None):
        config: Any = OmegaConf.to_object(compose("config", overrides=list(overrides)))
    return dict(config)


def settings_of(params: dict[str, Any], without: tuple[str, ...] = (), conf: Path = CONF) -> list[str]:
    """The shortest `profile=…`, `model=…` and further -S settings that compose to `params`, but for the keys `without`.

    A key of `without` stands for all keys that begin with it, too. Raises DataError without the folder `conf`.
    """
    if not (conf / "config.yaml").is_file():
        raise DataError(f"{conf}/config.yaml is missing: run this in the folder of the repository")
    wanted, left = _leaves(params), tuple(f"{key}." for key in without)
    found: list[list[str]] = []
    for profile in _names(conf / "profile"):
        for model in _names(conf / "model"):
            groups = [f"profile={profile}", f"model={model}"]
            given = _leaves(composed(*groups, conf=conf))
            differ = [key for key in wanted if given.get(key) != wanted[key] and not f"{key}.".startswith(left)]
            found.append(groups + [f"{key}={as_override(wanted[key])}" for key in differ])
    usual = {f"{group}={name}" for default in _defaults(conf) for group, name in default.items()}
    return min(([setting for setting in settings if setting not in usual] for settings in found), key=len)


def as_override(value: Any) -> str:
    """A value in Hydra's grammar. Numbers are decimal, because YAML 1.1 reads 3e-05 as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = f"{value:.10f}".rstrip("0")
        return f"{text}0" if text.endswith(".") else text
    if isinstance(value, list):
        return f"[{','.join(map(as_override, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{as_override(part)}' for key, part in value.items())}}}"
    if isinstance(value, str):
        if PLAIN.fullmatch(value) and isinstance(yaml.safe_load(value), str):
            return value
        quoted = value.replace("\\'", "\\\\'").replace("'", "\\'")
        return f"'{quoted}'"
    return "null" if value is None else str(value)


def _leaves(value: dict[str, Any], prefix: str = "") -> Leaves:
    leaves: Leaves = {}
    for key, part in value.items():
        leaves |= _leaves(part, f"{prefix}{key}.") if isinstance(part, dict) else {prefix + key: part}
    return leaves


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _defaults(conf: Path) -> list[dict[str, str]]:
    listed: Any = OmegaConf.to_object(OmegaConf.load(conf / "config.yaml").defaults)
    return [entry for entry in listed if isinstance(entry, dict)]
