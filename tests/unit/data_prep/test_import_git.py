"""Git repositories are read from their objects at HEAD."""

import os

import pygit2
import pytest

from data_prep.errors import DataError
from data_prep.sources.base import KnownBlobs, Piece, Unit, group_units
from data_prep.sources.content import Content
from data_prep.sources.git import GitTree


def commit(repository: pygit2.Repository, content: dict[str, bytes], links: dict[str, str] | None = None) -> str:
    """Commits files (and symbolic links) to HEAD, without touching a work tree."""
    index = pygit2.Index()
    for path, data in content.items():
        index.add(pygit2.IndexEntry(path, repository.create_blob(data), pygit2.enums.FileMode.BLOB))
    for path, target in (links or {}).items():
        index.add(pygit2.IndexEntry(path, repository.create_blob(target.encode()), pygit2.enums.FileMode.LINK))
    tree = index.write_tree(repository)
    author = pygit2.Signature("A", "a@example.org", 0, 0)
    parents = [] if repository.head_is_unborn else [repository.head.target]
    return str(repository.create_commit("HEAD", author, author, "message", tree, parents))


CONTENT = {
    "LICENSE": b"MIT",
    "a.py": b"a = 1\n",
    "a/b.c": b"int b;\n",
    "a/b/c.rs": b"fn c() {}\n",
    "a-b.go": b"package b\r\n",
    "latin.py": b"\xe9",
    "blob.bin": b"\0",
}


@pytest.fixture
def bare(tmp_path):
    repository = pygit2.init_repository(tmp_path / "repo.git", bare=True)
    commit(repository, CONTENT)
    return repository


def test_bare_work_tree_and_folder_give_the_same_documents(tmp_path, bare, files, take, rows):
    report = take(tmp_path / "repo.git", "git")
    from_bare = rows()
    assert [row["path"] for row in from_bare] == ["a-b.go", "a.py", "a/b.c", "a/b/c.rs"]
    assert {row["licence_file"] for row in from_bare} == {"LICENSE"}
    assert {reason: drop["count"] for reason, drop in report.drops.items()} == {"not_utf8": 1, "unknown_language": 2}

    pygit2.clone_repository(str(tmp_path / "repo.git"), str(tmp_path / "work"))
    (tmp_path / "work/a.py").write_text("not committed\n")
    (tmp_path / "work/new.py").write_text("not committed\n")
    take(tmp_path / "work", "git")
    assert rows() == from_bare

    files(tmp_path / "plain", CONTENT)
    take(tmp_path / "plain", "folder")
    assert rows() == from_bare


def test_bare_repositories_in_a_folder_of_repositories(tmp_path, bare, files, take, rows):
    (tmp_path / "all").mkdir()
    (tmp_path / "repo.git").rename(tmp_path / "all/repo.git")
    files(tmp_path / "all/plain", {"x.py": "x = 1\n"})
    take(tmp_path / "all")
    assert {(row["repository"], row["path"]) for row in rows()} == {
        ("plain", "x.py"), *(("repo.git", path) for path in ["a-b.go", "a.py", "a/b.c", "a/b/c.rs"]),
    }  # fmt: skip


def test_auto_knows_bare_repositories_work_trees_and_unborn_ones(tmp_path, bare, files, take, rows):
    take(tmp_path / "repo.git")
    assert len(rows()) == 4
    files(pygit2.init_repository(tmp_path / "unborn").workdir and tmp_path / "unborn", {"u.py": "u = 1\n"})
    take(tmp_path / "unborn")
    assert [row["path"] for row in rows()] == ["u.py"]


def test_links_and_submodules_are_counted(tmp_path, take, rows):
    repository = pygit2.init_repository(tmp_path / "repo.git", bare=True)
    commit(repository, {"a.py": b"a = 1\n"}, links={"l.py": "a.py"})
    index = pygit2.Index()
    index.read_tree(repository.head.peel().tree)
    index.add(pygit2.IndexEntry("sub", repository.head.target, pygit2.enums.FileMode.COMMIT))
    author = pygit2.Signature("A", "a@example.org", 0, 0)
    repository.create_commit("HEAD", author, author, "m", index.write_tree(repository), [repository.head.target])
    report = take(tmp_path / "repo.git")
    assert [row["path"] for row in rows()] == ["a.py"]
    assert {reason: drop["examples"] for reason, drop in report.drops.items()} == {
        "symbolic_link": ["src/l.py"], "submodule": ["src/sub"],
    }  # fmt: skip


def object_file(repository_path, oid: str):
    return repository_path / "objects" / oid[:2] / oid[2:]


def test_damaged_objects_are_counted_and_the_rest_is_taken(tmp_path, bare, take, rows):
    tree = bare.head.peel().tree
    blob, subtree = str((tree / "a.py").id), str((tree / "a").id)
    path = object_file(tmp_path / "repo.git", blob)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    object_file(tmp_path / "repo.git", subtree).unlink()
    report = take(tmp_path / "repo.git")
    assert [row["path"] for row in rows()] == ["a-b.go"]
    assert report.drops["damaged_git"]["examples"] == ["src/a.py", "src/a"]


def raw_tree(repository: pygit2.Repository, *entries: tuple[str, str, pygit2.Oid]) -> pygit2.Oid:
    """A tree of (mode, name, id), whatever they are."""
    data = b"".join(f"{mode} {name}\0".encode() + oid.raw for mode, name, oid in entries)
    return repository.odb.write(pygit2.enums.ObjectType.TREE, data)


