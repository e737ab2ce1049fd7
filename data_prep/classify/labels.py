"""Which documents have which label and on which side they are, as a table of a database: metadata only, never text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from data_prep.annotations import annotation_names, current_annotation
from data_prep.classify.settings import ClassifyConfig
from data_prep.database import add_shards_view, in_words, literal, words_in
from data_prep.documents import METADATA_COLUMNS, corpus_fingerprint, list_shards
from data_prep.errors import DataError
from data_prep.held_out import hash_below
from data_prep.oracle.scores import oracle_names, scores_manifest, scores_path
from data_prep.shards import fingerprint, sha256_of
from data_prep.storage import is_remote, read_parquet_schema

SIDES = ("train", "validation", "test")
ORACLE = "oracle_"
MOST_LABELS = 1000
_KEYS = {"id": "id", "site": "repository", "repository": "repository"}
_READERS = {
    ".parquet": "read_parquet({})",
    ".csv": "read_csv({}, header = true, all_varchar = true)",
    ".jsonl": "read_json({}, format = 'newline_delimited')",
}


@dataclass(frozen=True)
class LabelSource:
    """What labels are read from, and its fingerprint."""

    shards: Sequence[Path]
    annotations: Mapping[str, Sequence[Path]]
    oracles: Mapping[str, Path]
    """View (`oracle_NAME`) -> its table."""
    inputs: str


def label_source(corpus: Path, config: ClassifyConfig) -> LabelSource:
    """What the config's SQL names. Raises `DataError` where it is missing or out of date."""
    words = words_in([*config.labels.values(), config.label or ""])
    whole = corpus_fingerprint(corpus)
    found = {name: current_annotation(corpus, name, whole) for name in annotation_names(corpus) if name in words}
    oracles = {} if is_remote(corpus) else {f"{ORACLE}{name}": name for name in oracle_names(corpus)}
    oracles = {view: name for view, name in oracles.items() if view in words}
    read = {name: [manifest["sha256"] for _, manifest in pairs] for name, pairs in found.items()}
    read |= {view: scores_manifest(corpus, name)["sha256"] for view, name in oracles.items()}
    if config.table:
        read["table"] = _digest_of(config.table)
    return LabelSource(
        list_shards(corpus),
        {name: [path for path, _ in pairs] for name, pairs in found.items()},
        {view: scores_path(corpus, name) for view, name in oracles.items()},
        fingerprint(whole, read),
    )


def find_labelled(database: duckdb.DuckDBPyConnection, source: LabelSource, config: ClassifyConfig) -> dict[str, Any]:
    """Makes the table `chosen`: _shard, _row, repository, label, side (0, 1, 2: `SIDES`) and key (a hash to order by).

    Returns counts: `labelled` (label -> documents), `sides` (side -> label -> documents in `chosen`), `repositories`
    (side -> how many) and `left_out`: `unlabelled`, `copies` (equal texts of which one is taken, on the side that is
    first), `contradictory` (equal texts with different labels), `over_cap`, and for a table `unused_rows`. Raises
    `DataError` for SQL that is none, a table that is none, and labels that are too few or too many.
    """
    add_shards_view(database, "documents", source.shards, ", ".join(METADATA_COLUMNS))
    joined, label = _joined(database, source), _label(config)
    counts: dict[str, Any] = {}
    if config.table:
        column, counts["unused_rows"] = _add_table(database, config.table)
        joined += f" LEFT JOIN given ON given.key = documents.{column}"
    else:
        _try_all(database, source, config, joined)
    bounds = (hash_below(config.split.train), hash_below(config.split.train + config.split.validation))
    seed = config.split.seed
    database.execute(
        f"""CREATE TABLE labelled AS
        WITH named AS (
            SELECT _shard, _row, documents.id, documents.repository, documents.sha256, {label} AS label FROM {joined}
        )
        SELECT *, CASE WHEN hash < '{bounds[0]}' THEN 0 WHEN hash < '{bounds[1]}' THEN 1 ELSE 2 END AS side
        FROM (SELECT *, sha256('{seed}:' || repository) AS hash, sha256('{seed}:document:' || id) AS key FROM named)
        WHERE label IS NOT NULL"""
    )
    ((counts["unlabelled"],),) = _rows(
        database, "SELECT (SELECT count(*) FROM documents) - (SELECT count(*) FROM labelled)"
    )
    labelled = dict(_rows(database, "SELECT label, count(*) FROM labelled GROUP BY 1 ORDER BY 1"))
    _choose(database, config, counts)
    sides = {side: _by_label(database, place) for place, side in enumerate(SIDES)}
    repositories = dict(_rows(database, "SELECT side, count(DISTINCT repository) FROM chosen GROUP BY 1"))
    _check(config, labelled, sides)
    return {
        "labelled": labelled,
        "sides": sides,
        "repositories": {side: repositories.get(place, 0) for place, side in enumerate(SIDES)},
        "left_out": counts,
    }


