"""Settings in which runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ALWAYS_DIFFERENT = ("name", "run_dir")
MISSING = "–"


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(dotted key, value in each run) of every setting that is not the same in all of them.

    Items of a list are addressed by their `name`, where each has one, else by their place.
    """
    flat = [dict(_flat(config, "")) for config in configs]
    keys = dict.fromkeys(key for values in flat for key in values)
    rows = [(key, [values.get(key, MISSING) for values in flat]) for key in keys if key not in _ALWAYS_DIFFERENT]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, child in value.items():
            yield from _flat(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        yield from _flat(_named(value), key)
    else:
        yield key, _shown(value)


def _named(items: Sequence[Any]) -> dict[str, Any]:
    names = [str(item["name"]) if isinstance(item, Mapping) and "name" in item else None for item in items]
    if None in names or len(set(names)) < len(names):
        return {str(place): item for place, item in enumerate(items)}
    return {
        name: {key: child for key, child in item.items() if key != "name"}
        for name, item in zip(names, items, strict=True)
    }


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return "none" if value == {} else str(value)
