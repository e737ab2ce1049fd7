"""Selection: which documents are trained on, which are held out, and which rule dropped each of the others.

A selection is a query over the documents' metadata and the annotations, never over text, so a threshold is changed
without running anything else again. Rules apply in their order; a document is counted under the first rule that drops
it. A duplicate is dropped even where another rule drops the document it is a duplicate of: a rule on what a file says
judges both alike, a rule on its path or repository may not.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from rich.progress import Progress

from data_prep.annotations import annotation_names, current_annotation, remove_orphans, write_table
from data_prep.database import add_shards_view, open_database, shard_tables
from data_prep.documents import METADATA_COLUMNS, corpus_fingerprint, list_shards
from data_prep.errors import DataError
from data_prep.held_out import HeldOut, mark_repositories
from data_prep.redaction import COLUMN as REDACTIONS
from data_prep.selection_config import BOTH_SPLITS_RULE, Rule, SelectionConfig, load_config
from data_prep.shards import ShardTask, fingerprint, finished_manifest, lock_directory, write_json, write_shard

__all__ = ["HeldOut", "Rule", "SelectionConfig", "load_config", "read_selection", "select"]

FORMAT = "data_prep.selection/1"
SPLITS = ("train", "held_out")
SECRETS = "secrets"  # the annotation that knows what to redact
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def select(
    corpus: Path,
    name: str,
    config: SelectionConfig,
    progress: Progress | None = None,
    workers: int = 1,
    memory_limit: str = "1GB",
) -> dict[str, Any]:
    """Writes `selections/<name>`: per documents shard (id, split, dropped_by), and `selection.json`, which is returned.

    A selection that redacts has a column `redactions` too: what is replaced in a text wherever it is read. Rules whose
    annotation was not made are left out, and named in `rules_left_out`.

    Does nothing when the selection is up to date. Raises `DataError` for a rule that is no SQL, an annotation that is
    missing or out of date, or when nothing is left to train on or to hold out.
    """
    corpus = Path(corpus)
    if not _NAME.fullmatch(name):
        raise DataError(f"selection name {name!r}: use letters, digits, '.', '_' and '-' only")
    with lock_directory(corpus):
        before = _stored(corpus, name)
        asked, config = config, config.with_annotations(annotation_names(corpus))
        left_out = [rule.name for rule in asked.rules if rule not in config.rules]
        reads = _gather(corpus, config, left_out)
        if before.get("inputs") == reads.inputs and _complete(corpus, name, before):
            return before
        pinned = before["pinned"] if before and _same_hashes(before, config.held_out) else []
        with open_database(corpus, workers, memory_limit) as database:
            _decide(database, reads, config, name)
            families = _families(database, reads)
            pinned = mark_repositories(database, config.held_out, pinned, families)
            _drop_from_other_side(database, reads)
            outputs = _write(database, corpus, name, config, reads, pinned, progress)
            selection = {
                "format": FORMAT,
                "name": name,
                "config": config.model_dump(mode="json"),
                "rules_left_out": left_out,
                "inputs": reads.inputs,
                "corpus_fingerprint": reads.corpus_fingerprint,
                "pinned": pinned,
                **_waterfall(database, config),
                "digest": _digest(outputs),
            }
        write_json(_path(corpus, name), selection)
        return selection


def read_selection(corpus: Path, name: str) -> dict[str, Any]:
    """A selection's `selection.json`. Raises `DataError` where it is missing, unfinished or of other documents."""
    corpus = Path(corpus)
    selection = _stored(corpus, name)
    if not selection:
        raise DataError(f"{corpus}: there is no selection {name!r}; make it with `data select`")
    if selection["corpus_fingerprint"] != corpus_fingerprint(corpus) or not _complete(corpus, name, selection):
        raise DataError(f"{corpus}: selection {name!r} is unfinished or older than the documents; run `data select`")
    return selection


def _same_hashes(selection: dict[str, Any], held_out: HeldOut) -> bool:
    stored = selection["config"]["held_out"]
    return (stored["seed"], stored["fraction"]) == (held_out.seed, held_out.fraction)


def _path(corpus: Path, name: str) -> Path:
    return corpus / "selections" / name / "selection.json"


