"""Killed workers, a full disk, two runs at once: no stage loses anything or has anything twice."""

import hashlib
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import data_prep.shards
from data_prep.annotate import AnnotatorSpec, annotate
from data_prep.build import build
from data_prep.dedup.levels import deduplicate
from data_prep.engines.base import Call, Engine
from data_prep.engines.local import LocalEngine
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.select import SelectionConfig, select
from data_prep.shards import finished_manifest, lock_directory
from tokenizer.train import TrainSettings, train

STAGES = ("import", "dedup", "annotate", "build")
ROOMS = (300, 1500, 5000, 20_000)  # bytes that a file may have


@dataclass(frozen=True)
class Pipeline:
    """The stages over the folder `root`; all that they write is in `folder`."""

    root: Path
    tokenizer: Path
    folder: Path

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    def run(self, stage: str, engine: Engine | None = None) -> None:
        if stage == "import":
            source = SourceSpec("folders", str(self.root), "src")
            import_documents([source], self.corpus, ImportLimits(shard_bytes=6000), 1, engine=engine)
        elif stage == "dedup":
            deduplicate(self.corpus, 1, partitions=2, engine=engine)
        elif stage == "annotate":
            annotate(self.corpus, [AnnotatorSpec.of("signs"), AnnotatorSpec.of("secrets")], engine=engine)
        elif stage == "build":
            select(self.corpus, "main", SelectionConfig())
            out = self.folder / "build"
            build(self.corpus, "main", self.tokenizer, out, "train", [0.5], [0], 1, 1, engine=engine)

    def run_to(self, stage: str) -> None:
        for earlier in STAGES[: STAGES.index(stage)]:
            self.run(earlier)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "tokenizer"
    train([Path(random.__file__).read_text()], folder, TrainSettings(520, "byte_bpe"))
    return folder


@pytest.fixture
def make_pipeline(tmp_path: Path, files: Callable, tokenizer: Path) -> Callable[[str], Pipeline]:
    draw = random.Random(1)
    lines = [f"value_{draw.randrange(99)} = {draw.randrange(10**6)}\n" for _ in range(400)]
    texts = {f"r{i % 9}/f{i}.py": "".join(draw.sample(lines, 40)) for i in range(45)}
    root = files(tmp_path / "root", texts | {f"r{i}/copy.py": texts["r0/f0.py"] + "end = 1\n" for i in range(3)})
    return lambda name: Pipeline(root, tokenizer, tmp_path / name)


def written(folder: Path) -> dict[str, str]:
    """What a user reads of a run, by name, as digests."""
    suffixes = (".parquet", ".bin", ".idx")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in suffixes
    }


def check_whole(folder: Path) -> None:
    """Nothing temporary is left, and what counts as finished is what its manifest says."""
    assert not list(folder.rglob("*.tmp"))
    for path in folder.rglob("*.parquet"):
        if manifest := finished_manifest(path):
            assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def room() -> Iterator[Callable[[int | None], None]]:
    """room(bytes) makes the system refuse longer files, as a full disk does; room(None) ends that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_loses_nothing(make_pipeline, room, stage):
    whole, ours = make_pipeline("whole"), make_pipeline("ours")
    for pipeline in (whole, ours):
        pipeline.run_to(stage)
    whole.run(stage)
    failed = 0
    for size in ROOMS:
        room(size)
        try:
            ours.run(stage)
        except (DataError, OSError) as error:
            assert "File too large" in str(error) and "\n" not in str(error)
            failed += 1
        finally:
            room(None)
        check_whole(ours.folder)
    assert failed
    ours.run(stage)
    assert written(ours.folder) == written(whole.folder)


def die_once(mark: Path, function: Callable, *args: object) -> object:
    """In a worker: killed where it would rename its first file, on the first try."""
    if not mark.exists():
        mark.touch()
        data_prep.shards.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return function(*args)


@dataclass
class DyingEngine:
    """Kills the worker that makes the first call, in the middle of it."""

    mark: Path

    def run(self, calls: list[Call]) -> Iterator:
        first, *others = calls
        dying = Call(first.label, die_once, (self.mark, first.function, *first.args), first.common)
        yield from LocalEngine(2).run([dying, *others])


@pytest.mark.parametrize("stage", ["import", "annotate", "build"])
def test_a_worker_killed_in_the_middle_of_a_shard_loses_nothing(make_pipeline, tmp_path, stage):
    whole, ours = make_pipeline("whole"), make_pipeline("ours")
    for pipeline in (whole, ours):
        pipeline.run_to(stage)
    whole.run(stage)
    ours.run(stage, DyingEngine(tmp_path / "mark"))
    assert (tmp_path / "mark").exists()
    check_whole(ours.folder)
    assert written(ours.folder) == written(whole.folder)


def test_two_runs_at_once_are_refused_and_change_nothing(make_pipeline):
    pipeline = make_pipeline("one")
    for stage in STAGES:
        pipeline.run(stage)
    before = written(pipeline.folder)
    for stage in STAGES:
        held = pipeline.folder / "build" if stage == "build" else pipeline.corpus
        with lock_directory(held), pytest.raises(DataError, match=f"is in use by process {os.getpid()} "):
            pipeline.run(stage)
    with lock_directory(pipeline.corpus), pytest.raises(DataError, match="is in use by"):
        select(pipeline.corpus, "other", SelectionConfig())
    assert written(pipeline.folder) == before


def test_a_corpus_that_changes_under_a_build_is_noticed(make_pipeline, monkeypatch, files):
    pipeline = make_pipeline("one")
    pipeline.run_to("build")

    class ChangingEngine:
        def run(self, calls: list[Call]) -> Iterator:
            files(pipeline.root, {"r4/new.py": "new = 1\n"})
            pipeline.run("import")
            yield from LocalEngine(1).run(calls)

    with pytest.raises(DataError, match=r"was changed while a build was reading it|has not the rows of"):
        pipeline.run("build", ChangingEngine())
    assert not list((pipeline.folder / "build").glob("*.manifest.json"))
