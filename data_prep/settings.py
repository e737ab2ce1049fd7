"""Settings of a step: a frozen model, filled from a YAML file and from what the command line says."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from data_prep.errors import DataError


class Settings(BaseModel):
    """Frozen; keys that it does not know are refused. A field that may hold a secret has `repr=False`.

    A field that must be given may have a `description` that says how.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def load_settings(
    model: type[Model], step: str, path: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Model:
    """The defaults, changed by a YAML file, then by `overrides`, whose sections are merged into those of the file.

    Raises `DataError` with the file (without one: `step`), the key that is wrong and the nearest one that is known.
    """
    values = merged(read_mapping(path, model) if path else {}, overrides or {})
    try:
        return model.model_validate(values)
    except ValidationError as error:
        where = step if path is None or _is_in(first_error(error)["loc"], overrides or {}) else path
        raise DataError(f"{where}: {in_words(error, model)}") from None


def _is_in(place: tuple[str | int, ...], values: Mapping[str, Any]) -> bool:
    """Whether values say something at a place."""
    for part in place:
        if not isinstance(values, Mapping) or part not in values:
            return bool(place) and not isinstance(values, Mapping)
        values = values[part]
    return bool(place)


def read_mapping(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    """What a YAML file says. Raises `DataError` where it is none, or no mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path} is no YAML that can be read: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | None):
        raise DataError(f"{path}: a mapping with {', '.join(model.model_fields)} is expected")
    return values or {}


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `changes`: mappings are merged, and items of lists where changes name them by number or by `name`;
    anything else is put in the place of what was there.

    Raises `DataError` for an item that is not there.
    """
    return _merged(values, changes, ())


def _merged(values: Any, changes: Any, place: tuple[str, ...]) -> Any:
    if not isinstance(changes, Mapping) or not isinstance(values, Mapping | list | None):
        return changes
    result = list(values) if isinstance(values, list) else dict(values or {})
    for key, change in changes.items():
        if isinstance(result, list):
            index = _position(result, key, place)
            result[index] = _merged(result[index], change, (*place, key))
        else:
            result[key] = _merged(result.get(key), change, (*place, key))
    return result


def _position(items: list[Any], key: str, place: tuple[str, ...]) -> int:
    names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    known = ", ".join(str(number if name is None else name) for number, name in enumerate(names)) or "none"
    raise DataError(f"{'.'.join((*place, key))}: no such item; there are {known}")


def first_error(error: ValidationError) -> ErrorDetails:
    """The one to tell of. A key that is lacking may be there under a name that is misspelt: then it is that."""
    return min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")


def in_words(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, in a line: where, what, and what would be right."""
    first = first_error(error)
    where, name = ".".join(map(str, first["loc"])), str(first["loc"][-1]) if first["loc"] else ""
    fields = dict(_fields(model))
    if first["type"] == "extra_forbidden":
        known = _siblings(model, first["loc"])
        near = difflib.get_close_matches(name, known, 1) or difflib.get_close_matches(name, fields, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        if near and near[0] == name:
            hint = f"it is a key of another section; here: {', '.join(known)}"
        return f"there is no key {where!r}; {hint}"
    # Nobody writes a tuple in YAML.
    message = first["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
    if first["type"] == "missing":
        said = fields[name].description if name in fields else None
        return f"{where} is needed" + (f": {said}" if said else "")
    shown = not isinstance(first["input"], Mapping) and (fields[name].repr if name in fields else True)
    return (f"{where}: " if where else "") + message + (f" (got {first['input']!r})" if shown else "")


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Every field of a model and of those in it."""
    for name, field in model.model_fields.items():
        yield name, field
        for inner in _models(field.annotation):
            yield from _fields(inner)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _siblings(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """The keys that are known where an unknown one stands."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        inner = next(_models(field.annotation), None) if field else None
        model = inner or model
    return list(model.model_fields)