def _stored(corpus: Path, name: str) -> dict[str, Any]:
    try:
        stored = json.loads(_path(corpus, name).read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if stored.get("format") == FORMAT else {}


def _complete(corpus: Path, name: str, selection: dict[str, Any]) -> bool:
    outputs = [_path(corpus, name).with_name(shard.name) for shard in list_shards(corpus)]
    return all(finished_manifest(output) for output in outputs) and _digest(outputs) == selection["digest"]


def _digest(outputs: list[Path]) -> str:
    return fingerprint([(output.name, finished_manifest(output)["sha256"]) for output in outputs])


@dataclass(frozen=True)
class _Reads:
    """What a selection is made from."""

    shards: list[Path]
    annotations: dict[str, list[Path]]  # annotator -> shards; those that a rule names
    corpus_fingerprint: str
    inputs: str


def _gather(corpus: Path, config: SelectionConfig, left_out: list[str]) -> _Reads:
    whole = corpus_fingerprint(corpus)
    words = {word for _, sql in config.ordered_rules() for word in re.findall(r"\w+", sql)}
    present = annotation_names(corpus)
    needed = config.annotations()
    found = {name: current_annotation(corpus, name, whole) for name in present if name in words or name in needed}
    digests = {name: [manifest["sha256"] for _, manifest in pairs] for name, pairs in found.items()}
    inputs = fingerprint(FORMAT, whole, digests, config.model_dump(mode="json"), left_out)
    annotations = {name: [path for path, _ in pairs] for name, pairs in found.items()}
    if config.redact and SECRETS not in annotations:
        raise DataError(f"{corpus}: redact needs the annotation {SECRETS}; run `data annotate {SECRETS}` first")
    return _Reads(list_shards(corpus), annotations, whole, inputs)


def _decide(database: duckdb.DuckDBPyConnection, reads: _Reads, config: SelectionConfig, name: str) -> None:
    """Makes the tables `decided` (a row per document, with the rule that drops it) and `left_over` (no rule does)."""
    add_shards_view(database, "documents", reads.shards, ", ".join(METADATA_COLUMNS))
    joined = "documents"
    for annotator, paths in reads.annotations.items():
        columns = [f'"{column}"' for column in pq.read_schema(paths[0]).names if column != "id"]
        add_shards_view(database, annotator, paths, ", ".join(columns))
        joined += f' LEFT JOIN "{annotator}" USING (_shard, _row)'
    rules = config.ordered_rules()
    for rule, sql in rules:
        _try(database, name, rule, f"SELECT ({sql})::BOOLEAN FROM {joined} LIMIT 0", reads)
    if lacking := [annotator for annotator in config.annotations() if annotator not in reads.annotations]:
        raise DataError(f"selection {name!r}, variant {config.variant}: there is no {lacking[0]}; run `data dedup`")
    exact, near = (annotator in reads.annotations for annotator in ("exact_dedup", "near_dedup"))
    equal_to = "exact_dedup.duplicate_of" if exact else "NULL::VARCHAR"
    cluster = "near_dedup.cluster" if near else "NULL::VARCHAR"
    cases = " ".join(f"WHEN ({sql})::BOOLEAN THEN '{rule}'" for rule, sql in rules)
    dropped_by = f"CASE {cases} END" if cases else "NULL::VARCHAR"
    try:
        database.execute(
            f"CREATE TABLE decided AS SELECT _shard, _row, documents.id, documents.repository, documents.language, "
            f"documents.size_bytes, {equal_to} AS _equal_to, {cluster} AS _cluster, {dropped_by} AS dropped_by"
            f"{_redactions(config)} FROM {joined}"
        )
    except duckdb.Error:
        for rule, sql in rules:  # which one?
            _try(database, name, rule, f"SELECT count(*) FILTER (({sql})::BOOLEAN) FROM {joined}", reads)
        raise
    database.execute("CREATE VIEW left_over AS FROM decided WHERE dropped_by IS NULL")
    ((left,),) = database.execute("SELECT count(*) FROM left_over").fetchall()
    if not left:
        counts = database.execute("SELECT dropped_by, count(*) FROM decided GROUP BY 1 ORDER BY 2 DESC").fetchall()
        by_rule = ", ".join(f"{rule} dropped {count}" for rule, count in counts) or "the corpus has no documents"
        raise DataError(f"selection {name!r}: nothing is left: {by_rule}")


def _redactions(config: SelectionConfig) -> str:
    """SQL of the column of spans to redact, where there are any to be looked for."""
    if not config.redact:
        return ""
    kinds = ", ".join(f"'{kind}'" for kind in config.redact)
    spans = f"list_filter({SECRETS}.spans, lambda span: span.kind IN ({kinds}))"
    return f", CASE WHEN len({spans}) > 0 THEN {spans} END AS {REDACTIONS}"


def _families(database: duckdb.DuckDBPyConnection, reads: _Reads) -> bool:
    """Makes the table `families` (repository, family, kept) where families are known."""
    if "repository_dedup" not in reads.annotations:
        return False
    database.execute(
        "CREATE TABLE families AS SELECT DISTINCT repository, family, duplicate_of IS NULL AS kept "
        "FROM documents JOIN repository_dedup USING (_shard, _row) WHERE family IS NOT NULL"
    )
    return True


def _drop_from_other_side(database: duckdb.DuckDBPyConnection, reads: _Reads) -> None:
    """Drops what is held out and has an equal or near-equal file that is trained on."""
    if not {"exact_dedup", "near_dedup"} & set(reads.annotations):
        return
    database.execute(
        """CREATE TABLE clustered AS
        SELECT left_over.id, held_out, coalesce(left_over._cluster, kept._cluster, kept.id, left_over.id) AS cluster
        FROM left_over JOIN sides ON sides.repository = left_over.repository
        LEFT JOIN decided AS kept ON kept.id = left_over._equal_to"""
    )
    database.execute(
        """UPDATE decided SET dropped_by = ? WHERE id IN (
            SELECT id FROM clustered WHERE held_out AND cluster IN (SELECT cluster FROM clustered WHERE NOT held_out)
        )""",
        [BOTH_SPLITS_RULE],
    )


def _try(database: duckdb.DuckDBPyConnection, name: str, rule: str, query: str, reads: _Reads) -> None:
    try:
        database.execute(query).fetchall()
    except duckdb.Error as error:
        known = ", ".join(reads.annotations) or "none"
        raise DataError(
            f"selection {name!r}, rule {rule!r}: {str(error).splitlines()[0]} (columns: {', '.join(METADATA_COLUMNS)}; "
            f"annotations it names: {known}; `data dedup` makes exact_dedup, near_dedup and "
            "repository_dedup, `data annotate` others)"
        ) from None


def _write(
    database: duckdb.DuckDBPyConnection,
    corpus: Path,
    name: str,
    config: SelectionConfig,
    reads: _Reads,
    pinned: list[str],
    progress: Progress | None,
) -> list[Path]:
    directory = _path(corpus, name).parent
    remove_orphans(directory, reads.shards)
    inputs = fingerprint(reads.inputs, pinned)
    bar = progress.add_task("select", total=len(reads.shards)) if progress else None
    more = f", {REDACTIONS}" if config.redact else ""
    query = (
        "SELECT id, CASE WHEN dropped_by IS NULL THEN if(held_out, 'held_out', 'train') END AS split, dropped_by"
        f"{more} FROM decided LEFT JOIN sides USING (repository) ORDER BY _shard, _row"
    )
    outputs = []
    for shard, table in shard_tables(database, query, reads.shards):
        counters = {"documents_sha256": finished_manifest(shard)["sha256"]}
        outputs.append(directory / shard.name)
        write_shard(ShardTask(outputs[-1], inputs, write_table, (table, counters)))
        if progress:
            progress.advance(bar)
    return outputs


def _waterfall(database: duckdb.DuckDBPyConnection, config: SelectionConfig) -> dict[str, Any]:
    """Documents and bytes in, dropped by each rule, and left for each split, in all and by language."""
    amount = "count(*) AS documents, coalesce(sum(size_bytes), 0)::BIGINT AS size_bytes"
    split = "if(held_out, 'held_out', 'train')"
    kept = "left_over JOIN sides USING (repository)"

    def rows(query: str) -> list[tuple[Any, ...]]:
        return database.execute(query).fetchall()

    dropped = {rule: amounts for rule, *amounts in rows(f"SELECT dropped_by, {amount} FROM decided GROUP BY 1")}
    waterfall = []
    rules = config.ordered_rules()
    if BOTH_SPLITS_RULE in dropped:
        rules.append((BOTH_SPLITS_RULE, "held out, and of one cluster with a file that is trained on"))
    for rule, sql in rules:
        count, size = dropped.get(rule, (0, 0))
        waterfall.append({"rule": rule, "drop": sql, "documents": count, "size_bytes": size})
    left = {side: {"repositories": 0, "documents": 0, "size_bytes": 0} for side in SPLITS}
    for side, *counts in rows(f"SELECT {split}, count(DISTINCT repository), {amount} FROM {kept} GROUP BY 1"):
        left[side] = dict(zip(left[side], counts, strict=True))
    languages: dict[str, dict[str, Any]] = {}
    for language, count, size in rows(f"SELECT language, {amount} FROM decided GROUP BY 1 ORDER BY 3 DESC, 1"):
        empty = {side: {"documents": 0, "size_bytes": 0} for side in SPLITS}
        languages[language] = {"in": {"documents": count, "size_bytes": size}, **empty}
    for language, side, count, size in rows(f"SELECT language, {split}, {amount} FROM {kept} GROUP BY 1, 2"):
        languages[language][side] = {"documents": count, "size_bytes": size}
    ((documents, size_bytes),) = rows(f"SELECT {amount} FROM decided")
    return {
        "documents_in": {"documents": documents, "size_bytes": size_bytes},
        "dropped": waterfall,
        "left": left,
        "languages": languages,
    }
