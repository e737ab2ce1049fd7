"""The stage: which repositories and commits are taken, what a sample holds, what a further run does."""

import json
import random
import re
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pygit2
import pytest
from object_store import s3_server
from pygit2.enums import FileMode
from typer.testing import CliRunner

from data_prep import importing
from data_prep.cli import app
from data_prep.commits import samples as samples_module
from data_prep.commits.metadata import Popularity, load_metadata
from data_prep.commits.repositories import CommitSource
from data_prep.commits.run import import_commits
from data_prep.commits.settings import load_config
from data_prep.commits.target import apply_target
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.shards import run_shards
from tokenizer.encode import Encoder

DAY_S = 86_400
ALL = {"repositories": {"min_stars": 0, "min_forks": 0, "min_commits": 0, "min_days": 0}}
PERSON, BOT = ("Ann", "ann@example.org"), ("dependabot[bot]", "49699333+dependabot[bot]@users.noreply.github.com")


class Repo:
    """A repository made commit by commit; a file is bytes, or (bytes, mode)."""

    def __init__(self, path: Path):
        self.git = pygit2.init_repository(path, bare=True)
        self.files: dict[str, bytes | tuple[bytes, FileMode]] = {}
        self.day = 0

    def commit(self, message="Change things", author=PERSON, parents=None, ref="HEAD", **files) -> str:
        """Commits `files` (None deletes) on top of what there is; underscores in a name stand for dots."""
        return self.commit_files(
            message, {name.replace("_", "."): data for name, data in files.items()}, author, parents, ref
        )

    def commit_files(self, message, files, author=PERSON, parents=None, ref="HEAD") -> str:
        self.files = {path: data for path, data in {**self.files, **files}.items() if data is not None}
        index = pygit2.Index()
        for path, entry in self.files.items():
            data, mode = entry if isinstance(entry, tuple) else (entry, FileMode.BLOB)
            oid = pygit2.Oid(data) if mode == FileMode.COMMIT else self.git.create_blob(data)
            index.add(pygit2.IndexEntry(path, oid, mode))
        self.day += 1
        who = pygit2.Signature(*author, 1_600_000_000 + self.day * DAY_S, 0)
        if parents is None:
            parents = [] if self.git.head_is_unborn else [self.git.head.target]
        return str(self.git.create_commit(ref, who, who, message, index.write_tree(self.git), parents))


@pytest.fixture
def repo(tmp_path) -> Repo:
    return Repo(tmp_path / "repos" / "ann" / "tool.git")


@pytest.fixture
def run(tmp_path):
    """run(sections...) brings tmp_path/corpus up to date with tmp_path/repos and returns the report."""

    def bring(corpus="corpus", metadata=None, workers=1, sources=None, remove=(), **sections):
        config = load_config(None, {**ALL, **sections})
        sources = sources or [CommitSource(str(tmp_path / "repos"), "git")]
        return import_commits(tmp_path / corpus, sources, config, metadata, workers, remove=remove)

    return bring


@pytest.fixture
def samples(tmp_path):
    """samples() is every document of the corpus together with its facts, by commit id."""

    def read(corpus="corpus") -> dict[str, dict]:
        found = {}
        for shard in list_shards(tmp_path / corpus):
            facts = pq.read_table(tmp_path / corpus / "annotations/commits" / shard.name).to_pylist()
            for row, fact in zip(pq.read_table(shard).to_pylist(), facts, strict=True):
                assert row["id"] == fact["id"] and row["path"] == f"commit/{fact['commit']}"
                found[fact["commit"]] = {**row, **fact}
        return found

    return read


def counted(report) -> dict[str, int]:
    return {reason: drop["count"] for reason, drop in report.drops.items()}


def target_of(sample: dict) -> str:
    by_characters = sample["text"][sample["target_start"] :]
    assert sample["text"].encode()[sample["target_start_bytes"] :] == by_characters.encode()
    assert sample["text"][: sample["target_start"]].endswith("\n## paths\n")
    return by_characters


