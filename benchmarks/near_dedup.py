"""Near deduplication: speed side by side with datatrove and datasketch, and decisions against exhaustive comparison.

Five parts, on real code of this machine (the standard library, installed packages, /usr/include, ...), exact duplicates
left out:

signatures    MinHash with 252 permutations (42 bands of 6) over word 5-grams, from parquet to files, in MB of text per
              CPU-second, start-up and compilation included. datatrove runs twice: as it comes (its English word
              tokenizer), and with our words and no text normalisation, which is the fastest it can be. datasketch gets
              the words, too, with its own hash and with xxhash.
quality       real files and variants of them with words edited; every pair of at least 0.7 by exhaustive comparison of
              sets of word tuples, in plain Python. Recall, by similarity: both files of the pair are in one cluster.
              Precision: pairs that were taken for near duplicates and are.
end to end    from documents to who is kept, against datatrove's three stages with the same words and bands.
repositories  real packages and planted forks of them with 0 to 40 % of the files changed, against exhaustive comparison
              of all sets of files.
incremental   5 % new documents against the full run, CPU time of the whole commands, of deduplication and of import and
              deduplication together; --rekey against a run from nothing.

CPU times are those of all processes of a command. The peers need an environment of their own:

    python -m venv PEER
    PEER/bin/pip install datatrove==0.10.1 'xxhash<4' spacy==3.8.18 nltk regex orjson fasteners \\
        datasketch==2.0.0 numpy==2.4.6 pyarrow==26.0.1 tokenizers==0.23.3
    python benchmarks/near_dedup.py --peer-python PEER/bin/python --out near_dedup.json
"""

import argparse
import ctypes
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

from tokenize_corpus import PR_SET_CHILD_SUBREAPER, ROOTS, code_files, installed_versions, run

GOALS = {"datatrove": 40.0, "datasketch": 8.0, "end_to_end": 10.0, "incremental": 0.15, "recall": 0.95}
THRESHOLD = 0.7
BANDS, ROWS = 42, 6
WORD = re.compile(r"[A-Za-z0-9_\u0080-\U0010ffff]+")
PEERS = ("datatrove", "datatrove, our words", "datasketch", "datasketch, xxhash")
PARTS = ("signatures", "quality", "end_to_end", "repositories", "incremental")
DEDUP = "from data_prep.cli import app; app()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with datatrove and datasketch")
    parser.add_argument("--roots", nargs="+", default=ROOTS, help="folders to take code from")
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--peer-megabytes", type=int, default=40, help="of the same corpus, for the slow peers")
    parser.add_argument("--end-to-end-megabytes", type=int, default=200)
    parser.add_argument("--files", type=int, default=4000, help="real files of the exhaustive comparison")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--out", type=Path, default=Path("near_dedup.json"))
    arguments = parser.parse_args()
    results: dict[str, dict] = {}
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="near_dedup-") as name:
        folder = Path(name)
        files = read_files(arguments.roots, arguments.megabytes * 1_000_000)
        for part in arguments.parts:
            print(f"{part} ...", file=sys.stderr)
            (folder / part).mkdir()
            results[part] = globals()[f"measure_{part}"](folder / part, files, arguments)
            shutil.rmtree(folder / part)
    versions = {"ours": installed_versions(sys.executable, ["numba", "numpy", "pyarrow"])}
    if arguments.peer_python:
        versions["peer"] = installed_versions(arguments.peer_python, ["datatrove", "datasketch", "spacy", "numpy"])
    print_table(results)
    setting = {"cpus": os.cpu_count(), "load": [load_before, os.getloadavg()], "versions": versions}
    arguments.out.write_text(json.dumps({**setting, **results}, indent=1) + "\n")


