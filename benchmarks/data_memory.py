"""Memory and speed of every stage, from import to build, on a small and a large corpus.

The input is one JSONL file made of installed packages' Python files, each written again and again with one identifier
line changed, so that the large corpus is full of near duplicates. Each stage runs as a user runs it, in processes of
its own; the resident memory of all of them together is sampled (pages that processes share count once for each).
Decontamination looks for records made of a few of those files; what is built is all of the corpus, duplicates too.
Prints a table and writes JSON.

    python benchmarks/data_memory.py --gigabytes 0.2 2 --workers 2 --out data_memory.json
"""

import argparse
import itertools
import json
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.2, 2.0], help="sizes of the JSONL file")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the temporary files go (default: the system's)")
    parser.add_argument("--out", type=Path, default=Path("data_memory.json"))
    arguments = parser.parse_args()
    rows = []
    print(f"{'input GB':>9} {'stage':>16} {'peak MB':>8} {'seconds':>8} {'MB/s':>7} {'under 4 GB':>11}")
    for gigabytes in arguments.gigabytes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for row in measure(Path(folder), gigabytes, arguments.workers):
                rows.append(row)
                print(
                    f"{row['input_bytes'] / 1e9:>9.2f} {row['stage']:>16} {row['peak_bytes'] / 1e6:>8.0f} "
                    f"{row['seconds']:>8.1f} {row['megabytes_per_second']:>7.1f} "
                    f"{'yes' if row['peak_bytes'] < LIMIT_BYTES else 'NO':>11}",
                    flush=True,
                )
    arguments.out.write_text(json.dumps({"workers": arguments.workers, "rows": rows}, indent=1))


def measure(folder: Path, gigabytes: float, workers: int) -> Iterator[dict]:
    """Runs the stages on an input of the given size; one row for each."""
    table, corpus, tokenizer = folder / "input.jsonl", folder / "corpus", folder / "tokenizer"
    problems, build = folder / "problems.jsonl", folder / "build"
    input_bytes = write_input(table, int(gigabytes * 1e9))
    train(itertools.islice(_texts(), 500), tokenizer, TrainSettings(4096, "byte_bpe", max_chars=4_000_000))
    problems.write_text("".join(json.dumps({"text": text}) + "\n" for text in itertools.islice(_texts(), 100)))
    everything = folder / "everything.yaml"
    everything.write_text("rules: []\n")
    many = ["--workers", str(workers)]
    stages = {
        "import": ["import", str(corpus), f"input={table}", *many],
        "exact dedup": ["dedup", str(corpus), "--exact", *many],
        "near dedup": ["dedup", str(corpus), "--near", *many],
        "repositories": ["dedup", str(corpus), "--repositories", *many],
        **{name: ["annotate", str(corpus), name, *many] for name in ANNOTATORS},
        "decontamination": ["annotate", str(corpus), "decontamination", "--benchmarks", str(problems), *many],
        "select": ["select", str(corpus), *many],
        "select all": ["select", str(corpus), "--selection", "all", "--config", str(everything), *many],
        "build all": ["build", str(corpus), str(build), "--tokenizer", str(tokenizer), "--selection", "all", *many],
    }
    for stage, command in stages.items():
        peak_bytes, seconds = watch([*COMMAND, *command])
        yield {
            "stage": stage,
            "input_bytes": input_bytes,
            "peak_bytes": peak_bytes,
            "seconds": seconds,
            "megabytes_per_second": input_bytes / 1e6 / seconds,
        }


def _texts() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if 200 < len(text) < 200_000:
            yield text


def write_input(path: Path, most_bytes: int) -> int:
    """Writes the table and returns its size: package files over and over, each time under other names."""
    root = Path(sysconfig.get_path("purelib"))
    files = sorted(file for file in root.rglob("*.py") if 200 < file.stat().st_size < 200_000)
    written = 0
    with open(path, "w", encoding="utf-8") as out:
        for variant in itertools.count():
            for file in files:
                package, *rest = file.relative_to(root).parts
                record = {
                    "content": f"VARIANT_{variant} = {variant}\n" + file.read_text(encoding="utf-8", errors="replace"),
                    "max_stars_repo_name": f"{package}-{variant}",
                    "max_stars_repo_path": "/".join(rest) or package,
                    "lang": "Python",
                    "max_stars_count": variant,
                }
                written += out.write(json.dumps(record) + "\n")  # all ASCII: characters are bytes
                if written >= most_bytes:
                    return written
    return written


def watch(command: list[str]) -> tuple[int, float]:
    """(peak resident bytes of the process and all below it, seconds). Raises when the command fails."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _resident(process.pid))
        time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[3:])} failed with exit code {process.returncode}")
    return peak, time.perf_counter() - start


def _resident(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # it ended while it was looked at
    return total


if __name__ == "__main__":
    main()
