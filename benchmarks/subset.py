"""High-quality subset on real code of this machine: is what rounds of recall find better than a random draw?

Installed packages are the repositories. An endpoint whose rules are hidden (`launch/full/stand_in.py`) rates a sample;
a linear scorer learns it and scores every file; seeds, hard negatives and the rounds' own measures rest on these
scores. What the subset is judged by is the hidden rule itself, with another draw of its noise, on files of repositories
that neither the scorer nor a round was trained on. Beside the subset, of the same size: a random draw, and the highest
scores.

    python benchmarks/subset.py --work FOLDER --seed 7 --out subset.json
"""

import argparse
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scorer import ask, make_corpus

from data_prep.annotate import annotate
from data_prep.annotations import annotation_shard
from data_prep.annotators.base import AnnotatorSpec
from data_prep.documents import list_shards
from data_prep.held_out import HeldOut
from data_prep.scorer.train import train_scorer
from data_prep.select import SelectionConfig, select
from data_prep.subset.run import find_subset
from data_prep.subset.settings import SubsetConfig
from launch.full.stand_in import rate

LANGUAGES = "language IN ('Python', 'C', 'C++', 'JavaScript', 'Perl', 'Shell', 'CUDA', 'SQL', 'Tcl')"
PACKAGES = "['heapq', 'bisect', 'collections', 'itertools', 'functools', 'math', 'operator', 'algorithm', 'vector']"
APPLICATIONS = "['asyncio', 'socket', 'http', 'urllib', 'argparse', 'logging', 'sqlite3', 'requests', 'flask']"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for corpus, scorer and subset; used again")
    parser.add_argument("--files", type=int, default=9_000, help="that the oracle rates")
    parser.add_argument("--seed", type=int, default=7, help="of the sample, the noise, the draws, what is held out")
    parser.add_argument("--share", type=float, default=0.1, help="of each source that is recalled")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the classifier")
    parser.add_argument("--out", type=Path, default=Path("subset.json"))
    arguments = parser.parse_args()
    corpus = arguments.work / "corpus"
    result: dict[str, Any] = {"load": os.getloadavg(), "corpus": make_corpus(arguments.work)}
    split = HeldOut(fraction=0.25, seed=arguments.seed)
    prepare(corpus, arguments, split)
    config = configure(corpus, arguments, split)
    began = _cpu_s()
    report = find_subset(corpus, config, f"seed_{arguments.seed}")
    result["subset_cpu_s"] = _cpu_s() - began
    result["left_out"] = report["left_out"]
    truth = judge(corpus, split, arguments.seed)
    result["sources"] = {
        source["name"]: {
            "rounds": [_short(round_) for round_ in source["rounds"]],
            "scores": {name: _short(group) for name, group in source["scores"]["groups"].items()},
            **beside(corpus, f"seed_{arguments.seed}", source["name"], truth, arguments.seed),
        }
        for source in report["sources"]
    }
    tell(result)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def prepare(corpus: Path, arguments: argparse.Namespace, split: HeldOut) -> None:
    """Scores and structure of every file; a selection without duplicates."""
    oracle, scorer = f"hidden-{arguments.seed}", arguments.work / f"linear-{arguments.seed}"
    ask(corpus, oracle, arguments.files, arguments.seed)
    if not (scorer / "scorer.json").is_file():
        train_scorer(corpus, oracle, scorer, held_out=split.fraction, seed=split.seed)
    annotate(corpus, [AnnotatorSpec.of("quality", scorer=str(scorer)), AnnotatorSpec.of("structure")])
    select(corpus, "apart", SelectionConfig())


def configure(corpus: Path, arguments: argparse.Namespace, split: HeldOut) -> SubsetConfig:
    """Three of the report's sources, with scores that are quantiles of this corpus."""
    scores = np.concatenate([column.drop_null() for column in _column(corpus, "quality", "score")])
    low, middle, high = (round(float(value), 2) for value in np.quantile(scores, [0.5, 0.75, 0.9]))
    seeds = f"quality.score >= {high} AND structure.comment_share BETWEEN 0.05 AND 0.5 AND structure.functions >= 2"
    topic = f"quality.score >= {middle} AND structure.comment_share > 0 AND structure.functions >= 1"
    sources = [
        {"name": "major_languages", "where": LANGUAGES, "seeds": f"{seeds} AND structure.docstring_share >= 0.5"},
        {"name": "algorithms", "where": LANGUAGES, "seeds": _imports(topic, PACKAGES)},
        {"name": "application_development", "where": LANGUAGES, "seeds": _imports(topic, APPLICATIONS)},
        {"name": "notebooks", "where": "path LIKE '%.ipynb'", "seeds": topic},
        {"name": "general_code", "seeds": f"quality.score >= {high} AND coalesce(structure.comment_share, 1) >= 0.05"},
    ]
    return SubsetConfig.model_validate(
        {
            "selection": "apart",
            "sources": sources,
            "good": f"quality.score >= {middle}",
            "threshold": {"share": arguments.share},
            "new_positives": {"where": f"quality.score >= {middle}", "probability": 0.9},
            "hard_negatives": [
                {"name": "uncommented", "where": f"quality.score >= {middle} AND structure.comment_share = 0"},
                {"name": "recalled but poor", "where": f"quality.score < {low}", "recalled": True},
            ],
            "validation": split.model_dump(),
            "classifier": {key: json.loads(value) for key, value in (entry.split("=") for entry in arguments.set)},
            "seed": arguments.seed,
        }
    )


