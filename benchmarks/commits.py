"""Commits to samples: how fast, on a real history over a snapshot of many real files; and bm25s on the same snapshots.

    python benchmarks/commits.py --out commits.json
    python benchmarks/commits.py --repository PATH --padding 0        of a repository that is large enough itself

The history is that of a Git repository on this disk (default: the one that this file is in): its commits with one
parent along HEAD's first parents, with their messages, authors and dates. So that a snapshot has at least
`--files` files, `--padding` Python files of installed packages lie beside it in each tree, unchanged. One process; CPU
seconds, since others may use the machine. bm25s indexes what was tokenised before and kept, so it is charged for
indexing and ranking alone.
"""

import argparse
import json
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bm25s
import pygit2

from data_prep.commits.changes import LeftOut, text_of
from data_prep.commits.history import HistoryTask, message_of, write_history
from data_prep.commits.ranking import SnapshotIndex, words_of
from data_prep.commits.repositories import Repository
from data_prep.commits.samples import Batch, write_batch
from data_prep.commits.settings import CommitsConfig, load_config
from data_prep.shards import ShardTask, write_shard
from data_prep.storage import read_parquet

WITH_GOAL, WITHOUT_GOAL = 5.0, 300.0
PADDING = "installed"


def cpu(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start


def replay(source: pygit2.Repository, most: int, padding: int, path: Path) -> pygit2.Repository:
    """The newest `most` commits along first parents, each over the same `padding` files of installed packages."""
    made = pygit2.init_repository(path, bare=True)
    commits, commit = [], source[source.head.target].peel(pygit2.Commit)
    while len(commits) <= most:
        commits.append(commit)
        if not commit.parents:
            break
        commit = commit.parents[0]
    files = installed(padding)
    head: list[pygit2.Oid] = []
    for commit in reversed(commits):
        index, listing = pygit2.Index(), pygit2.Index()
        listing.read_tree(commit.tree)
        for entry in listing:
            if entry.mode != pygit2.enums.FileMode.COMMIT and entry.id not in made:
                made.odb.write(pygit2.enums.ObjectType.BLOB, source[entry.id].data)
            index.add(pygit2.IndexEntry(entry.path, entry.id, entry.mode))
        for name, data in files.items():
            blob = made.create_blob(data) if not head else pygit2.hash(data)
            index.add(pygit2.IndexEntry(f"{PADDING}/{name}", blob, pygit2.enums.FileMode.BLOB))
        tree = index.write_tree(made)
        head = [made.create_commit("HEAD", commit.author, commit.committer, commit.message, tree, head)]
    made.pack()  # as a clone is
    for loose in path.glob("objects/??/*"):
        loose.unlink()
    return pygit2.Repository(str(path))


def installed(most: int) -> dict[str, bytes]:
    """Python files of the installed packages, by path, those of 1 to 64 KiB."""
    root = Path(sysconfig.get_path("purelib"))
    found = {}
    for path in sorted(root.rglob("*.py")):
        if len(found) == most:
            break
        if 1024 <= path.stat().st_size <= 1 << 16:
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def stage(path: Path, head: str, config: CommitsConfig, work: Path) -> dict[str, float]:
    """Histories and samples, as the stage's shard functions make them."""
    history = work / "history.parquet"
    task = HistoryTask(str(path), head, config.commits, config.shard_commits)
    manifest, history_s = cpu(write_shard, ShardTask(history, task.inputs, write_history, (task, history)))
    repository = Repository("benchmark", "benchmark", str(path), head)
    documents, samples_s = 0, 0.0
    for found in manifest["batches"]:
        batch = Batch(repository, history, found["batch"], (), None)
        ledger = ShardTask(work / f"{batch.name}.ledger", "", write_batch, (batch, "", work, config))
        made, spent_s = cpu(write_shard, ledger)
        documents, samples_s = documents + made["rows"], samples_s + spent_s
    commits = manifest["rows"]
    return {
        "commits": commits,
        "documents": documents,
        "history_s": history_s,
        "samples_s": samples_s,
        "commits_per_s": commits / (history_s + samples_s),
        "documents_per_s": documents / (history_s + samples_s),
    }


def peer(repository: pygit2.Repository, history: Path, config: CommitsConfig, most: int) -> dict[str, float]:
    """Ranking alone: our index, and bm25s made anew for each snapshot, of the same commits; and whether they agree."""
    limit = config.sample.ranked_file_bytes
    rows = [row for row in read_parquet(history).to_pylist() if row["reason"] is None][-most:]
    index, words = SnapshotIndex(repository, limit), {}
    index.move(repository[rows[0]["commit"]].parents[0].tree)
    ours_s = theirs_s = 0.0
    agree = 0
    for row in rows:
        commit = repository[row["commit"]]
        tree, query = commit.parents[0].tree, words_of(message_of(commit))
        _, spent_s = cpu(index.move, tree)
        ours, asked_s = cpu(index._bm25.scores, query)
        ours_s += spent_s + asked_s
        listing = pygit2.Index()
        listing.read_tree(tree)
        files = {}
        for entry in listing:
            if entry.id not in words:
                text = text_of(repository, entry.id, limit)
                words[entry.id] = None if isinstance(text, LeftOut) else words_of(text)
            if words[entry.id] is not None:
                files[entry.path] = [*words[entry.id], *words_of(entry.path)]
        theirs, spent_s = cpu(by_bm25s, list(files.values()), query)
        theirs_s += spent_s
        wanted = {path: score for path, score in zip(files, theirs, strict=True) if score}
        agree += wanted.keys() == ours.keys() and all(abs(ours[p] - s) < 1e-3 for p, s in wanted.items())
    return {"commits": len(rows), "ours_s": ours_s, "bm25s_s": theirs_s, "agree": agree}


def by_bm25s(files: list[list[str]], query: list[str]) -> list[float]:
    retriever = bm25s.BM25()
    retriever.index(files, show_progress=False)
    known = [word for word in query if word in retriever.vocab_dict]
    return retriever.get_scores(known).tolist() if known else [0.0] * len(files)


def table(results: dict[str, Any]) -> str:
    ranked, plain, ranking = results["with_bm25"], results["without_bm25"], results["ranking"]
    each = ranking["commits"]
    lines = ["| what | commits | samples | CPU s | commits per CPU s | goal |", "| --- | --- | --- | --- | --- | --- |"]
    for what, row, goal in (
        ("with BM25, unified diff", ranked, WITH_GOAL),
        ("with BM25, search/replace", results["search_replace"], WITH_GOAL),
        ("without BM25, unified diff", plain, WITHOUT_GOAL),
    ):
        verdict = "met" if row["commits_per_s"] >= goal else "not met"
        lines.append(
            f"| {what} | {row['commits']} | {row['documents']} | {row['history_s'] + row['samples_s']:.2f} | "
            f"{row['commits_per_s']:.0f} ({row['documents_per_s']:.0f} samples) | {goal:.0f}: {verdict} |"
        )
    lines.append(
        f"\nRanking alone, {each} commits: {1000 * ranking['ours_s'] / each:.1f} ms each, bm25s "
        f"{1000 * ranking['bm25s_s'] / each:.0f} ms; the same scores for {ranking['agree']} of {each}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", default=str(Path(__file__).parents[1]))
    parser.add_argument("--commits", type=int, default=500, help="the newest so many")
    parser.add_argument("--padding", type=int, default=1000, help="files of installed packages beside")
    parser.add_argument("--runs", type=int, default=5, help="of which the one in the middle counts")
    parser.add_argument("--peer", type=int, default=10, help="commits that bm25s ranks, too")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = replay(
            pygit2.Repository(arguments.repository), arguments.commits, arguments.padding, Path(folder) / "git"
        )
        head, listing = str(made.head.target), pygit2.Index()
        listing.read_tree(made[head].tree)
        results: dict[str, Any] = {"files": len(listing)}
        for name, sample in (
            ("without_bm25", {"files": 0}),
            ("with_bm25", {}),
            ("search_replace", {"format": "search_replace"}),
        ):
            config = load_config(None, {"sample": sample})
            places = [Path(folder) / name / str(number) for number in range(arguments.runs)]  # else a run does nothing
            runs = [stage(Path(folder) / "git", head, config, place) for place in places]
            results[name] = sorted(runs, key=lambda run: run["commits_per_s"])[len(runs) // 2]
        history = Path(folder) / "with_bm25/0/history.parquet"
        results["ranking"] = peer(made, history, load_config(), arguments.peer)
    print(f"{results['files']:,} files in the last snapshot\n\n{table(results)}")
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
