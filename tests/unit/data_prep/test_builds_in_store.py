"""Builds, mixtures and needles in an object store: what they show and write is what they do on a disk."""

import random
import sysconfig
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from object_store import s3_server
from typer.testing import CliRunner

from data_prep.build import build
from data_prep.build_join import Part, earlier_parts, join_parts
from data_prep.cli import app
from data_prep.inspect.build_view import Choice, show_build
from data_prep.mixtures.builds import find_builds
from data_prep.needle.run import write_needles
from data_prep.needle.settings import NeedleSettings
from data_prep.select import SelectionConfig, select


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as environment, s3_server(environment) as found:
        yield found


def upload(root: Path, target) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            (target / path.relative_to(root).as_posix()).write_bytes(path.read_bytes())


@pytest.fixture
def corpus(take, files, tmp_path: Path) -> Path:
    library = Path(sysconfig.get_path("stdlib"))
    texts = {f"{n}/{n}.py": (library / f"{n}.py").read_bytes() for n in ("ast", "bdb", "cmd", "copy", "csv", "dis")}
    take(files(tmp_path / "src", texts))
    split = {"fraction": 0.3, "minimum_repositories": 2}
    select(tmp_path / "corpus", "main", SelectionConfig.model_validate({"rules": [], "held_out": split}))
    return tmp_path / "corpus"


def test_a_build_in_a_store(corpus: Path, tokenizer_dir: Path, bucket, tmp_path: Path) -> None:
    (manifest,) = build(corpus, "main", tokenizer_dir, tmp_path / "tokens", "train", [0.5], [0], 1234, 1)
    upload(tmp_path / "tokens", bucket / "tokens")
    local, there = tmp_path / "tokens" / manifest["name"], bucket / "tokens" / manifest["name"]
    assert show_build(there, tokenizer_dir, Choice()) == show_build(local, tokenizer_dir, Choice())
    result = CliRunner().invoke(app, ["inspect", f"{there}.bin", "--tokenizer", str(tokenizer_dir)])
    assert result.exit_code == 0 and ".py" in result.output
    result = CliRunner().invoke(app, ["inspect", str(bucket / "tokens")])
    assert manifest["name"] in result.output
    (found,) = find_builds("a", [str(bucket / "tokens")])
    assert (found.prefix, found.tokens) == (str(there), manifest["tokens"])


def test_documents_are_added_to_a_build_with_loss_on_targets(bucket, tmp_path: Path, snapshot) -> None:
    """What stands there is read while new files take its place: an object that was replaced cannot be read on."""
    dtype, rows = np.dtype(np.uint16), 1500

    def part(number: int) -> Part:
        tokens = tmp_path / f"tokens-{number}"
        tokens.write_bytes(np.full(3 * rows, number, dtype).tobytes())
        paths = [random.Random(f"{number} {row}").randbytes(500).hex() for row in range(rows)]  # more than one read
        ones = {"source": ["s"] * rows, "repository": ["r"] * rows, "path": paths, "fim": [False] * rows}
        numbers = {"tokens": 3, "size_bytes": 3, "loss_start": number}
        columns = {name: pa.array([value] * rows, pa.int64()) for name, value in numbers.items()}
        table = pa.table({"id": [f"{number}-{row}" for row in range(rows)], **ones, **columns})
        return Part(f"part {number}", rows, tokens, ((0, 6 * rows),), lambda: table)

    for place in (tmp_path / "out", bucket / "grown"):
        said = join_parts(place / "build", dtype, [part(1), part(2)], "before", loss_starts=True)
        with ExitStack() as stack:
            before = earlier_parts(place / "build", {"inputs": "before", "files": said["files"]}, stack)
            parts = [part(0), *before.values()]
            assert len(parts) == 3
            said = join_parts(place / "build", dtype, parts, "after", loss_starts=True)
        assert said["loss"]["tokens"] == 9 * rows - 3 * rows
    assert {path.name: path.read_bytes() for path in (bucket / "grown").iterdir()} == snapshot(tmp_path / "out")


def test_needles_from_a_corpus_in_a_store(corpus: Path, tokenizer_dir: Path, bucket, tmp_path: Path, snapshot) -> None:
    upload(corpus, bucket / "corpus")
    settings = NeedleSettings(lengths=(600,), depths=(0, 50), samples=1)
    here = write_needles(corpus, tmp_path / "one", "main", tokenizer_dir, settings, 1)
    assert write_needles(bucket / "corpus", tmp_path / "two", "main", tokenizer_dir, settings, 1) == here
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert write_needles(corpus, bucket / "out", "main", tokenizer_dir, settings, 1) == here
    name = "needle-600.jsonl"
    assert (bucket / "out" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
