"""Tasks of a Slurm run whose driver was killed: they work until another run begins, and not after."""

import pickle
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from object_store import s3_server

from data_prep.arguments import engine_of
from data_prep.engines import slurm
from data_prep.engines.slurm import SlurmEngine
from data_prep.shards import ShardTask, finished_manifest, lock_directory, run_shards
from data_prep.storage import as_path


class Queue:
    """Takes the place of submitit's executor: makes tasks at once, or holds them while its driver is killed."""

    def __init__(self, folder):
        self.folder, self.held, self.kills = folder, [], False

    def update_parameters(self, **parameters):
        pass

    def map_array(self, function, *columns):
        tasks = [(function, row) for row in zip(*columns, strict=True)]
        if self.kills:
            self.held += tasks
            raise SystemExit("killed")
        return [self.made(number, *task) for number, task in enumerate(tasks)]

    def made(self, number, function, row):
        path = self.folder / f"result-{number}.pkl"
        path.write_bytes(pickle.dumps(("success", function(*row))))
        return SimpleNamespace(job_id=str(number), paths=SimpleNamespace(result_pickle=path, stderr=path))


def write(stream, text):
    stream.write(text.encode())
    return {"rows": 1}


def tasks(folder: Path, text: str) -> list[ShardTask]:
    return [ShardTask(folder / f"{number}.txt", text, write, (text,)) for number in range(3)]


@pytest.fixture
def queue(tmp_path, monkeypatch):
    found = Queue(tmp_path)
    monkeypatch.setattr(SlurmEngine, "_executor", lambda engine: found)
    monkeypatch.setattr(slurm, "_active", dict)
    return found


def engine(folder: Path) -> SlurmEngine:
    return SlurmEngine(folder, poll_s=0)


def start_and_kill(queue, folder: Path, jobs: Path, text: str) -> list:
    """What a run whose driver is killed has in Slurm's queue."""
    queue.kills, queue.held = True, []
    with pytest.raises(SystemExit):
        run_shards(tasks(folder, text), 1, engine=engine(jobs))
    queue.kills = False
    return queue.held


def test_tasks_of_a_killed_run_do_nothing_once_another_has_begun(tmp_path, queue):
    out, jobs = tmp_path / "out", tmp_path / "jobs"
    late = start_and_kill(queue, out, jobs, "old")
    run_shards(tasks(out, "new"), 1, engine=engine(jobs))
    for function, row in late:
        (answer,) = function(*row)
        assert "replaced by a newer one" in answer.failure.message
    assert {path.read_text() for path in out.glob("*.txt")} == {"new"}
    assert all(finished_manifest(task.output, "new") for task in tasks(out, "new"))
    assert list(jobs.iterdir()) == []


@pytest.mark.parametrize("store", [False, True])
def test_nor_once_a_command_without_slurm_holds_the_folder(tmp_path, queue, monkeypatch, store):
    with s3_server(monkeypatch) if store else nullcontext(tmp_path) as place:
        out = place / "corpus"
        late = start_and_kill(queue, out, out / "engine", "old")
        with lock_directory(out):
            run_shards(tasks(out, "new"), 1)
        assert all(function(*row)[0].failure for function, row in late)
        assert all(finished_manifest(task.output, "new") for task in tasks(out, "new"))


def test_until_then_they_are_made_and_the_next_run_finds_them(tmp_path, queue):
    out, jobs = tmp_path / "out", tmp_path / "jobs"
    for function, row in start_and_kill(queue, out, jobs, "same")[:2]:
        assert function(*row)[0].failure is None
    times = [path.stat().st_mtime_ns for path in sorted(out.glob("*.txt"))]
    run_shards(tasks(out, "same"), 1, engine=engine(jobs))
    assert [path.stat().st_mtime_ns for path in sorted(out.glob("*.txt"))[:2]] == times


def test_a_run_on_another_corpus_ends_no_other(tmp_path, queue):
    waiting = start_and_kill(queue, tmp_path / "one", tmp_path / "one/engine", "one")
    run_shards(tasks(tmp_path / "two", "two"), 1, engine=engine(tmp_path / "two/engine"))
    assert all(function(*row)[0].failure is None for function, row in waiting)


def test_marks_of_runs_lie_with_the_corpus(tmp_path):
    for place in (tmp_path, as_path("s3://bucket/corpus")):
        assert engine_of("slurm", None, 1, place).runs == place / "engine"


def test_a_task_that_is_at_work_ends_when_its_mark_goes(tmp_path):
    mark = tmp_path / "run-1"
    mark.touch()
    code = (
        "import sys, time; from pathlib import Path; from data_prep.engines.slurm import _ended_without\n"
        "with _ended_without(Path(sys.argv[1]), 0.05):\n"
        "    print('at work', flush=True)\n"
        "    time.sleep(60)\n"
    )
    task = subprocess.Popen(
        [sys.executable, "-c", code, str(mark)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert task.stdout.readline() == "at work\n"
    assert task.poll() is None
    mark.unlink()
    assert "a newer run has begun" in task.communicate(timeout=50)[1]
    assert task.returncode == 1
