"""Import of folders: what is taken, and every kind of bad input counted under its reason."""

import os
import shutil
import stat

import pytest

from data_prep.errors import DataError
from data_prep.importing import ImportLimits
from data_prep.sources.base import Drops
from data_prep.sources.folders import FolderTree
from data_prep.sources.trees import LAST, TreeSlice


def counts(report) -> dict[str, int]:
    return {reason: drop["count"] for reason, drop in report.drops.items()}


def test_each_entry_of_the_folder_is_a_repository(tmp_path, files, take, rows):
    files(
        tmp_path / "root",
        {
            "alpha/src/a.py": "a = 1\n",
            "alpha/LICENSE": "MIT",
            "alpha/src/vendor/COPYING": "GPL",
            "alpha/src/vendor/deep/v.c": "int v;\n",
            "beta/b.rs": "fn b() {}\n",
            "loose.go": "package loose\n",
        },
    )
    report = take(tmp_path / "root", "folders")
    found = {(row["repository"], row["path"]): row for row in rows()}
    assert set(found) == {
        ("alpha", "src/a.py"), ("alpha", "src/vendor/deep/v.c"), ("beta", "b.rs"), ("loose.go", "loose.go"),
    }  # fmt: skip
    assert found["alpha", "src/a.py"]["licence_file"] == "LICENSE"
    assert found["alpha", "src/vendor/deep/v.c"]["licence_file"] == "src/vendor/COPYING"
    assert found["beta", "b.rs"]["licence_file"] is None
    assert found["loose.go", "loose.go"]["language"] == "Go"
    assert {row["source"] for row in rows()} == {"src"}
    assert report.documents == 4 and report.text_bytes == sum(row["size_bytes"] for row in rows())
    assert report.languages["Rust"] == {"documents": 1, "text_bytes": 10}


def test_one_folder_is_one_repository_without_its_git_folder(tmp_path, files, take, rows):
    files(tmp_path / "work", {".git/hooks/x.py": "no\n", "a/.git": "gitdir: x", "a/m.py": "m = 1\n", "n.py": "n = 1\n"})
    report = take(tmp_path / "work", "folder")
    assert [(row["repository"], row["path"]) for row in rows()] == [("src", "a/m.py"), ("src", "n.py")]
    assert counts(report) == {"ignored_folder": 1, "unknown_language": 1}


def test_line_ends_stay_and_the_byte_order_mark_goes(tmp_path, files, take, rows):
    files(tmp_path / "root", {"r/a.py": b"\xef\xbb\xbfa = 1\r\nb = 2\r\n"})
    take(tmp_path / "root")
    (row,) = rows()
    assert row["text"] == "a = 1\r\nb = 2\r\n"
    assert row["size_bytes"] == 14


def test_bad_contents(tmp_path, files, take, rows):
    bad = {
        "r/latin.py": b"# caf\xe9\n",
        "r/nul.py": b"a = 1\0\n",
        "r/utf16.py": "a = 1\n".encode("utf-16-le"),
        "r/empty.py": b"",
        "r/blank.py": b"\xef\xbb\xbf \n\t\n",
        "r/long.py": b"x" * 1001,
        "r/model.py": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "r/data.bin": b"\0\1\2",
        "r/words.txt": b"words\n",
        "r/node_modules/m/index.js": b"module.exports = 1\n",
    }
    files(tmp_path / "root", {**bad, "r/good.py": "x" * 1000})
    report = take(tmp_path / "root", max_file_bytes=1000)
    assert [row["path"] for row in rows()] == ["good.py"]
    expected = {"not_utf8": 1, "binary": 2, "empty": 2, "too_large": 1, "lfs_pointer": 1}
    assert counts(report) == expected | {"unknown_language": 2, "ignored_folder": 1}
    assert report.drops["too_large"] == {
        "count": 1, "size_bytes": 1001, "without_size": 0, "examples": ["r/long.py"],
    }  # fmt: skip
    assert report.drops["ignored_folder"]["without_size"] == 1 and report.drops["empty"]["without_size"] == 0
    assert report.sources["src"]["drops"] == report.drops


def test_links_pipes_and_loops_are_never_followed(tmp_path, files, take, rows):
    root = files(tmp_path / "root", {"r/real.py": "a = 1\n", "r/sub/deep.py": "b = 1\n"})
    outside = files(tmp_path / "outside", {"secret.py": "password = 1\n"})
    os.symlink("real.py", root / "r/inside.py")
    os.symlink(outside / "secret.py", root / "r/leaves.py")
    os.symlink(outside, root / "r/leaves_too")
    os.symlink("..", root / "r/sub/up")
    os.symlink("self.py", root / "r/self.py")
    os.symlink("nowhere.py", root / "r/broken.py")
    os.symlink(outside, root / "linked_repository")
    os.mkfifo(root / "r/pipe.py")
    report = take(root, "folders")
    assert sorted(row["path"] for row in rows()) == ["real.py", "sub/deep.py"]
    assert counts(report) == {
        "symbolic_link": 1, "link_leaves_folder": 3, "link_loop": 2, "broken_link": 1, "not_a_file": 1,
    }  # fmt: skip


