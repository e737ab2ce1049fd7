"""An engine from what the user asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from data_prep.engines.base import Engine
from data_prep.engines.local import LocalEngine
from data_prep.engines.ray import RayEngine
from data_prep.engines.slurm import SlurmEngine
from data_prep.errors import DataError

NAMES = ("local", "slurm", "ray")
_KINDS = {int: int, float: float, float | None: float}


def make_engine(
    name: str, workers: int, folder: Path, options: Mapping[str, str] = {}, runs: Path | None = None
) -> Engine:
    """The engine `name` with `options`, such as `partition=cpu`; `folder` is for its scripts and logs, `runs` (default:
    `folder`) for the marks of runs of which only the newest counts.

    Raises `DataError` for an option that the engine does not have, or a value of the wrong kind.
    """
    if name == "local":
        return _made(LocalEngine, {"workers": workers}, options)
    if name == "slurm":
        return _made(SlurmEngine, {"folder": folder, "runs": runs}, options)
    if name == "ray":
        return _made(RayEngine, {"workers": workers}, options)
    raise DataError(f"engine {name!r}: it must be one of {', '.join(NAMES)}")


def _made(engine: Any, fixed: Mapping[str, Any], options: Mapping[str, str]) -> Engine:
    kinds = {key: kind for key, kind in get_type_hints(engine).items() if key not in fixed}
    values = dict(fixed)
    for key, text in options.items():
        if key not in kinds:
            raise DataError(f"{engine.__name__} has no option {key!r}; it has {', '.join(kinds)}")
        values[key] = _parsed(key, text, kinds[key])
    return engine(**values)


def _parsed(key: str, text: str, kind: Any) -> Any:
    if kind == tuple[str, ...]:
        return tuple(text.split("\n"))
    try:
        return _KINDS.get(kind, str)(text)
    except ValueError:
        raise DataError(f"engine option {key}={text}: must be a number") from None
