"""What tasks of a selection hold, and what a selection costs, as documents become more and partitions smaller.

Documents here have no text, which a selection does not read: ids, names of repositories, sizes and languages drawn by a
keyed generator, in shards of one size, with annotations of exact, near and repository duplicates, signs, categories and
scores. `data select` runs with eight rules (among them two exact shares and a sample) on an engine of this script,
which makes each task in a process of its own and notes the peak of its memory, so that what a task holds is seen, not
what came together in one process. CPU time is that of the whole command in one process, from nothing and with another
share.

    python benchmarks/selection_memory.py --documents 100000 1000000 --partitions 1 16 --out selection_memory.json
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenize_corpus import installed_versions

from data_prep.annotations import annotation_shard, write_table
from data_prep.documents import SCHEMA, documents_directory
from data_prep.select import SelectionConfig, select
from data_prep.shards import ShardTask, finished_manifest, write_shard

LANGUAGES = ("Python", "C", "C++", "JavaScript", "Shell")
LABELS = ("forum", "shop", "docs", "news")
STEPS = {"judge_shard": "judge", "sort_shard": "numbers", "count_partition": "sizes of groups",
         "cut_partition": "lowest", "decide_shard": "decide", "sort_names": "repositories", "sort_families": "families",
         "list_members": "members of clusters", "find_keepers": "keepers", "find_on_both_sides": "clusters",
         "write_selected": "select"}  # fmt: skip
ONE = "import sys; sys.path.insert(0, {here!r}); from selection_memory import once; once({corpus!r}, {share})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--shard-documents", type=int, default=25_000)
    parser.add_argument("--out", type=Path, default=Path("selection_memory.json"))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="selection-memory-") as name:
        for documents in arguments.documents:
            corpus = Path(name) / str(documents)
            make_corpus(corpus, documents, arguments.shard_documents)
            rows += [measure(corpus, documents, partitions) for partitions in arguments.partitions]
            rows.append({"documents": documents, **cpu_times(corpus)})
    results = {"rows": rows, "shard_documents": arguments.shard_documents, "idle_mb": peak_mb(idle)}
    results["versions"] = installed_versions(sys.executable, ["duckdb", "pyarrow", "numpy"])
    print_table(results)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


def make_corpus(corpus: Path, documents: int, shard_documents: int) -> None:
    print(f"{documents:,} documents ...", file=sys.stderr)
    for start in range(0, documents, shard_documents):
        rng = np.random.default_rng([7, start])
        count = min(shard_documents, documents - start)
        shard = documents_directory(corpus) / f"{start // shard_documents:06d}.parquet"
        columns = columns_of(rng, start, count, documents)
        metadata = {name: column for name, column in columns.items() if "." not in name}
        metadata |= {field.name: default(field, count) for field in SCHEMA if field.name not in columns}
        table = pa.table(metadata).select(SCHEMA.names).cast(SCHEMA)
        write_shard(ShardTask(shard, "benchmark", write_table, (table, {"text_bytes": 0})))
        for name in dict.fromkeys(column.partition(".")[0] for column in columns if "." in column):
            found = {key.partition(".")[2]: column for key, column in columns.items() if key.startswith(f"{name}.")}
            counters = {"documents_sha256": finished_manifest(shard)["sha256"]}
            output = annotation_shard(corpus, name, shard)
            table = pa.table({"id": columns["id"], **found})
            write_shard(ShardTask(output, "benchmark", write_table, (table, counters)))
    (corpus / "import.json").write_text("{}")


def default(field: pa.Field, count: int) -> pa.Array:
    return pa.nulls(count, field.type) if field.nullable else pa.array([""] * count)


def columns_of(rng: np.random.Generator, start: int, count: int, documents: int) -> dict[str, pa.Array]:
    """A tenth are exact duplicates, a fifth in clusters, a fifth of the repositories (of 30 files each) in families."""
    ids = [identity(row) for row in range(start, start + count)]
    others = rng.integers(0, documents, count) // 10 * 10  # keepers: whole tens
    kind = rng.random(count)
    exact = np.arange(start, start + count) % 10 == 3
    near = (kind < 0.2) & ~exact
    repository = rng.integers(0, max(2, documents // 30), count)
    in_family = repository % 5 == 0
    keeper = [identity(int(row)) for row in others]
    nothing = pa.nulls(count, pa.string())

    def where(flags: np.ndarray, values: list[str]) -> pa.Array:
        return pa.array([value if flag else None for flag, value in zip(flags, values, strict=True)], pa.string())

    family = [f"pieces/r{number // 20 * 20}" for number in repository]
    return {
        "id": pa.array(ids),
        "repository": pa.array([f"r{number}" for number in repository]),
        "language": pa.array(np.array(LANGUAGES)[rng.integers(0, len(LANGUAGES), count)]),
        "size_bytes": pa.array(rng.integers(100, 20_000, count)),
        "exact_dedup.duplicate_of": where(exact, keeper),
        "exact_dedup.repository_duplicate_of": nothing,
        "near_dedup.duplicate_of": where(near & (kind < 0.1), keeper),
        "near_dedup.cluster": where(near, keeper),
        "repository_dedup.duplicate_of": where(in_family & (repository % 20 != 0), family),
        "repository_dedup.family": where(in_family, family),
        "signs.generated": pa.array(rng.random(count) < 0.03),
        "signs.minified": pa.array(rng.random(count) < 0.03),
        "site.label": pa.array(np.array(LABELS)[rng.integers(0, len(LABELS), count)]),
        "quality.score": pa.array(np.clip(rng.normal(6.5, 1.8, count), 0, 10).astype(np.float32)),
    }


def identity(row: int) -> str:
    return f"{(row * 0x9E3779B97F4A7C15) % (1 << 64):016x}{row:016x}"


def config(share: float) -> SelectionConfig:
    return SelectionConfig(
        variant="repository",
        rules=[
            {"name": "generated", "drop": "signs.generated"},
            {"name": "minified", "drop": "signs.minified"},
            {
                "name": "poor",
                "below": {"of": "quality.score", "by": "site.label", "values": {"forum": 2}, "default": 3},
            },
            {"name": "low", "lowest": {"of": "quality.score", "share": share, "per": "language"}},
            {"name": "small", "lowest": {"of": "size_bytes", "share": 0.02}},
            {"name": "fewer", "sample": {"rate": 0.9, "by": "site.label", "rates": {"shop": 0.2}}},
        ],
    )


class OneProcessEach:
    """Makes each task in a process of its own; `peaks`: step -> megabytes that its largest task had at most."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}

    def run(self, calls: list) -> Iterator:
        for index, call in enumerate(calls):
            result, peak = alone(call.function, (*call.args, *call.common))
            step = STEPS.get(call.args[0].function.__name__, call.args[0].function.__name__)
            self.peaks[step] = max(self.peaks.get(step, 0.0), peak)
            yield index, result