def test_what_a_sample_holds(repo, run, samples):
    login = b"def check_password(text):\n    return True\n"
    first = {"README.md": b"# Tool\nDoes things.\n", "src/login.py": login, "src/other.py": b"x = 1\n"}
    repo.commit_files("Start", first)
    changed = login.replace(b"True", b"bool(text)")
    commit = repo.commit_files("Refuse an empty password\n\nIt was let in, é.\n", {"src/login.py": changed})
    report = run()
    assert report.documents == 1 and counted(report) == {"no_parent": 1}
    (sample,) = samples().values()
    assert sample["text"] == (
        "## message\nRefuse an empty password\n\nIt was let in, é.\n"
        "## readme README.md\n# Tool\nDoes things.\n"
        "## tree\nREADME.md\nsrc/\n  login.py\n  other.py\n"
        "## file src/login.py\ndef check_password(text):\n    return True\n"
        "## paths\nM\tsrc/login.py\n## changes\n"
        "--- a/src/login.py\n+++ b/src/login.py\n@@ -1,2 +1,2 @@\n"
        " def check_password(text):\n-    return True\n+    return bool(text)\n"
    )
    assert target_of(sample).startswith("M\tsrc/login.py\n")
    assert (sample["source"], sample["repository"], sample["language"]) == ("git", "ann/tool", "Python")
    assert sample["commit"] == commit and sample["date"].isoformat() == "2020-09-15T12:26:40+00:00"
    assert (sample["files_changed"], sample["left_out"], sample["cut"]) == (1, [], [])
    assert not sample["author_is_bot"] and sample["failed"] is None and len(sample["patch_id"]) == 40


def test_every_rule_is_counted(repo, run, samples):
    repo.commit("Start", a_py=b"a = 1\n", run_sh=b"true\n", l_py=b"l = 1\n")
    kept = repo.commit("Change", a_py=b"a = 2\n", i_png=b"\x89\0", latin_py=b"\xe9", big_py=b"#" * 2000)
    repo.commit("Bump", author=BOT, a_py=b"a = 3\n")
    repo.commit(" \n\t", a_py=b"a = 4\n")
    repo.commit("Nothing")
    repo.commit_files("Many", {f"m{n}.py": b"1\n" for n in range(6)})
    repo.commit("Image", i_png=b"\x89\0\0")
    repo.commit("Run it", run_sh=(b"true\n", FileMode.BLOB_EXECUTABLE))
    repo.commit("Link", l_py=(b"a.py", FileMode.LINK))
    repo.commit("Module", mod=(b"\1" * 20, FileMode.COMMIT))
    repo.commit("Long", a_py=b"value = 1\n" * 90)
    again = repo.commit("Again", a_py=b"a = 1\n")
    side = repo.commit("Side", ref=None, parents=[repo.git.head.target], s_py=b"s = 1\n")
    repo.commit("Merge", parents=[repo.git.head.target, side])
    report = run(commits={"max_files": 5, "max_file_bytes": 1000}, sample={"max_tokens": 200, "bytes_per_token": 3.0})
    assert counted(report) == {
        "no_parent": 1, "bot": 1, "empty_message": 1, "no_change": 1, "huge": 1, "merge": 1, "too_long": 2,
        "nothing_to_predict": 4, "file_binary": 2, "file_not_utf8": 1, "file_too_large": 1, "file_mode_only": 1,
        "file_symbolic_link": 1, "file_submodule": 1,
    }  # fmt: skip
    assert set(samples()) == {kept, side} and again not in samples()
    left_out = ["file_too_large big.py", "file_binary i.png", "file_not_utf8 latin.py"]
    assert samples()[kept]["left_out"] == left_out and samples()[kept]["files_changed"] == 4
    assert report.drops["file_mode_only"]["examples"][0].endswith(" run.sh")
    assert report.drops["bot"]["examples"][0].startswith("ann/tool@")
    assert run(corpus="bots", commits={"keep_bots": True}).documents > report.documents
    assert sum(sample["author_is_bot"] for sample in samples("bots").values()) == 1


