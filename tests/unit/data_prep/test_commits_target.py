"""A target, applied to the snapshot before its commit, gives the files after it: of any text, and of real commits."""

import subprocess
from pathlib import Path

import pygit2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.commits.changes import Change, lines_of, read_changes
from data_prep.commits.target import Applied, apply_target, write_target
from data_prep.errors import DataError
from tokenizer.special import STRINGS

FORMATS = ("unified_diff", "search_replace")
# Lines that are signs of one format or the other, line ends that are none, and few enough that they repeat.
# fmt: off
LINES = st.sampled_from([
    "a", "b", "", " ", "é\r", "\u2028", "<<<<<<< SEARCH", "=======", "========", "======= (no newline)", "======= x",
    ">>>>>>> REPLACE", ">>>>>>> REPLACE (no newline)", "--- a/f", "+++ b/f", "@@ -1 +1 @@", "## changes", "M\tf",
    "\\ No newline at end of file", STRINGS["commit_changes"], STRINGS["commit_paths"] + "M\tf",
])
# fmt: on
TEXTS = st.builds(
    lambda lines, end: "\n".join(lines) + ("\n" if lines and end else ""), st.lists(LINES, max_size=14), st.booleans()
)


@given(TEXTS)
def test_lines_joined_are_the_text(text):
    lines = lines_of(text)
    assert "".join(lines) == text
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines[:-1])


def as_decoded(target: str, marker: str = STRINGS["commit_changes"]) -> str:
    """The target as it reads when its heading was a special token."""
    rows, _, edits = target.partition("\n## changes\n")
    return f"{rows}\n{marker}{edits}"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.integers(0, 3), st.sampled_from(FORMATS))
def test_any_change_of_texts(texts, context_lines, format):
    before = {f"d/f {index}.py": old for index, (old, _) in enumerate(texts)}
    after = {f"d/f {index}.py": new for index, (_, new) in enumerate(texts)}
    changes = [Change(path, path, before[path], after[path]) for path in before]
    target = write_target(changes, format, context_lines)
    changed = {path: text for path, text in after.items() if text != before[path]}
    for said in (target, as_decoded(target)):
        assert apply_target(said, before.__getitem__, format) == Applied(changed, frozenset())
    own = "<[reserved-12]>"  # of a tokenizer that has its own token for the heading
    assert apply_target(as_decoded(target, own), before.__getitem__, format, own) == Applied(changed, frozenset())


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(FORMATS))
def test_added_deleted_and_renamed_files(old, new, format):
    before = {"gone": old, "from": old, "same": old, "chain": new}
    changes = [
        Change(None, "added", "", new),
        Change("gone", None),
        Change("from", "to", old, new),
        Change("same", "moved"),
        Change("chain", "from"),  # takes the place of another that is renamed
    ]
    target = write_target(changes, format, 3)
    for said in (target, as_decoded(target)):
        applied = apply_target(said, before.__getitem__, format)
        assert applied.files == {"added": new, "to": new, "moved": old, "from": new}
        assert applied.gone == {"gone", "same", "chain"}


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_what_is_searched_for_occurs_once(old, new):
    """Counted by the lines of the file, in another way than the writer looks for them."""
    target = write_target([Change("f", "f", old, new)], "search_replace", 0)
    body = target.partition("--- f\n")[2]
    lines, at = lines_of(body), 0
    have = lines_of(old)
    while at < len(lines):
        width = len(lines[at]) - len(" SEARCH\n")
        assert width >= 7 and lines[at] == "<" * width + " SEARCH\n"
        middle = next(i for i in range(at, len(lines)) if lines[i].split(" ")[0].strip() == "=" * width)
        end = next(i for i in range(middle, len(lines)) if lines[i].startswith(">" * width + " REPLACE"))
        search = lines_of("".join(lines[at + 1 : middle])[: -1 if "(no newline)" in lines[middle] else None])
        places = [i for i in range(len(have)) if search and have[i : i + len(search)] == search]
        assert len(places) == 1 or (search == have == [])
        at = end + 1


def test_one_change_in_both_formats():
    old = "".join(f"{n}\n" for n in (1, 2, 3, 2, 4, 5, 6, 7, 8, 9))
    changes = [Change("a.py", "a.py", old, old.replace("2\n4", "two\n4")), Change(None, "b.py", "", "x\n")]
    assert write_target(changes, "unified_diff", 1) == (
        "M\ta.py\nA\tb.py\n## changes\n"
        "--- a/a.py\n+++ b/a.py\n@@ -3,3 +3,3 @@\n 3\n-2\n+two\n 4\n"
        "--- /dev/null\n+++ b/b.py\n@@ -0,0 +1 @@\n+x\n"
    )
    assert write_target(changes, "search_replace", 0) == (
        "M\ta.py\nA\tb.py\n## changes\n"
        "--- a.py\n<<<<<<< SEARCH\n3\n2\n4\n=======\n3\ntwo\n4\n>>>>>>> REPLACE\n"
        "--- b.py\n<<<<<<< SEARCH\n=======\nx\n>>>>>>> REPLACE\n"
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.integers(0, 200), st.sampled_from(FORMATS))
def test_a_target_is_whole_or_none(texts, most, format):
    changes = [Change(f"f{index}", f"f{index}", old, new) for index, (old, new) in enumerate(texts)]
    whole = write_target(changes, format, 3)
    assert write_target(changes, format, 3, most) == (whole if len(whole) <= most else None)


