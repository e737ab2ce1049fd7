"""Settings files of this package: YAML to frozen values. Every refusal names file, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_seed.errors import SeedError

Key = tuple[str | int, ...]


class Settings(BaseModel):
    """Frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Kind = TypeVar("Kind", bound=Settings)


def load_settings(path: Path, kind: type[Kind], changes: Mapping[str, Any] = {}) -> Kind:
    """Read a YAML file into `kind`, with `changes` of its keys; an unknown key is told with the nearest known one."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise SeedError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SeedError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise SeedError(f"{path}: a mapping of settings is expected, this is {type(values).__name__}")
    try:
        return kind.model_validate({**values, **changes})
    except ValidationError as error:
        raise SeedError("; ".join(_explain(item, path, node, kind) for item in error.errors())) from None


def _explain(error: Mapping[str, Any], path: Path, node: yaml.Node, kind: type[BaseModel]) -> str:
    key: Key = tuple(error["loc"])
    place = f"{path}:{_line(node, key)}"
    name = ".".join(map(str, key))
    if error["type"] == "extra_forbidden":
        known = _fields_at(kind, key[:-1])
        close = difflib.get_close_matches(str(key[-1]), known, n=1, cutoff=0.5)
        return f"{place}: unknown key {name}; " + (
            f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        )
    if error["type"] == "missing":
        return f"{place}: {name} is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {name}: {message}" if name else f"{place}: {message}"


def _line(node: yaml.Node, key: Sequence[str | int]) -> int:
    """From 1; of the innermost part of `key` that the file has."""
    line = node.start_mark.line + 1
    for part in key:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None:
                continue  # pydantic also names the alternatives of a union
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _fields_at(kind: type[BaseModel], key: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] | None = kind
    for part in key:
        field = model.model_fields.get(str(part)) if model else None
        model = _model_in(field.annotation) if field else model
    return list(model.model_fields) if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
