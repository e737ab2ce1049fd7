"""Tokenising a corpus, side by side with datatrove and with one raw call of the encoder.

What is timed is `data build` as a user runs it: start-up, reading parquet, encoding, `.bin/.idx`, provenance, digests,
fsync. Against it: datatrove's MegatronDocumentTokenizer on the same parquet files with the same tokenizer and as many
workers (its start-up included, too), and gigatoken given all texts in memory in one call on as many threads (nothing
but loading the tokenizer and that call). Runs are interleaved; the table shows medians of CPU time (of all processes)
and of wall time. The ids must be the same as datatrove's, file by file.

The corpus is code of this machine (the standard library, installed packages, /usr/include, ...), exact duplicates left
out. The peer needs an environment of its own:

    python -m venv PEER
    PEER/bin/pip install datatrove==0.10.1 tokenizers==0.23.3 numpy==2.4.6 pyarrow==26.0.1
    python benchmarks/tokenize_corpus.py --peer-python PEER/bin/python --out tokenize_corpus.json
"""

import argparse
import ctypes
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

KINDS = ("byte_bpe", "sentencepiece")
# kind: at least this many times as fast as datatrove, at least this share of the speed of the raw call
TARGETS = {"byte_bpe": (8.0, 0.5), "sentencepiece": (2.0, 0.6)}
LANGUAGES = "py pyi c h cc cpp hpp hh cu cuh js ts go rs java rb pl pm sh lua tcl cmake"
SUFFIXES = frozenset(f".{suffix}" for suffix in LANGUAGES.split())
ROOTS = (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], "/usr/include", "/usr/lib", "/usr/share")
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, help="Python of an environment with datatrove; left out without")
    parser.add_argument("--roots", nargs="+", default=ROOTS, help="folders to take code from")
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--out", type=Path, default=Path("tokenize_corpus.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenize_corpus-") as folder:
        corpus = make_corpus(Path(folder), arguments.roots, arguments.megabytes * 1_000_000)
        rows = [measure(kind, Path(folder), corpus, arguments) for kind in arguments.kinds]
        versions = installed_versions(sys.executable, ["gigatoken", "tokenizers", "pyarrow", "numpy"])
    if arguments.peer_python:
        versions["peer"] = installed_versions(arguments.peer_python, ["datatrove", "tokenizers", "pyarrow", "numpy"])
    print_table(rows)
    setting = {"workers": arguments.workers, "repeats": arguments.repeats, "cpus": os.cpu_count()}
    arguments.out.write_text(json.dumps({**setting, "versions": versions, "rows": rows}, indent=1) + "\n")


def make_corpus(folder: Path, roots: list[str], max_bytes: int) -> Path:
    """A corpus and a selection of all of it. Not timed, and in this process: see `wait_for_orphans`."""
    from data_prep.importing import ImportLimits, SourceSpec, import_documents
    from data_prep.select import SelectionConfig, select

    total = 0
    with open(folder / "code.jsonl", "w", encoding="utf-8") as stream:
        for path, text in code_files(roots):
            stream.write(json.dumps({"path": str(path), "text": text}, ensure_ascii=False) + "\n")
            total += len(text.encode())
            if total >= max_bytes:
                break
    limits = ImportLimits(shard_bytes=16 << 20)
    report = import_documents([SourceSpec("jsonl", str(folder / "code.jsonl"), "code")], folder / "corpus", limits, 1)
    select(folder / "corpus", "main", SelectionConfig(rules=(), held_out={"fraction": 0.0}))
    print(f"{report.documents:,} files, {report.text_bytes / 1e6:,.1f} MB, {report.shards} shards", file=sys.stderr)
    return folder / "corpus"


def code_files(roots: list[str]) -> Iterator[tuple[Path, str]]:
    """Code in UTF-8 below `roots`, each content once."""
    seen = set()
    for root in roots:
        for directory, folders, names in os.walk(root):
            folders.sort()
            for path in (Path(directory, name) for name in sorted(names) if Path(name).suffix in SUFFIXES):
                if path.is_symlink() or not 0 < path.stat().st_size < 1 << 20:
                    continue
                data = path.read_bytes()
                digest = hashlib.sha256(data).digest()
                if digest in seen:
                    continue
                seen.add(digest)
                try:
                    yield path, data.decode()
                except UnicodeDecodeError:
                    continue


def measure(kind: str, folder: Path, corpus: Path, arguments: argparse.Namespace) -> dict:
    tokenizer, marker_free, eos = make_tokenizer(kind, folder, corpus, arguments.vocab_size)
    workers, ours_out, peer_out = str(arguments.workers), folder / "ours", folder / "peer"
    build = "from data_prep.cli import app; app()"
    commands = {
        "ours": [sys.executable, "-c", build, "build", corpus, ours_out, "--tokenizer", tokenizer, "--fim-rate", "0"],
        "raw": [sys.executable, "-c", RAW_CALL, corpus, marker_free, workers],
    }
    commands["ours"] += ["--workers", workers]
    if arguments.peer_python:
        commands["peer"] = [
            arguments.peer_python,
            "-c",
            PEER,
            corpus / "documents",
            marker_free,
            eos,
            peer_out,
            workers,
        ]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            shutil.rmtree(ours_out if name == "ours" else peer_out, ignore_errors=True)
            took = run(command, workers)
            runs[name].append(json.loads(took.pop("stdout")) if name == "raw" else took)
        if arguments.peer_python:
            require_same_tokens(ours_out, peer_out)
    return summary(kind, ours_out, runs)


