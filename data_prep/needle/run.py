"""Writes a needle data set: a pool of code, then a file of prompts for each length."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rich.progress import Progress

from data_prep.documents import is_corpus
from data_prep.engines.base import Engine
from data_prep.errors import DataError
from data_prep.needle.pool import write_pool
from data_prep.needle.sample import Haystack, make_sample
from data_prep.needle.settings import NeedleSettings
from data_prep.select import read_selection
from data_prep.shards import (
    ShardTask,
    fingerprint,
    finished_manifest,
    lock_directory,
    remove_shard,
    run_shards,
    write_json,
    write_shard,
)
from data_prep.storage import as_path, read_parquet
from tokenizer.encode import Encoder

FORMAT = "data_prep.needle/1"


def write_needles(
    corpus: Path,
    out: Path,
    selection: str,
    tokenizer: Path,
    settings: NeedleSettings,
    workers: int,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Writes `needle-LENGTH.jsonl` for each length, `haystack.parquet`, and `needle.json`, which is returned.

    Lengths that are there and up to date are left alone; those that are no longer asked for are removed. Bytes depend
    neither on workers nor on how the corpus is cut into shards. Raises `DataError` where the corpus has not enough
    code, naming how much is needed, and where `out` is a corpus or in one.
    """
    corpus, out = as_path(corpus), as_path(out)
    _refuse_corpora(out)
    chosen = read_selection(corpus, selection)
    encoder = Encoder.load(tokenizer)
    pool = out / "haystack.parquet"
    with lock_directory(out):
        made_of = fingerprint(FORMAT, chosen["digest"], chosen["corpus_fingerprint"], _pool_settings(settings))
        if finished_manifest(pool, made_of) is None:
            write_shard(ShardTask(pool, made_of, write_pool, (corpus, selection, settings)))
        haystack = Haystack(read_parquet(pool).to_pylist(), encoder, settings)
        haystack.require(max(settings.lengths))
        about = finished_manifest(pool, made_of)
        inputs = fingerprint(FORMAT, about["sha256"], encoder.digest, _grid_settings(settings))
        tasks = [
            ShardTask(
                out / f"needle-{length}.jsonl",
                fingerprint(inputs, length),
                write_prompts,
                (length,),
                (pool, encoder.path, encoder.digest, settings),
            )
            for length in settings.lengths
        ]
        manifests = run_shards(tasks, workers, progress, "needles", engine)
        summary = _summary(settings, chosen, encoder, about, tasks, manifests)
        write_json(out / "needle.json", summary)
        for path in out.glob("needle-*.jsonl"):  # of an earlier run, with other settings
            if path.name not in summary["files"]:
                remove_shard(path)
    return summary


def _refuse_corpora(out: Path) -> None:
    """Raises `DataError` where needles would be written among the files of a corpus."""
    whole = out.resolve()
    for place in (whole, *whole.parents):
        if is_corpus(place):
            raise DataError(f"{out}: {place} is a corpus; give a folder outside of it, such as {place}-needle")


def write_prompts(
    stream: BinaryIO, length: int, pool: Path, tokenizer: Path, digest: str, settings: NeedleSettings
) -> dict[str, Any]:
    """Shard function: the prompts of one length as JSON lines, by depth, then index."""
    encoder = Encoder.load(tokenizer)
    if encoder.digest != digest:
        raise DataError(f"{tokenizer} was changed while it was used; run it again")
    haystack = Haystack(read_parquet(pool, use_threads=False).to_pylist(), encoder, settings)
    counts: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    for depth in settings.depths:
        for index in range(settings.samples):
            row = make_sample(haystack, length, depth, index)
            stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            counts.update(rows=1, merged_seams=row["merged_seam"])
            languages[row["language"]] += 1
    return {**counts, "languages": dict(sorted(languages.items()))}


def _pool_settings(settings: NeedleSettings) -> dict[str, Any]:
    names = {"languages", "split", "min_file_bytes", "max_file_bytes", "max_line_characters", "pool_bytes", "seed"}
    return settings.model_dump(mode="json", include=names)


def _grid_settings(settings: NeedleSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude={"lengths"})


def _summary(
    settings: NeedleSettings,
    chosen: Mapping[str, Any],
    encoder: Encoder,
    pool: Mapping[str, Any],
    tasks: list[ShardTask],
    manifests: list[dict[str, Any]],
) -> dict[str, Any]:
    languages: Counter[str] = Counter()
    for manifest in manifests:
        languages.update(manifest["languages"])
    return {
        "format": FORMAT,
        "settings": settings.model_dump(mode="json"),
        "selection": chosen["digest"],
        "corpus_fingerprint": chosen["corpus_fingerprint"],
        "tokenizer": {"digest": encoder.digest, "vocab_size": encoder.vocab_size},
        "prompts": sum(manifest["rows"] for manifest in manifests),
        "merged_seams": sum(manifest["merged_seams"] for manifest in manifests),
        "languages": dict(languages.most_common()),
        "haystack": {"files": pool["rows"], "text_bytes": pool["text_bytes"]},
        "files": {
            task.output.name: {name: manifest[name] for name in ("sha256", "size_bytes", "rows")}
            for task, manifest in zip(tasks, manifests, strict=True)
        },
    }


def describe(about: Mapping[str, Any]) -> list[str]:
    """The summary in lines."""
    grid = f"{len(about['settings']['lengths'])} lengths x {len(about['settings']['depths'])} depths"
    lines = [
        f"{about['prompts']:,} prompts ({grid} x {about['settings']['samples']}) from {about['haystack']['files']:,} "
        f"files, {about['haystack']['text_bytes'] / 1e6:,.2f} MB of {about['settings']['split']} code",
        "needles in " + ", ".join(f"{name} {count:,}" for name, count in about["languages"].items()),
    ]
    if about["merged_seams"]:
        lines.append(
            f"{about['merged_seams']:,} prompts end where the tokenizer would make one token with what follows"
        )
    return lines
