"""Mathematical pages of `quickstart --full`: found, rated and selected, or left out where there are too few."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import sympy
from rich.console import Console

from data_prep.annotate import annotate
from data_prep.documents import list_shards
from data_prep.scorer.quality import quality_spec
from launch.full import math_web, pages, web
from launch.full.pages import _mathematics
from launch.full.settings import FullConfig
from launch.full.warc import Page, write_warc
from launch.stages import Stages

CONTEXT = 512


@pytest.fixture(scope="module")
def explained() -> list[Page]:
    """130 pages with formulas: what sympy says of its functions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_PACKAGES", str(Path(sympy.__file__).parent))
        return list(_mathematics(130))


@pytest.fixture
def config(tmp_path: Path) -> FullConfig:
    return FullConfig(run_dir=tmp_path / "run", labelled_pages=400, oracle_pages=200)


def about_nothing(number: int) -> Page:
    words = np.random.default_rng(number).choice(("the", "amber", "of", "birch", "and", "cedar", "in", "delta"), 150)
    text = " ".join(f"{word}{index % 31}" if index % 5 == 0 else word for index, word in enumerate(words))
    return Page(f"https://other{number % 30}.example/{number}", f"<p>{text}</p>".encode())


def prepare(config: FullConfig, mathematical: list[Page], context: int = CONTEXT) -> dict:
    """Of an archive with these mathematical pages, and 90 of 30 sites about nothing."""
    archives = web.archives_of(config)
    archives.mkdir(parents=True)
    write_warc(archives / "pages.warc.gz", [*mathematical, *map(about_nothing, range(90))])
    known = web._prepare(config, web.corpus_of(config))
    scorer = config.run_dir / "scorer_without_hope.py"
    scorer.write_text("def score(documents):\n    return [0] * len(documents)\n")
    spec = quality_spec(web.corpus_of(config), scorer="scorer_without_hope:score", module_folder=str(scorer.parent))
    annotate(web.corpus_of(config), [spec])
    nothing = {"classifier": None}
    about = {**known, "recall": nothing, "categories": nothing, "quality": {"digest": "0"}}
    return math_web.prepare_math_web(config, Stages(config.run_dir, Console(quiet=True)), about, context)


def kept(config: FullConfig) -> list[dict]:
    corpus = web.corpus_of(config)
    found = []
    for shard in list_shards(corpus):
        rows = pq.read_table(shard).to_pylist()
        said = pq.read_table(corpus / "selections" / math_web.KEPT / shard.name).to_pylist()
        found += [row for row, one in zip(rows, said, strict=True) if one["split"]]
    return found


def test_pages_are_found_rated_and_selected(config: FullConfig, explained: list[Page]) -> None:
    found = prepare(config, explained)
    assert found["left_out"] is None
    pages_kept = kept(config)
    assert len(pages_kept) == sum(side["documents"] for side in found["left"].values()) > 70
    assert sum("/mathematics/" in row["path"] for row in pages_kept) > 0.95 * len(pages_kept)
    assert found["quality"]["oracle"]["prompt"]["name"] == "math"
    (low,) = [rule for rule in found["dropped"] if rule["rule"] == "low_quality"]
    assert low["documents"] == (len(pages_kept) + low["documents"]) // 10


@pytest.mark.parametrize(
    ("mathematical", "context", "why"),
    [
        (0, CONTEXT, r"^the oracle says of 0 of \d+ pages that they are about it: documents have 1 label"),
        (55, CONTEXT, r"^\d+ pages are about mathematics, a scorer needs 60$"),
        (130, 10**6, r"^of \d+ pages \d+ bytes are held out, too few for a sequence of 1000000 tokens$"),
    ],
)
def test_too_little_is_left_out_and_told(
    config: FullConfig, explained: list[Page], mathematical: int, context: int, why: str
) -> None:
    found = prepare(config, explained[:mathematical], context)
    assert re.search(why, found["left_out"]), found["left_out"]
    assert json.dumps(found)  # what the page is told
