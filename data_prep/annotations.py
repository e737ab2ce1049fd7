"""Annotations: one small parquet per documents shard and annotator, same rows in the same order, never any text.

The manifest of an annotation shard says which documents shard it is of (`documents_sha256`) and, for an annotator that
looks at the whole corpus, which corpus (`corpus_fingerprint`), which `run` made it and which runs of other annotations
it was made `after`; that of one which looks at single documents says what its `answers` depend on. So what is out of
date, or half made anew, can be told.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.shards import fingerprint, finished_manifest, read_manifest, remove_shard


class StepAnnotation(StrEnum):
    """Annotations that steps of their own make, not `data annotate`; each step takes its name from here, and nothing
    else may be called so."""

    EXACT_DEDUP = "exact_dedup"
    NEAR_DEDUP = "near_dedup"
    REPOSITORY_DEDUP = "repository_dedup"
    COMMITS = "commits"
    WEB = "web"


def annotation_directory(corpus: Path, name: str) -> Path:
    return corpus / "annotations" / name


def annotation_shard(corpus: Path, name: str, shard: Path) -> Path:
    """What an annotation says of a documents shard: as many rows, in the same order."""
    return annotation_directory(corpus, name) / shard.name


def annotation_names(corpus: Path) -> list[str]:
    """The annotators that have written something into this corpus."""
    return sorted(path.name for path in (corpus / "annotations").glob("*") if path.is_dir())


def write_table(stream: BinaryIO, table: pa.Table, counters: dict[str, Any]) -> dict[str, Any]:
    """Shard function: a table as parquet, with what is known about it."""
    pq.write_table(table, stream, compression="zstd")
    return {"rows": table.num_rows, **counters}


def remove_orphans(directory: Path, shards: Iterable[Path]) -> None:
    """Removes the shards of documents that are no longer in the corpus."""
    names = {shard.name for shard in shards}
    for path in directory.glob("*.parquet"):
        if path.name not in names:
            remove_shard(path)


def refuse_others(corpus: Path, name: str, made_by: str | None) -> None:
    """Raises `DataError` where an annotation of this name is none whose settings say `made_by`: it would be lost.

    Those of annotators that users write, and of the built-in ones, do not say (None).
    """
    for shard in list_shards(corpus)[:1]:
        manifest = read_manifest(annotation_shard(corpus, name, shard))
        settings = ((manifest or {}).get("annotator") or {}).get("settings") or {}
        if manifest is not None and settings.get("made_by") != made_by:
            raise DataError(
                f"{corpus}: annotation {name} was made by another step; call this one otherwise (--annotation, or the "
                "name of your class or function)"
            )


def inputs_of(answers: str, documents_sha256: str) -> str:
    """What the annotation of a documents shard is made from, where it depends on nothing else in the corpus."""
    return fingerprint(answers, documents_sha256)


def current_annotation(corpus: Path, name: str, corpus_fingerprint: str) -> list[tuple[Path, dict[str, Any]]]:
    """An annotation's shards, in the order of the documents shards, with their manifests.

    Raises `DataError` where it lacks a shard, is of other documents, or was made anew only in part.
    """
    found, runs = [], set()
    for shard in list_shards(corpus):
        path = annotation_shard(corpus, name, shard)
        manifest = finished_manifest(path)
        if manifest is None:
            raise DataError(f"annotation {name} lacks {shard.name}; run the step that makes it again")
        of_documents = manifest.get("documents_sha256") == finished_manifest(shard)["sha256"]
        of_corpus = manifest.get("corpus_fingerprint", corpus_fingerprint) == corpus_fingerprint
        if not (of_documents and of_corpus):
            raise DataError(f"annotation {name} is older than the documents; run the step that makes it again")
        for other, run in manifest.get("after", {}).items():
            if (finished_manifest(annotation_shard(corpus, other, shard)) or {}).get("run") != run:
                raise DataError(f"annotation {name} is older than {other}; run the step that makes it again")
        runs.add(manifest.get("run"))
        found.append((path, manifest))
    if len(runs) > 1:
        raise DataError(f"annotation {name} is half done; run the step that makes it again")
    if _is_mixed([manifest for _, manifest in found]):
        raise DataError(
            f"annotation {name} is half done with other settings or files; run the step that makes it again"
        )
    return found


def _is_mixed(manifests: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two annotators made some shards each, or one before and after what it reads beside documents changed."""
    made_by = {json.dumps(manifest["annotator"], sort_keys=True) for manifest in manifests if "annotator" in manifest}
    answers = next((manifest["answers"] for manifest in manifests if "answers" in manifest), None)
    if len(made_by) > 1 or answers is None:
        return len(made_by) > 1
    return any(manifest["inputs"] != inputs_of(answers, manifest["documents_sha256"]) for manifest in manifests)