def read_files(roots: list[str], max_bytes: int) -> list[tuple[str, str, str]]:
    """(repository, path, text) of real code; a repository is a folder right below a root, such as a package."""
    found, total = [], 0
    for path, text in code_files(roots):
        below = next(path.relative_to(root) for root in roots if path.is_relative_to(root))
        found.append((below.parts[0] if len(below.parts) > 1 else "top", str(path), text))
        total += len(text.encode())
        if total >= max_bytes:
            break
    print(f"{len(found):,} files, {total / 1e6:,.1f} MB", file=sys.stderr)
    return found


def import_corpus(corpus: Path, sources: dict[str, Iterable[tuple[str, str, str]]]) -> Path:
    from data_prep.importing import ImportLimits, SourceSpec, import_documents

    specs = []
    for name, files in sources.items():
        table = corpus.parent / f"{corpus.name}-{name}.jsonl"
        with open(table, "w", encoding="utf-8") as stream:
            for repository, path, text in files:
                record = {"repo": repository, "path": path, "content": text}
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        specs.append(SourceSpec("jsonl", str(table), name))
    import_documents(specs, corpus, ImportLimits(), 1)
    return corpus


def size_of(corpus: Path) -> float:
    """MB of text."""
    return json.loads((corpus / "import.json").read_bytes())["text_bytes"] / 1e6


def first_megabytes(files: list[tuple[str, str, str]], megabytes: float) -> list[tuple[str, str, str]]:
    """Files from all over the corpus, in a fixed random order, up to a size."""
    order = list(files)
    random.Random(0).shuffle(order)
    found, left = [], megabytes * 1e6
    while order and left > 0:
        found.append(order.pop())
        left -= len(found[-1][2].encode())
    return found


def median_cpu(command: list, prepare, repeats: int) -> tuple[float, list[dict]]:
    runs = []
    for _ in range(repeats):
        prepare()
        runs.append(run(command, "1"))
    return statistics.median(took["cpu_s"] for took in runs), [
        {c: took[c] for c in ("cpu_s", "wall_s")} for took in runs
    ]


def measure_signatures(folder: Path, files: list[tuple[str, str, str]], arguments: argparse.Namespace) -> dict:
    corpus = import_corpus(folder / "corpus", {"code": files})
    sample = import_corpus(folder / "sample", {"code": first_megabytes(files, arguments.peer_megabytes)})
    run([sys.executable, "-c", DEDUP, "dedup", corpus, "--exact", "--workers", 1], "1")
    speeds, runs = {}, {}
    command = [sys.executable, "-c", OUR_SIGNATURES, corpus]
    cpu, runs["ours"] = median_cpu(command, lambda: remove(corpus / "dedup/signatures"), arguments.repeats)
    speeds["ours"] = size_of(corpus) / cpu
    if arguments.peer_python:
        for peer, code, words in (
            ("datatrove", DATATROVE, "own"),
            ("datatrove, our words", DATATROVE, "ours"),
            ("datasketch", DATASKETCH, "sha1"),
            ("datasketch, xxhash", DATASKETCH, "xxhash"),
        ):
            if peer not in arguments.peers:
                continue
            out = folder / "peer"
            command = [arguments.peer_python, "-c", code, sample / "documents", out, words, BANDS, ROWS, "signatures"]
            cpu, runs[peer] = median_cpu(command, lambda out=out: remove(out), 1)
            speeds[peer] = size_of(sample) / cpu
    times = {peer: speeds["ours"] / speed for peer, speed in speeds.items() if peer != "ours"}
    sizes = {"megabytes": size_of(corpus), "peer_megabytes": size_of(sample)}
    return {**sizes, "mb_per_cpu_s": speeds, "times": times, "runs": runs}


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def measure_end_to_end(folder: Path, files: list[tuple[str, str, str]], arguments: argparse.Namespace) -> dict:
    corpus = import_corpus(folder / "corpus", {"code": first_megabytes(files, arguments.end_to_end_megabytes)})
    run([sys.executable, "-c", DEDUP, "dedup", corpus, "--exact", "--workers", 1], "1")

    def forget() -> None:
        for path in (corpus / "dedup", corpus / "annotations/near_dedup"):
            remove(path)

    command = [sys.executable, "-c", DEDUP, "dedup", corpus, "--near", "--workers", 1]
    cpu, runs = median_cpu(command, forget, arguments.repeats)
    result = {"megabytes": size_of(corpus), "cpu_s": {"ours": cpu}, "runs": {"ours": runs}}
    if arguments.peer_python:
        for name, words in (("datatrove, our words", "ours"), ("datatrove", "own")):
            if name not in arguments.peers:
                continue
            out = folder / "peer"
            documents = corpus / "documents"
            command = [arguments.peer_python, "-c", DATATROVE, documents, out, words, BANDS, ROWS, "all"]
            result["cpu_s"][name], result["runs"][name] = median_cpu(command, lambda out=out: remove(out), 1)
        result["times"] = {peer: took / cpu for peer, took in result["cpu_s"].items() if peer != "ours"}
    return result