def alone(function: object, arguments: tuple) -> tuple[object, float]:
    """What a function gives in a fresh process, and the peak of that process in MB."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_prep.selection.run"])
    ours, theirs = context.Pipe()
    process = context.Process(target=tell, args=(theirs, function, arguments))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def tell(connection: object, function: object, arguments: tuple) -> None:
    result = function(*arguments)
    connection.send((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def idle() -> None:
    """What a task has before it does anything."""
    import data_prep.selection.run  # noqa: F401


def peak_mb(function: object) -> float:
    return alone(function, ())[1]


def measure(corpus: Path, documents: int, partitions: int) -> dict:
    print(f"{documents:,} documents, {partitions} partitions ...", file=sys.stderr)
    engine = OneProcessEach()
    made = select(corpus, f"p{partitions}", config(0.1), engine=engine, partitions=partitions)
    return {"documents": documents, "partitions": partitions, "peak_mb": engine.peaks, "digest": made["digest"]}


def once(corpus: str, share: float) -> None:
    select(Path(corpus), "main", config(share))
    print(time.process_time())


def cpu_times(corpus: Path) -> dict:
    here = str(Path(__file__).parent)
    took = [
        float(subprocess.check_output([sys.executable, "-c", ONE.format(here=here, corpus=str(corpus), share=share)]))
        for share in (0.1, 0.12, 0.14)
    ]
    return {"cpu_s_first": took[0], "cpu_s_other_share": min(took[1:])}


def print_table(results: dict) -> None:
    measured = [row for row in results["rows"] if "peak_mb" in row]
    print(
        f"\nshards of {results['shard_documents']:,} documents; a task before it begins: {results['idle_mb']:.0f} MB\n"
    )
    print("| step | " + " | ".join(f"{row['documents']:,}, P = {row['partitions']}" for row in measured) + " |")
    print("| --- |" + " --- |" * len(measured))
    for step in STEPS.values():
        if any(step in row["peak_mb"] for row in measured):
            shown = [f"{row['peak_mb'][step]:.0f}" if step in row["peak_mb"] else "" for row in measured]
            print(f"| {step} | " + " | ".join(shown) + " |")
    for row in results["rows"]:
        if "cpu_s_first" in row:
            first, other = row["cpu_s_first"], row["cpu_s_other_share"]
            print(f"\n{row['documents']:,} documents: CPU s {first:.2f} from nothing, {other:.2f} with another share")
    digests = {(row["documents"], row["digest"]) for row in measured}
    print(
        f"\nequal bytes for every number of partitions: {len(digests) == len({row['documents'] for row in measured})}"
    )
    print(f"load {os.getloadavg()[0]:.0f}")


if __name__ == "__main__":
    main()
