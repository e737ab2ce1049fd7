"""Builds, mixtures and needles in an object store: what they show and write is what they do on a disk."""

import sysconfig
from pathlib import Path

import pytest
from object_store import s3_server
from typer.testing import CliRunner

from data_prep.build import build
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


def test_needles_from_a_corpus_in_a_store(corpus: Path, tokenizer_dir: Path, bucket, tmp_path: Path, snapshot) -> None:
    upload(corpus, bucket / "corpus")
    settings = NeedleSettings(lengths=(600,), depths=(0, 50), samples=1)
    here = write_needles(corpus, tmp_path / "one", "main", tokenizer_dir, settings, 1)
    assert write_needles(bucket / "corpus", tmp_path / "two", "main", tokenizer_dir, settings, 1) == here
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert write_needles(corpus, bucket / "out", "main", tokenizer_dir, settings, 1) == here
    name = "needle-600.jsonl"
    assert (bucket / "out" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
