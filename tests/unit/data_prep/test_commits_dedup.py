"""Near duplicates among commits are known by their targets, not by the README and files that they share."""

import itertools
import random
import re

import pyarrow.parquet as pq
import pygit2
import pytest

from data_prep.commits.repositories import CommitSource
from data_prep.commits.run import import_commits
from data_prep.commits.settings import load_config
from data_prep.dedup.levels import deduplicate
from data_prep.dedup.settings import NearSettings, load_settings
from data_prep.documents import list_shards
from data_prep.errors import DataError

ALL = {"repositories": {"min_stars": 0, "min_forks": 0, "min_commits": 0, "min_days": 0}, "shard_commits": 4}
README = "".join(f"readme{number}\n" for number in range(1000))


@pytest.fixture
def corpus(tmp_path):
    """Commits that each add a file: of words of its own, or nearly those of the one before."""
    git, draw, files = pygit2.init_repository(tmp_path / "repo.git", bare=True), random.Random(5), {}
    files["README.md"] = README
    words: list[str] = []
    for number in range(14):
        if number % 3 == 2:
            words[draw.randrange(len(words))] = "changed"
        else:
            words = [f"w{draw.randrange(3000)}" for _ in range(60)]
        files[f"é{number}.txt"] = "".join(f"{word}\n" for word in words)
        index = pygit2.Index()
        for path, text in files.items():
            index.add(pygit2.IndexEntry(path, git.create_blob(text.encode()), pygit2.enums.FileMode.BLOB))
        who = pygit2.Signature("Ann", "ann@example.org", 1_600_000_000 + number, 0)
        parents = [] if git.head_is_unborn else [git.head.target]
        git.create_commit("HEAD", who, who, f"Add file {number}", index.write_tree(git), parents)
    sources = [CommitSource(str(tmp_path / "repo.git"), "git")]
    import_commits(
        tmp_path / "corpus", sources, load_config(None, {**ALL, "sample": {"files": 0, "readme_tokens": 4000}})
    )
    return tmp_path / "corpus"


def ngrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return set(zip(*(words[place:] for place in range(5)), strict=False))


def found_of(corpus) -> list[tuple[str, str | None, int]]:
    """(id, duplicate_of, ngrams) of every document, and its text's and target's n-grams."""
    found = []
    for shard in list_shards(corpus):
        tables = [
            pq.read_table(corpus / folder / shard.name).to_pylist()
            for folder in ("documents", "annotations/commits", "annotations/near_dedup")
        ]
        found += [{**one, **fact, **near} for one, fact, near in zip(*tables, strict=True)]
    return found


def test_targets_are_compared_by_default(corpus):
    deduplicate(corpus, 1, levels=["exact", "near"])
    rows = found_of(corpus)
    targets = [ngrams(row["text"][row["target_start"] :]) for row in rows]
    near = {
        frozenset((rows[a]["id"], rows[b]["id"]))
        for a, b in itertools.combinations(range(len(rows)), 2)
        if len(targets[a] & targets[b]) >= 0.7 * len(targets[a] | targets[b])
    }
    said = {frozenset((row["id"], row["duplicate_of"])) for row in rows if row["duplicate_of"]}
    assert said == near and len(near) == 4
    counts = [len(re.findall(r"\w+", row["text"][row["target_start"] :])) - 4 for row in rows]
    assert [row["ngrams"] for row in rows] == counts


def test_a_config_may_ask_for_whole_texts(corpus, tmp_path):
    (tmp_path / "near.yaml").write_text("text: all\n")
    found = deduplicate(corpus, 1, levels=["exact", "near"], settings=load_settings(tmp_path / "near.yaml"))
    assert found["near"]["duplicates"] > 4, "most is README and tree"
    again = deduplicate(corpus, 1, levels=["near"], settings=NearSettings(text="target"))
    assert again["near"]["duplicates"] == 4
    assert deduplicate(corpus, 2, levels=["near"])["near"] == again["near"]


def test_targets_are_asked_for_where_they_are_known(tmp_path, files, take):
    take(files(tmp_path / "src", {"r/a.py": "a = 1\n" * 30}), "folders")
    deduplicate(tmp_path / "corpus", 1, levels=["exact", "near"])
    with pytest.raises(DataError, match="text: target needs the annotation commits"):
        deduplicate(tmp_path / "corpus", 1, levels=["near"], settings=NearSettings(text="target"))