def test_renames_and_deletions_and_odd_paths(repo, run, samples):
    text = "".join(f"line {n}\n" for n in range(30)).encode()
    repo.commit_files("Start", {"old.py": text, "gone.bin": b"\0", "kept.py": b"1\n"})
    files = {"old.py": None, "new.py": text + b"more\n", "gone.bin": None, "tab\tbed.py": b"1\n"}
    commit = repo.commit_files("Move", files)
    run(sample={"format": "search_replace"})
    sample = samples()[commit]
    applied = apply_target(target_of(sample), lambda path: text.decode(), "search_replace")
    assert applied.files == {"new.py": text.decode() + "more\n"} and applied.gone == {"old.py", "gone.bin"}
    assert target_of(sample).startswith("D\tgone.bin\nR\told.py\tnew.py\n")
    assert sample["left_out"] == ["file_odd_path tab\tbed.py"]


@pytest.mark.parametrize("format", ["unified_diff", "search_replace"])
def test_every_sample_of_a_random_history_gives_the_files_after_its_commit(repo, run, samples, format):
    draw = random.Random(5)
    for _ in range(60):
        files = {}
        for path in draw.sample(["a.py", "b/c.py", "b/d.js", "e.txt", "README"], draw.randint(1, 3)):
            old = repo.files.get(path, b"").decode().split("\n")
            for _ in range(draw.randint(1, 3)):
                at = draw.randrange(len(old) + 1)
                old[at : at + draw.randint(0, 2)] = [draw.choice(["x", "y", "", "=======", "é"])] * draw.randint(0, 3)
            files[path] = None if draw.random() < 0.1 else "\n".join(old).encode()
            if draw.random() < 0.1 and path in repo.files:
                files[path], files[f"moved/{draw.random()}.py"] = None, repo.files[path]
        repo.commit_files(f"Change {', '.join(files)}", files)
    run(sample={"format": format})
    found = samples()
    assert len(found) > 40
    for commit, sample in found.items():
        after = repo.git[commit]
        old = after.parents[0].tree
        applied = apply_target(target_of(sample), lambda path, tree=old: tree[path].data.decode(), format)
        before = _files(repo.git, old)
        expected = {path: data for path, data in before.items() if path not in applied.gone}
        expected |= {path: text.encode() for path, text in applied.files.items()}
        assert expected == _files(repo.git, after.tree)


def _files(git: pygit2.Repository, tree: pygit2.Tree) -> dict[str, bytes]:
    index = pygit2.Index()
    index.read_tree(tree)
    return {entry.path: git[entry.id].data for entry in index}


@pytest.mark.parametrize("counted_by", ["bytes", "tokenizer"])
def test_the_budget_is_honoured_in_the_order_of_cutting(repo, run, samples, counted_by, tokenizer_dir):
    words = "".join(f"word {n} of many\n" for n in range(40)).encode()
    content = {"README.md": words, **{f"f{n}.py": b"word\n" * n + words for n in range(1, 7)}}
    repo.commit_files("Start", content)
    repo.commit_files("A word", {"f9.py": b"word\n"})
    texts, encoder = {}, Encoder.load(tokenizer_dir)
    settings = {"bytes_per_token": 1.0, "format": "search_replace"}
    if counted_by == "tokenizer":
        settings["tokenizer"] = str(tokenizer_dir)
    for budget in (10_000, 3000, 1500, 300):
        run(corpus=f"corpus{budget}", sample={**settings, "max_tokens": budget})
        (texts[budget],) = samples(f"corpus{budget}").values()
        have = encoder.encode(texts[budget]["text"]) if "tokenizer" in settings else texts[budget]["text"].encode()
        assert len(have) == texts[budget]["tokens"] <= budget
    with pytest.raises(DataError, match=r"message and target do not fit"):
        run(corpus="small", sample={**settings, "max_tokens": 64})
    files = [f"file {number}" for number in range(1, 6)]
    assert texts[10_000]["cut"] == []
    for budget, least in ((3000, 1), (1500, 4), (300, 5)):
        cut = [name for name in texts[budget]["cut"] if name in files]
        assert cut == files[-len(cut) :] and len(cut) >= least  # the least relevant first
    assert "readme" in texts[300]["cut"] and "## file" not in texts[300]["text"]
    assert "readme" not in texts[3000]["cut"] and "tree" not in texts[1500]["cut"]
    assert len({target_of(sample) for sample in texts.values()}) == 1


