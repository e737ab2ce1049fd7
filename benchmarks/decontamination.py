"""Decontamination: are planted solutions found, is the standard library left alone, and how fast is it?

Every HumanEval+ and MBPP+ solution of at least as many words as an n-gram is planted, whole, into a file of the
standard library, at a random line; found means that the annotation names its problem. Unplanted, each file of the
standard library that matches is listed with what it matched. Speed is CPU seconds of the annotator over those files,
the index apart.

    python benchmarks/decontamination.py --benchmarks FOLDER --out decontamination.json
"""

import argparse
import gzip
import json
import os
import random
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from data_prep.annotators.decontamination import Decontamination, plain_bytes, split_words

PLANTED = ("HumanEvalPlus.jsonl.gz", "MbppPlus.jsonl.gz")
MOST_FALSE = 0.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=Path, required=True, help="folder with HumanEvalPlus and MbppPlus")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("decontamination.json"))
    arguments = parser.parse_args()
    annotator = Decontamination(benchmarks=(str(arguments.benchmarks),))
    start = time.process_time()
    ngrams = len(annotator.index.ngrams)
    result = {"ngrams": ngrams, "index_cpu_s": time.process_time() - start, "load": os.getloadavg()}
    hosts = dict(standard_library())
    result |= planted(annotator, arguments.benchmarks, list(hosts.values()))
    result |= false_positives(annotator, hosts)
    result |= speed(annotator, list(hosts.values()), arguments.repeats)
    missed, share = len(result["missed"]), result["false_share"]
    print(f"{result['planted']} planted, {missed} missed: {'yes' if not missed else 'NO'}")
    print(f"{result['files']:,} files, {share:.3%} match (< {MOST_FALSE:.1%}): {'yes' if share < MOST_FALSE else 'NO'}")
    for row in result["false"]:
        print(f"  {row['path']}: {row['ngrams']} n-grams, {', '.join(row['problems'][:3])}: {row['example']}")
    print(
        f"{result['mb_per_cpu_s']:.1f} MB per CPU-second; index of {ngrams:,} n-grams in {result['index_cpu_s']:.1f} s"
    )
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def standard_library() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts:
            yield str(path.relative_to(root)), path.read_text(encoding="utf-8", errors="replace")


def planted(annotator: Decontamination, folder: Path, hosts: list[str]) -> dict:
    draw, count, missed = random.Random(0), 0, []
    for name in PLANTED:
        with gzip.open(folder / name, "rt", encoding="utf-8") as stream:
            problems = [json.loads(line) for line in stream]
        for problem in problems:
            solution = problem["canonical_solution"]
            if split_words(plain_bytes(solution)).starts.size < annotator.n:
                continue
            count += 1
            lines = draw.choice(hosts).splitlines()
            lines.insert(draw.randrange(len(lines) + 1), solution)
            if f"{name}:{problem['task_id']}" not in annotator.matches("\n".join(lines))[1]:
                missed.append(problem["task_id"])
    return {"planted": count, "missed": missed}


def false_positives(annotator: Decontamination, hosts: dict[str, str]) -> dict:
    found = []
    for path, text in hosts.items():
        ngrams, problems, example = annotator.matches(text)
        if ngrams:
            found.append({"path": path, "ngrams": ngrams, "problems": problems, "example": example})
    return {"files": len(hosts), "false": found, "false_share": len(found) / max(1, len(hosts))}


def speed(annotator: Decontamination, texts: list[str], repeats: int) -> dict:
    megabytes, seconds = sum(len(text.encode()) for text in texts) / 1e6, []
    for _ in range(repeats):
        start = time.process_time()
        annotator.annotate([{"text": text} for text in texts])
        seconds.append(time.process_time() - start)
    return {"megabytes": megabytes, "cpu_s": seconds, "mb_per_cpu_s": megabytes / min(seconds)}


if __name__ == "__main__":
    main()