def edited(text: str, similarity: float, draw: random.Random) -> str:
    """A text in which so many words are others that the Jaccard similarity of word 5-grams is about as asked."""
    words = list(WORD.finditer(text))
    count = round(len(words) * (1 - similarity) / (1 + similarity) / 5)
    parts, end = [], 0
    for match in sorted(draw.sample(words, max(1, count)), key=lambda match: match.start()):
        parts += [text[end : match.start()], f"edited{draw.randrange(10**9)}"]
        end = match.end()
    return "".join([*parts, text[end:]])


def ngrams(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text)
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))} if words else set()


def exhaustive_pairs(sets: list[set], threshold: float) -> dict[tuple[int, int], float]:
    """Every pair of at least `threshold`, by counting for each set what it shares with each of the others."""
    import numpy as np

    holders: dict[object, list[int]] = {}
    for index, members in enumerate(sets):
        for member in members:
            holders.setdefault(member, []).append(index)
    arrays = {member: np.array(found) for member, found in holders.items() if len(found) > 1}
    sizes = np.array([len(members) for members in sets])
    found = {}
    for index, members in enumerate(sets):
        lists = [arrays[member] for member in members if member in arrays]
        if lists:
            shared = np.bincount(np.concatenate(lists), minlength=len(sets))
            similarity = shared / (sizes + sizes[index] - shared).clip(1)
            for other in np.flatnonzero(similarity >= threshold):
                if other > index:
                    found[index, int(other)] = float(similarity[other])
    return found


def measure_quality(folder: Path, files: list[tuple[str, str, str]], arguments: argparse.Namespace) -> dict:
    import numpy as np
    import pyarrow.parquet as pq

    from data_prep.dedup.levels import deduplicate
    from data_prep.documents import list_shards

    draw = random.Random(1)
    chosen = draw.sample(files, min(arguments.files, len(files)))
    long = [file for file in chosen if 150 <= len(WORD.findall(file[2])) <= 5000]
    variants = []
    for repository, path, text in draw.sample(long, min(1200, len(long))):
        similarity = draw.uniform(0.69, 0.82) if draw.random() < 0.5 else draw.uniform(0.5, 1.0)
        variants.append((f"{repository}-variant", path, edited(text, similarity, draw)))
    corpus = import_corpus(folder / "corpus", {"code": chosen, "variants": variants})
    numbers = deduplicate(corpus, 1, levels=("exact", "near"))["near"]
    texts: dict[int, str] = {}  # of the files that were looked at, by their position
    clusters: dict[int, str] = {}
    for index, shard in enumerate(list_shards(corpus)):
        annotation = pq.read_table(corpus / "annotations/near_dedup" / shard.name).to_pylist()
        for row, (text, said) in enumerate(
            zip(pq.read_table(shard, columns=["text"])["text"].to_pylist(), annotation, strict=True)
        ):
            if said["ngrams"]:
                texts[index << 32 | row] = text
                clusters[index << 32 | row] = said["cluster"] or said["id"]
    places = list(texts)
    truth = exhaustive_pairs([ngrams(texts[place]) for place in places], THRESHOLD)
    true = {frozenset((places[one], places[other])): similarity for (one, other), similarity in truth.items()}
    stored = np.concatenate([np.load(path) for path in sorted((corpus / "dedup/pairs").rglob("*.npy"))])
    pairs = {frozenset(pair) for pair in zip(stored["one"].tolist(), stored["other"].tolist(), strict=True)}
    together = {pair for pair in true if len({clusters[place] for place in pair}) == 1}
    bins: dict[str, dict] = {}
    for low in (70, 75, 80, 85, 90, 95):
        inside = [pair for pair, value in true.items() if low <= round(value * 100, 9) < low + 5 + (low == 95)]
        hits = sum(pair in together for pair in inside)
        bins[f"{low / 100:.2f}"] = {"pairs": len(inside), "found": hits, "recall": hits / max(1, len(inside))}
    return {
        "documents": len(places),
        "true_pairs": len(true),
        "recall": len(together) / max(1, len(true)),
        "compared": len(pairs & true.keys()),
        "precision": len(pairs & true.keys()) / max(1, len(pairs)),
        "bins": bins,
        "candidate_pairs": numbers["candidate_pairs"],
        "bands": [numbers["bands"], numbers["rows"]],
    }


