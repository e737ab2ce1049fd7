"""Scorers on real code of this machine: do they learn an oracle's scores, and how fast do they score?

Installed packages are the repositories. A sample is rated over HTTP by an endpoint whose rules are hidden
(`launch/full/stand_in.py`), through `data oracle`; the scorer sees scores of some repositories and is measured on
others, beside always saying the mean, a regressor of the file's length alone, and a scorer trained on shuffled scores.

    python benchmarks/scorer.py --work FOLDER --seed 7 --out scorer.json
    python benchmarks/scorer.py --work FOLDER --seed 7 --llama --out scorer.json   # and, on fewer files, a model scorer
    python benchmarks/scorer.py --work FOLDER --seed 7 --fasttext PYTHON --out scorer.json   # and fastText

Another seed is another sample, another draw of the oracle's noise and another split: a scorer that was changed after a
look at one seed's held-out files is to be measured with another. The model scorer begins with a small model that is
pretrained here on the training side of the split (`pretrain_small.py`), or with `--llama CHECKPOINT`; beside it stands
the linear one, trained and measured on the same files.
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
from pretrain_small import pretrain
from real_code import ROOTS, files

from data_prep.dedup.levels import deduplicate
from data_prep.documents import list_shards
from data_prep.held_out import HeldOut
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.oracle.scores import read_scores
from data_prep.scorer.base import open_scorer
from data_prep.scorer.examples import Examples, load_examples, scores_of
from data_prep.scorer.linear import LinearSettings, fit
from data_prep.scorer.measure import measure
from data_prep.scorer.train import MEASURED, predict, train_scorer
from launch.full.stand_in import serve

ORACLE = "hidden"
MOST_ERROR, LEAST_SPEARMAN = 0.7, 0.6
_PER_REPOSITORY, _MOST_BYTES = 400, 1 << 18
_BINS = 30  # of the length-only regressor
_TIMED = 300  # files that both scorers' speed is measured on

_PEAK = r"""
import re, sys
from pathlib import Path
from data_prep.scorer.train import train_scorer
corpus, oracle, out, most_bytes, fraction, seed = sys.argv[1:]
settings = {"most_bytes": int(most_bytes)}
train_scorer(Path(corpus), oracle, Path(out), settings=settings, held_out=float(fraction), seed=int(seed))
print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for corpus and scorers; kept, and used again")
    parser.add_argument("--files", type=int, default=9_000, help="that the oracle rates")
    parser.add_argument("--seed", type=int, default=1, help="of the sample, of the oracle's noise, of what is held out")
    parser.add_argument("--llama", nargs="?", const="", help="also a model scorer; of this checkpoint or run folder")
    parser.add_argument("--llama-files", type=int, default=3_000, help="of those that the oracle rates, for it")
    parser.add_argument("--llama-tokens", type=int, default=983_040, help="that its model is pretrained on")
    parser.add_argument(
        "--llama-set",
        nargs="*",
        default=["file_tokens=512", "batch_rows=4", "micro_batch_rows=4", "learning_rate=1e-3"],
        metavar="KEY=VALUE",
    )
    parser.add_argument("--processes", type=int, default=1, help="to train the model scorer on")
    parser.add_argument("--fasttext", type=Path, help="Python of an environment that has fastText: beside it")
    parser.add_argument("--out", type=Path, default=Path("scorer.json"))
    arguments = parser.parse_args()
    corpus = arguments.work / "corpus"
    result: dict[str, Any] = {"load": os.getloadavg(), "corpus": make_corpus(arguments.work)}
    oracle = f"{ORACLE}-{arguments.seed}"
    ask(corpus, oracle, arguments.files, arguments.seed)
    split = HeldOut(fraction=0.25, seed=arguments.seed)
    examples = load_examples(corpus, oracle, split)
    train, held_out = scores_of(examples.train), scores_of(examples.held_out)
    result["scored"] = {"train": len(train), "held_out": len(held_out), **examples.counts}
    rows = {"length only": length_only(examples.train, train, examples.held_out)}
    cpu = _cpu_s()
    linear = arguments.work / f"linear-{arguments.seed}"
    train_scorer(corpus, oracle, linear, held_out=split.fraction, seed=split.seed)
    result["linear_training_cpu_s"] = _cpu_s() - cpu
    rows["linear"] = predict(open_scorer(linear), examples.held_out)
    shuffled = np.random.default_rng(0).permutation(train)
    rows["linear, shuffled scores"] = predict(fit(examples.train, shuffled, LinearSettings(), 1)[0], examples.held_out)
    if arguments.fasttext:
        result["fasttext"], rows["fastText"] = beside_fasttext(arguments.fasttext, arguments.work, examples)
    languages = [example["language"] for example in examples.held_out]
    result["scorers"] = {name: measure(held_out, found, languages, train) for name, found in rows.items()}
    result |= speed(corpus, linear)
    result["memory"] = memory(corpus, oracle, arguments.work, split)
    if arguments.llama is not None:
        result["llama"] = beside_a_model(corpus, arguments, split)
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


def ask(corpus: Path, oracle: str, count: int, seed: int) -> None:
    """Has a sample rated over HTTP; answers that are there are not asked for again. Languages by their counts."""
    config = corpus.parent / f"{oracle}.yaml"
    counts = Counter()
    for shard in list_shards(corpus):
        counts.update(pq.read_table(shard, columns=["language"])["language"].to_pylist())
    config.write_text(json.dumps({"sample": {"counts": counts, "seed": seed}, "request": {"model": f"hidden-{seed}"}}))
    with serve() as url:
        command = [str(Path(sys.executable).with_name("megatron-seed")), "data", "oracle", "run", str(corpus), oracle]
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


