"""The whole data pipeline, from import to `.bin/.idx`, without an oracle: speed, new data, two workers.

Real code of this machine (see `tokenize_corpus.py`), exact duplicates left out, as one JSONL table. Every stage is the
command that a user types, start-up included (kernels are compiled before, once for an installation); times are CPU
seconds of all its processes.

pipeline      import, dedup (exact, near, repositories), annotate (syntax, signs, licence, secrets, decontamination),
              select and build, in MB of raw text per CPU-second, with each stage's share; the build with byte-level BPE
              and with the default tokenizer.
incremental   the same commands after 5 % of the documents were added, against those of the full run. Then `--rekey` and
              a new selection: annotations, selection and token files must be those of a run from nothing. (The corpus
              before is the full one with these documents removed and `--rekey`.)
alone         each level of deduplication and each annotator by itself, on a part of the corpus.
workers       the stages that run shard by shard: two workers on one corpus against two runs of one worker each, on a
              corpus of its own, at the same time. Ratio of throughput by wall clock, turn by turn; 16 shards.

    python benchmarks/data_pipeline.py --benchmarks ../shared/benchmarks --out data_pipeline.json
"""

import argparse
import ctypes
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from near_dedup import first_megabytes, read_files
from tokenize_corpus import PR_SET_CHILD_SUBREAPER, ROOTS, installed_versions, run

GOALS = {"byte_bpe": 2.0, "sentencepiece": 1.5, "incremental": 0.15, "workers": 0.85}
PARTS = ("pipeline", "incremental", "alone", "workers")
DATA = [sys.executable, "-c", "from data_prep.cli import app; app()"]
ANNOTATORS = ("syntax", "signs", "licence", "secrets", "decontamination")
LEVELS = ("exact", "near", "repositories")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=Path, required=True, help="folder of JSONL files to decontaminate against")
    parser.add_argument("--roots", nargs="+", default=ROOTS, help="folders to take code from")
    parser.add_argument("--megabytes", type=int, default=460)
    parser.add_argument("--part-megabytes", type=int, default=60, help="of that, for `alone` and `workers`")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--tokenizers", type=Path, help="folder of such tokenizers, by kind (default: trained here)")
    parser.add_argument("--repeats", type=int, default=3, help="of `workers`")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, help="where the temporary files go (default: the system's)")
    parser.add_argument("--out", type=Path, default=Path("data_pipeline.json"))
    arguments = parser.parse_args()
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory(prefix="data_pipeline-", dir=arguments.folder) as name:
        folder = Path(name)
        files = read_files(arguments.roots, arguments.megabytes * 1_000_000)
        random.Random(3).shuffle(files)
        cut = len(files) // 20
        tables = {"old": write_table(folder / "old.jsonl", files[cut:])}
        tables["new"] = write_table(folder / "new.jsonl", files[:cut])
        with_pipeline = bool({"pipeline", "incremental"} & {*arguments.parts})
        kinds = ("byte_bpe", "sentencepiece") if with_pipeline else ("byte_bpe",)
        tokenizers = make_tokenizers(arguments.tokenizers or folder, kinds, files, arguments.vocab_size)
        compile_kernels(folder / "warm", files[:30])
        if with_pipeline:
            results["pipeline"] = measure_pipeline(folder, tables, tokenizers, arguments.benchmarks)
        if "incremental" in arguments.parts:
            results["incremental"] = measure_incremental(folder, tables, tokenizers, arguments.benchmarks, results)
        shutil.rmtree(folder / "full", ignore_errors=True)
        part = first_megabytes(files, arguments.part_megabytes)
        if "alone" in arguments.parts:
            results["alone"] = measure_alone(folder / "alone", part, arguments.benchmarks)
        if "workers" in arguments.parts:
            results["workers"] = measure_workers(folder / "workers", part, tokenizers, arguments)
    print_table(results)
    setting = {"cpus": os.cpu_count(), "load": os.getloadavg()}
    setting["versions"] = installed_versions(sys.executable, ["numba", "numpy", "pyarrow", "duckdb", "gigatoken"])
    arguments.out.write_text(json.dumps({**setting, **results}, indent=1) + "\n")


