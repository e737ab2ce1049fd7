"""Single documents that the page shows: a page of the web before and after, a file that is cut for infilling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.report.excerpts import read_texts, without_secrets
from data_prep.report.formats import shortened
from data_prep.report.source import open_source
from data_prep.storage import read_parquet
from megatron_seed.data.indexed import IndexedTokens
from tokenizer.encode import Encoder
from tokenizer.special import FIM_ROLES

_PAGE_CHARACTERS = 3000


def page_before_and_after(archives: Path, corpus: Path, selection: str) -> dict[str, str] | None:
    """A kept page with code as its archive holds it and as text: much code, and a text that fits a screen."""
    unfit = f"abs(size_bytes - {_PAGE_CHARACTERS // 2}) - {2 * _PAGE_CHARACTERS} * coalesce(web.code_share, 0)"
    with open_source(corpus, selection, 1) as source:
        found = source.rows(
            f"SELECT web.url AS url, _shard, _row FROM {source.joined('web')} WHERE split IS NOT NULL AND web.has_code "
            f"ORDER BY {unfit}, id LIMIT 1"
        )
        places = [(row["_shard"], row["_row"]) for row in found]
        texts = read_texts(source.shards, places)
    before = _html_of(archives, found[0]["url"]) if found else None
    if before is None:
        return None
    body = before.lower().find("<body")  # what a browser shows begins here
    return {
        "url": found[0]["url"],
        "before": shortened(without_secrets(before[max(0, body) :]), _PAGE_CHARACTERS, 0),
        "after": shortened(texts[places[0]], _PAGE_CHARACTERS, 0),
    }


def _html_of(archives: Path, url: str) -> str | None:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    for path in sorted(archives.glob("*.warc.gz")):
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
                if record.headers.get("WARC-Target-URI") == url:
                    return record.reader.read().decode("utf-8", "replace")
    return None


def infilling_example(builds: Path, name: str, tokenizer: Path) -> dict[str, Any] | None:
    """A document of a build that is split for infilling, decoded from its tokens: suffix, prefix and middle.

    The one that best fits a screen, none of its parts short; None where the build has none.
    """
    build = IndexedTokens.open(builds / name)
    encoder = Encoder.load(tokenizer)
    roles = encoder.special.require(*FIM_ROLES)
    places = read_parquet(builds / f"{name}.provenance.parquet", ["repository", "path"]).to_pylist()
    found = [(index, _parts(np.asarray(build.document(index)), roles)) for index in range(len(places))]
    split = [(index, parts) for index, parts in found if parts]
    if not split:
        return None
    index, parts = min(split, key=lambda one: _unfit([len(part) for part in one[1]]))
    texts = [encoder.decode(part) for part in parts]
    return {
        **places[index],
        "tokens": len(build.document(index)),
        **dict(zip(("suffix", "prefix", "middle"), texts, strict=True)),
    }


def _parts(ids: np.ndarray, roles: tuple[int, ...]) -> list[np.ndarray] | None:
    """Suffix, prefix and middle of a document's tokens without markers and end; None for one that is whole."""
    if ids[0] != roles[0]:
        return None
    borders = [int(np.flatnonzero(ids == role)[0]) for role in roles]
    ends = [*borders[1:], len(ids) - 1]
    return [ids[start + 1 : end] for start, end in zip(borders, ends, strict=True)]


def _unfit(lengths: list[int]) -> float:
    """How far a document is from one that is easy to look at: 260 tokens, each part a good piece of it."""
    return abs(sum(lengths) - 260) + 4 * max(0, 50 - min(lengths))
