"""Corpora in an object store: a local S3 server, and the same bytes as on a disk."""

import contextlib
import gzip
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from hypothesis import given, settings
from hypothesis import strategies as st
from object_store import s3_server
from typer.testing import CliRunner

import data_prep.shards
from data_prep.annotate import AnnotatorSpec, annotate
from data_prep.build import build
from data_prep.cli import app
from data_prep.dedup.levels import LEVELS, deduplicate
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.leases import hold_lease
from data_prep.partitions import record_type, records, write_run
from data_prep.select import load_config, read_selection, select
from data_prep.shards import ShardTask, finished_manifest, lock_directory, manifest_path, run_shards, write_atomic
from data_prep.storage import RemoteKeys, as_path, beside, read_arrow, read_bytes, scratch_folder
from tokenizer.train import TrainSettings, train


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as environment, s3_server(environment) as found:
        yield found


@pytest.fixture
def folder(bucket, request):
    """A prefix of the test's own."""
    return bucket / request.node.name.replace("[", "-").replace("]", "")


def upload(root: Path, target) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            (target / path.relative_to(root).as_posix()).write_bytes(path.read_bytes())


def results(corpus) -> dict[str, bytes]:
    """Every parquet file that a corpus gives away."""
    kinds = ("documents", "annotations", "selections")
    found = {kind: sorted((corpus / kind).rglob("*.parquet")) for kind in kinds}
    return {f"{kind}/{path.parent.name}/{path.name}": path.read_bytes() for kind in kinds for path in found[kind]}


CONTENT = {
    "alpha/LICENSE": "MIT License\n",
    "alpha/src/a.py": "import os\n" * 40,
    "alpha/b.c": "int b;\n" * 30,
    "beta/a.py": "import os\n" * 40,
    "beta/near.py": "".join(f"value_{i} = {i}\n" for i in range(200)),
    "gamma/near.py": "".join(f"value_{i} = {i}\n" for i in range(199)),
    "gamma/node_modules/x.js": "x\n",
    "gamma/bad.py": b"\xe9",
    "gamma/.hidden/h.go": "package h\n",
    "loose.rs": "fn main() {}\n",
}


def test_sources_in_a_store_give_the_same_documents(tmp_path, files, folder):
    root = files(tmp_path / "root", CONTENT)
    upload(root, folder / "raw")
    spec, limits = SourceSpec("auto", root, "src"), ImportLimits(shard_bytes=1500)
    here = import_documents([spec], tmp_path / "corpus", limits, 1)
    there = import_documents([SourceSpec("auto", str(folder / "raw"), "src")], tmp_path / "other", limits, 1)
    assert results(tmp_path / "corpus") == results(tmp_path / "other") != {}
    assert here.drops == there.drops and here.sources == there.sources
    again = import_documents([SourceSpec("auto", str(folder / "raw"), "src")], tmp_path / "other", limits, 1)
    assert again.units_made == 0
    (folder / "raw" / "loose.rs").write_bytes(b"fn changed() {}\n")
    assert import_documents([SourceSpec("auto", str(folder / "raw"), "src")], tmp_path / "other", limits, 1).units_made


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_tables_in_a_store_give_the_same_documents(tmp_path, folder, kind):
    records = [{"content": f"x = {i}\n" * 50, "path": f"{i}.py", "repo_name": f"r{i % 3}"} for i in range(40)]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), stream, row_group_size=7)
    data = {"jsonl": lines, "jsonl.gz": gzip.compress(lines, mtime=0), "parquet": stream.getvalue()}[kind]
    for place in (tmp_path / "raw", folder / "raw"):
        place.mkdir(parents=True, exist_ok=True)
        (place / f"part.{kind}").write_bytes(data)
        (place / "README.md").write_bytes(b"words\n")
        import_documents([SourceSpec("auto", str(place), "src")], tmp_path / place.parent.name, ImportLimits(), 1)
    assert results(tmp_path / tmp_path.name) == results(tmp_path / folder.name) != {}
    one = SourceSpec("auto", str(folder / "raw" / f"part.{kind}"), "src")
    assert import_documents([one], tmp_path / "one", ImportLimits(shard_bytes=2000), 1).documents == 40


