"""The builds of a category, as their manifests tell."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.megatron_format import MANIFEST
from data_prep.storage import as_path, read_bytes

_SUFFIX = ".manifest.json"


@dataclass(frozen=True)
class Build:
    """One `.bin/.idx` pair."""

    prefix: str
    """As a recipe names it."""
    tokens: int
    documents: int
    held_out: bool
    rate: float
    """Of fill-in-the-middle."""
    epoch: str
    """What its documents were split for; two builds with one epoch are split alike."""
    tokenizer: tuple[str | None, int]
    """Digest (None where only ids were declared) and number of ids."""
    selection: str | None
    """Digest of what was selected; None for builds that were made elsewhere."""
    content: str | None
    """SHA-256 of the tokens."""
    on_target: bool = False
    """Whether it records the targets of documents, on which alone there is loss."""

    @property
    def order(self) -> tuple[int, str]:
        number = self.epoch.partition(":")[0]
        return (int(number) if number.isdigit() else 0), self.epoch


def find_builds(category: str, places: Sequence[str]) -> list[Build]:
    """The builds to train on in folders, and those that are named by prefix.

    Held-out builds beside the others in a folder are passed over. Raises `DataError` for a place without builds, a
    build that is not whole, and a held-out one that is named.
    """
    found: list[Build] = []
    for place in places:
        folder = as_path(place)
        if folder.is_dir():
            prefixes = [
                f"{str(place).rstrip('/')}/{path.name.removesuffix(_SUFFIX)}"
                for path in sorted(folder.iterdir())
                if path.name.endswith(_SUFFIX)
            ]
            there = [read_build(prefix) for prefix in prefixes]
            builds = [build for build in there if not build.held_out]
            if not builds:
                raise DataError(f"category {category}: {place} has no builds to train on; make them: {command(place)}")
        else:
            name = place.removesuffix(".bin").removesuffix(".idx")
            builds = [read_build(name)]
            if builds[0].held_out:
                raise DataError(f"category {category}: {name} is held out, so nothing may train on it")
        found += builds
    return _checked(category, found)


def _checked(category: str, builds: Sequence[Build]) -> list[Build]:
    selections = {build.selection for build in builds}
    if len(selections) > 1:
        one, other = (next(b.prefix for b in builds if b.selection == s) for s in sorted(selections, key=str)[:2])
        raise DataError(
            f"category {category}: {one} and {other} are of different selections, so they are no epochs of the same "
            "documents; build the older again, or make them two categories"
        )
    if len({build.on_target for build in builds}) > 1:
        one, other = (next(b.prefix for b in builds if b.on_target == on_target) for on_target in (True, False))
        raise DataError(f"category {category}: {one} has loss on targets alone, and {other} has not; build one again")
    seen: dict[Any, Build] = {}
    for build in builds:
        key = (build.rate, build.epoch) if build.rate else build.prefix  # whole documents are alike in all epochs
        if key in seen:
            raise DataError(f"category {category}: {seen[key].prefix} and {build.prefix} are the same build")
        seen[key] = build
    return list(builds)


def read_build(prefix: str) -> Build:
    """Raises `DataError` for what is no build, and for one whose files are not those of its manifest."""
    path = as_path(f"{prefix}{_SUFFIX}")
    try:
        manifest = json.loads(read_bytes(path))
    except FileNotFoundError:
        raise DataError(
            f"{prefix}: no build there: neither a folder nor {path.name}; files that were made elsewhere are declared "
            f"first: megatron-seed data declare {prefix} --tokenizer TOKENIZER"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not the manifest of a build: {' '.join(str(error).split())}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST:
        raise DataError(f"{path}: not the manifest of a build: its format is not {MANIFEST}")
    try:
        build = _build_of(prefix, manifest)
        sizes = {name: file["size_bytes"] for name, file in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not the manifest of a build: {type(error).__name__} {error}") from None
    for name, size_bytes in sizes.items():
        _require(path.with_name(name), size_bytes)
    return build


def _build_of(prefix: str, manifest: dict[str, Any]) -> Build:
    infilling, tokenizer = manifest["fim"], manifest["tokenizer"]
    content = next((file["sha256"] for name, file in manifest["files"].items() if name.endswith(".bin")), None)
    epoch = f"{infilling['epoch']}:{infilling.get('seed')}" if "epoch" in infilling else str(content)
    return Build(
        prefix=prefix,
        tokens=int(manifest["tokens"]),
        documents=int(manifest["documents"]),
        held_out=manifest.get("split") == "held_out",
        rate=float(infilling["rate"]),
        epoch=epoch,
        tokenizer=(tokenizer["digest"], int(tokenizer["vocab_size"])),
        selection=manifest.get("selection"),
        content=content,
        on_target="loss" in manifest,
    )


def _require(path: Path, size_bytes: int) -> None:
    try:
        there = path.stat().st_size
    except OSError:
        there = None
    if there != size_bytes:
        what = "is missing" if there is None else f"has {there:,} bytes"
        raise DataError(f"{path} {what}, and its manifest says {size_bytes:,}; run `data build` again")


def command(folder: str, rate: float | None = None, epochs: int = 1) -> str:
    """What makes builds."""
    asked = "" if rate is None else f" --fim-rate {rate:g}"
    more = f" --epochs {epochs}" if epochs > 1 else ""
    return f"megatron-seed data build CORPUS {folder} --tokenizer TOKENIZER{asked}{more}"