def test_a_patch_that_forks_share_is_kept_once(tmp_path, repo, run, samples):
    """The same commits in two forks, and the same change committed again with another message."""
    fork = Repo(tmp_path / "repos" / "bob" / "tool.git")
    for each in (repo, fork):
        each.commit("Start", a_py=b"a = 1\n")
        each.commit("Two", a_py=b"a = 2\n")
    own = fork.commit("Own", b_py=b"b = 1\n")
    picked = repo.commit("Picked\n\n(cherry picked)", b_py=b"b = 1\n")
    table = tmp_path / "stars.csv"
    table.write_text("repository,stars,forks\nann/tool,200,20\nbob/tool,900,20\n")
    report = run(metadata=table)
    kept = samples()
    assert {sample["repository"] for sample in kept.values()} == {"bob/tool"} and own in kept and picked not in kept
    assert {sample["stars"] for sample in kept.values()} == {900}
    assert counted(report)["same_patch"] == 2
    assert f"ann/tool@{picked} (bob/tool@{own} is kept)" in report.drops["same_patch"]["examples"]
    table.write_text("repository,stars,forks\nann/tool,900,20\nbob/tool,900,20\n")
    run(metadata=table)
    assert {sample["repository"] for sample in samples().values()} == {"ann/tool"}  # of equals the first by name


def test_the_four_criteria(tmp_path, run, samples):
    for name, commits in (("good", 4), ("young", 4), ("short", 2), ("dull", 4), ("alone", 4), ("unknown", 4)):
        repo = Repo(tmp_path / "repos" / name)
        for number in range(commits):
            repo.day += 0 if name == "young" else 40
            repo.commit(f"Commit {number}", **{f"{name}_py": f"x = {number}\n".encode()})
    (tmp_path / "repos/empty").mkdir()
    pygit2.init_repository(tmp_path / "repos/unborn.git", bare=True)
    rows = {"good": (100, 10), "young": (500, 50), "short": (500, 50), "dull": (99, 50), "alone": (500, 9)}
    rows["unborn"] = (500, 50)
    table = tmp_path / "repositories.parquet"
    names = {"repository": list(rows), "stars": [s for s, _ in rows.values()], "forks": [f for _, f in rows.values()]}
    pq.write_table(pa.table(names), table)
    report = run(metadata=table, repositories={"min_commits": 4, "min_days": 100})
    assert {sample["repository"] for sample in samples().values()} == {"good"}
    wanted = ["few_days", "few_commits", "few_stars", "few_forks", "no_metadata", "no_repository", "damaged_git"]
    assert {reason: report.drops[reason]["count"] for reason in wanted} == dict.fromkeys(wanted, 1)
    with pytest.raises(DataError, match="give --metadata, or set both to 0"):
        run(repositories={"min_stars": 1})
    defaults = load_config().repositories
    assert (defaults.min_stars, defaults.min_forks, defaults.min_commits, defaults.min_days) == (100, 10, 100, 100)


def test_a_further_run_makes_new_commits_only(tmp_path, repo, run, samples, snapshot):
    for number in range(7):
        repo.commit(f"Commit {number}", a_py=f"a = {number}\n".encode())
    report = run(shard_commits=3)
    assert (report.units_made, report.units, report.documents) == (3, 3, 6)
    before = snapshot(tmp_path / "corpus")
    assert run(shard_commits=3).units_made == 0
    assert snapshot(tmp_path / "corpus") == before
    for number in range(7, 11):
        repo.commit(f"Commit {number}", a_py=f"a = {number}\n".encode())
    report = run(shard_commits=3)
    assert (report.units_made, report.units, report.documents) == (2, 5, 10)
    after = snapshot(tmp_path / "corpus")
    assert {path: data for path, data in after.items() if path in before and path.startswith("documents/")} == {
        path: data for path, data in before.items() if path.startswith("documents/")
    }
    run(corpus="fresh", shard_commits=4)
    assert samples("fresh") == samples()