def test_what_may_not_be_read_is_counted(files, as_ordinary_user, tmp_path):
    root = files(tmp_path / "root", {"shut.py": "a = 1\n", "shut/a.py": "b = 1\n", "open.py": "c = 1\n"})
    for folder in root.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:  # pytest's own are closed to others
            folder.chmod(mode | 0o055)
    (root / "shut.py").chmod(0)
    (root / "shut").chmod(0)
    slice_ = TreeSlice(FolderTree(str(root)), "src", "r", "", LAST)

    def read():
        drops = Drops()
        return [document.path for document in slice_.documents(ImportLimits(), drops)], drops.by_reason

    taken, drops = as_ordinary_user(read)
    (root / "shut").chmod(0o755)
    assert taken == ["open.py"]
    said = {"count": 2, "size_bytes": 6, "without_size": 1, "examples": ["r/shut.py", "r/shut"]}
    assert drops == {"unreadable": said}  # a folder has no size


def test_a_name_that_is_not_utf8(tmp_path, files, take, rows):
    root = files(tmp_path / "root", {"r/a.py": "a = 1\n"})
    (root / "r" / os.fsdecode(b"caf\xe9.py")).write_text("b = 1\n")
    take(root)
    assert [row["path"] for row in rows()] == ["a.py", "caf\\udce9.py"]


@pytest.mark.parametrize("kind", ["auto", "folder"])
def test_folders_however_deep(tmp_path, files, take, rows, kind):
    root = files(tmp_path / "root", {"r/LICENSE": "MIT", "r/a.py": "a = 1\n"})
    deep = [f"{root}/r"]
    for _ in range(1100):
        deep.append(f"{deep[-1]}/a")
        os.mkdir(deep[-1])
    (root / deep[-1] / "x.py").write_text("x = 1\n")
    try:
        take(root, kind)
    finally:
        os.unlink(f"{deep[-1]}/x.py")
        for folder in reversed(deep[1:]):  # what removes the folders of tests does not come so deep
            os.rmdir(folder)
    below = [row["path"].removeprefix("r/") for row in rows()]
    assert below == ["a.py", "a/" * 1100 + "x.py"]
    assert {row["licence_file"].rpartition("/")[2] for row in rows()} == {"LICENSE"}


def test_a_file_that_vanishes_between_listing_and_reading_is_counted(tmp_path, files):
    root = files(tmp_path / "root", {"a.py": "a = 1\n", "b.py": "b = 1\n"})
    tree, drops = FolderTree(str(root)), Drops()

    class Vanishing(FolderTree):
        def entries(self, limits, start, end):
            for entry in list(tree.entries(limits, start, end)):
                if entry.path == "b.py":
                    (root / "b.py").unlink()
                yield entry

    taken = list(TreeSlice(Vanishing(str(root)), "s", "r", "", LAST).documents(ImportLimits(), drops))
    assert [document.path for document in taken] == ["a.py"]
    assert drops.by_reason["unreadable"]["count"] == 1


def test_at_most_max_total_bytes_in_path_order(tmp_path, files, take, rows):
    content = {f"r{index}/f{part}.py": "x" * 100 for index in range(3) for part in range(3)}
    files(tmp_path / "root", {**content, "r0/huge.bin": b"\0" * 5000})
    report = take(tmp_path / "root", max_total_bytes=450)
    assert sorted((row["repository"], row["path"]) for row in rows()) == [
        ("r0", "f0.py"), ("r0", "f1.py"), ("r0", "f2.py"), ("r1", "f0.py"),
    ]  # fmt: skip
    assert report.drops["total_size"] == {
        "count": 5, "size_bytes": 500, "without_size": 0,
        "examples": ["r1/f1.py", "r1/f2.py", "r2/f0.py", "r2/f1.py", "r2/f2.py"],
    }  # fmt: skip
    assert take(tmp_path / "root", max_total_bytes=900).documents == 9


def test_nothing_left_is_an_error_that_says_why(tmp_path, files, take):
    files(tmp_path / "root", {"r/a.txt": "words\n", "r/b.py": ""})
    with pytest.raises(DataError, match=r"nothing is left to train on: .*1 x empty") as caught:
        take(tmp_path / "root")
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_an_error(tmp_path, take):
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match="the sources hold no files"):
        take(tmp_path / "root")


@pytest.mark.parametrize(
    ("path", "kind", "name", "said"),
    [
        ("nowhere", "auto", "src", "does not exist"),
        ("/dev/null", "auto", "src", "neither a folder nor a file"),
        ("root", "auto", "a/b", "source name"),
        ("root", "warc", "src", "kind 'warc' is none of"),
        ("root/r/a.py", "folders", "src", "not a folder"),
        ("root/r/a.py", "auto", "src", "no table by its suffix"),
        ("root", "jsonl", "src", "no .jsonl"),
        ("root", "git", "src", "no commit can be read"),
    ],
)
def test_a_source_that_makes_no_sense(tmp_path, files, take, path, kind, name, said):
    files(tmp_path / "root", {"r/a.py": "a = 1\n"})
    with pytest.raises(DataError, match=said) as caught:
        take(tmp_path / path, kind, name=name)
    assert "\n" not in str(caught.value)
    shutil.rmtree(tmp_path / "root")
