"""What a corpus holds, as numbers for a terminal, a page or JSON."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from data_prep.annotate import summary
from data_prep.annotations import annotation_names, current_annotation
from data_prep.commits.reasons import REASONS as COMMIT_REASONS
from data_prep.database import add_shards_view, open_database
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.errors import DataError
from data_prep.select import read_selection
from data_prep.selection.places import selection_shard
from data_prep.sources.base import REASONS
from data_prep.storage import as_path, read_parquet
from data_prep.web.reasons import REASONS as WEB_REASONS

TOP_REPOSITORIES = 20
CONTAMINATION = "decontamination"  # the annotation that says which benchmark problems a document holds


def corpus_report(corpus: Path, selection: str | None = None, workers: int = 1) -> dict[str, Any]:
    """JSON-able numbers of a corpus and, where one is named, of a selection.

    `import`: documents, text_bytes, shards, sources, languages and drops (reason -> count, size_bytes, examples,
    meaning). `selection`: as in `selection.json` (documents_in, dropped by each rule in order, left per split,
    languages), or None. `annotations`: name -> `data_prep.annotate.summary`, or None for one that is out of date.
    `contaminated`: which document matched which benchmark problems. `repositories`: the 20 largest by text that is left
    (or imported): source, repository, split, documents, size_bytes. Sizes are UTF-8 bytes of text. Raises `DataError`.
    """
    corpus = as_path(corpus)
    list_shards(corpus)
    try:
        imported = json.loads((corpus / "import.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{corpus / 'import.json'} cannot be read ({error}); run `data import` again") from None
    is_web = "web" in annotation_names(corpus)
    for reason, drop in imported["drops"].items():
        drop["meaning"] = (WEB_REASONS if is_web else {**COMMIT_REASONS, **REASONS})[reason]
    selected = read_selection(corpus, selection) if selection else None
    return {
        "corpus": str(corpus),
        "import": imported,
        "selection": selected,
        "annotations": _annotations(corpus),
        "contaminated": _contaminated(corpus),
        "repositories": _largest_repositories(corpus, selection, workers),
    }


def _annotations(corpus: Path) -> dict[str, dict[str, Any] | None]:
    whole = corpus_fingerprint(corpus)
    found: dict[str, dict[str, Any] | None] = {}
    for name in annotation_names(corpus):
        try:
            found[name] = summary([manifest for _, manifest in current_annotation(corpus, name, whole)])
        except DataError:
            found[name] = None
    return found


def _contaminated(corpus: Path) -> list[dict[str, Any]]:
    """Documents that share n-grams with benchmarks, those with the most first: what, where, which problems."""
    try:
        shards = [path for path, _ in current_annotation(corpus, CONTAMINATION, corpus_fingerprint(corpus))]
    except DataError:
        return []
    found = []
    for shard, annotation in zip(list_shards(corpus), shards, strict=True):
        matches = read_parquet(annotation, ["id", "ngrams", "problems", "example"])
        chosen = pc.fill_null(pc.greater(matches["ngrams"], 0), False)
        if pc.any(chosen).as_py():
            where = read_parquet(shard, ["source", "repository", "path"]).filter(chosen)
            rows = zip(where.to_pylist(), matches.filter(chosen).to_pylist(), strict=True)
            found += [place | match for place, match in rows]
    return sorted(found, key=lambda row: (-row["ngrams"], row["id"]))


def _largest_repositories(corpus: Path, selection: str | None, workers: int) -> list[dict[str, Any]]:
    shards = list_shards(corpus)
    if not shards:
        return []
    split, tables = "NULL::VARCHAR", "documents"
    with tempfile.TemporaryDirectory() as scratch, open_database(Path(scratch), workers) as database:
        add_shards_view(database, "documents", shards, "source, repository, size_bytes")
        if selection:
            chosen = [selection_shard(corpus, selection, shard) for shard in shards]
            add_shards_view(database, "selected", chosen, "split")
            split, tables = "split", "(FROM documents JOIN selected USING (_shard, _row) WHERE split IS NOT NULL)"
        found = database.execute(
            f"SELECT source, repository, any_value({split}), count(*), sum(size_bytes)::BIGINT FROM {tables} "
            f"GROUP BY source, repository ORDER BY 5 DESC, source, repository LIMIT {TOP_REPOSITORIES}"
        ).fetchall()
    keys = ("source", "repository", "split", "documents", "size_bytes")
    return [dict(zip(keys, row, strict=True)) for row in found]
