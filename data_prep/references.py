"""`module:object`: annotators, scorers and rules that a user wrote in Python."""

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from data_prep.errors import DataError


def import_object(reference: str, folder: str | None = None) -> Any:
    """The object; modules are looked for in `folder` first. Raises `DataError` where it cannot be imported."""
    module, _, name = reference.partition(":")
    if folder and folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        where = f" (looked in {folder} first)" if folder else ""
        raise DataError(f"{reference} cannot be imported{where}: {type(error).__name__}: {error}") from error


def settings_of(function: Callable[..., Any]) -> dict[str, Any]:
    """A function's parameters after the first as fields of a pydantic model: name -> (type, default)."""
    fields = {}
    for parameter in list(inspect.signature(function, eval_str=True).parameters.values())[1:]:
        kind = Any if parameter.annotation is parameter.empty else parameter.annotation
        fields[parameter.name] = (kind, ... if parameter.default is parameter.empty else parameter.default)
    return fields
