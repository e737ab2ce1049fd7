"""Exact duplicates against a computation by brute force."""

import hashlib
import json
import random
from collections import Counter

import pyarrow.parquet as pq
import pytest

from data_prep.database import add_shards_view, open_database, shard_tables
from data_prep.dedup.exact import annotate_exact
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.shards import finished_manifest


def annotations(corpus):
    paths = [corpus / "annotations/exact_dedup" / shard.name for shard in list_shards(corpus)]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def by_brute_force(rows):
    """id -> (duplicate_of, repository_duplicate_of), by the rule in the module's docstring."""
    contents, stars = {}, {}
    for row in rows:
        key = (row["source"], row["repository"])
        contents.setdefault(key, []).append(row["sha256"])
        stars[key] = max(stars.get(key, -1), -1 if row["stars"] is None else row["stars"])
    best, copies = {}, {}
    for key in sorted(contents, key=lambda key: (-stars[key], key)):
        multiset = frozenset(Counter(contents[key]).items())
        if multiset in best:
            copies[key] = "/".join(best[multiset])
        best.setdefault(multiset, key)

    def order(row):
        key = (row["source"], row["repository"])
        return (-(-1 if row["stars"] is None else row["stars"]), key, row["id"])

    keeper = {}
    for row in sorted(rows, key=order):
        keeper.setdefault(row["sha256"], row["id"])
    return {
        row["id"]: (
            None if keeper[row["sha256"]] == row["id"] else keeper[row["sha256"]],
            copies.get((row["source"], row["repository"])),
        )
        for row in rows
    }


@pytest.mark.parametrize("seed", range(3))
def test_against_brute_force(tmp_path, take, rows, seed):
    draw = random.Random(seed)
    records = []
    for repository in range(40):
        texts = [f"x = {draw.randrange(30)}\n" for _ in range(draw.choice([1, 1, 2, 3]))]
        stars = draw.choice([None, 0, 5])
        records += [
            {"content": text, "path": f"{i}.py", "repo": f"r{repository:02d}", "stars": stars}
            for i, text in enumerate(texts)
        ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    take(tmp_path / "t.jsonl", shard_bytes=1000)
    summary = annotate_exact(tmp_path / "corpus", 2)
    expected = by_brute_force(rows())
    found = annotations(tmp_path / "corpus")
    assert [row["id"] for row in found] == [row["id"] for row in rows()]
    assert {row["id"]: (row["duplicate_of"], row["repository_duplicate_of"]) for row in found} == expected
    duplicates = [row for row in rows() if expected[row["id"]][0]]
    assert summary == {
        "documents": len(found),
        "duplicates": len(duplicates),
        "duplicate_bytes": sum(row["size_bytes"] for row in duplicates),
    }
    assert any(copy for _, copy in expected.values()) and duplicates


def test_rows_stay_beside_their_documents_over_many_shards(tmp_path, files, take, rows):
    content = {f"r{i:03d}/{j}.py": f"x = {i * j % 97}\n" for i in range(120) for j in range(40)}
    files(tmp_path / "root", content)
    take(tmp_path / "root", shard_bytes=2000)
    annotate_exact(tmp_path / "corpus", 2)
    texts = {row["id"]: row["text"] for row in rows()}
    found = annotations(tmp_path / "corpus")
    assert [row["id"] for row in found] == list(texts)
    assert all(texts[row["id"]] == texts[row["duplicate_of"]] for row in found if row["duplicate_of"])
    kept = [texts[row["id"]] for row in found if row["duplicate_of"] is None]
    assert sorted(kept) == sorted(set(texts.values()))
    for shard in list_shards(tmp_path / "corpus"):
        manifest = finished_manifest(tmp_path / "corpus/annotations/exact_dedup" / shard.name)
        assert manifest["documents_sha256"] == hashlib.sha256(shard.read_bytes()).hexdigest()


def test_it_is_done_once_and_again_for_more_documents(tmp_path, files, take, snapshot):
    root = files(tmp_path / "root", {"a/x.py": "x = 1\n", "b/y.py": "x = 1\n"})
    take(root)
    assert annotate_exact(tmp_path / "corpus", 1)["duplicates"] == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "corpus/annotations").rglob("*")}
    assert annotate_exact(tmp_path / "corpus", 1)["duplicates"] == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    files(root, {"c/z.py": "x = 1\n"})
    take(root)
    assert annotate_exact(tmp_path / "corpus", 1)["duplicates"] == 2
    (root / "b/y.py").unlink()
    take(root)
    assert annotate_exact(tmp_path / "corpus", 1)["duplicates"] == 1
    assert len(list((tmp_path / "corpus/annotations/exact_dedup").glob("*.parquet"))) == len(
        list_shards(tmp_path / "corpus")
    )


def test_stars_decide_and_nothing_is_left_behind(tmp_path, take):
    records = [{"content": "x = 1\n", "path": "a.py", "repo": name, "stars": stars, "n": name} for name, stars in
               [("a", None), ("b", 3), ("c", 7), ("d", 7)]]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    take(tmp_path / "t.jsonl")
    annotate_exact(tmp_path / "corpus", 1)
    kept = [index for index, row in enumerate(annotations(tmp_path / "corpus")) if row["duplicate_of"] is None]
    assert kept == [2]
    assert not (tmp_path / "corpus/.work").exists()


def test_no_corpus(tmp_path):
    with pytest.raises(DataError, match="there is no corpus"):
        annotate_exact(tmp_path / "nowhere", 1)


def test_rows_in_another_order_are_refused(tmp_path, files, take):
    files(tmp_path / "root", {f"r/{i}.py": f"x = {i}\n" for i in range(20)})
    take(tmp_path / "root")
    shards = list_shards(tmp_path / "corpus")
    with open_database(tmp_path, 1) as database:
        add_shards_view(database, "documents", shards, "id")
        with pytest.raises(DataError, match="another order"):
            list(shard_tables(database, "SELECT id FROM documents ORDER BY _shard, _row DESC", shards))