@pytest.mark.parametrize("kind", ["auto", "jsonl"])
def test_hidden_and_ignored_folders_in_a_store_hold_no_records(tmp_path, folder, kind):
    record = json.dumps({"content": "x = 1\n", "path": "a.py"}).encode() + b"\n"
    for path in ("a.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", "sub/node_modules/b.jsonl"):
        (folder / "tables" / path).write_bytes(record)
    spec = SourceSpec(kind, str(folder / "tables"), "src")
    assert import_documents([spec], tmp_path / "corpus", ImportLimits(), 1).documents == 1


@pytest.mark.parametrize("levels", [("exact",), pytest.param(LEVELS, marks=pytest.mark.slow)], ids=["exact", "all"])
def test_a_corpus_in_a_store_is_the_same_through_all_steps(tmp_path, files, folder, levels):
    root = files(tmp_path / "root", CONTENT)
    config = load_config(None, {"held_out": {"fraction": 0.3}})
    if levels != LEVELS:
        config = config.model_copy(update={"variant": None, "rules": config.rules[:1]})

    def steps(corpus) -> dict:
        import_documents([SourceSpec("folders", root, "src")], corpus, ImportLimits(shard_bytes=1500), 1)
        deduplicate(corpus, 1, levels=levels, partitions=2)
        annotate(corpus, [AnnotatorSpec.of("signs")])
        return select(corpus, "main", config)

    here, there = steps(tmp_path / "corpus"), steps(folder / "corpus")
    assert results(tmp_path / "corpus") == results(folder / "corpus")
    assert len({name.split("/")[1] for name in results(folder / "corpus")}) == len(levels) + 3
    assert here["left"] == there["left"] and here["digest"] == there["digest"]
    assert not list((folder / "corpus").rglob("*.tmp")) and not (folder / "corpus/.lock").exists()
    assert read_selection(folder / "corpus", "main")["digest"] == there["digest"]


def test_a_build_in_a_store_has_the_same_bytes(tmp_path, files, folder):
    train([Path(json.__file__).read_text()], tmp_path / "tokenizer", TrainSettings(520, "byte_bpe"))
    root = files(tmp_path / "root", {f"r{i}/f{j}.py": f"# {i}\nx = {j}\n" * 20 for i in range(6) for j in range(3)})
    config = load_config(None, {"held_out": {"fraction": 0.3}}).model_copy(update={"variant": None, "rules": ()})

    def build_from(base) -> dict[str, bytes]:
        import_documents([SourceSpec("folders", root, "src")], base / "corpus", ImportLimits(shard_bytes=1200), 1)
        select(base / "corpus", "main", config)
        build(base / "corpus", "main", tmp_path / "tokenizer", base / "out", "train", [0.5], [0], 1, 1)
        found = {path.name: path.read_bytes() for path in (base / "out").iterdir() if path.is_file()}
        found.pop(".lock", None)
        return found

    first = build_from(folder)
    assert first == build_from(tmp_path / "here")
    assert {name.rpartition(".")[2] for name in first} == {"bin", "idx", "parquet", "json"}
    files(root, {"r9/new.py": "new = 1\n" * 50})
    assert first != build_from(folder) == build_from(tmp_path / "here")


def spell(stream, text):
    stream.write(text.encode())
    return {"rows": len(text)}


def test_a_shard_without_its_manifest_is_made_again(folder, monkeypatch):
    task = ShardTask(folder / "word", "v2", spell, ("new",))
    run_shards([ShardTask(folder / "word", "v1", spell, ("old",))], 1)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data_prep.shards, "write_json", stop)
        run_shards([task], 1)
    assert task.output.read_bytes() == b"new" and not manifest_path(task.output).exists()
    assert finished_manifest(task.output) is None
    (manifest,) = run_shards([task], 1)
    assert finished_manifest(task.output, "v2") == manifest