def _imports(topic: str, packages: str) -> str:
    return f"{topic} AND len(list_intersect(structure.packages, {packages})) >= 2"


def judge(corpus: Path, split: HeldOut, seed: int) -> dict[str, float]:
    """Document -> what the hidden rule says of it, of held-out repositories."""
    truth = {}
    for shard in list_shards(corpus):
        for row in pq.read_table(shard, columns=["id", "repository", "language", "text"]).to_pylist():
            if split.holds_out(row["repository"]):
                truth[row["id"]] = float(rate(row["language"], row["text"], f"truth of {seed}"))
    return truth


def beside(corpus: Path, name: str, source: str, truth: dict[str, float], seed: int) -> dict[str, Any]:
    """Mean of the truth over held-out files of a source: recalled in each round, drawn at random, highest by score."""
    last = len(list((corpus / "subsets" / name / source).glob("round-*")))
    ids = np.concatenate([column.to_numpy() for column in _column(corpus, name, "id")])
    inside, score = (
        np.concatenate(
            [pq.read_table(path, columns=[column])[column].to_numpy() for path in _facts(corpus, name, source)]
        )
        for column in ("inside", "score")
    )
    known = inside & np.isin(ids, list(truth)) & ~np.isnan(score)
    truths, scores = np.array([truth[one] for one in ids[known]]), score[known]
    report = json.loads((corpus / "subsets" / name / "report.json").read_bytes())
    (own,) = (entry for entry in report["sources"] if entry["name"] == source)
    made: dict[str, Any] = {"held_out": len(truths), "truth": {"all": float(truths.mean())}}
    for number in range(1, last):
        odds = np.concatenate([_odds(path) for path in _scores(corpus, name, source, number)])[known]
        bins = np.floor((np.clip(odds, -12, 12) + 12) * (1024 / 24))
        taken = bins >= own["rounds"][number - 1]["threshold"]
        made["truth"][f"round {number}"] = float(truths[taken].mean())
        made[f"recalled in round {number}"] = int(taken.sum())
    count = int(taken.sum())
    drawn = np.random.default_rng(seed).permutation(len(truths))[:count]
    made["truth"] |= {
        "random": float(truths[drawn].mean()),
        "highest scores": float(truths[np.argsort(-scores, kind="stable")[:count]].mean()),
        "standard error": float(truths[taken].std() / max(1, count) ** 0.5),
    }
    good = scores >= np.quantile(scores, 0.75)
    for label, mask in (("good by score, recalled", good & taken), ("good by score, not recalled", good & ~taken)):
        made["truth"][label] = float(truths[mask].mean())
        made[label] = int(mask.sum())
    return made


def _column(corpus: Path, name: str, column: str) -> Iterator[Any]:
    for shard in list_shards(corpus):
        yield pq.read_table(annotation_shard(corpus, name, shard), columns=[column])[column]


def _facts(corpus: Path, name: str, source: str) -> list[Path]:
    return [corpus / "subsets" / name / source / "facts" / shard.name for shard in list_shards(corpus)]


def _scores(corpus: Path, name: str, source: str, number: int) -> list[Path]:
    folder = corpus / "subsets" / name / source / f"round-{number}" / "scores"
    return [folder / shard.name for shard in list_shards(corpus)]


def _odds(path: Path) -> np.ndarray:
    return pq.read_table(path)["log_odds"].to_numpy()


def _short(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is long."""
    return {
        key: _short(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in ("bins", "curve", "examples")
    }


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def tell(result: dict[str, Any]) -> None:
    corpus, used = result["corpus"], result["subset_cpu_s"]
    print(f"{corpus['documents']:,} files, {corpus['text_bytes'] / 1e6:,.0f} MB; {used:,.0f} CPU-seconds")
    for name, source in result["sources"].items():
        print(f"\n{name}: {source['held_out']:,} held-out files")
        for round_ in source["rounds"]:
            found = round_["validation"]
            print(
                f"  round {round_['round']}: {round_['positives']:,} positives, {round_['negatives']:,} negatives; "
                f"{round_['recalled']['documents']:,} recalled, mean score {round_['recalled']['mean_score']:.2f} "
                f"(all {round_['mean_score']:.2f}); precision {found['precision']:.3f}, recall {found['recall']:.3f}, "
                f"base {found['base_rate']:.3f}, AP {found['average_precision']:.3f}; {round_['found']:,} new"
            )
        print("  truth: " + ", ".join(f"{key} {value:.2f}" for key, value in source["truth"].items()))
    print(f"left out: {result['left_out']}")


if __name__ == "__main__":
    main()
