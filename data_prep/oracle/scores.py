"""Scores of an oracle: `oracle/<name>/scores.parquet` of a corpus, and its manifest beside it.

One row for each file that was sampled. Either `score` or `problem` is there, never both: a file without a score says
why it has none. An oracle whose prompt asks for one of several labels has a column `label` in place of `score`. The
manifest (`scores.parquet.json`) holds the model, the prompt in full, the sample and the counts.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.errors import DataError
from data_prep.shards import ShardTask, finished_manifest, write_shard

FORMAT = "data_prep.oracle.scores/1"
MINIMUM_SCORE, MAXIMUM_SCORE = 0.0, 10.0
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("repository", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of the document, before redaction
        pa.field("cut", pa.bool_(), nullable=False),  # only parts of the file were shown to the oracle
        pa.field("score", pa.float32()),
        pa.field("problem", pa.string()),
        pa.field("model", pa.string()),
        pa.field("prompt_version", pa.string()),
    ]
)
LABEL_SCHEMA = SCHEMA.set(SCHEMA.get_field_index("score"), pa.field("label", pa.string()))
PROBLEMS = {
    "refused": "the oracle declined to answer",
    "unparsable": "the answer holds no rating (or label)",
    "ambiguous": "the answer holds more than one rating (or label), or one that is quoted from the file",
    "out_of_range": "the rating is not between 0 and 10",
    "unknown_label": "the label is none of those that were to choose from",
    "truncated": "the answer was cut off by the token limit",
    "empty": "the answer holds no text",
    "malformed": "what came back is no chat completion",
    "rejected": "the endpoint does not take this request",
    "failed": "no answer came after all retries",
    "not_asked": "the run was stopped before this file",
    "no_score": "the imported table has no number here",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def oracle_directory(corpus: Path, name: str) -> Path:
    """Folder of one oracle's scores. Raises `DataError` for a name that is none."""
    if not _NAME.fullmatch(name):
        raise DataError(f"oracle name {name!r}: use letters, digits, '.', '_' and '-' only")
    return Path(corpus) / "oracle" / name


def scores_path(corpus: Path, name: str) -> Path:
    return oracle_directory(corpus, name) / "scores.parquet"


def oracle_names(corpus: Path) -> list[str]:
    """The oracles whose scores this corpus holds."""
    found = (Path(corpus) / "oracle").glob("*/scores.parquet")
    return sorted(path.parent.name for path in found if finished_manifest(path))


def read_scores(corpus: Path, name: str) -> pa.Table:
    """The scores of one oracle: a table of `SCHEMA`, one row per sampled file, ids unique, in the sample's order.

    Rows without a score have a `problem`. Raises `DataError` where there are no such scores.
    """
    table = _read(corpus, name)
    if table.schema.equals(LABEL_SCHEMA):
        labels = sorted(set(table["label"].to_pylist()) - {None})
        raise DataError(f"oracle {name} gives labels ({', '.join(labels)}), no scores")
    return table


def read_labels(corpus: Path, name: str) -> pa.Table:
    """The labels of one oracle: a table of `LABEL_SCHEMA`, one row per sampled file, ids unique, in the sample's order.

    Rows without a label have a `problem`. Raises `DataError` where there are no such labels.
    """
    table = _read(corpus, name)
    if table.schema.equals(SCHEMA):
        raise DataError(f"oracle {name} gives scores from 0 to 10, no labels: its prompt declares no `answers`")
    return table


def _read(corpus: Path, name: str) -> pa.Table:
    scores_manifest(corpus, name)
    table = pq.read_table(scores_path(corpus, name))
    if not (table.schema.equals(SCHEMA) or table.schema.equals(LABEL_SCHEMA)):
        path = scores_path(corpus, name)
        raise DataError(f"{path}: other columns than expected; make the scores again with `data oracle`")
    return table


def scores_manifest(corpus: Path, name: str) -> dict[str, Any]:
    """What is known of an oracle's scores: model, prompt, sample, counts. Raises `DataError` where there are none."""
    manifest = finished_manifest(scores_path(corpus, name))
    if manifest is None or manifest.get("format") != FORMAT:
        there = ", ".join(oracle_names(corpus)) or "none"
        raise DataError(f"{corpus}: there are no scores of an oracle {name!r} (there: {there}); run `data oracle run`")
    return manifest


def write_scores(corpus: Path, name: str, table: pa.Table, inputs: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the scores (or labels) of one oracle and returns their manifest: `about` with the counts of them and of
    problems."""
    schema = LABEL_SCHEMA if "label" in table.column_names else SCHEMA
    table = table.select(schema.names).cast(schema)
    _check(table)
    task = ShardTask(scores_path(corpus, name), inputs, _write, (table, {"format": FORMAT, "name": name, **about}))
    return write_shard(task)


def histogram(scores: pa.ChunkedArray | pa.Array) -> list[int]:
    """How many scores round to 0, 1, ... 10 (halves up)."""
    rounded = pc.value_counts(pc.drop_null(pc.floor(pc.add(pc.cast(scores, pa.float64()), 0.5)))).to_pylist()
    counts = {int(entry["values"]): entry["counts"] for entry in rounded}
    return [counts.get(score, 0) for score in range(int(MAXIMUM_SCORE) + 1)]


def _write(stream: BinaryIO, table: pa.Table, about: Mapping[str, Any]) -> dict[str, Any]:
    pq.write_table(table, stream, compression="zstd")
    problems = {entry["values"]: entry["counts"] for entry in pc.value_counts(table["problem"]).to_pylist()}
    problems.pop(None, None)
    scored = table.num_rows - table[_said(table)].null_count
    return {**about, "rows": table.num_rows, "scored": scored, "problems": dict(sorted(problems.items()))}


def _said(table: pa.Table) -> str:
    """The column that holds what was asked for."""
    return "label" if "label" in table.column_names else "score"


def _check(table: pa.Table) -> None:
    said = table[_said(table)]
    wrong = pc.equal(pc.is_null(said), pc.is_null(table["problem"]))
    if _said(table) == "score":
        outside = pc.or_(pc.less(said, MINIMUM_SCORE), pc.greater(said, MAXIMUM_SCORE))
        wrong = pc.or_(wrong, pc.fill_null(pc.or_(outside, pc.is_nan(said)), False))
    unknown = set(pc.unique(table["problem"]).to_pylist()) - {None, *PROBLEMS}
    if pc.any(wrong).as_py() or unknown:
        what = "a label" if _said(table) == "label" else "a score between 0 and 10"
        raise DataError(f"scores: each row needs {what} or a known problem, not both")
    if len(pc.unique(table["id"])) != table.num_rows:
        raise DataError("scores: a document is there twice")