def test_a_killed_import_goes_on(tmp_path, files, folder):
    """Killed while its data is there and its manifest is not; what had been finished is not made again."""
    root = files(tmp_path / "root", {f"r{i}/f.py": f"# {i}\n" + "x = 1\n" * 100 for i in range(6)})
    corpus, limits = folder / "corpus", ImportLimits(shard_bytes=1300)
    code = (
        "import os, sys, data_prep.shards as shards; from data_prep.importing import *\n"
        "from data_prep.storage import as_path\n"
        "write, made = shards.write_json, []\n"
        "def dying(path, value):\n"
        "    made.append(path)\n"
        "    os.kill(os.getpid(), 9) if len(made) == 6 else None\n"
        "    return write(path, value)\n"
        "shards.write_json = dying\n"
        "import_documents([SourceSpec('folders', sys.argv[1], 'src')], as_path(sys.argv[2]), "
        "ImportLimits(shard_bytes=1300), 1)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(root), str(corpus)], timeout=120)
    assert killed.returncode == -9
    data = {path.name for path in (corpus / "documents").glob("*.parquet")}
    manifests = {path.name.removesuffix(".json") for path in (corpus / "documents").glob("*.json")}
    assert len(data - manifests) <= 1 and manifests
    with pytest.raises(DataError, match=r"is in use by process .* its hold ends in"):
        import_documents([SourceSpec("folders", str(root), "src")], corpus, limits, 1)
    (corpus / ".lock").unlink()
    report = import_documents([SourceSpec("folders", str(root), "src")], corpus, limits, 1)
    assert report.documents == 6 and 0 < report.units_made < report.units
    import_documents([SourceSpec("folders", str(root), "src")], tmp_path / "corpus", limits, 1)
    assert results(corpus) == results(tmp_path / "corpus")


def test_the_lock_refuses_a_second_run_and_runs_out(folder):
    with lock_directory(folder), pytest.raises(DataError, match="is in use by process"), lock_directory(folder):
        pass
    with lock_directory(folder):
        pass
    dead = {"holder": "process 1 on elsewhere", "expires": time.time() - 1, "token": "x"}
    (folder / ".lock").write_bytes(json.dumps(dead).encode())
    with lock_directory(folder):
        assert json.loads((folder / ".lock").read_bytes())["holder"] != dead["holder"]
    assert not (folder / ".lock").exists()


def test_a_lease_is_renewed_and_its_loss_is_noticed(folder):
    with hold_lease(folder / ".lock", lease_s=0.4):
        first = read_bytes(folder / ".lock")
        deadline = time.monotonic() + 20
        while read_bytes(folder / ".lock") == first and time.monotonic() < deadline:
            time.sleep(0.05)
        assert read_bytes(folder / ".lock") != first
    with pytest.raises(DataError, match="another run took over"), hold_lease(folder / ".lock", lease_s=0.4):
        (folder / ".lock").write_bytes(b"{}")
        time.sleep(1.5)
    assert (folder / ".lock").read_bytes() == b"{}"


class Store:
    """Stands for an object store; `fails(number of the put)`: None, or "before" or "after" it wrote."""

    def __init__(self, fails=lambda put: None):
        self.body, self.tag, self.puts, self.fails = None, 0, 0, fails
        self.fs, self.path, self.parent = self, "bucket/.lock", "s3://bucket"

    def split_path(self, path):
        return "bucket", ".lock", None

    def call_s3(self, name, Bucket, Key, Body, IfMatch=None, IfNoneMatch=None):
        self.puts += 1
        when = self.fails(self.puts)
        if when == "before":
            raise EndpointConnectionError(endpoint_url="http://store")
        if IfMatch and self.body is None:
            raise FileNotFoundError
        if (IfNoneMatch and self.body is not None) or (IfMatch and IfMatch != str(self.tag)):
            raise OSError("At least one of the pre-conditions you specified did not hold")
        self.write(Body)
        if when == "after":
            raise ReadTimeoutError(endpoint_url="http://store")
        return {"ETag": str(self.tag)}

    def write(self, body):
        self.body, self.tag = body, self.tag + 1

    def info(self, path):
        if self.body is None:
            raise FileNotFoundError
        return {"ETag": str(self.tag)}

    def read_bytes(self):
        return self.body

    def unlink(self, missing_ok):
        self.body = None

    def wait_for(self, puts):
        deadline = time.monotonic() + 20
        while self.puts < puts and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.puts >= puts


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lease_outlives_failures_of_the_network(when):
    store = Store(lambda put: when if put % 2 == 0 else None)
    with hold_lease(store, lease_s=0.8):
        store.wait_for(puts=7)
        assert json.loads(store.body)["expires"] > time.time()


def test_a_lease_that_was_put_although_the_answer_was_lost_is_held():
    store = Store(lambda put: "after" if put == 2 else None)
    with hold_lease(store, lease_s=0.4):
        store.wait_for(puts=4)
    assert store.body is None


@pytest.mark.parametrize("taken", [b'{"holder": "process 1 on elsewhere", "token": "x"}', None])
def test_a_lease_that_another_took_while_the_store_was_out_of_reach_is_lost(taken):
    store = Store(lambda put: "before" if put in (2, 3) else None)
    with pytest.raises(DataError, match="another run took over, or may have"), hold_lease(store, lease_s=0.2):
        store.wait_for(puts=3)
        store.write(taken)
    assert store.body == taken


@pytest.mark.parametrize(("lease_s", "lost"), [(0.2, True), (60.0, False)])
def test_a_lease_that_ran_out_with_the_store_out_of_reach_is_lost(lease_s, lost):
    store = Store(lambda put: "before" if put > 1 else None)
    ended = pytest.raises(DataError, match="or may have") if lost else contextlib.nullcontext()
    with ended, hold_lease(store, lease_s=lease_s):
        time.sleep(0.4)


def test_what_cannot_be_there_is_refused_in_a_line(folder, tmp_path, monkeypatch):
    (folder / "repo.git" / "HEAD").write_bytes(b"ref: refs/heads/main\n")
    for path, kind, said in [
        (str(folder / "repo.git"), "auto", "Git repositories are read from a disk"),
        (str(folder / "nowhere"), "auto", "does not exist"),
        ("gs://bucket/x", "auto", "gs:// cannot be read or written"),
        (str(folder), "jsonl", "no .jsonl"),
    ]:
        with pytest.raises(DataError, match=said) as caught:
            import_documents([SourceSpec(kind, path, "src")], tmp_path / "corpus", ImportLimits(), 1)
        assert "\n" not in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=60), st.integers(0, 2**64), st.integers(0, 2**64))
