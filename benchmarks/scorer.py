"""Scorers on real code of this machine: do they learn an oracle's scores, and how fast do they score?

Installed packages are the repositories. A sample is rated over HTTP by an endpoint whose rules are hidden
(`hidden_oracle.py`), through `data oracle`; the scorer sees scores of some repositories and is measured on others,
beside always saying the mean, a regressor of the file's length alone, and a scorer trained on shuffled scores.

    python benchmarks/scorer.py --work FOLDER --out scorer.json
    python benchmarks/scorer.py --work FOLDER --llama CHECKPOINT --out scorer.json   # and a model scorer

A pretrained checkpoint of this very machine is what `make quickstart` leaves in runs/quickstart/train.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from hidden_oracle import serve
from real_code import ROOTS, files

from data_prep.dedup.levels import deduplicate
from data_prep.documents import list_shards
from data_prep.held_out import HeldOut
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.scorer.base import open_scorer
from data_prep.scorer.examples import load_examples, scores_of
from data_prep.scorer.linear import LinearSettings, fit
from data_prep.scorer.measure import measure
from data_prep.scorer.train import predict, train_scorer

ORACLE = "hidden"
MOST_ERROR, LEAST_SPEARMAN = 0.7, 0.6
_PER_REPOSITORY, _MOST_BYTES = 400, 1 << 18
_BINS = 30  # of the length-only regressor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for corpus and scorers; kept, and used again")
    parser.add_argument("--files", type=int, default=12_000, help="that the oracle rates")
    parser.add_argument("--llama", type=Path, help="pretrained checkpoint or run folder")
    parser.add_argument(
        "--llama-set", nargs="*", default=["file_tokens=512", "learning_rate=5e-4"], metavar="KEY=VALUE"
    )
    parser.add_argument("--processes", type=int, default=1, help="to train the model scorer on")
    parser.add_argument("--out", type=Path, default=Path("scorer.json"))
    arguments = parser.parse_args()
    corpus = arguments.work / "corpus"
    result: dict[str, Any] = {"load": os.getloadavg(), "corpus": make_corpus(arguments.work)}
    ask(corpus, arguments.files)
    split = HeldOut(fraction=0.25, seed=1)
    examples = load_examples(corpus, ORACLE, split)
    train, held_out = scores_of(examples.train), scores_of(examples.held_out)
    result["scored"] = {"train": len(train), "held_out": len(held_out), **examples.counts}
    rows = {"length only": length_only(examples.train, train, examples.held_out)}
    cpu = _cpu_s()
    train_scorer(corpus, ORACLE, arguments.work / "linear", held_out=split.fraction, seed=split.seed)
    result["linear_training_cpu_s"] = _cpu_s() - cpu
    rows["linear"] = predict(open_scorer(arguments.work / "linear"), examples.held_out)
    shuffled = np.random.default_rng(0).permutation(train)
    rows["linear, shuffled scores"] = predict(fit(examples.train, shuffled, LinearSettings(), 1)[0], examples.held_out)
    if arguments.llama:
        settings = dict(entry.split("=", 1) for entry in arguments.llama_set)
        settings = {key: json.loads(value) for key, value in settings.items()}
        cpu, began = _cpu_s(), time.perf_counter()
        train_scorer(corpus, ORACLE, arguments.work / "llama", "llama", settings, split.fraction, split.seed,
                     arguments.llama, processes=arguments.processes)  # fmt: skip
        result["llama_training"] = {"cpu_s": _cpu_s() - cpu, "s": time.perf_counter() - began, "settings": settings}
        began = time.process_time()
        rows["llama"] = predict(open_scorer(arguments.work / "llama"), examples.held_out)
        size = sum(len(example["text"].encode()) for example in examples.held_out)
        result["llama_mb_per_cpu_s"] = size / 1e6 / (time.process_time() - began)
    languages = [example["language"] for example in examples.held_out]
    result["scorers"] = {name: measure(held_out, found, languages, train) for name, found in rows.items()}
    result |= speed(corpus, arguments.work / "linear")
    tell(result)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def make_corpus(work: Path) -> dict[str, Any]:
    """Imports the packages of this machine and finds duplicates among them, unless that is done."""
    corpus, table = work / "corpus", work / "files.jsonl"
    if not (corpus / "import.json").is_file():
        work.mkdir(parents=True, exist_ok=True)
        with table.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row) + "\n" for row in installed())
        limits = ImportLimits(max_file_bytes=_MOST_BYTES, shard_bytes=32 << 20)
        import_documents([SourceSpec("jsonl", str(table), "installed")], corpus, limits, 2)
        deduplicate(corpus, 2)
    imported = json.loads((corpus / "import.json").read_bytes())
    sizes = {name: row["documents"] for name, row in imported["languages"].items()}
    return {"documents": imported["documents"], "text_bytes": imported["text_bytes"], "languages": sizes}


def installed() -> Iterator[dict[str, str]]:
    """Files of each package, those with the smallest hashes where there are many."""
    repositories: dict[str, list[tuple[bytes, str, str]]] = {}
    for root, path, data in files(list(ROOTS), None, _MOST_BYTES):
        name, slash, _ = os.path.relpath(path, root).partition("/")
        if slash and not name.endswith("-packages"):
            try:
                text = data.decode()
            except UnicodeDecodeError:
                continue
            entry = (hashlib.sha256(data).digest(), path, text)
            repositories.setdefault(f"{Path(root).name}/{name}", []).append(entry)
    for repository, found in sorted(repositories.items()):
        for _, path, text in sorted(found)[:_PER_REPOSITORY]:
            yield {"repository": repository, "path": path, "content": text}


def ask(corpus: Path, count: int) -> None:
    """Has a sample rated over HTTP; answers that are there are not asked for again. Languages by their counts."""
    config = corpus.parent / "oracle.yaml"
    counts = Counter()
    for shard in list_shards(corpus):
        counts.update(pq.read_table(shard, columns=["language"])["language"].to_pylist())
    config.write_text(json.dumps({"sample": {"counts": counts}, "request": {"model": ORACLE}}))
    with serve() as url:
        command = [str(Path(sys.executable).with_name("megatron-seed")), "data", "oracle", "run", str(corpus), ORACLE]
        command += ["--url", url, "--config", str(config), "--files", str(count)]
        subprocess.run(command, check=True)


def length_only(train: Sequence[dict], scores: np.ndarray, held_out: Sequence[dict]) -> np.ndarray:
    """The mean score of the training files of about the same length."""
    lengths = np.array([len(example["text"].encode()) for example in train])
    bounds = np.quantile(lengths, np.linspace(0, 1, _BINS + 1)[1:-1])
    bins = np.searchsorted(bounds, lengths)
    means = np.array(
        [scores[bins == place].mean() if (bins == place).any() else scores.mean() for place in range(_BINS)]
    )
    return means[np.searchsorted(bounds, [len(example["text"].encode()) for example in held_out])]


def speed(corpus: Path, folder: Path) -> dict[str, float]:
    """Of scoring alone, all texts in memory; and of `data score apply`, reading and writing included."""
    texts = []
    for shard in list_shards(corpus):
        texts += pq.read_table(shard, columns=["text", "language"]).to_pylist()
    size = sum(len(document["text"].encode()) for document in texts) / 1e6
    scorer = open_scorer(folder)
    predict(scorer, texts[:10])
    began = time.process_time()
    predict(scorer, texts)
    alone = size / (time.process_time() - began)
    cpu = _cpu_s()
    command = [
        str(Path(sys.executable).with_name("megatron-seed")),
        "data",
        "score",
        "apply",
        str(corpus),
        str(folder),
        "--workers",
        "1",
    ]
    subprocess.run(command, check=True)
    return {"linear_mb_per_cpu_s": alone, "apply_mb_per_cpu_s": size / (_cpu_s() - cpu)}


def _cpu_s() -> float:
    """Of this process and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def tell(result: dict[str, Any]) -> None:
    corpus, scored = result["corpus"], result["scored"]
    print(f"{corpus['documents']:,} files, {corpus['text_bytes'] / 1e6:,.0f} MB; scored: {scored}")
    print(f"{'':26}{'MAE':>8}{'of mean predictor':>19}{'by class':>10}{'Spearman':>10}   met")
    length = result["scorers"]["length only"]["mae"]
    for name, row in result["scorers"].items():
        ratio, spearman = row["mae"] / row["mean_predictor_mae"], row["spearman"] or 0.0
        met = ratio <= MOST_ERROR and row["mae"] < length and spearman >= LEAST_SPEARMAN
        numbers = f"{row['mae']:8.3f}{ratio:19.3f}{row['class_mae']:10.3f}{spearman:10.3f}"
        print(f"{name:26}{numbers}   {'yes' if met else 'no'}")
    print(f"linear: {result['linear_mb_per_cpu_s']:.0f} MB per CPU-second, apply {result['apply_mb_per_cpu_s']:.0f}")


if __name__ == "__main__":
    main()