def _choose(database: duckdb.DuckDBPyConnection, config: ClassifyConfig, counts: dict[str, Any]) -> None:
    """Of equal texts one, none where they contradict each other; then as many as the config allows."""
    database.execute(
        """CREATE TABLE judged AS SELECT *, row_number() OVER (PARTITION BY sha256 ORDER BY side, key) AS copy,
        min(label) OVER (PARTITION BY sha256) <> max(label) OVER (PARTITION BY sha256) AS torn FROM labelled"""
    )
    database.execute(
        """CREATE TABLE ranked AS SELECT *, row_number() OVER (PARTITION BY side, label ORDER BY key, id) AS of_label,
        row_number() OVER (PARTITION BY side ORDER BY key, id) AS of_side FROM judged WHERE copy = 1 AND NOT torn"""
    )
    database.execute(
        f"""CREATE TABLE chosen AS SELECT _shard, _row, repository, label, side, key FROM ranked
        WHERE CASE side WHEN 0 THEN of_label <= {config.documents_per_label}
        ELSE of_side <= {config.evaluated_documents} END"""
    )
    ((torn, copies),) = _rows(
        database, "SELECT count(*) FILTER (torn), count(*) FILTER (copy > 1 AND NOT torn) FROM judged"
    )
    ((over,),) = _rows(database, "SELECT (SELECT count(*) FROM ranked) - (SELECT count(*) FROM chosen)")
    counts |= {"copies": copies, "contradictory": torn, "over_cap": over}
    for table in ("labelled", "judged", "ranked"):
        database.execute(f"DROP TABLE {table}")


def _check(config: ClassifyConfig, labelled: Mapping[str, int], sides: Mapping[str, Mapping[str, int]]) -> None:
    names = list(config.labels) or sorted(labelled)
    if len(names) < 2:
        raise DataError(f"documents have {len(names)} labels ({', '.join(names) or 'none'}); two are needed at least")
    if len(names) > MOST_LABELS:
        raise DataError(
            f"documents have {len(names):,} different labels, such as {names[0]!r}; at most {MOST_LABELS:,}"
        )
    if config.positive is not None and (config.positive not in names or len(names) != 2):
        raise DataError(
            f"a threshold for positive {config.positive!r} needs it and one other label; documents have "
            f"{', '.join(names[:10])}"
        )
    for name in names:
        least = {"train": config.minimum_train}
        for side in SIDES:
            found, needed = sides[side].get(name, 0), least.get(side, config.minimum_evaluated)
            if found < needed:
                raise DataError(
                    f"label {name!r}: {found:,} documents on the {side} side of {labelled.get(name, 0):,} labelled; at "
                    f"least {needed:,} are needed: label more documents, of more sites, or change split"
                )


def _label(config: ClassifyConfig) -> str:
    if config.table:
        return "given.label"
    if config.label:
        return f"nullif(({config.label})::VARCHAR, '')"
    cases = " ".join(f"WHEN ({query})::BOOLEAN THEN {literal(name)}" for name, query in config.labels.items())
    return f"CASE {cases} END"


def _joined(database: duckdb.DuckDBPyConnection, source: LabelSource) -> str:
    joined = "documents"
    for view, paths in source.annotations.items():
        columns = [f'"{column}"' for column in read_parquet_schema(paths[0]).names if column != "id"] if paths else []
        add_shards_view(database, view, paths, ", ".join(columns))
        joined += f' LEFT JOIN "{view}" USING (_shard, _row)'
    for view, path in source.oracles.items():
        said = next(name for name in ("score", "label") if name in read_parquet_schema(path).names)
        database.execute(
            f'CREATE VIEW "{view}" AS SELECT id AS _id, sha256 AS _text, {said}, problem, cut '
            f"FROM read_parquet({literal(str(path))})"
        )
        joined += f' LEFT JOIN "{view}" ON "{view}"._id = documents.id AND "{view}"._text = documents.sha256'
    return joined


def _try_all(database: duckdb.DuckDBPyConnection, source: LabelSource, config: ClassifyConfig, joined: str) -> None:
    """Raises `DataError` naming the label whose SQL is wrong; what is wrong with a value is found by running it."""
    queries = {f"label {name!r}": f"({query})::BOOLEAN" for name, query in config.labels.items()}
    for name, query in (queries or {"label": f"({config.label})::VARCHAR"}).items():
        try:
            _rows(database, f"SELECT count({query}) FROM {joined}")
        except duckdb.Error as error:
            raise DataError(f"{name}: {in_words(error, [*source.annotations, *source.oracles])}") from None


def _add_table(database: duckdb.DuckDBPyConnection, path: Path) -> tuple[str, int]:
    """Makes `given` (key, label); returns the column of documents that keys are of, and how many rows are of none."""
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: a table ends in {', '.join(_READERS)}")
    try:
        rows = f"FROM {reader.format(literal(str(path)))}"
        names = [name for name, *_ in _rows(database, f"DESCRIBE {rows}")]
        key = next((name for name in _KEYS if name in names), None)
        if key is None or "label" not in names:
            raise DataError(f"{path}: columns label and one of {', '.join(_KEYS)} are expected, not {', '.join(names)}")
        database.execute(
            f'CREATE TABLE given AS SELECT DISTINCT "{key}"::VARCHAR AS key, label::VARCHAR AS label {rows} '
            "WHERE key IS NOT NULL AND label <> ''"
        )
    except duckdb.Error as error:
        raise DataError(f"{path} is no table that can be read: {str(error).splitlines()[0]}") from None
    twice = _rows(database, "SELECT key, min(label), max(label) FROM given GROUP BY 1 HAVING count(*) > 1 ORDER BY 1")
    if twice:
        raise DataError(
            f"{path}: {len(twice):,} keys have two labels, such as {twice[0][0]}: {twice[0][1]}, {twice[0][2]}"
        )
    unused = f"SELECT count(*) FROM given WHERE key NOT IN (SELECT {_KEYS[key]} FROM documents)"
    return _KEYS[key], _rows(database, unused)[0][0]


def _by_label(database: duckdb.DuckDBPyConnection, side: int) -> dict[str, int]:
    return dict(_rows(database, f"SELECT label, count(*) FROM chosen WHERE side = {side} GROUP BY 1 ORDER BY 1"))


def _rows(database: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return database.execute(query).fetchall()


def _digest_of(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"table {path} cannot be read: {error.strerror or error}") from None
