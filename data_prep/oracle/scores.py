"""Scores of an oracle: `oracle/<name>/scores.parquet` of a corpus, and its manifest beside it.

One row for each file that was sampled. Either `score` or `problem` is there, never both: a file without a score says
why it has none. The manifest (`scores.parquet.json`) holds the model, the prompt in full, the sample and the counts.
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
PROBLEMS = {
    "refused": "the oracle declined to answer",
    "unparsable": "the answer holds no rating",
    "ambiguous": "the answer holds more than one rating, or one that is quoted from the file",
    "out_of_range": "the rating is not between 0 and 10",
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
    path = scores_path(corpus, name)
    scores_manifest(corpus, name)
    table = pq.read_table(path)
    if not table.schema.equals(SCHEMA):
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
    """Writes the scores of one oracle and returns their manifest: `about` with the counts of scores and problems."""
    table = table.select(SCHEMA.names).cast(SCHEMA)
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
    scored = table.num_rows - table["score"].null_count
    return {**about, "rows": table.num_rows, "scored": scored, "problems": dict(sorted(problems.items()))}


def _check(table: pa.Table) -> None:
    scores = table["score"]
    both = pc.equal(pc.is_null(scores), pc.is_null(table["problem"]))
    outside = pc.or_(pc.less(scores, MINIMUM_SCORE), pc.greater(scores, MAXIMUM_SCORE))
    unknown = set(pc.unique(table["problem"]).to_pylist()) - {None, *PROBLEMS}
    if pc.any(both).as_py() or pc.any(outside).as_py() or pc.any(pc.is_nan(scores)).as_py() or unknown:
        raise DataError("scores: each row needs a score between 0 and 10 or a known problem, not both")
    if len(pc.unique(table["id"])) != table.num_rows:
        raise DataError("scores: a document is there twice")
