"""Memory and speed of every stage, from import to build, on a small and a large corpus.

The input is one JSONL file made of installed packages' Python files, each written again and again with one identifier
line changed, so that the large corpus is full of near duplicates. Each stage runs as a user runs it, in processes of
its own; the resident memory of all of them together is sampled (pages that processes share count once for each), and
of it what is their own and no page of a file, which the system takes back when it needs the room. Decontamination looks
for records made of a few of those files; what is built is all of the corpus, duplicates too. Prints a table and writes
JSON.

    python benchmarks/data_memory.py --gigabytes 0.2 2 --workers 2 --out data_memory.json

What global steps hold follows from the number of documents. `--lines 8` keeps that many lines of each file, so that a
small corpus has many. `--partitions` takes the place of the default; deduplication is done anew for each number.

    python benchmarks/data_memory.py --gigabytes 0.06 0.12 --lines 8 --stages repositories --partitions 2 4 8
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tokenizer.train import TrainSettings, train

COMMAND = [sys.executable, "-c", "from data_prep.cli import app; app()"]
SAMPLE_SECONDS = 0.1
LIMIT_BYTES = 4e9
ANNOTATORS = ("syntax", "signs", "licence", "secrets")
DEDUP = {"exact dedup": "--exact", "near dedup": "--near", "repositories": "--repositories"}
ANNOTATIONS = {"exact dedup": "exact_dedup", "near dedup": "near_dedup", "repositories": "repository_dedup"}
STAGES = ("import", *DEDUP, *ANNOTATORS, "decontamination", "select", "select all", "build all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.2, 2.0], help="sizes of the JSONL file")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="besides import and exact dedup")
    parser.add_argument("--lines", type=int, help="of each file, from its beginning (default: all)")
    parser.add_argument("--partitions", type=int, nargs="+", default=[0], help="of deduplication (default: its own)")
    parser.add_argument("--folder", type=Path, help="where the temporary files go (default: the system's)")
    parser.add_argument("--out", type=Path, default=Path("data_memory.json"))
    arguments = parser.parse_args()
    rows = []
    names = f"{'input GB':>9} {'documents':>10} {'stage':>18} {'peak MB':>8} {'own MB':>8} {'seconds':>8}"
    print(f"{names} {'under 4 GB':>11}")
    for gigabytes in arguments.gigabytes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for row in measure(Path(folder), gigabytes, arguments):
                rows.append(row)
                print(
                    f"{row['input_bytes'] / 1e9:>9.2f} {row['documents']:>10,} {row['stage']:>18} "
                    f"{row['peak_bytes'] / 1e6:>8.0f} {row['own_bytes'] / 1e6:>8.0f} {row['seconds']:>8.1f} "
                    f"{'yes' if row['peak_bytes'] < LIMIT_BYTES else 'NO':>11}",
                    flush=True,
                )
    setting = {name: getattr(arguments, name) for name in ("workers", "lines", "partitions")}
    arguments.out.write_text(json.dumps({**setting, "rows": rows}, indent=1))


def measure(folder: Path, gigabytes: float, arguments: argparse.Namespace) -> Iterator[dict]:
    """Runs the stages on an input of the given size; one row for each."""
    corpus = folder / "corpus"
    input_bytes = write_input(folder / "input.jsonl", int(gigabytes * 1e9), arguments.lines)
    wanted = {"import", "exact dedup", *arguments.stages}
    for stage, command in commands(folder, corpus, wanted, arguments).items():
        for partitions in arguments.partitions if stage in DEDUP else [0]:
            if stage in DEDUP:
                shutil.rmtree(corpus / "annotations" / ANNOTATIONS[stage], ignore_errors=True)
            cut = ["--partitions", str(partitions)] if partitions else []
            peak_bytes, own_bytes, seconds = watch([*COMMAND, *command, *cut])
            yield {
                "stage": f"{stage}, P={partitions}" if partitions else stage,
                "input_bytes": input_bytes,
                "documents": json.loads((corpus / "import.json").read_bytes())["documents"],
                "peak_bytes": peak_bytes,
                "own_bytes": own_bytes,
                "seconds": seconds,
            }


def commands(folder: Path, corpus: Path, wanted: set[str], arguments: argparse.Namespace) -> dict[str, list[str]]:
    tokenizer, problems, everything = folder / "tokenizer", folder / "problems.jsonl", folder / "everything.yaml"
    if "build all" in wanted:
        train(itertools.islice(_texts(), 500), tokenizer, TrainSettings(4096, "byte_bpe", max_chars=4_000_000))
    problems.write_text("".join(json.dumps({"text": text}) + "\n" for text in itertools.islice(_texts(), 100)))
    everything.write_text("rules: []\n")
    many = ["--workers", str(arguments.workers)]
    stages = {
        "import": ["import", str(corpus), f"input={folder / 'input.jsonl'}", *many],
        **{name: ["dedup", str(corpus), option, *many] for name, option in DEDUP.items()},
        **{name: ["annotate", str(corpus), name, *many] for name in ANNOTATORS},
        "decontamination": ["annotate", str(corpus), "decontamination", "--benchmarks", str(problems), *many],
        "select": ["select", str(corpus), *many],
        "select all": ["select", str(corpus), "--selection", "all", "--config", str(everything), *many],
        "build all": ["build", str(corpus), str(folder / "build"), "--tokenizer", str(tokenizer), *many],
    }
    stages["build all"] += ["--selection", "all"]
    return {name: command for name, command in stages.items() if name in wanted}


def _texts() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if 200 < len(text) < 200_000:
            yield text


def write_input(path: Path, most_bytes: int, lines: int | None) -> int:
    """Writes the table and returns its size: package files over and over, each time under other names."""
    root = Path(sysconfig.get_path("purelib"))
    paths = sorted(file for file in root.rglob("*.py") if 200 < file.stat().st_size < 200_000)
    files = [(file, _beginning(file.read_text(encoding="utf-8", errors="replace"), lines)) for file in paths]
    written = 0
    with open(path, "w", encoding="utf-8") as out:
        for variant in itertools.count():
            for file, text in files:
                package, *rest = file.relative_to(root).parts
                record = {
                    "content": f"VARIANT_{variant} = {variant}\n{text}",
                    "max_stars_repo_name": f"{package}-{variant}",
                    "max_stars_repo_path": "/".join(rest) or package,
                    "lang": "Python",
                    "max_stars_count": variant,
                }
                written += out.write(json.dumps(record) + "\n")  # all ASCII: characters are bytes
                if written >= most_bytes:
                    return written
    return written


def _beginning(text: str, lines: int | None) -> str:
    return text if lines is None else "".join(text.splitlines(keepends=True)[:lines])


def watch(command: list[str]) -> tuple[int, int, float]:
    """(peak resident bytes of the process and all below it, peak of those of no file, seconds).

    Raises when the command fails.
    """
    start, peak, own_peak = time.perf_counter(), 0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        resident, own = _resident(process.pid)
        peak, own_peak = max(peak, resident), max(own_peak, own)
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[3:])} failed with exit code {process.returncode}")
    return peak, own_peak, time.perf_counter() - start


def _resident(pid: int) -> tuple[int, int]:
    total = own = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            memory = process.memory_info()
            total += memory.rss
            own += memory.rss - memory.shared
    except psutil.NoSuchProcess:
        pass  # it ended while it was looked at
    return total, own


if __name__ == "__main__":
    main()
