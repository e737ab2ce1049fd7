"""Build: the documents of a selection -> tokens in Megatron's format, with a record of where each came from.

One pass over the documents writes any number of builds (fill-in-the-middle rates and epochs). Each documents shard
becomes a part, in parallel and resumable; parts are then joined in the order of the shards, so the files are the same
for any number of workers.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.progress import Progress

from data_prep.build_part import PROVENANCE_COLUMNS, Plan, Variant, encode_shard
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.megatron_format import write_index
from data_prep.select import SPLITS, read_selection
from data_prep.shards import (
    ShardTask,
    fingerprint,
    finished_manifest,
    lock_directory,
    run_shards,
    write_atomic,
    write_json,
)
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.special import FIM_ROLES

FORMAT = "megatron_seed.build/1"
PROVENANCE = pa.schema(
    [
        ("document_index", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("repository", pa.string()),
        ("path", pa.string()),
        ("fim", pa.bool_()),
        ("tokens", pa.int64()),
        ("size_bytes", pa.int64()),
    ]
)


def build(
    corpus: Path,
    selection: str,
    encoder_path: Path,
    out: Path,
    split: str,
    fim_rates: Sequence[float],
    epochs: Sequence[int],
    seed: int,
    workers: int,
    roles: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Writes a build for each (rate, epoch) into the folder `out` and returns their manifests, rates first.

    A build is `NAME.bin`, `NAME.idx`, `NAME.provenance.parquet` and, last, `NAME.manifest.json`, with NAME from
    `Variant.name`. Builds that are there and up to date are left alone. `roles` names the special tokens of a tokenizer
    that is not ours. Memory does not grow with the corpus.
    Raises `DataError` for an empty selection or impossible settings, `TokenizerError` (naming them) for special tokens
    that are needed and missing.
    """
    corpus, out = Path(corpus), Path(out)
    variants = _variants(split, fim_rates, epochs)
    chosen = read_selection(corpus, selection)
    if not chosen["left"][split]["documents"]:
        raise DataError(f"{corpus}: selection {selection!r} has no {split} documents to build from")
    encoder = Encoder.load(encoder_path, roles)
    whole = (FORMAT, chosen["digest"], chosen["corpus_fingerprint"], encoder.digest, split, seed)
    inputs = {v: fingerprint(*whole, asdict(v), _special_ids(encoder, v)) for v in variants}
    with lock_directory(out):
        missing = tuple(v for v in variants if _finished(out / v.name(split), inputs[v]) is None)
        if missing:
            plan = Plan(split, missing, seed, encoder.path, encoder.digest, tuple(sorted((roles or {}).items())))
            parts = _encode_shards(corpus, selection, out, plan, [inputs[v] for v in missing], workers, progress)
            for index, variant in enumerate(missing):
                _join(out, plan, index, parts, encoder, chosen["digest"], inputs[variant])
            shutil.rmtree(_parts_directory(out, split))
        return [_finished(out / v.name(split), inputs[v]) for v in variants]


def _variants(split: str, fim_rates: Sequence[float], epochs: Sequence[int]) -> list[Variant]:
    if split not in SPLITS:
        raise DataError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    wrong = [rate for rate in fim_rates if not 0 <= rate <= 1] or [epoch for epoch in epochs if epoch < 0]
    if wrong or not fim_rates or not epochs:
        raise DataError(f"rates {list(fim_rates)}, epochs {list(epochs)}: give rates from 0 to 1 and epochs from 0")
    return [Variant(rate, epoch) for rate in dict.fromkeys(map(float, fim_rates)) for epoch in dict.fromkeys(epochs)]


def _special_ids(encoder: Encoder, variant: Variant) -> tuple[int, ...]:
    """The ids that a variant puts around texts. Raises `TokenizerError` naming those the tokenizer does not have."""
    try:
        return encoder.special.require("eos", *(FIM_ROLES if variant.fim_rate else ()))
    except TokenizerError as error:
        raise TokenizerError(f"{encoder.path}: {error}") from None


def _parts_directory(out: Path, split: str) -> Path:
    return out / f"parts-{split}"


def _encode_shards(
    corpus: Path,
    selection: str,
    out: Path,
    plan: Plan,
    inputs: Sequence[str],
    workers: int,
    progress: Progress | None,
) -> list[tuple[Path, dict[str, Any]]]:
    folder = _parts_directory(out, plan.split)
    tasks = []
    for shard in list_shards(corpus):
        chosen = corpus / "selections" / selection / shard.name
        output = folder / f"{shard.stem}.tokens"
        digest = fingerprint(list(inputs), shard.name, finished_manifest(shard)["sha256"])
        tasks.append(ShardTask(output, digest, encode_shard, (plan, shard, chosen, output.with_suffix(".parquet"))))
    manifests = run_shards(tasks, workers, progress, f"{plan.split} tokens")
    return [(task.output, manifest) for task, manifest in zip(tasks, manifests, strict=True)]


