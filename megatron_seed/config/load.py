"""Recipe files to `Recipe` values: defaults < preset < recipe < overrides. Every refusal names file, key and line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import Recipe
from megatron_seed.config.sources import SourceConfig
from megatron_seed.errors import SeedError

Key = tuple[str | int, ...]
_BREAKS = re.compile("[\\n\\r\\x85\\u2028\\u2029]")
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """YAML with 3e-4 and 1e6 read as numbers, and with off, on, yes and no as words: YAML 1.1 has it the other way.

    A key that stands twice in a mapping is refused.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as a word, and words with line breaks that YAML would read as spaces."""


def _word(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if _BREAKS.search(text) else None)


_Dumper.add_representer(str, _word)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def load_recipe(recipe: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or one that ships with the package by its name, and apply `a.b=value` overrides.

    Values of overrides are YAML; list items are addressed by number (`phases.0.tokens=1e6`) or by name. A phase's
    `blend` may be the path of a file that holds one, as `data mixtures` writes it; its content takes the path's place.
    Raises SeedError with file, line and key; an unknown key comes with the nearest known one.
    """
    path = _find(recipe)
    text, values = _read(path)
    if not isinstance(values, dict):
        raise SeedError(f"{path}: a recipe is a mapping of settings, this is {type(values).__name__}")
    _include_blends(values)
    for override in overrides:
        _apply(values, override)
        _include_blends(values)
    return parse_recipe(values, str(path), _lines(text))


def parse_recipe(values: Mapping[str, Any], where: str, lines: Mapping[Key, int] | None = None) -> Recipe:
    """Validate plain values (as from YAML) into a Recipe; `where` and `lines` only serve the error messages."""
    values = dict(values)
    if isinstance(values.get("model"), Mapping):
        values["model"] = _with_preset(values["model"], where)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise SeedError("; ".join(_explain(item, where, lines or {}) for item in _told(error))) from error


def dump_recipe(recipe: BaseModel) -> str:
    """The resolved recipe as YAML; `load_recipe` of it gives the same value."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def shipped_recipes() -> dict[str, Path]:
    """Recipes inside the package, by name."""
    folder = Path(str(resources.files("megatron_seed") / "recipes"))
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}


def _find(recipe: Path | str) -> Path:
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(recipe) in shipped:
        return shipped[str(recipe)]
    raise SeedError(f"no recipe file {recipe}; shipped recipes: {', '.join(shipped) or 'none'}")


def _read(path: Path) -> tuple[str, Any]:
    """Text and values of a YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
        return text, yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SeedError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def _include_blends(values: dict[str, Any]) -> None:
    """Puts the content of blend files in the place of their paths, which are seen from the working directory."""
    phases = values.get("phases")
    for index, phase in enumerate(phases if isinstance(phases, list) else ()):
        if isinstance(phase, dict) and isinstance(phase.get("blend"), str):
            phase["blend"] = _read_blend(Path(phase["blend"]), index)


def _read_blend(path: Path, phase: int) -> Any:
    if not path.is_file():
        raise SeedError(
            f"phases.{phase}.blend: there is no file {path}; `megatron-seed data mixtures` writes such files"
        )
    text, blend = _read(path)
    if not isinstance(blend, list):
        raise SeedError(f"{path}: a blend is a list of sources, this is {type(blend).__name__}")
    try:
        TypeAdapter(tuple[SourceConfig, ...]).validate_python(blend)
    except ValidationError as error:
        lines = {("phases", phase, "blend", *key): line for key, line in _lines(text).items()}
        found = [{**item, "loc": ("phases", phase, "blend", *item["loc"])} for item in _told(error)]
        raise SeedError("; ".join(_explain(item, str(path), lines) for item in found)) from error
    return blend


def _with_preset(model: Mapping[str, Any], where: str) -> dict[str, Any]:
    model = dict(model)
    name = model.pop("preset", None)
    if name is None:
        return model
    if name not in PRESETS:
        raise SeedError(f"{where}: model.preset: no preset {name!r}{_nearest(str(name), PRESETS)}")
    return {**PRESETS[name], **model}


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SeedError(f"override {override!r}: write it as key=value, for example phases.0.tokens=1000000")
    if key == "from":
        key, text = "start_from.checkpoint", _checkpoint_of(text)
    node: Any = values
    *parents, last = key.split(".")
    try:
        value = yaml.load(text, Loader=_Loader)
        for parent in parents:
            node = node[_position(node, parent)] if isinstance(node, list) else node.setdefault(parent, {})
        if isinstance(node, list):
            node[_position(node, last)] = value
        else:
            node[last] = value
    except yaml.YAMLError as error:
        raise SeedError(f"override {override!r}: the value is not YAML") from error
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise SeedError(f"override {override!r}: there is no place {key!r} in the recipe") from error


def _position(items: list[Any], key: str) -> int:
    """Of the item that a part of a key means: by its number, or by its `name`."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    return names.index(key) if key in names else int(key)


def _checkpoint_of(place: str) -> str:
    """`RUN` or `RUN@STEP` as YAML text of a checkpoint folder."""
    run, at, step = place.rpartition("@")
    if not at:
        return _quoted(place)
    if not step.isdigit():
        raise SeedError(f"override 'from={place}': write it as from=RUN or from=RUN@STEP, for example from=runs/a@1000")
    return _quoted(str(Path(run) / "checkpoints" / f"step-{int(step):08d}"))


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"')


def _lines(text: str) -> dict[Key, int]:
    """Line (from 1) on which each key of a YAML text stands."""
    found: dict[Key, int] = {}

    def walk(node: yaml.Node, key: Key) -> None:
        found[key] = node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            for name, child in node.value:
                walk(child, (*key, name.value))
                found[(*key, name.value)] = name.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode):
            for index, child in enumerate(node.value):
                walk(child, (*key, index))

    walk(yaml.compose(text), ())
    return found


def _told(error: ValidationError) -> Iterator[Mapping[str, Any]]:
    """The errors, but for lists that are too short because what stands in them is wrong."""
    within = {one["loc"][:size] for one in error.errors() for size in range(len(one["loc"]))}
    for one in error.errors():
        if one["type"] != "too_short" or one["loc"] not in within:
            yield one


def _explain(error: Mapping[str, Any], where: str, lines: Mapping[Key, int]) -> str:
    key: Key = tuple(error["loc"])
    line = next((lines[key[:n]] for n in range(len(key), 0, -1) if key[:n] in lines), None)
    place = f"{where}:{line}" if line else where
    name = ".".join(map(str, key))
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key {name}{_nearest(str(key[-1]), _fields_at(key[:-1]))}"
    if error["type"] == "missing":
        return f"{place}: {name} is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {name}: {message}" if name else f"{place}: {message}"


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"


def _fields_at(key: Key) -> list[str]:
    """Names of the fields that the schema allows below a key."""
    model: type[BaseModel] = Recipe
    for part in key:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        model = _model_in(field.annotation) if field else None
        if model is None:
            return []
    return [*model.model_fields, *(["preset"] if key == ("model",) else [])]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