def write_table(path: Path, files: Sequence[tuple[str, str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as stream:
        for repository, name, text in files:
            record = {"repo": repository, "path": name, "content": text}
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path


def make_tokenizers(
    folder: Path, kinds: Sequence[str], files: Sequence[tuple[str, str, str]], vocab_size: int
) -> dict[str, Path]:
    from tokenizer.train import TrainSettings, train

    made = {}
    for kind in kinds:
        made[kind] = folder / kind
        if not made[kind].exists():
            texts = (text for _, _, text in files[::8])
            train(texts, made[kind], TrainSettings(vocab_size, kind, max_chars=20_000_000))
    return made


def compile_kernels(folder: Path, files: Sequence[tuple[str, str, str]]) -> None:
    """Deduplicates a few files and variants of them, for which every kernel is needed."""
    variants = [(repository, f"{path}.variant", f"{text}\nvariant") for repository, path, text in files]
    table = write_table(folder / "code.jsonl", [*files, *variants])
    for command in (["import", folder / "corpus", f"code={table}"], ["dedup", folder / "corpus"]):
        run([*DATA, *command], "1")


def stages(
    corpus: Path, tables: Mapping[str, Path], tokenizer: Path, benchmarks: Path, workers: int = 2
) -> dict[str, list]:
    """The commands of a run, by stage."""
    sources = [f"{name}={table}" for name, table in tables.items()]
    commands = {
        "import": ["import", corpus, *sources],
        "dedup": ["dedup", corpus],
        "annotate": ["annotate", corpus, *ANNOTATORS, "--benchmarks", benchmarks],
        "select": ["select", corpus],
        "build": ["build", corpus, corpus / "build", "--tokenizer", tokenizer],
    }
    return {name: [*DATA, *command, "--workers", workers] for name, command in commands.items()}


def cpu_seconds(commands: Mapping[str, list]) -> dict[str, float]:
    taken = {}
    for stage, command in commands.items():
        print(f"  {stage} ...", file=sys.stderr)
        taken[stage] = run(command, "1")["cpu_s"]
    return taken


def size_of(corpus: Path) -> float:
    """MB of text."""
    return json.loads((corpus / "import.json").read_bytes())["text_bytes"] / 1e6


def measure_pipeline(folder: Path, tables: dict, tokenizers: dict, benchmarks: Path) -> dict:
    print("pipeline ...", file=sys.stderr)
    corpus = folder / "full"
    cpu_s = cpu_seconds(stages(corpus, tables, tokenizers["byte_bpe"], benchmarks))
    default = [*DATA, "build", corpus, corpus / "default", "--tokenizer", tokenizers["sentencepiece"], "--workers", 2]
    by_kind = {"byte_bpe": cpu_s["build"], "sentencepiece": run(default, "1")["cpu_s"]}
    before = sum(cpu_s.values()) - cpu_s["build"]
    megabytes = size_of(corpus)
    return {
        "megabytes": megabytes,
        "cpu_s": cpu_s,
        "share": {stage: taken / sum(cpu_s.values()) for stage, taken in cpu_s.items()},
        "build_cpu_s": by_kind,
        "mb_per_cpu_s": {kind: megabytes / (before + taken) for kind, taken in by_kind.items()},
    }


def measure_incremental(folder: Path, tables: dict, tokenizers: dict, benchmarks: Path, results: dict) -> dict:
    print("incremental ...", file=sys.stderr)
    corpus, full = folder / "grown", folder / "full"
    shutil.copytree(full, corpus)
    before = stages(corpus, {"old": tables["old"]}, tokenizers["byte_bpe"], benchmarks)
    before["import"] += ["--remove", "new"]
    before["dedup"] += ["--rekey"]
    cpu_seconds(before)
    added = cpu_seconds(stages(corpus, tables, tokenizers["byte_bpe"], benchmarks))
    whole = results["pipeline"]["cpu_s"]
    commands = stages(corpus, tables, tokenizers["byte_bpe"], benchmarks)
    build = [*DATA, "build", corpus, corpus / "anew", "--tokenizer", tokenizers["byte_bpe"], "--selection", "anew"]
    for command in ([*commands["dedup"], "--rekey"], [*commands["select"], "--selection", "anew"], build):
        run(command, "1")
    pairs = [("annotations", "annotations"), ("selections/anew", "selections/main"), ("anew", "build")]
    equal = all(contents(corpus / mine) == contents(full / theirs) for mine, theirs in pairs)
    shutil.rmtree(corpus)
    return {
        "cpu_s": added,
        "of_full": {stage: taken / whole[stage] for stage, taken in added.items()},
        "share": sum(added.values()) / sum(whole.values()),
        "rekey_equals_full_run": equal,
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Of tables and token files."""
    wanted = (".parquet", ".bin", ".idx")
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.suffix in wanted}


def measure_alone(folder: Path, files: Sequence[tuple[str, str, str]], benchmarks: Path) -> dict:
    print("alone ...", file=sys.stderr)
    corpus = folder / "corpus"
    run([*DATA, "import", corpus, f"code={write_table(folder / 'code.jsonl', files)}"], "1")
    commands = {level: ["dedup", corpus, f"--{level}"] for level in LEVELS}
    commands |= {name: ["annotate", corpus, name] for name in ANNOTATORS}
    commands["decontamination"] += ["--benchmarks", benchmarks]
    cpu_s = cpu_seconds({name: [*DATA, *command, "--workers", 1] for name, command in commands.items()})
    return {"megabytes": size_of(corpus), "cpu_s": cpu_s}


def measure_workers(
    folder: Path, files: Sequence[tuple[str, str, str]], tokenizers: dict, arguments: argparse.Namespace
) -> dict:
    print("workers ...", file=sys.stderr)
    table = {"code": write_table(folder / "code.jsonl", files)}
    corpora = [folder / "one", folder / "other"]
    taken: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        for corpus in corpora:
            shutil.rmtree(corpus, ignore_errors=True)
        two = [stages(corpus, table, tokenizers["byte_bpe"], arguments.benchmarks, workers=1) for corpus in corpora]
        one = stages(folder / "together", table, tokenizers["byte_bpe"], arguments.benchmarks, workers=2)
        for commands in (one, *two):
            commands["import"] += ["--shard-bytes", arguments.part_megabytes * 1_000_000 // 16]
        shutil.rmtree(folder / "together", ignore_errors=True)
        for stage in ("import", "dedup", "annotate", "select", "build"):
            apart = wall_seconds([commands[stage] for commands in two])
            together = wall_seconds([one[stage]])
            if stage != "select":
                taken.setdefault(stage, []).append(apart / 2 / together)
                taken.setdefault("seconds apart", []).append(apart)
                taken.setdefault("seconds together", []).append(together)
            print(f"  {stage}: apart {apart:.1f} s, together {together:.1f} s", file=sys.stderr)
    apart, together = (sum(taken.pop(f"seconds {how}")) for how in ("apart", "together"))
    return {"ratio": apart / 2 / together, "by_stage": {s: statistics.median(r) for s, r in taken.items()}}


def wall_seconds(commands: Sequence[list]) -> float:
    """Of all commands at the same time."""
    start = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "RAYON_NUM_THREADS": "1"}}
    processes = [subprocess.Popen(list(map(str, command)), **quiet) for command in commands]
    if any(process.wait() for process in processes):
        raise SystemExit("a command failed")
    return time.perf_counter() - start


def print_table(results: dict[str, dict]) -> None:
    if part := results.get("pipeline"):
        print(f"pipeline, {part['megabytes']:,.0f} MB; CPU-seconds")
        for stage, taken in part["cpu_s"].items():
            print(f"  {stage:<16} {taken:8.2f} {part['share'][stage]:7.1%}")
        for kind, speed in part["mb_per_cpu_s"].items():
            print(f"  {kind:<16} {speed:8.2f} MB per CPU-second (>= {GOALS[kind]})")
    if part := results.get("incremental"):
        print("5 % new documents; CPU-seconds and share of the full run's")
        for stage, taken in part["cpu_s"].items():
            print(f"  {stage:<16} {taken:8.2f} {part['of_full'][stage]:7.3f}")
        print(f"  {'all':<16} {sum(part['cpu_s'].values()):8.2f} {part['share']:7.3f} (<= {GOALS['incremental']})")
        print(f"  --rekey gives the bytes of a run from nothing: {part['rekey_equals_full_run']}")
    if part := results.get("alone"):
        print(f"alone, {part['megabytes']:,.0f} MB; CPU-seconds, MB per CPU-second")
        for stage, taken in part["cpu_s"].items():
            print(f"  {stage:<16} {taken:8.2f} {part['megabytes'] / taken:8.1f}")
    if part := results.get("workers"):
        print(f"two workers, of two runs at the same time: {part['ratio']:.2f} (>= {GOALS['workers']})")
        print("  " + ", ".join(f"{stage} {ratio:.2f}" for stage, ratio in part["by_stage"].items()))


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    main()