def _join(
    out: Path,
    plan: Plan,
    index: int,
    parts: Sequence[tuple[Path, dict[str, Any]]],
    encoder: Encoder,
    selection_digest: str,
    inputs: str,
) -> None:
    """Joins the parts of one variant into its files, the manifest last."""
    variant = plan.variants[index]
    prefix = out / variant.name(plan.split)
    _manifest_path(prefix).unlink(missing_ok=True)  # of older files: never beside the new ones
    parts = [(path, manifest) for path, manifest in parts if manifest["rows"]]
    documents = sum(manifest["rows"] for _, manifest in parts)

    def lengths() -> Iterator[np.ndarray]:
        for path, _ in parts:
            yield pq.read_table(path.with_suffix(".parquet"), columns=[f"tokens_{index}"])[0].to_numpy()

    totals: dict[str, int] = {}
    writers: dict[str, Callable[[BinaryIO], Any]] = {
        ".bin": lambda stream: _copy_tokens(stream, parts, index),
        ".idx": lambda stream: write_index(stream, encoder.dtype, documents, lengths),
        ".provenance.parquet": lambda stream: totals.update(_copy_provenance(stream, parts, index)),
    }
    files = {}
    for suffix, writer in writers.items():
        path = prefix.with_name(prefix.name + suffix)
        digest = write_atomic(path, writer)
        files[path.name] = {"size_bytes": digest.size_bytes, "sha256": digest.sha256}
    manifest = {
        "format": FORMAT,
        "name": prefix.name,
        "split": plan.split,
        "dtype": encoder.dtype.name,
        "documents": documents,
        **totals,
        "tokenizer": {
            "digest": encoder.digest,
            "vocab_size": encoder.vocab_size,
            "eos_id": encoder.special.eos,
        },
        "fim": {"rate": variant.fim_rate, "seed": plan.seed, "epoch": variant.epoch},
        "selection": selection_digest,
        "inputs": inputs,
        "files": files,
    }
    write_json(_manifest_path(prefix), manifest)


def _copy_tokens(stream: BinaryIO, parts: Sequence[tuple[Path, dict[str, Any]]], index: int) -> None:
    for path, manifest in parts:
        offset = 0
        with open(path, "rb") as part:
            for sizes in manifest["segments"]:
                start = offset + sum(sizes[:index])
                end, offset = start + sizes[index], offset + sum(sizes)
                while start < end:
                    copied = os.sendfile(stream.fileno(), part.fileno(), start, end - start)
                    if not copied:
                        raise DataError(f"{path} is shorter than its manifest says; run the build again")
                    start += copied


def _copy_provenance(stream: BinaryIO, parts: Sequence[tuple[Path, dict[str, Any]]], index: int) -> dict[str, int]:
    documents, totals = 0, {"tokens": 0, "size_bytes": 0, "fim_documents": 0}
    with pq.ParquetWriter(stream, PROVENANCE, compression="zstd") as writer:
        for path, _ in parts:
            part = pq.read_table(path.with_suffix(".parquet"))
            columns = {"tokens": part[f"tokens_{index}"], "fim": part[f"fim_{index}"]}
            columns |= {name: part[name] for name in PROVENANCE_COLUMNS}
            columns["document_index"] = pa.array(np.arange(documents, documents + part.num_rows))
            writer.write_table(pa.table({name: columns[name] for name in PROVENANCE.names}, schema=PROVENANCE))
            documents += part.num_rows
            for total, name in (("tokens", "tokens"), ("size_bytes", "size_bytes"), ("fim_documents", "fim")):
                totals[total] += pc.sum(columns[name]).as_py()
    return totals


def _manifest_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".manifest.json")


def _finished(prefix: Path, inputs: str) -> dict[str, Any] | None:
    """The manifest of a build that is whole and up to date."""
    try:
        manifest = json.loads(_manifest_path(prefix).read_bytes())
        sizes = {name: prefix.with_name(name).stat().st_size for name in manifest["files"]}
    except (OSError, ValueError, KeyError):
        return None
    whole = all(sizes[name] == file["size_bytes"] for name, file in manifest["files"].items())
    return manifest if whole and manifest.get("inputs") == inputs else None