def test_a_run_that_broke_off_goes_on(repo, run, samples, monkeypatch):
    for number in range(9):
        repo.commit(f"Commit {number}", a_py=f"a = {number}\n".encode())
    run(corpus="whole", shard_commits=3)
    written, write = [], samples_module.write_sample

    def break_off(*arguments):
        written.append(arguments)
        if len(written) == 4:
            raise RuntimeError("the disk is gone")
        return write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(samples_module, "write_sample", break_off)
        with pytest.raises(DataError, match="the disk is gone"):
            run(shard_commits=3)
    assert run(shard_commits=3).units_made == 2
    assert samples() == samples("whole")


def test_a_history_that_was_rewritten_is_made_anew(repo, run, samples):
    base = repo.commit("Start", a_py=b"a = 1\n")
    repo.commit("Old", a_py=b"a = 2\n")
    run()
    repo.git.references.create(repo.git.references["HEAD"].target, base, force=True)
    new = repo.commit("New", a_py=b"a = 3\n")
    run()
    assert set(samples()) == {new}


@pytest.mark.parametrize(
    ("seconds", "date"), [(2**63 - 1, "9999-12-31T23:59:59+00:00"), (-5, "1970-01-01T00:00:00+00:00")]
)
def test_dates_that_no_calendar_has(repo, run, samples, seconds, date):
    repo.commit("Start", a_py=b"a = 1\n")
    repo.commit("Other", a_py=b"a = 2\n")
    raw = repo.git[repo.git.head.target].read_raw()
    replace_head(repo, re.sub(rb"> \d+", b"> %d" % seconds, raw))
    run()
    assert [sample["date"].isoformat() for sample in samples().values()] == [date]


def replace_head(repo: Repo, raw: bytes) -> None:
    """Another commit, as Git stores it, in place of the last."""
    oid = repo.git.odb.write(pygit2.enums.ObjectType.COMMIT, raw)
    repo.git.references.create(repo.git.references["HEAD"].target, oid, force=True)


def test_messages_in_another_encoding(repo, run, samples):
    repo.commit("Start", a_py=b"a = 1\n")
    encoded = {"latin-1": "Größe".encode("latin-1"), "no-such": b"x", "utf-8": b"\xff", "undefined": b"x"}
    encoded["unicode_escape"] = b"half \\ud800"
    for encoding, message in encoded.items():
        repo.commit("Placeholder", a_py=b"a = %d\n" % (repo.day + 5))
        head, _, _ = repo.git[repo.git.head.target].read_raw().partition(b"\n\n")
        replace_head(repo, head + b"\nencoding " + encoding.encode() + b"\n\n" + message)
    report = run()
    assert counted(report) == {"no_parent": 1, "message_not_text": 4}
    (sample,) = samples().values()
    assert sample["text"].startswith("## message\nGröße\n")


def test_a_corpus_in_an_object_store(tmp_path, repo, run, snapshot, monkeypatch):
    """The same documents, facts and histories as on a disk; a further run makes new commits only."""
    for number in range(5):
        repo.commit(f"Commit {number}", a_py=f"a = {number}\n".encode())
    config = load_config(None, {**ALL, "shard_commits": 2})
    sources = [CommitSource(str(tmp_path / "repos"), "git")]
    with s3_server(monkeypatch) as bucket:
        there = bucket / "commits"
        assert import_commits(there, sources, config).units_made == run(shard_commits=2).units_made == 3
        repo.commit("More", a_py=b"a = 9\n")
        assert import_commits(there, sources, config).units_made == run(shard_commits=2).units_made == 1
        found = {path.name: path.read_bytes() for path in (there / "documents").glob("*.parquet")}
        found |= {f"facts {path.name}": path.read_bytes() for path in (there / "annotations/commits").glob("*.parquet")}
    here = snapshot(tmp_path / "corpus")
    wanted = {name: data for path, data in here.items() if (name := _shard_name(path))}
    assert len(found) == 8 and found == wanted


def _shard_name(path: str) -> str | None:
    folder, _, name = path.rpartition("/")
    return {"documents": name, "annotations/commits": f"facts {name}"}.get(folder) if name[-8:] == ".parquet" else None


