"""BM25 over snapshots that follow each other, against bm25s on each of them."""

import bm25s
import numpy as np
import pygit2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.commits.ranking import Bm25, SnapshotIndex, words_of

WORDS = ["red", "green", "blue", "grey", "white"]
FILES = st.dictionaries(st.sampled_from(["a", "b", "c", "d", "e", "f"]), st.lists(st.sampled_from(WORDS), max_size=12))


def reference(files: dict[str, list[str]], query: list[str]) -> dict[str, float]:
    """Path -> score by bm25s, of the files that hold a word of the query."""
    vocabulary = sorted({word for words in files.values() for word in words})
    asked = [word for word in query if word in vocabulary]
    if not asked:
        return {}
    retriever = bm25s.BM25()
    retriever.index(list(files.values()), show_progress=False)
    scores = retriever.get_scores(asked)
    return {path: score for (path, words), score in zip(files.items(), scores, strict=True) if set(words) & set(asked)}


@settings(max_examples=150, deadline=None)
@given(st.lists(FILES, min_size=1, max_size=5), st.lists(st.sampled_from([*WORDS, "unheard"]), max_size=6))
def test_scores_are_those_of_bm25s_whatever_came_before(snapshots, query):
    index, there = Bm25(), {}
    for files in snapshots:
        for path in set(there) - set(files):
            index.remove(path)
        for path, words in files.items():
            if there.get(path) != words:
                index.add(path, index.words(" ".join(words)))
        there = files
        wanted = reference(files, query)
        found = index.scores(query)
        assert set(found) == set(wanted)
        for path, score in wanted.items():
            assert found[path] == pytest.approx(score, rel=1e-5)


def test_files_that_are_gone_are_forgotten():
    index = Bm25()
    for number in range(3000):
        index.add(f"f{number % 7}", index.words(f"word{number} common"))
    assert len(index._paths) <= 7 + 1001 and index._entries.shape[1] < 10 * 3000
    assert set(index.scores(["common"])) == {f"f{n}" for n in range(7)}
    assert index.scores(["2999"]).keys() == {"f3"} and not index.scores(["2900"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("XMLParser.parse_v2(readHTTP)", ["xml", "parser", "parse", "v", "2", "read", "http"]),
        ("MAX_LINE-Length maxLine", ["max", "line", "length", "max", "line"]),
        ("größeWert = Ключ maxLine", ["größewert", "ключ", "max", "line"]),
        ("", []),
    ],
)
def test_identifiers_are_taken_apart(text, words):
    assert words_of(text) == words


def tree(repository: pygit2.Repository, files: dict[str, bytes]) -> pygit2.Tree:
    index = pygit2.Index()
    for path, data in files.items():
        index.add(pygit2.IndexEntry(path, repository.create_blob(data), pygit2.enums.FileMode.BLOB))
    return repository[index.write_tree(repository)]


def test_the_index_follows_the_snapshots(tmp_path):
    repository = pygit2.init_repository(tmp_path / "r", bare=True)
    index = SnapshotIndex(repository, max_file_bytes=1000)
    first = {
        "a/login.py": b"def check_password(): pass\n",
        "b.py": b"x = 1\n",
        "bin": b"password\0",
        "big": b"a" * 2000,
    }
    index.move(tree(repository, first))
    assert index.top(words_of("Password check"), 5) == [("a/login.py", "def check_password(): pass\n")]
    assert index.top(words_of("Login page"), 5)[0][0] == "a/login.py"  # by its path
    assert index.top(words_of("x"), 5, frozenset({"b.py"})) == []
    second = {"b.py": b"password = 1\n", "c.py": b"password = 1\n", "big": b"password"}
    index.move(tree(repository, second))
    assert [path for path, _ in index.top(["password"], 2)] == ["big", "b.py"]
    fresh = SnapshotIndex(repository, max_file_bytes=1000)
    fresh.move(tree(repository, second))
    assert fresh.top(["password"], 5) == index.top(["password"], 5)
    index.move(tree(repository, {}))
    assert index.top(["password"], 5) == []
    assert np.isfinite(list(fresh._bm25.scores(["password"]).values())).all()


def test_a_file_that_cannot_be_read_is_not_ranked_and_no_other_is_lost(tmp_path):
    """Such as one that a partial clone lacks."""
    repository = pygit2.init_repository(tmp_path / "r", bare=True)
    files = {"a.py": b"lost = 1\n", "b.py": b"gone = 1\n", "c.py": b"kept = 1\n"}
    first, second = tree(repository, files), tree(repository, {"a.py": files["a.py"], "c.py": b"kept = 2\n"})
    lost = str(pygit2.hash(files["a.py"]))
    (tmp_path / "r/objects" / lost[:2] / lost[2:]).unlink()
    index = SnapshotIndex(pygit2.Repository(str(tmp_path / "r")), max_file_bytes=1000)
    index.move(first)
    assert index.top(["kept", "gone"], 5) == [("b.py", "gone = 1\n"), ("c.py", "kept = 1\n")]
    index.move(second)
    assert index.top(["kept", "gone", "lost"], 5) == [("c.py", "kept = 2\n")]
