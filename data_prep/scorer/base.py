"""What a scorer is on disk: a folder with `scorer.json`, the files of its kind, and a manifest of all of them."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data_prep.errors import DataError
from data_prep.shards import write_json
from megatron_seed.checkpoint import manifest

FORMAT = "data_prep.scorer/1"
DESCRIPTION = "scorer.json"
LINEAR, LLAMA = KINDS = ("linear", "llama")


class Scorer(Protocol):
    """Gives scores from 0 to 10."""

    def score(self, documents: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """fp32 [documents]; each document has `text`, `language` and `path`, and is judged by itself."""
        ...


@contextlib.contextmanager
def new_scorer(out: Path, about: Mapping[str, Any]) -> Iterator[Path]:
    """A temporary folder to be filled; it becomes the scorer `out`, described by `about`, when the block ends well.

    Raises `DataError` when `out` holds something that is not a scorer.
    """
    if out.exists() and not (out / DESCRIPTION).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out} is there and is no scorer: name a folder that is new, empty or one")
    work, old = (out.with_name(f".{out.name}.{suffix}") for suffix in ("tmp", "old"))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        write_json(work / DESCRIPTION, {"format": FORMAT, **about})
        manifest.write_manifest(work)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            out.rename(old)
        work.rename(out)
        manifest.sync_folder(out.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def describe_scorer(folder: Path) -> dict[str, Any]:
    """What `scorer.json` says. Raises `DataError` for what is no scorer."""
    try:
        about = json.loads((folder / DESCRIPTION).read_bytes())
    except (OSError, ValueError):
        about = None
    if not isinstance(about, dict) or about.get("format") != FORMAT or about.get("kind") not in KINDS:
        raise DataError(f"{folder} is no scorer; make one with `data score train`, or name module:function")
    return about


def scorer_digest(folder: Path) -> str:
    """SHA-256 (hex) of everything in a scorer, by its manifest."""
    describe_scorer(folder)
    try:
        return hashlib.sha256((folder / manifest.NAME).read_bytes()).hexdigest()
    except OSError:
        raise DataError(f"{folder}: its {manifest.NAME} is missing; train it again") from None


def open_scorer(folder: Path) -> Scorer:
    """Loads a scorer after holding every file against its digest. Raises `DataError` for one that is damaged."""
    about = describe_scorer(folder)
    if damage := manifest.find_damage(folder):
        raise DataError(f"scorer {folder} is damaged: {damage}; train it again")
    if about["kind"] == LINEAR:
        from data_prep.scorer.linear import LinearScorer

        return LinearScorer.load(folder)
    from data_prep.scorer.llama import LlamaScorer

    return LlamaScorer.load(folder)