def measure_repositories(folder: Path, files: list[tuple[str, str, str]], arguments: argparse.Namespace) -> dict:
    import pyarrow.parquet as pq

    from data_prep.dedup.near_repositories import annotate_repositories
    from data_prep.documents import list_shards

    draw = random.Random(2)
    packages: dict[str, list[tuple[str, str]]] = {}
    for repository, path, text in files:
        packages.setdefault(repository, []).append((path, text))
    large = sorted(name for name, content in packages.items() if 10 <= len(content) <= 2000)
    for number, name in enumerate(draw.choices(large, k=300)):
        content = packages[name]
        changed = set(draw.sample(range(len(content)), round(len(content) * draw.uniform(0, 0.4))))
        packages[f"{name}-fork-{number}"] = [
            (path, f"{text}\n# {draw.random()}" if index in changed else text)
            for index, (path, text) in enumerate(content)
        ]
    rows = [(name, path, text) for name, content in packages.items() for path, text in content]
    corpus = import_corpus(folder / "corpus", {"code": rows})
    numbers = annotate_repositories(corpus, 1)
    sets: dict[str, set] = {}
    sizes: dict[str, int] = {}
    found: dict[str, str | None] = {}
    for shard in list_shards(corpus):
        annotation = pq.read_table(corpus / "annotations/repository_dedup" / shard.name)["duplicate_of"].to_pylist()
        documents = pq.read_table(shard, columns=["repository", "sha256", "size_bytes"]).to_pylist()
        for document, keeper in zip(documents, annotation, strict=True):
            name = document["repository"]
            sets.setdefault(name, set()).add(document["sha256"])
            sizes[name] = sizes.get(name, 0) + document["size_bytes"]
            found[name] = keeper
    expected = exhaustive_keepers(sets, sizes)
    differ = [name for name in sets if found[name] != expected[name]]
    return {
        "repositories": len(sets),
        "near_equal": sum(keeper is not None for keeper in expected.values()),
        "pairs": numbers["near_pairs"],
        "decisions_that_differ": len(differ),
        "examples": differ[:5],
    }


def exhaustive_keepers(sets: dict[str, set], sizes: dict[str, int]) -> dict[str, str | None]:
    """name -> "code/keeper" or None, comparing every pair; no repository has stars."""
    family = {name: {name} for name in sets}
    for one, other in combinations(sets, 2):
        shared = len(sets[one] & sets[other])
        if shared and shared / (len(sets[one]) + len(sets[other]) - shared) >= THRESHOLD:
            joined = family[one] | family[other]
            family |= dict.fromkeys(joined, joined)
    keepers = {name: min(members, key=lambda other: (-sizes[other], other)) for name, members in family.items()}
    return {name: None if keeper == name else f"code/{keeper}" for name, keeper in keepers.items()}