def commit_tree(repository: pygit2.Repository, tree: pygit2.Oid) -> None:
    who = "A <a@example.org> 1 +0000"
    data = f"tree {tree}\nauthor {who}\ncommitter {who}\n\nmessage\n".encode()
    found = repository.odb.write(pygit2.enums.ObjectType.COMMIT, data)
    repository.references.create("refs/heads/other", found)
    repository.set_head("refs/heads/other")


def test_entries_that_name_an_object_of_another_kind_are_damaged(tmp_path, bare, take, rows):
    blob, folder = bare.create_blob(b"a = 1\n"), bare.head.peel().tree.id
    commit_tree(bare, raw_tree(bare, ("100644", "a.py", blob), ("100644", "b.py", folder), ("40000", "c", blob)))
    report = take(tmp_path / "repo.git")
    assert [row["path"] for row in rows()] == ["a.py"]
    assert report.drops["damaged_git"]["examples"] == ["src/b.py", "src/c"]


def test_trees_however_deep(tmp_path, bare, take, rows):
    blob, tree = bare.create_blob(b"a = 1\n"), None
    for _ in range(1500):
        tree = raw_tree(bare, ("100644", "a.py", blob), *([("40000", "b", tree)] if tree else []))
    commit_tree(bare, tree)
    assert take(tmp_path / "repo.git").documents == 1500
    assert max(row["path"].count("/") for row in rows()) == 1499


def test_a_repository_without_commits_in_a_folder_whose_name_is_not_utf8(tmp_path, files, take):
    root = files(tmp_path / "all", {"good/g.py": "g = 1\n"})
    pygit2.init_repository(tmp_path / "empty.git", bare=True)
    (tmp_path / "empty.git").rename(root / os.fsdecode(b"na\xefve.git"))
    (example,) = take(root, "folders").drops["damaged_git"]["examples"]
    assert example.startswith("na\\udcefve.git: ")


def test_a_repository_without_a_readable_head(tmp_path, bare, files, take, rows):
    head = str(bare.head.target)
    object_file(tmp_path / "repo.git", head).unlink()
    with pytest.raises(DataError, match="no commit can be read at HEAD"):
        take(tmp_path / "repo.git", "git")
    files(tmp_path / "all/good", {"g.py": "g = 1\n"})
    (tmp_path / "repo.git").rename(tmp_path / "all/repo.git")
    report = take(tmp_path / "all", "folders")
    assert [row["path"] for row in rows()] == ["g.py"]
    assert report.drops["damaged_git"]["count"] == 1


def test_only_a_new_commit_makes_it_stale(tmp_path, bare, take, rows):
    take(tmp_path / "repo.git")
    assert take(tmp_path / "repo.git").units_made == 0
    commit(bare, {**CONTENT, "a.py": b"a = 2\n"})
    assert take(tmp_path / "repo.git").units_made == 1
    assert "a = 2\n" in {row["text"] for row in rows()}


def fork_of(tmp_path, name: str, content: dict[str, bytes]) -> None:
    commit(pygit2.init_repository(tmp_path / "all" / name, bare=True), content)


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Ids of the blobs that were read, in order."""
    found = []
    original = GitTree.read

    def recording(self, entry):
        found.append(entry.version)
        return original(self, entry)

    monkeypatch.setattr(GitTree, "read", recording)
    return found


def code(index: int) -> bytes:
    return f"# {index}\n".encode() + b"".join(f"x{index} = {line}\n".encode() for line in range(300))


def test_what_forks_share_is_read_once(tmp_path, take, rows, reads):
    shared = {f"m{index}.py": code(index) for index in range(20)}
    fork_of(tmp_path, "a.git", shared)
    fork_of(tmp_path, "k-other.git", {f"n{index}.py": code(100 + index) for index in range(20)})
    fork_of(tmp_path, "z.git", {**shared, "m3.py": code(50), "new.py": code(51)})
    take(tmp_path / "all", "folders", shard_bytes=40_000)
    assert len(reads) == len(set(reads)) == 20 + 20 + 2
    found = {(row["repository"], row["path"]): row["text"].encode() for row in rows()}
    assert len(found) == 20 + 20 + 21
    assert {path: text for (repository, path), text in found.items() if repository == "a.git"} == shared
    assert found["z.git", "m3.py"] == code(50) and found["z.git", "m4.py"] == shared["m4.py"]


def test_documents_do_not_depend_on_what_is_read_once(tmp_path, take, rows, monkeypatch):
    shared = {f"m{index}.py": code(index) for index in range(10)} | {"same.pl": b"a :- b.\n" * 200}
    fork_of(tmp_path, "a.git", shared)
    fork_of(tmp_path, "b.git", {**shared, "same.txt.py": b"a :- b.\n" * 200})
    take(tmp_path / "all", "folders")
    together = rows()
    monkeypatch.setattr(Unit, "known_blobs", lambda unit: None)
    take(tmp_path / "all", "folders", examples=1)
    assert rows() == together


def test_of_many_forks_a_unit_takes_some():
    pieces = [Piece(None, f"{index:03d}", 900, "", family="f") for index in range(30)]
    units = list(group_units("s", pieces, 1000))
    assert [piece.key for unit in units for piece in unit.pieces] == [piece.key for piece in pieces]
    assert max(sum(piece.size_bytes for piece in unit.pieces) for unit in units) <= 8000
    assert len(units) == 4


def test_what_is_least_used_is_forgotten():
    known, read = KnownBlobs(most_bytes=2500), []

    def ask(blob: str) -> None:
        def content() -> Content:
            read.append(blob)
            return Content("x" * 1000)

        assert known.get(blob, "a.py", content).text == "x" * 1000

    for blob in "aabacab":
        ask(blob)
    assert "".join(read) == "abcb"
    assert known.size_bytes <= 2500