def test_slices_of_remote_runs(keys, one, other):
    from data_prep.partitions import KEYS, bisect_left

    stream = io.BytesIO()
    dtype = record_type(row="<u4")
    write_run(stream, records(dtype, key=np.array(keys, np.uint64), row=np.arange(len(keys))))
    stream.seek(0)
    found = RemoteKeys(stream)
    start, stop = (bisect_left(found, b) if b < KEYS else len(found) for b in sorted((one, other)))
    expected = [key for key in sorted(keys) if min(one, other) <= key < max(one, other)]
    assert found.records(start, stop)["key"].tolist() == expected


def test_some_columns_of_a_remote_table(folder):
    from data_prep.partitions import write_columns

    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"], "c": [[1], [], [2, 3]]})
    write_atomic(folder / "t.arrow", lambda stream: write_columns(stream, table))
    assert read_arrow(folder / "t.arrow", ["c", "a"]).equals(table.select(["c", "a"]))
    assert read_arrow(folder / "t.arrow").equals(table)


def test_paths_and_urls(bucket, tmp_path):
    assert as_path("a/b") == Path("a/b") and as_path(Path("a")) == Path("a")
    assert as_path("file:///a%20b/c") == Path("/a b/c")
    assert str(as_path("s3://bucket/a/b")) == "s3://bucket/a/b" and as_path(bucket) is bucket
    assert beside(bucket / "a" / "b", "../c/d") == bucket / "c" / "d"
    assert beside(tmp_path / "a" / "b", "c") == tmp_path / "a" / "c"
    with scratch_folder(bucket / "corpus", ".work") as work:
        assert work.is_dir() and isinstance(work, Path)
    assert not work.exists()


def test_the_commands_take_urls(tmp_path, files, folder):
    root = files(tmp_path / "root", {f"r{i}/a.py": f"x = {i}\n" * 9 for i in range(4)})
    upload(root, folder / "raw=1")
    corpus = str(folder / "corpus")
    for arguments, said in [
        (["import", corpus, str(folder / "raw=1")], "4 documents"),
        (["inspect", corpus], "raw-1"),
        (["import", "gs://x/y", str(root)], "gs:// cannot be read or written"),
    ]:
        found = CliRunner().invoke(app, arguments, env={"COLUMNS": "1000"})
        assert said in found.output + str(found.exception)