def test_damaged_objects_are_counted(tmp_path, repo, run, samples):
    repo.commit("Start", a_py=b"a = 1\n")
    repo.commit("Second", b_py=b"damaged = 1\n")
    good = repo.commit("Third", c_py=b"c = 1\n")
    blob = str(pygit2.hash(b"damaged = 1\n"))
    path = tmp_path / "repos/ann/tool.git/objects" / blob[:2] / blob[2:]
    path.chmod(0o644)
    path.write_bytes(b"rubbish")
    report = run(sample={"files": 0})
    assert counted(report) == {"no_parent": 1, "damaged_git": 1} and set(samples()) == {good}


def test_a_shallow_clone_has_no_snapshot_before_its_first_commit(tmp_path, repo, run, samples):
    for number in range(4):
        repo.commit(f"Commit {number}", a_py=f"a = {number}\n".encode())
    url = f"file://{tmp_path / 'repos/ann/tool.git'}"
    command = ["git", "clone", "-q", "--bare", "--depth", "2", url, str(tmp_path / "shallow")]
    subprocess.run(command, check=True, timeout=60)
    report = run(sources=[CommitSource(str(tmp_path / "shallow"), "shallow")])
    assert report.documents == 1 and counted(report) == {"no_parent": 1}
    assert {sample["repository"] for sample in samples().values()} == {"shallow"}


def test_nothing_is_run_for_a_commit_and_workers_change_nothing(tmp_path, repo, run, snapshot, monkeypatch):
    for number in range(8):
        repo.commit(f"Commit {number}", a_py=f"a = {number}\n".encode())
    run(corpus="two", shard_commits=2, workers=2)
    monkeypatch.setattr(subprocess, "Popen", None)
    run(corpus="one", shard_commits=2)
    one, two = snapshot(tmp_path / "one"), snapshot(tmp_path / "two")
    data = [path for path in one if path.endswith(".parquet") or path == "import.json"]
    assert len(data) > 8 and {path: one[path] for path in data} == {path: two[path] for path in data}


def test_sources_of_a_corpus_are_named_in_every_run(tmp_path, repo, run, samples, take, files):
    repo.commit("Start", a_py=b"a = 1\n")
    repo.commit("Next", a_py=b"a = 2\n")
    other = Repo(tmp_path / "other")
    other.commit("Start", b_py=b"b = 1\n")
    other.commit("Next", b_py=b"b = 2\n")
    both = [CommitSource(str(tmp_path / "repos"), "git"), CommitSource(str(tmp_path / "other"), "other")]
    run(sources=both)
    with pytest.raises(DataError, match="has commits of source other, too"):
        run()
    run(remove=["other"])
    assert {sample["source"] for sample in samples().values()} == {"git"}
    assert len(list((tmp_path / "corpus/commits").glob("*.parquet"))) == 1
    assert len(list((tmp_path / "corpus/annotations/commits").glob("*.parquet"))) == 1
    with pytest.raises(DataError, match="holds no Git repository"):
        run(corpus="none", sources=[CommitSource(str(files(tmp_path / "plain", {"a/b.py": "1"})), "plain")])
    report = take(tmp_path / "plain", "folder")  # into the corpus of commits, which stays whole
    assert (report.sources["git"]["documents"], report.sources["src"]["documents"]) == (1, 1)
    with pytest.raises(DataError, match="has commits of source src, too"):
        run()


@pytest.mark.parametrize("name", ["", "..", "../out", "ann/tool", "a b"])
def test_names_of_sources_are_those_of_files(tmp_path, repo, run, name):
    repo.commit("Start", a_py=b"a = 1\n")
    with pytest.raises(DataError, match=r"source name .* use letters, digits"):
        run(sources=[CommitSource(str(tmp_path / "repos"), name)])
    assert not (tmp_path / "corpus").exists()


def test_a_source_whose_run_broke_off_is_named_again_too(tmp_path, repo, run, samples, monkeypatch):
    for number in range(9):
        repo.commit(f"Commit {number}", a_py=f"a = {number}\n".encode())
    other = Repo(tmp_path / "other")
    other.commit("Start", b_py=b"b = 1\n")
    other.commit("Next", b_py=b"b = 2\n")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(importing, "run_shards", broken_off_after_the_first)
        run(shard_commits=3)
    with pytest.raises(DataError, match="has commits of source git, too: name it again"):
        run(sources=[CommitSource(str(tmp_path / "other"), "other")])
    run(sources=[CommitSource(str(tmp_path / "other"), "other")], remove=["git"])
    assert {sample["source"] for sample in samples().values()} == {"other"}


