"""Shards as tasks of Ray, on a cluster of this machine."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import BinaryIO

import pytest

from data_prep.engines.choose import make_engine
from data_prep.errors import DataError
from data_prep.shards import ShardTask, run_shards

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="RAY IS NOT INSTALLED, ITS ENGINE IS NOT TESTED")


def squares(stream: BinaryIO, number: int) -> dict[str, int]:
    stream.write(f"{number * number} on any machine".encode())
    return {"rows": 1}


def dies_once(stream: BinaryIO, number: int, mark: Path) -> dict[str, int]:
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return squares(stream, number)


def always_dies(stream: BinaryIO, number: int) -> dict[str, int]:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return squares(stream, number)


def refuses(stream: BinaryIO, number: int) -> dict[str, int]:
    raise DataError(f"number {number} is not to be had")


def test_ray_makes_the_same_bytes_and_survives_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    engine = make_engine("ray", 2, tmp_path, {"attempts": "2"})

    def tasks(folder: str, function: object, *more: object) -> list[ShardTask]:
        return [ShardTask(tmp_path / folder / f"{n}.txt", f"{n}", function, (n,), more) for n in range(4)]

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        here = run_shards(tasks("here", squares), workers=1)
        assert run_shards(tasks("there", squares), workers=1, engine=engine) == here
        assert run_shards(tasks("again", dies_once, tmp_path / "mark"), workers=1, engine=engine) == here
        assert (tmp_path / "mark").exists()
        with pytest.raises(DataError, match=r"1.txt: the worker died 2 times \(WorkerCrashedError\)"):
            run_shards(tasks("dead", always_dies), workers=1, engine=engine)
        with pytest.raises(DataError, match=r"txt: number \d is not to be had"):
            run_shards(tasks("refused", refuses), workers=1, engine=engine)
    finally:
        ray.shutdown()


def test_the_data_stages_on_ray_write_the_bytes_of_a_local_run(tmp_path, files, take, snapshot) -> None:
    import ray

    from data_prep.annotate import AnnotatorSpec, annotate
    from data_prep.dedup.levels import deduplicate

    lines = [f"value_{n} = {n * n}\n" for n in range(30)]
    texts = {f"r{i % 6}/f{i}.py": "".join(lines[i % 9 : i % 9 + 15]) + f"end = {i // 9}\n" for i in range(40)}
    take(files(tmp_path / "root", texts), "folders", shard_bytes=3000)
    corpus = tmp_path / "corpus"

    def run(engine: object, partitions: int) -> dict[str, bytes]:
        shutil.rmtree(corpus / "annotations", ignore_errors=True)
        shutil.rmtree(corpus / "dedup", ignore_errors=True)
        deduplicate(corpus, 1, partitions=partitions, engine=engine)
        annotate(corpus, [AnnotatorSpec.of("signs"), AnnotatorSpec.of("syntax")], engine=engine)
        return snapshot(corpus / "annotations")

    here = run(None, 1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        assert run(make_engine("ray", 2, tmp_path), 4) == here
    finally:
        ray.shutdown()


def test_a_cluster_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--engine ray: no cluster at 127\.0\.0\.1:1"):
        run_shards(
            [ShardTask(tmp_path / "x", "i", squares, (1,))], workers=1,
            engine=make_engine("ray", 1, tmp_path, {"address": "127.0.0.1:1"}),
        )  # fmt: skip