def measure_incremental(folder: Path, files: list[tuple[str, str, str]], arguments: argparse.Namespace) -> dict:
    order = list(files)
    random.Random(3).shuffle(order)
    cut = len(order) // 20
    old, new = order[cut:], order[:cut]
    grown = import_corpus(folder / "corpus", {"old": old})
    fresh = folder / "fresh"
    tables = [f"{name}={folder / f'corpus-{name}.jsonl'}" for name in ("old", "new")]

    def commands(corpus: Path) -> dict[str, list]:
        data = [sys.executable, "-c", DEDUP]
        return {
            "import": [*data, "import", corpus, *tables, "--workers", 1],
            "dedup": [*data, "dedup", corpus, "--workers", 1],
        }

    run(commands(grown)["dedup"], "1")
    shutil.copytree(grown, folder / "before")
    import_corpus(folder / "table", {"new": new})
    shutil.move(folder / "table-new.jsonl", folder / "corpus-new.jsonl")
    runs: dict[str, list[float]] = {}
    for _ in range(arguments.repeats):
        for corpus in (grown, fresh):
            remove(corpus)
        shutil.copytree(folder / "before", grown)
        for kind, corpus in (("added", grown), ("full", fresh)):
            for name, command in commands(corpus).items():
                runs.setdefault(f"{kind} {name}", []).append(run(command, "1")["cpu_s"])
        runs.setdefault("nothing new", []).append(run(commands(grown)["dedup"], "1")["cpu_s"])
    run([*commands(grown)["dedup"], "--rekey"], "1")
    cpu = {name: statistics.median(took) for name, took in runs.items()}
    return {
        "megabytes": size_of(grown),
        "cpu_s": cpu,
        "share": cpu["added dedup"] / cpu["full dedup"],
        "share_with_import": (cpu["added dedup"] + cpu["added import"]) / (cpu["full dedup"] + cpu["full import"]),
        "rekey_equals_full_run": parquet_files(grown) == parquet_files(fresh),
        "runs": runs,
    }


def parquet_files(corpus: Path) -> dict[str, bytes]:
    return {str(p.relative_to(corpus)): p.read_bytes() for p in (corpus / "annotations").rglob("*.parquet")}


def print_table(results: dict[str, dict]) -> None:
    if part := results.get("signatures"):
        print(f"signatures of {part['megabytes']:,.0f} MB (peers: {part['peer_megabytes']:,.0f} MB)")
        for name, speed in part["mb_per_cpu_s"].items():
            goal = GOALS.get(name, "")
            times = f"{part['times'][name]:8.1f} x" + (f" (>= {goal:.0f})" if goal else "") if name != "ours" else ""
            print(f"  {name:<24} {speed:8.2f} MB per CPU-second {times}")
    if part := results.get("quality"):
        print(
            f"quality: {part['documents']:,} files, {part['true_pairs']:,} pairs of at least {THRESHOLD}: recall "
            f"{part['recall']:.4f} (>= {GOALS['recall']}), precision {part['precision']:.4f} (1.0)"
        )
        for low, entry in part["bins"].items():
            print(f"  from {low}: {entry['found']:5,} of {entry['pairs']:5,} found, {entry['recall']:.4f}")
    if part := results.get("end_to_end"):
        print(f"end to end, {part['megabytes']:,.0f} MB (>= {GOALS['end_to_end']:.0f} x)")
        for name, seconds in part["cpu_s"].items():
            times = f"{part['times'][name]:8.1f} x" if name != "ours" else ""
            print(f"  {name:<24} {seconds:8.1f} CPU-seconds {times}")
    if part := results.get("repositories"):
        print(
            f"repositories: {part['decisions_that_differ']} decisions of {part['repositories']:,} differ from "
            f"exhaustive comparison ({part['near_equal']:,} near-equal)"
        )
    if part := results.get("incremental"):
        print(f"incremental, {part['megabytes']:,.0f} MB, 5 % of the documents new; CPU-seconds:")
        for name, seconds in part["cpu_s"].items():
            print(f"  {name:<24} {seconds:8.2f}")
        print(
            f"  deduplication {part['share']:.3f} of the full run, with import {part['share_with_import']:.3f} "
            f"(<= {GOALS['incremental']}); --rekey gives the bytes of a run from nothing: "
            f"{part['rekey_equals_full_run']}"
        )


