"""Parsed YAML into frozen dataclasses: an unknown, missing or ill-typed key is a ParamsError that names its path."""

import dataclasses
import difflib
import types
import typing
from typing import Any, Literal

from strokect.errors import ParamsError


def build(cls: Any, raw: Any, file: str, prefix: str = "") -> Any:
    """An instance of the dataclass `cls` from parsed YAML; `file` and `prefix` (ending in a dot) are for messages."""
    if not isinstance(raw, dict):
        raise ParamsError(f"{file}: {prefix.rstrip('.') or 'the file'} must be a section with keys, not {raw!r}")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in raw:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else f"; known: {', '.join(prefix + name for name in fields)}"
            raise ParamsError(f"{file}: {prefix}{key} is not a known key{hint}")
    for name in fields:
        if name not in raw:
            raise ParamsError(f"{file}: {prefix}{name} is missing")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _convert(hints[name], raw[name], file, prefix + name) for name in fields})


def _convert(kind: Any, value: Any, file: str, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return build(kind, value, file, key + ".")
    origin = typing.get_origin(kind)
    if origin is Literal:
        allowed = typing.get_args(kind)
        if not any(value == item and type(value) is type(item) for item in allowed):  # 1 is not True
            raise ParamsError(f"{file}: {key} is {value!r}; allowed: {', '.join(map(str, allowed))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ParamsError(f"{file}: {key} must be a list, not {value!r}")
        return tuple(_convert(typing.get_args(kind)[0], item, file, f"{key}[{i}]") for i, item in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        hint = " (YAML reads 1e-3 as text: write 0.001 or 1.0e-3)" if kind is float and isinstance(value, str) else ""
        expected = kind.__name__ if not isinstance(kind, types.UnionType) else str(kind)
        raise ParamsError(f"{file}: {key} must be {expected}, not {value!r}{hint}")
    return value