def broken_off_after_the_first(tasks, *arguments):
    run_shards(tasks[:1], *arguments)
    raise KeyboardInterrupt


def test_documents_of_code_are_not_mixed_with_commits(tmp_path, repo, run, take, files):
    repo.commit("Start", a_py=b"a = 1\n")
    take(files(tmp_path / "plain", {"b.py": "b = 1\n"}), "folder")
    with pytest.raises(DataError, match="give commits a corpus of their own"):
        run()


def invoke(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_other_steps_take_commits_like_other_documents(tmp_path, repo, tokenizer_dir):
    for number in range(12):
        repo.commit(f"Commit {number}", a_py=f"a = {number}\n".encode() * 20)
    config = tmp_path / "commits.yaml"
    config.write_text("repositories: {min_stars: 0, min_forks: 0, min_commits: 0, min_days: 0}\n")
    corpus = tmp_path / "corpus"
    said = invoke("commits", corpus, f"git={tmp_path / 'repos'}", "--config", config, "--workers", 1)
    assert "11 commits" in said and "dropped 1 (no_parent), such as ann/tool@" in said
    assert "11 documents" in invoke("annotate", corpus, "secrets", "--workers", 1)
    invoke("dedup", corpus, "--exact", "--workers", 1)
    rules = tmp_path / "select.yaml"
    rules.write_text(
        "rules:\n  - {name: bot, drop: commits.author_is_bot}\n  - {name: copies, drop: exact_dedup.duplicate_of IS "
        "NOT NULL}\n  - {name: early, drop: \"commits.date < '2020-09-16'\"}\nredact: [email]\n"
    )
    invoke("select", corpus, "--config", rules, "--held-out", 0, "--workers", 1)
    invoke("build", corpus, tmp_path / "build", "--tokenizer", tokenizer_dir, "--fim-rate", 0, "--workers", 1)
    provenance = next((tmp_path / "build").glob("*.json"))
    assert json.loads(provenance.read_text())["documents"] == 10
    assert "commits" in invoke("inspect", corpus)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "repository,stars\na,1\n", "has no column 'forks'"),
        ("a.csv", "repository,stars,forks\na,1,1\na,2,2\n", "row 2: a has a row already"),
        ("a.csv", "repository,stars,forks\na,many,1\n", "a name and two whole numbers"),
        ("a.jsonl", '{"repository": "a", "stars": -1, "forks": 0}\n', "row 1: a name and two whole numbers"),
        ("a.jsonl", "{", "is no table that can be read"),
        ("a.parquet", "x", "is no table that can be read"),
        ("a.txt", "", "ends in .parquet, .jsonl or .csv"),
    ],
)
def test_tables_of_repositories_that_are_none(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        load_metadata(tmp_path / name)


def test_tables_of_repositories(tmp_path):
    (tmp_path / "a.csv").write_text("forks,repository,stars\n3,1234,5\n1,a/b.git,2\n")
    (tmp_path / "a.jsonl").write_text('{"repository": "a/b", "stars": 2, "forks": 1, "more": 0}\n\n')
    assert load_metadata(tmp_path / "a.csv") == {"1234": Popularity(5, 3), "a/b": Popularity(2, 1)}
    assert load_metadata(tmp_path / "a.jsonl") == {"a/b": Popularity(2, 1)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sample: {max_token: 5}", "there is no key 'sample.max_token'; did you mean 'max_tokens'"),
        ("sample: {format: patch}", "sample.format: "),
        ("commits: {bots: ['(']}", "is no regular expression"),
        ("[]", "a mapping with repositories"),
        ("{", "is no YAML that can be read"),
    ],
)
def test_a_config_that_is_wrong_names_the_key(tmp_path, text, said):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(DataError, match=said):
        load_config(tmp_path / "c.yaml")