OUR_SIGNATURES = """
import sys
from pathlib import Path
from data_prep.dedup.near import make_signatures
from data_prep.dedup.relate import compare_at
from data_prep.dedup.settings import NearSettings
from data_prep.dedup.steps import make_runner
settings = NearSettings()
comparison = compare_at(settings.permutations, settings.threshold, settings.recall, settings)
corpus = Path(sys.argv[1])
make_signatures(corpus, settings, {}, comparison.cut, make_runner(corpus, 1, None, 2400, None, None))
"""

DATATROVE = """
import re, sys
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import minhash
from datatrove.pipeline.readers import ParquetReader
from datatrove.utils.text import TextNormConfig
from datatrove.utils.word_tokenizers import WordTokenizer
documents, out, words, bands, rows, stages = sys.argv[1:]

class Words(WordTokenizer):
    find = re.compile("[A-Za-z0-9_\\u0080-\\U0010ffff]+").findall
    def word_tokenize(self, text):
        return Words.find(text)
    def sent_tokenize(self, text):
        return [text]
    def span_tokenize(self, text):
        return [(0, len(text))]

if __name__ == "__main__":
    options, language = {}, "eng"
    if words == "ours":
        off = {name: False for name in TextNormConfig.__dataclass_fields__}
        options, language = {"norm_config": TextNormConfig(**off)}, Words()
    config = minhash.MinhashConfig(n_grams=5, num_buckets=int(bands), hashes_per_bucket=int(rows), **options)
    tasks = len(list(Path(documents).glob("*.parquet")))
    read = ParquetReader(documents, glob_pattern="*.parquet", text_key="text", id_key="id")
    signatures = minhash.MinhashDedupSignature(out + "/signatures", config, language=language)
    steps = [([read, signatures], tasks)]
    if stages == "all":
        steps.append(([minhash.MinhashDedupBuckets(out + "/signatures", out + "/buckets", config=config)], int(bands)))
        steps.append(([minhash.MinhashDedupCluster(out + "/buckets", out + "/remove", config=config)], 1))
    for number, (pipeline, count) in enumerate(steps):
        logs = {"logging_dir": f"{out}/logs-{number}", "skip_completed": False}
        LocalPipelineExecutor(pipeline, tasks=count, workers=1, **logs).run()
"""

DATASKETCH = """
import re, sys
from pathlib import Path
import numpy as np, pyarrow.parquet as pq, xxhash
from datasketch import MinHash
documents, out, hashing, bands, rows, _ = sys.argv[1:]
find = re.compile("[A-Za-z0-9_\\u0080-\\U0010ffff]+").findall
permutations = int(bands) * int(rows)
options = {"hashfunc": xxhash.xxh32_intdigest} if hashing == "xxhash" else {}
template = MinHash(num_perm=permutations, **options)
Path(out).mkdir(parents=True)
for shard in sorted(Path(documents).glob("*.parquet")):
    signatures = []
    for text in pq.read_table(shard, columns=["text"])["text"].to_pylist():
        words, one = find(text), template.copy()
        one.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
        signatures.append(one.hashvalues)
    np.save(Path(out, shard.stem), np.array(signatures))
"""


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    main()
