"""The samples of one batch of a repository's history, as documents with facts about each."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pygit2

from data_prep.annotations import annotation_shard, write_table
from data_prep.commits.changes import FAILURES, Change, LeftOut, read_changes
from data_prep.commits.context import Snapshots
from data_prep.commits.history import message_of, open_repository
from data_prep.commits.ranking import SnapshotIndex, words_of
from data_prep.commits.repositories import Repository
from data_prep.commits.sample import Context, Count, bytes_counter, write_sample
from data_prep.commits.settings import CommitsConfig, SampleSettings
from data_prep.commits.target import write_target
from data_prep.documents import Document, DocumentWriter, documents_directory
from data_prep.errors import DataError
from data_prep.languages import UNKNOWN, detect
from data_prep.shards import ShardTask, write_shard
from data_prep.sources.base import Drops
from data_prep.storage import read_parquet
from data_prep.structure import ANNOTATION, HEADINGS_TYPE
from tokenizer.encode import Encoder

FORMAT = "data_prep.commits/2"
# A target of more characters than this for each token is not counted: no tokenizer makes so few tokens of a diff.
_MOST_CHARACTERS = 64
FACTS = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("commit", pa.string()),
        pa.field("date", pa.timestamp("s", "UTC")),
        pa.field("author_is_bot", pa.bool_()),
        pa.field("files_changed", pa.int32()),
        pa.field("left_out", pa.list_(pa.string())),
        pa.field("format", pa.string()),
        pa.field("markers", pa.string()),
        pa.field("headings", HEADINGS_TYPE),
        pa.field("target_start", pa.int64()),
        pa.field("target_start_bytes", pa.int64()),
        pa.field("tokens", pa.int32()),
        pa.field("cut", pa.list_(pa.string())),
        pa.field("patch_id", pa.string()),
        pa.field("failed", pa.string()),
    ]
)


@dataclass(frozen=True)
class Batch:
    """Commits of one repository that are made together. `copies`: dropped commit -> the one of its patch that is kept.

    `tokenizer` is the digest of the one that counts, where one does.
    """

    repository: Repository
    history: Path
    number: int
    copies: tuple[tuple[str, str], ...]
    tokenizer: str | None

    @property
    def name(self) -> str:
        return f"{self.repository.key}-{self.number:05d}"


def write_batch(stream: BinaryIO, batch: Batch, inputs: str, corpus: Path, config: CommitsConfig) -> Mapping[str, Any]:
    """Shard function: writes the documents shard of a batch, the annotation beside it, and its ledger to `stream`."""
    drops = Drops(config.examples)
    found = _rows(batch, config, drops)
    documents, facts = [row for row, _ in found], [fact for _, fact in found]
    files: dict[str, Any] = {}
    if documents:
        shard = documents_directory(corpus) / f"{batch.name}.parquet"
        manifest = write_shard(ShardTask(shard, inputs, _write_documents, (documents,)))
        files[f"../{shard.parent.name}/{shard.name}"] = {key: manifest[key] for key in ("sha256", "size_bytes")}
        about = {"name": ANNOTATION, "version": FORMAT, "settings": config.model_dump(mode="json")}
        counters = {"documents_sha256": manifest["sha256"], "annotator": about, "failed": 0, "failures": []}
        path = annotation_shard(corpus, ANNOTATION, shard)
        manifest = write_shard(ShardTask(path, inputs, _write_facts, (facts, counters)))
        files[f"../annotations/{ANNOTATION}/{path.name}"] = {key: manifest[key] for key in ("sha256", "size_bytes")}
    ledger = {
        "source": batch.repository.source,
        **_tally(documents),
        "drops": drops.by_reason,
        "shards": [f"{batch.name}.parquet"] if documents else [],
    }
    stream.write(json.dumps(ledger, indent=1, ensure_ascii=False).encode())
    return {"rows": len(documents), "files": files}


def _write_documents(stream: BinaryIO, documents: list[dict[str, Any]]) -> dict[str, Any]:
    writer = DocumentWriter(stream)
    for document in documents:
        writer.add(document)
    writer.close()
    return {"rows": writer.rows, "text_bytes": writer.text_bytes}


def _write_facts(stream: BinaryIO, facts: list[dict[str, Any]], counters: dict[str, Any]) -> dict[str, Any]:
    table = pa.Table.from_pylist(facts, schema=FACTS)
    counts = {
        "author_is_bot": pc.sum(table["author_is_bot"]).as_py() or 0,
        **{name: pc.sum(pc.greater(pc.list_value_length(table[name]), 0)).as_py() or 0 for name in ("left_out", "cut")},
    }
    special = pc.sum(pc.equal(table["markers"], "special")).as_py() or 0
    return write_table(stream, table, {**counters, "counts": counts, "special_markers": special})


def _tally(documents: list[dict[str, Any]]) -> dict[str, Any]:
    languages: dict[str, dict[str, int]] = {}
    for row in documents:
        entry = languages.setdefault(row["language"], {"documents": 0, "text_bytes": 0})
        entry["documents"] += 1
        entry["text_bytes"] += row["size_bytes"]
    text_bytes = sum(row["size_bytes"] for row in documents)
    return {"documents": len(documents), "text_bytes": text_bytes, "languages": dict(sorted(languages.items()))}


def _rows(batch: Batch, config: CommitsConfig, drops: Drops) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A document and its facts for each commit that is taken."""
    table = read_parquet(batch.history, use_threads=False)
    history = table.filter(pc.equal(table["batch"], batch.number)).to_pylist()
    maker, copies = Maker(batch, config), dict(batch.copies)
    found = []
    for row in history:
        shown = f"{batch.repository.name}@{row['commit']}"
        if row["reason"]:
            drops.add(row["reason"], shown)
        elif row["commit"] in copies:
            drops.add("same_patch", f"{shown} ({copies[row['commit']]} is kept)")
        else:
            made = maker.make(row, shown, drops)
            found += [made] if made else []
    return found