def beside_fasttext(python: Path, work: Path, examples: Examples) -> tuple[dict[str, float], np.ndarray]:
    """CPU-seconds to train fastText, its MB per CPU-second, and its scores of what is held out."""
    places = []
    for name, rows in (("train", examples.train), ("held_out", examples.held_out)):
        places.append(str(work / f"fasttext-{name}.jsonl"))
        with open(places[-1], "w", encoding="utf-8") as out:
            out.writelines(json.dumps({"text": row["text"], "score": row["score"]}) + "\n" for row in rows)
    script = str(Path(__file__).with_name("fasttext_scores.py"))
    result = json.loads(subprocess.run([str(python), script, *places], check=True, stdout=subprocess.PIPE).stdout)
    return result, np.array(result.pop("scores"), np.float32)


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


def memory(corpus: Path, oracle: str, work: Path, split: HeldOut) -> list[dict[str, float]]:
    """Peak memory of training the linear scorer, for a quarter of the bytes of scored files and for all of them."""
    whole = sum(read_scores(corpus, oracle)["size_bytes"].to_pylist())
    rows = []
    for most_bytes in (whole // 4, whole):
        words = [sys.executable, "-c", _PEAK, corpus, oracle, work / "memory", most_bytes, split.fraction, split.seed]
        said = subprocess.run([*map(str, words)], check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append({"text_mb": most_bytes / 1e6, "peak_mb": int(said) * 1024 / 1e6})
    return rows


def beside_a_model(corpus: Path, arguments: argparse.Namespace, split: HeldOut) -> dict[str, Any]:
    """A linear and a model scorer on the beginning of the sample: errors, CPU-seconds to train, MB per CPU-second."""
    oracle, work = f"{ORACLE}-{arguments.seed}-{arguments.llama_files}", arguments.work
    ask(corpus, oracle, arguments.llama_files, arguments.seed)
    examples = load_examples(corpus, oracle, split)
    train, held_out = scores_of(examples.train), scores_of(examples.held_out)
    cpu = _cpu_s()
    checkpoint = Path(arguments.llama) if arguments.llama else None
    checkpoint = checkpoint or pretrain(corpus, work / f"pretrain-{split.seed}", split, arguments.llama_tokens)
    result: dict[str, Any] = {"train": len(train), "held_out": len(held_out), "pretraining_cpu_s": _cpu_s() - cpu}
    languages = [example["language"] for example in examples.held_out]
    by_length = length_only(examples.train, train, examples.held_out)
    result["length only"] = measure(held_out, by_length, languages, train)
    timed = examples.held_out[:_TIMED]
    size = sum(len(example["text"].encode()) for example in timed) / 1e6
    settings = {key: json.loads(value) for key, value in (entry.split("=", 1) for entry in arguments.llama_set)}
    for kind, own, begin in (("linear", {}, None), ("llama", settings, checkpoint)):
        folder, cpu = work / f"{kind}-{arguments.seed}-{arguments.llama_files}", _cpu_s()
        train_scorer(corpus, oracle, folder, kind, own, split.fraction, split.seed, begin,
                     processes=arguments.processes)  # fmt: skip
        used, scorer = _cpu_s() - cpu, open_scorer(folder)
        predict(scorer, timed[:10])
        began = time.process_time()
        predict(scorer, timed)
        took = time.process_time() - began
        report = json.loads((folder.with_name(f"{folder.name}.{MEASURED}") / "report.json").read_bytes())
        speeds = {"mb_per_cpu_s": size / took, "files_per_cpu_s": len(timed) / took}
        result[kind] = {**report["measured"], "training_cpu_s": used, "settings": own, **speeds}
    return result


def _cpu_s() -> float:
    """Of this process and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def tell(result: dict[str, Any]) -> None:
    corpus, scored = result["corpus"], result["scored"]
    print(f"{corpus['documents']:,} files, {corpus['text_bytes'] / 1e6:,.0f} MB; scored: {scored}")
    _table(result["scorers"])
    print(f"linear: {result['linear_mb_per_cpu_s']:.0f} MB per CPU-second, apply {result['apply_mb_per_cpu_s']:.0f}")
    if found := result.get("fasttext"):
        print(f"fastText: {found['training_cpu_s']:,.0f} CPU-s to train, {found['mb_per_cpu_s']:.1f} MB per CPU-second")
    for row in result["memory"]:
        print(f"linear: trained on {row['text_mb']:,.0f} MB of scored files, peak memory {row['peak_mb']:,.0f} MB")
    if found := result.get("llama"):
        print(f"\non {found['train']:,} files, measured on {found['held_out']:,}:")
        _table({name: found[name] for name in ("length only", "linear", "llama")})
        print(f"pretraining {found['pretraining_cpu_s']:,.0f} CPU-seconds")
        for kind in ("linear", "llama"):
            row = found[kind]
            speeds = f"{row['mb_per_cpu_s']:.2f} MB or {row['files_per_cpu_s']:,.0f} files per CPU-second"
            print(f"{kind}: trained and measured in {row['training_cpu_s']:,.0f} CPU-seconds; {speeds}")


def _table(scorers: dict[str, Any]) -> None:
    print(f"{'':26}{'MAE':>8}{'of mean predictor':>19}{'by class':>10}{'Spearman':>10}   met")
    length = scorers["length only"]["mae"]
    for name, row in scorers.items():
        ratio, spearman = row["mae"] / row["mean_predictor_mae"], row["spearman"] or 0.0
        met = ratio <= MOST_ERROR and row["mae"] < length and spearman >= LEAST_SPEARMAN
        numbers = f"{row['mae']:8.3f}{ratio:19.3f}{row['class_mae']:10.3f}{spearman:10.3f}"
        print(f"{name:26}{numbers}   {'yes' if met else 'no'}")


if __name__ == "__main__":
    main()
