"""Small corpora on disk and ways to look into them."""

import os
import pickle
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.documents import list_shards
from data_prep.importing import ImportLimits, SourceSpec, import_documents


def write_files(root: Path, files: dict[str, str | bytes]) -> Path:
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    root.mkdir(exist_ok=True)
    return root


@pytest.fixture
def files():
    """files(root, {path: content}) writes files and returns root."""
    return write_files


@pytest.fixture
def take(tmp_path):
    """take(path, kind, workers=..., **limits) imports one source named `src` into one corpus and returns the report."""

    def run(path: Path, kind: str = "auto", workers: int = 1, name: str = "src", **limits):
        spec = SourceSpec(kind, str(path), name)
        return import_documents([spec], tmp_path / "corpus", ImportLimits(**limits), workers)

    return run


@pytest.fixture
def rows(tmp_path):
    """rows() is every document of the test's corpus, in the order of shards and rows."""

    def read(corpus: Path | None = None) -> list[dict]:
        return [row for shard in list_shards(corpus or tmp_path / "corpus") for row in pq.read_table(shard).to_pylist()]

    return read


@pytest.fixture
def snapshot():
    """snapshot(folder) is the bytes of every file below it, without the lock."""

    def read(folder: Path) -> dict[str, bytes]:
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        found.pop(".lock", None)
        return found

    return read


@pytest.fixture
def as_ordinary_user():
    """as_ordinary_user(function) is its result under a user whom file permissions stop; root is not stopped by them."""

    def run(function):
        if os.geteuid() != 0:
            return function()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                os.write(writing, pickle.dumps(function()))
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            data = pipe.read()
        os.waitpid(child, 0)
        return pickle.loads(data)

    return run