class Maker:
    """Makes samples of one repository, one commit after the other."""

    def __init__(self, batch: Batch, config: CommitsConfig) -> None:
        self._batch, self._config = batch, config
        self._git = open_repository(batch.repository.path)
        self._snapshots = Snapshots(self._git)
        self._index = SnapshotIndex(self._git, config.sample.ranked_file_bytes)
        self._count = _counter(config.sample, batch.tokenizer)

    def make(self, row: Mapping[str, Any], shown: str, drops: Drops) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The document and the facts of one commit, or None, which is then counted."""
        try:
            commit = self._git[row["commit"]]
            changes, left_out = read_changes(self._git, commit, self._config.commits.max_file_bytes)
            for one in left_out:
                drops.add(one.reason, f"{shown} {one.path}")
            if not changes:
                drops.add("nothing_to_predict", shown)
                return None
            return self._made(row, shown, commit, changes, left_out, drops)
        except FAILURES as error:
            drops.add("damaged_git", f"{shown}: {error}")
            return None

    def _made(
        self,
        row: Mapping[str, Any],
        shown: str,
        commit: pygit2.Commit,
        changes: list[Change],
        left_out: list[LeftOut],
        drops: Drops,
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        settings = self._config.sample
        most = settings.max_tokens * (_MOST_CHARACTERS if settings.tokenizer else settings.bytes_per_token)
        target = write_target(changes, settings.format, settings.context_lines, most)
        sample = None
        if target is not None:
            sample = write_sample(self._context(commit), target, settings, self._count)
        if sample is None:
            drops.add("too_long", shown)
            return None
        repository = self._batch.repository
        document = Document(
            repository.source,
            repository.name,
            f"commit/{row['commit']}",
            language_of(changes),
            sample.text,
            stars=repository.stars,
        ).row()
        return document, {
            "id": document["id"],
            "commit": row["commit"],
            "date": row["date_s"],
            "author_is_bot": row["is_bot"],
            "files_changed": len(changes) + len(left_out),
            "left_out": [f"{one.reason} {one.path}" for one in left_out],
            "format": settings.format,
            "markers": settings.markers,
            "headings": [heading._asdict() for heading in sample.headings],
            "target_start": sample.target_start,
            "target_start_bytes": len(sample.text[: sample.target_start].encode()),
            "tokens": sample.tokens,
            "cut": list(sample.cut),
            "patch_id": row["patch_id"],
            "failed": None,
        }

    def _context(self, commit: pygit2.Commit) -> Context:
        settings, tree = self._config.sample, commit.parents[0].tree
        message = message_of(commit) or ""
        readme = self._snapshots.readme(tree) if settings.readme_tokens else None
        files: list[tuple[str, str]] = []
        if settings.files:
            self._index.move(tree)
            files = self._index.top(words_of(message), settings.files, frozenset(readme[:1] if readme else ()))
        return Context(message, readme, self._snapshots.tree(tree, settings.tree_entries), files)


def language_of(changes: list[Change]) -> str:
    """The language in which the changed files have most text; where none is known, `unknown`."""
    sizes: dict[str, int] = {}
    for change in changes:
        language = detect(change.path, change.after)
        if language != UNKNOWN:
            sizes[language] = sizes.get(language, 0) + len(change.before) + len(change.after)
    return max(sorted(sizes), key=lambda language: sizes[language], default=UNKNOWN)


def _counter(settings: SampleSettings, digest: str | None) -> Count:
    if settings.tokenizer is None:
        return bytes_counter(settings.bytes_per_token)
    encoder = _encoder(settings.tokenizer, digest)
    return lambda text: len(encoder.encode_batch([text])[0])


@functools.lru_cache(maxsize=1)
def _encoder(path: str, digest: str | None) -> Encoder:
    encoder = Encoder.load(path)
    if encoder.digest != digest:
        raise DataError(f"{path} was changed while commits were made with it; run it again")
    return encoder
