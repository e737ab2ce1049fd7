"""What the page shows of each corpus, read from the corpora of a run: nothing in it is written down beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_prep.oracle.prompt import load_prompt
from data_prep.report.charts import waterfall_chart
from data_prep.report.corpus_charts import language_chart, near_chart, score_chart
from data_prep.report.page import gather, write_report
from data_prep.report.waterfall import below_cap, waterfall
from data_prep.scorer.page import box_plot
from data_prep.storage import read_parquet
from launch.full.report.charts import histogram_chart
from megatron_seed.data.indexed import IndexedTokens
from tokenizer.encode import Encoder
from tokenizer.special import FIM_ROLES

EXAMPLES = 2
SEED = 1


def corpus_facts(number: int, corpus: Path, selection: str, quality: dict[str, Any] | None) -> dict[str, Any]:
    """All that a corpus's own page says, charts with names that are `number`'s, and what was said of its quality."""
    scores = ["quality.score"] if quality else []
    found = gather(corpus, selection, EXAMPLES, SEED, workers=2, scores=scores)
    steps = waterfall(found["data"])
    score = found["scores"][0] if found["scores"] else None
    near = (found["duplicates"] or {}).get("near")
    return {
        **found,
        "steps": steps,
        "score": score,
        "quality": quality_facts(number, quality) if quality else None,
        "charts": {
            "waterfall": waterfall_chart(below_cap(steps), f"waterfall-{number}"),
            "score": score_chart(number, score) if score else None,
            "languages": language_chart(number, score) if score else None,
            "near": near_chart(near) if near and number == 0 else None,
        },
    }


def quality_facts(number: int, quality: dict[str, Any]) -> dict[str, Any]:
    """Oracle and scorer: histogram, prompt, measured errors, box plot."""
    oracle, scorer = quality["oracle"], quality["scorer"]
    title = "Ratings that the oracle gave"
    return {
        **quality,
        "prompt": load_prompt(oracle["prompt"]["name"]).template,
        "charts": {
            "histogram": histogram_chart(f"ratings-{number}", oracle["histogram"], title),
            "boxes": box_plot(scorer["measured"], f"boxes-{number}"),
        },
    }


def write_corpus_pages(run_dir: Path, corpora: dict[str, tuple[Path, str]]) -> dict[str, str]:
    """The page of each corpus in `pages/`, and where it lies, seen from the run folder."""
    links = {}
    for name, (corpus, selection) in corpora.items():
        path = run_dir / "pages" / f"{name}.html"
        path.parent.mkdir(exist_ok=True)
        write_report(corpus, path, selection, workers=2)
        links[name] = f"pages/{path.name}"
    return links


def infilling_example(builds: Path, name: str, tokenizer: Path) -> dict[str, Any] | None:
    """A document of a build that is split for infilling, decoded from its tokens: suffix, prefix and middle.

    The one that best fits a screen, none of its parts short; None where the build has none.
    """
    build = IndexedTokens.open(builds / name)
    roles = Encoder.load(tokenizer).special.require(*FIM_ROLES)
    places = read_parquet(builds / f"{name}.provenance.parquet", ["repository", "path"]).to_pylist()
    found = [(index, _parts(np.asarray(build.document(index)), roles)) for index in range(len(places))]
    split = [(index, parts) for index, parts in found if parts]
    if not split:
        return None
    index, parts = min(split, key=lambda one: _unfit([len(part) for part in one[1]]))
    decoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    texts = [decoder.decode(part.tolist()) for part in parts]
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