def make_tokenizer(kind: str, folder: Path, corpus: Path, vocab_size: int) -> tuple[Path, Path, str]:
    """A tokenizer directory, the same as one file that knows no markers in texts, and what eos is called there."""
    from data_prep.texts import selected_texts
    from tokenizer.definition import for_raw_text
    from tokenizer.train import TrainSettings, train

    settings = TrainSettings(vocab_size, kind, max_chars=40_000_000)
    train(selected_texts(corpus, "main", "train"), folder / kind, settings)
    raw = for_raw_text(json.loads((folder / kind / "tokenizer.json").read_text()), [])
    (folder / f"{kind}.json").write_text(json.dumps(raw, ensure_ascii=False))
    return folder / kind, folder / f"{kind}.json", next(t for t, index in raw["model"]["vocab"].items() if index == 2)


def run(command: list, workers: str) -> dict:
    """Runs a command to the end of its last process; wall and CPU seconds."""
    environment = {**os.environ, "RAYON_NUM_THREADS": workers, "PYTHONWARNINGS": "ignore"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    wall = time.perf_counter() - started
    if result.returncode:
        raise SystemExit(f"{command[0]} failed:\n{result.stdout[-2000:]}{result.stderr[-4000:]}")
    wait_for_orphans()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "stdout": result.stdout}


def wait_for_orphans() -> None:
    """Processes that outlive the one that started them come to us, so that their CPU time counts."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def require_same_tokens(ours: Path, peer: Path) -> None:
    expected = hashlib.sha256()
    for part in sorted(peer.glob("*.bin")):
        expected.update(part.read_bytes())
    [found] = ours.glob("*.bin")
    if hashlib.sha256(found.read_bytes()).digest() != expected.digest():
        raise SystemExit(f"the tokens differ: {found} and {peer}/*.bin")


def summary(kind: str, ours_out: Path, runs: dict[str, list[dict[str, float]]]) -> dict:
    [manifest] = (json.loads(path.read_text()) for path in ours_out.glob("*.manifest.json"))
    megabytes = manifest["size_bytes"] / 1e6
    row = {"kind": kind, "megabytes": megabytes, "documents": manifest["documents"], "tokens": manifest["tokens"]}
    for clock in ("cpu_s", "wall_s"):
        median = {name: statistics.median(took[clock] for took in all_runs) for name, all_runs in runs.items()}
        row[clock] = median
        row[f"mb_per_{clock}"] = {name: megabytes / seconds for name, seconds in median.items()}
        row[f"of_raw_{clock}"] = median["raw"] / median["ours"]
        if "peer" in median:
            row[f"times_peer_{clock}"] = median["peer"] / median["ours"]
    row["runs"] = {name: [{c: took[c] for c in ("cpu_s", "wall_s")} for took in every] for name, every in runs.items()}
    return row


def print_table(rows: list[dict]) -> None:
    names = f"{'tokenizer':>14} {'clock':>5} {'ours MB/s':>10} {'datatrove':>10} {'raw call':>9}"
    print(f"{names} {'x datatrove':>14} {'of raw':>14}")
    for row in rows:
        times, share = TARGETS[row["kind"]]
        for clock in ("cpu_s", "wall_s"):
            speed = row[f"mb_per_{clock}"]
            peer, ratio = speed.get("peer", float("nan")), row.get(f"times_peer_{clock}", float("nan"))
            print(
                f"{row['kind']:>14} {clock[:-2]:>5} {speed['ours']:>10.1f} {peer:>10.1f} {speed['raw']:>9.1f} "
                f"{ratio:>6.1f} (>= {times:.0f}) {row[f'of_raw_{clock}']:>5.2f} (>= {share})"
            )


def installed_versions(python: str | Path, names: list[str]) -> dict[str, str]:
    code = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    return json.loads(subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True).stdout)


RAW_CALL = """
import json, resource, sys, time
from pathlib import Path
import gigatoken
from data_prep.texts import selected_texts
from tokenizer.definition import with_space_symbols
corpus, definition, threads = sys.argv[1:]
texts = list(selected_texts(Path(corpus), "main", "train"))
spec = json.loads(Path(definition).read_text())
data = json.dumps(with_space_symbols(spec) or spec)
used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
cpu, wall = used(), time.perf_counter()
gigatoken.Tokenizer.from_json(data).encode_batch(texts, parallel=int(threads) > 1)
print(json.dumps({"cpu_s": used() - cpu, "wall_s": time.perf_counter() - wall}))
"""

PEER = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import MegatronDocumentTokenizer
from pathlib import Path
documents, tokenizer, eos, out, workers = sys.argv[1:]
if __name__ == "__main__":
    write = MegatronDocumentTokenizer(out, tokenizer_name_or_path=tokenizer, eos_token=eos, batch_size=1000)
    tasks = len(list(Path(documents).glob("*.parquet")))
    read = ParquetReader(documents, glob_pattern="*.parquet", text_key="text", id_key="id")
    options = {"logging_dir": out + ".logs", "skip_completed": False}
    LocalPipelineExecutor([read, write], tasks=tasks, workers=int(workers), **options).run()
"""


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    main()