@pytest.mark.parametrize(
    ("target", "format", "said"),
    [
        ("M\ta\n", "unified_diff", "must have the line ## changes"),
        ("X\ta\n## changes\n", "unified_diff", "A, M or D with one path, or R with two"),
        ("R\ta\n## changes\n", "unified_diff", "A, M or D with one path, or R with two"),
        ("M\ta\n## changes\n--- a/b\n+++ b/b\n", "unified_diff", "b: is changed but not named among the paths"),
        ("M\ta\n## changes\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-y\n+z\n", "unified_diff", "does not fit the file"),
        ("M\ta\n## changes\n--- a/a\n+++ b/a\n@@ -1,2 +1 @@\n-x\n", "unified_diff", "ends too early"),
        ("M\ta\n## changes\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n?x\n", "unified_diff", "is no line of a hunk"),
        ("M\ta\n## changes\n--- a/a\n+++ b/a\n@@ one @@\n", "unified_diff", "does not start a hunk"),
        ("M\ta\n## changes\n--- a/a\n", "unified_diff", r"ends before its line '\+\+\+ b/path'"),
        ("M\ta\n## changes\nx\n", "search_replace", "the next file, as in '--- path'"),
        ("M\ta\n## changes\n--- a\n<<<<<<< SEARCH\nx\n", "search_replace", "a block has no line ======="),
        ("M\ta\n## changes\n--- a\n<<<<<<< FIND\nx\n", "search_replace", "must start with <<<<<<< SEARCH"),
        (
            "M\ta\n## changes\n--- a\n<<<<<<< SEARCH\nx\n=======\n>>>>>>> REPLACE\n",
            "search_replace",
            "a: what starts with 'x' occurs 2 times",
        ),
        (
            "M\ta\n## changes\n--- a\n<<<<<<< SEARCH\nq\n=======\n>>>>>>> REPLACE\n",
            "search_replace",
            "a: what starts with 'q' occurs 0 times",
        ),
        (
            "M\ta\n## changes\n--- a\n" + "<<<<<<< SEARCH\nx\nx\n=======\n>>>>>>> REPLACE\n" * 2,
            "search_replace",
            "two blocks change the same lines",
        ),
    ],
)
def test_a_target_that_does_not_fit_is_refused(target, format, said):
    with pytest.raises(DataError, match=said):
        apply_target(target, {"a": "x\nx\n", "b": "x\n"}.__getitem__, format)


def real_commits(most: int) -> list[tuple[pygit2.Repository, pygit2.Commit]]:
    """The newest commits with one parent of the repository that this file is in."""
    try:
        repository = pygit2.Repository(str(Path(__file__).parents[3]))
        commits = [commit for commit in repository.walk(repository.head.target) if len(commit.parents) == 1]
    except (pygit2.GitError, KeyError):
        commits = []
    if not commits:
        pytest.skip("the tests are not in a Git repository with a history: real commits are not looked at")
    return [(repository, commit) for commit in commits[:most]]


@pytest.mark.parametrize("format", FORMATS)
def test_real_commits(format):
    checked = 0
    for repository, commit in real_commits(40):
        old, new = commit.parents[0].tree, commit.tree
        changes, _ = read_changes(repository, commit, 1 << 20)
        target = write_target(changes, format, 3)
        applied = apply_target(target, lambda path, tree=old: tree[path].data.decode(), format)
        for change in changes:
            if change.new_path:
                assert applied.files[change.new_path].encode() == new[change.new_path].data
                checked += 1
            if change.old_path and change.old_path != change.new_path:
                assert change.old_path in applied.gone and change.old_path not in new
    assert checked > 40


def test_git_applies_the_diffs_of_real_commits(tmp_path):
    """`git apply` knows nothing of us; a snapshot's changed files, patched by it, are the files after the commit."""
    for number, (repository, commit) in enumerate(real_commits(15)):
        old, new = commit.parents[0].tree, commit.tree
        edited = [c for c in read_changes(repository, commit, 1 << 20)[0] if c.old_path == c.new_path or not c.old_path]
        folder = tmp_path / str(number)
        folder.mkdir()
        for change in edited:
            (folder / change.path).parent.mkdir(parents=True, exist_ok=True)
            if change.old_path:
                (folder / change.path).write_bytes(old[change.path].data)
        patch = write_target([c for c in edited if c.after], "unified_diff", 3).partition("## changes\n")[2]
        if patch:
            subprocess.run(["git", "apply", "-"], input=patch.encode(), cwd=folder, check=True, timeout=60)
        for change in edited:
            if change.new_path and change.after:
                assert (folder / change.path).read_bytes() == new[change.path].data
