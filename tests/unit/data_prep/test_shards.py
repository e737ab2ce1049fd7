"""The shard protocol: whole files or none, only what is missing, and a killed worker costs one retry."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import pytest

import data_prep.shards
from data_prep.errors import DataError
from data_prep.shards import (
    ShardTask,
    fingerprint,
    finished_manifest,
    lock_directory,
    manifest_path,
    remove_shard,
    run_shards,
    write_atomic,
)


def spell(stream, text, log):
    with open(log, "a") as calls:
        calls.write(text + "\n")
    stream.write(text.encode())
    return {"rows": len(text), "letters": len(set(text))}


def with_side_file(stream, directory):
    digest = write_atomic(directory / "side", lambda side: side.write(b"more"))
    stream.write(b"main")
    return {"rows": 1, "files": {"side": {"sha256": digest.sha256, "size_bytes": digest.size_bytes}}}


def die(stream, marker, deaths):
    died = len(marker.read_text()) if marker.exists() else 0
    if died < deaths:
        marker.write_text("x" * (died + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    stream.write(b"alive")
    return {"rows": died}


def fail(stream, message, error):
    stream.write(b"half")
    raise error(message)


def tasks_for(folder: Path, words: list[str], inputs: str = "v1") -> list[ShardTask]:
    return [ShardTask(folder / word, fingerprint(inputs, word), spell, (word, folder.parent / "log")) for word in words]


def calls(tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    return sorted(log.read_text().split()) if log.exists() else []


def test_a_shard_and_its_manifest(tmp_path):
    (manifest,) = run_shards(tasks_for(tmp_path / "out", ["seed"]), 1)
    assert (tmp_path / "out/seed").read_bytes() == b"seed"
    assert manifest == json.loads(manifest_path(tmp_path / "out/seed").read_text())
    assert manifest["rows"] == 4 and manifest["letters"] == 3 and manifest["size_bytes"] == 4
    assert manifest["sha256"] == hashlib.sha256(b"seed").hexdigest()
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_only_what_is_missing_or_stale_is_made(tmp_path):
    words = ["one", "two", "three"]
    first = run_shards(tasks_for(tmp_path / "out", words), 1)
    assert run_shards(tasks_for(tmp_path / "out", words), 1) == first
    assert calls(tmp_path) == sorted(words)

    (tmp_path / "out/one").write_bytes(b"")  # cut short
    manifest_path(tmp_path / "out/two").unlink()
    run_shards(tasks_for(tmp_path / "out", words), 1)
    assert calls(tmp_path) == sorted([*words, "one", "two"])

    run_shards(tasks_for(tmp_path / "out", words, "v2"), 1)
    assert calls(tmp_path) == sorted([*words, "one", "two", *words])


def test_side_files_count_as_part_of_the_shard(tmp_path):
    task = ShardTask(tmp_path / "main", "v1", with_side_file, (tmp_path,))
    run_shards([task], 1)
    assert finished_manifest(task.output, "v1")
    (tmp_path / "side").unlink()
    assert finished_manifest(task.output, "v1") is None
    run_shards([task], 1)
    assert (tmp_path / "side").read_bytes() == b"more"


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"inputs": "v1"}'])
def test_a_manifest_that_says_nothing_is_no_manifest(tmp_path, content):
    task = ShardTask(tmp_path / "word", "v1", spell, ("word", tmp_path / "log"))
    run_shards([task], 1)
    manifest_path(task.output).write_text(content)
    assert finished_manifest(task.output, "v1") is None


@pytest.mark.parametrize("unreadable", ["shard.json", "shard"])
def test_what_cannot_be_read_now_does_not_count_as_never_made(tmp_path, monkeypatch, unreadable):
    task = ShardTask(tmp_path / "shard", "v1", spell, ("content", tmp_path / "log"))
    run_shards([task], 1)

    def failing(path, method, **arguments):
        if path.name == unreadable:
            raise OSError(errno.EIO, "Input/output error")
        return method(path, **arguments)

    with monkeypatch.context() as patch:
        for name in ("read_bytes", "stat"):
            patch.setattr(Path, name, partialmethod(failing, method=getattr(Path, name)))
        with pytest.raises(DataError, match=rf"{unreadable} cannot be .*: Input/output error; run again"):
            finished_manifest(task.output)
    assert finished_manifest(task.output, "v1")


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_atomic(tmp_path / "file", lambda stream: stream.write(b"old"))
    with pytest.raises(RuntimeError):
        write_atomic(tmp_path / "file", lambda stream: fail(stream, "disk", RuntimeError))
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("error", "said"), [(DataError, "bad row"), (KeyError, "KeyError")])
def test_a_failing_shard_is_named_and_the_finished_ones_stay(tmp_path, workers, error, said):
    tasks = [*tasks_for(tmp_path / "out", ["one"]), ShardTask(tmp_path / "out/bad", "v1", fail, ("bad row", error))]
    with pytest.raises(DataError, match=f"out/bad: .*{said}") as caught:
        run_shards(tasks, workers)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/bad").exists()
    run_shards(tasks[:1], 1)
    assert len(calls(tmp_path)) <= 2


def test_a_killed_worker_costs_one_retry(tmp_path):
    tasks = [
        ShardTask(tmp_path / "out/dies", "v1", die, (tmp_path / "deaths", 1)),
        *tasks_for(tmp_path / "out", ["a", "b"]),
    ]
    manifests = run_shards(tasks, 2)
    assert manifests[0]["rows"] == 1
    assert (tmp_path / "out/dies").read_bytes() == b"alive"
    assert calls(tmp_path) == ["a", "b"]


def test_a_shard_that_kills_every_worker_ends_the_run(tmp_path):
    tasks = [
        ShardTask(tmp_path / "out/dies", "v1", die, (tmp_path / "deaths", 9)),
        *tasks_for(tmp_path / "out", ["a", "b"]),
    ]
    with pytest.raises(DataError, match=r"out/dies: the worker died 2 times \(signal 9\)") as caught:
        run_shards(tasks, 2)
    assert "\n" not in str(caught.value)


def test_a_manifest_never_stands_beside_another_content(tmp_path, monkeypatch):
    output, log = tmp_path / "out/word", tmp_path / "log"
    run_shards([ShardTask(output, "v1", spell, ("old!", log))], 1)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data_prep.shards, "write_json", stop)
        run_shards([ShardTask(output, "v2", spell, ("new!", log))], 1)
    assert output.read_bytes() == b"new!"
    assert finished_manifest(output, "v1") is None


def test_two_shards_cannot_have_one_output(tmp_path):
    with pytest.raises(DataError, match="same output"):
        run_shards(tasks_for(tmp_path, ["a", "a"]), 1)


def test_a_removed_shard_is_not_done(tmp_path):
    (task,) = tasks_for(tmp_path / "out", ["word"])
    run_shards([task], 1)
    remove_shard(task.output)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_lock_refuses_a_second_run_and_ends_with_its_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from data_prep.shards import lock_directory\n"
        "with lock_directory(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DataError, match=f"in use by process {holder.pid}"), lock_directory(tmp_path):
        pass
    (tmp_path / ".shard.parquet.123-abc.tmp").write_bytes(b"half")
    holder.kill()
    holder.wait()
    with lock_directory(tmp_path):
        assert not list(tmp_path.glob("*.tmp"))


def test_what_killed_runs_left_behind_is_removed_and_what_others_write_is_not(tmp_path):
    """A folder below with a lock, or that is filled to be renamed, is another run's."""
    places = {"out": tmp_path / "corpus/out", "scorer": tmp_path / "corpus/scorers/.linear.tmp"}
    left = tmp_path / "corpus/documents/.a.parquet.1-00000000.tmp"
    for folder in (*places.values(), left.parent):
        folder.mkdir(parents=True)
    others = [folder / ".part.2-00000000.tmp" for folder in places.values()]
    with lock_directory(places["out"]):
        for path in (*others, left):
            path.touch()
        with lock_directory(tmp_path / "corpus"):
            assert not left.exists()
        assert all(path.exists() for path in others)
    assert not others[0].exists()  # by its own run


def test_workers_must_be_positive(tmp_path):
    with pytest.raises(DataError, match="at least 1"):
        run_shards(tasks_for(tmp_path, ["a"]), 0)
