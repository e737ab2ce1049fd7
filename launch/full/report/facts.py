"""What the page shows of each corpus, read from the corpora of a run: nothing in it is written down beforehand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_prep.oracle.prompt import load_prompt
from data_prep.report.charts import waterfall_chart
from data_prep.report.corpus_charts import language_chart, near_chart, score_chart
from data_prep.report.page import gather, write_report
from data_prep.report.waterfall import below_cap, waterfall
from data_prep.scorer.page import box_plot
from launch.full.report.charts import histogram_chart

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

    The one whose length is nearest to what fits on a screen; None where the build has none.
    """
    import numpy as np
    from tokenizers import Tokenizer

    from data_prep.storage import read_parquet
    from megatron_seed.data.indexed import IndexedTokens
    from tokenizer.encode import Encoder
    from tokenizer.special import FIM_ROLES

    build = IndexedTokens.open(builds / name)
    encoder = Encoder.load(tokenizer)
    suffix, prefix, middle = encoder.special.require(*FIM_ROLES)
    paths = read_parquet(builds / f"{name}.provenance.parquet", ["repository", "path"]).to_pylist()
    best = None
    for index, where in enumerate(paths):
        ids = np.asarray(build.document(index))
        if ids[0] == suffix and (best is None or abs(len(ids) - 420) < abs(len(best[0]) - 420)):
            best = (ids, where)
    if best is None:
        return None
    ids, where = best
    borders = [int(np.flatnonzero(ids == role)[0]) for role in (suffix, prefix, middle)]
    ends = [*borders[1:], len(ids) - 1]  # the last token ends the document
    decoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    parts = [decoder.decode(ids[a + 1 : b].tolist()) for a, b in zip(borders, ends, strict=True)]
    return {**where, "tokens": len(ids), **dict(zip(("suffix", "prefix", "middle"), parts, strict=True))}
