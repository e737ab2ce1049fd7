"""Builds that Megatron-LM's own tool wrote are declared once, and refused until then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from rich.progress import Progress
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner

from launch.cli import app
from megatron_seed.config.load import load_recipe
from megatron_seed.config.sources import SourceConfig
from megatron_seed.data import declare as declaring
from megatron_seed.data.declare import Vocabulary, declare
from megatron_seed.data.held_out import HeldOut, check_data
from megatron_seed.data.loader import open_builds
from megatron_seed.data.manifest import manifest_path, read_manifest
from megatron_seed.errors import SeedError
from tokenizer.encode import Encoder

TEXTS = ["def a():\n    pass\n", "", "größer 你好 🙂\n", "x = '<end>'\n"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A byte-level tokenizer that knows one word, and the end token of another maker."""
    byte = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE({**byte, "de": 256, "def": 257}, [("d", "e"), ("de", "f")]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"}))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(documents, name) writes a build as Megatron-LM's preprocessing does."""

    def run(documents: list[list[int]], name: str = "theirs", dtype: type = np.int32) -> Path:
        builder = IndexedDatasetBuilder(str(tmp_path / f"{name}.bin"), dtype=dtype)
        for document in documents:
            builder.add_document(torch.tensor(document, dtype=torch.int64), [len(document)])
        builder.finalize(str(tmp_path / f"{name}.idx"))
        return tmp_path / name

    return run


@pytest.fixture
def build(write: Callable[..., Path], tokenizer: Path) -> Path:
    encoder = Encoder.load(tokenizer)
    return write([[*encoder.encode(text), *encoder.special.require("eos")] for text in TEXTS])


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["data", "declare", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_an_undeclared_build_does_not_train_and_a_declared_one_does(
    tiny_recipe: Callable[..., Path], build: Path, tokenizer: Path
) -> None:
    recipe = load_recipe(tiny_recipe(), [f"phases.0.blend.0.builds={build}", "model.vocab_size=300"])
    with pytest.raises(SeedError, match=f"{build}: has no manifest .*megatron-seed data declare {build} --tokenizer"):
        check_data(recipe)
    declare([build], Vocabulary.of_tokenizer(tokenizer))
    check_data(recipe.model_copy(update={"tokenizer": tokenizer}))
    with pytest.raises(SeedError, match=r"a tokenizer of 259 ids, but model\.vocab_size is 258"):
        check_data(recipe.model_copy(update={"model": recipe.model.model_copy(update={"vocab_size": 258})}))


def test_the_manifest_tells_tokenizer_tokens_and_bytes_of_text(build: Path, tokenizer: Path) -> None:
    assert f"{build}: 4 documents" in run(f"{build}.bin", f"{build}.idx", "--tokenizer", tokenizer, "--fim", "0.5")
    manifest, encoder = read_manifest(build), Encoder.load(tokenizer)
    assert manifest.declared and manifest.fim.rate == 0.5
    assert manifest.tokenizer.digest == encoder.digest and manifest.tokenizer.vocab_size == 259
    assert manifest.documents == 4 and manifest.tokens == 4 + sum(len(encoder.encode(text)) for text in TEXTS)
    assert manifest.size_bytes == sum(len(text.encode()) for text in TEXTS)


def test_bytes_are_left_out_where_a_tokens_text_depends_on_its_neighbours(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    words = Tokenizer(models.WordLevel({"one": 0, "two": 1}, unk_token="one"))
    words.save(str(tmp_path / "tokenizer.json"))
    build = write([[0, 1, 1] * 20])
    declare([build], Vocabulary.of_tokenizer(tmp_path / "tokenizer.json"))
    assert read_manifest(build).tokens == 60 and read_manifest(build).size_bytes is None


def test_builds_of_which_only_ids_are_known(write: Callable[..., Path]) -> None:
    ids = write([[1, 2, 3] * 20])
    run(ids, "--vocab-size", "4")
    assert read_manifest(ids).tokenizer.digest is None and read_manifest(ids).size_bytes is None
    assert HeldOut.open(SourceConfig(name="s", builds=(str(ids),)), 4, 8, 4).bytes_per_token is None


def test_a_recipes_tokenizer_must_have_been_declared(
    tiny_recipe: Callable[..., Path], tiny_builds: dict[str, str], tokenizer: Path
) -> None:
    recipe = load_recipe(tiny_recipe(), [f"tokenizer={tokenizer}"])
    with pytest.raises(SeedError, match=f"{tiny_builds['train']}: declared without its tokenizer"):
        check_data(recipe)


@pytest.mark.parametrize(("dtype", "wrong"), [(np.int32, -1), (np.int32, 100), (np.uint16, 65535), (np.int64, 2**40)])
@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_the_first_document_with_a_foreign_id_is_named(
    dtype: type, wrong: int, chunk: int, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declaring, "_CHUNK_TOKENS", chunk)
    build = write([[1, 99], [], [5, 0, wrong, wrong], [wrong]], dtype=dtype)
    message = f"theirs: token 2 of document 2 has id {wrong}, but the declared vocabulary has 100 ids, 0 to 99"
    with pytest.raises(SeedError, match=message):
        declare([build], Vocabulary.of_size(100))
    assert not manifest_path(build).exists()


def test_damage_in_any_build_is_found_before_one_is_declared(write: Callable[..., Path]) -> None:
    good, bad = write([[1]], "good"), write([[1, 2]], "bad")
    Path(f"{bad}.bin").write_bytes(b"1")
    with pytest.raises(SeedError, match=r"bad\.bin"):
        declare([good, bad], Vocabulary.of_size(9))
    assert not manifest_path(good).exists()


def test_a_manifest_that_says_something_else_is_replaced_only_by_force(write: Callable[..., Path]) -> None:
    builds = [write([[1]], "one"), write([[2]], "other")]
    declare(builds[1:], Vocabulary.of_size(9), 0.5)
    before = manifest_path(builds[1]).read_bytes()
    with pytest.raises(SeedError, match=r"other.manifest.json: is there already .* --force"):
        declare(builds, Vocabulary.of_size(9))
    assert manifest_path(builds[1]).read_bytes() == before and not manifest_path(builds[0]).exists()
    declare(builds, Vocabulary.of_size(9), force=True)
    assert [read_manifest(build).fim.rate for build in builds] == [0.0, 0.0]


def test_declaring_again_goes_on_where_it_was_stopped(write: Callable[..., Path]) -> None:
    builds = [write([[1] * 7], "one"), write([[2] * 9], "other")]
    first = declare(builds[:1], Vocabulary.of_size(9))
    with Progress(disable=True) as bars:
        again = declare(builds, Vocabulary.of_size(9), progress=bars)
    assert again[0] == first[0] and (bars.tasks[0].total, bars.tasks[0].completed) == (9, 9)
    write([[1] * 8], "one")
    with pytest.raises(SeedError, match=r"one\.manifest\.json: is there already"):
        declare(builds, Vocabulary.of_size(9))


def test_files_that_were_replaced_after_they_were_declared_are_refused(write: Callable[..., Path]) -> None:
    build = write([[1] * 7])
    declare([build], Vocabulary.of_size(9))
    write([[1] * 8])
    with pytest.raises(SeedError, match="theirs: holds 8 tokens in 1 documents, but its manifest is of 7 in 1"):
        open_builds(SourceConfig(name="s", builds=(str(build),)), 9)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"tokenizer": {"digest": 1, "vocab_size": 3}}'])
def test_a_manifest_that_cannot_be_understood_is_named(content: str, write: Callable[..., Path]) -> None:
    build = write([[1]])
    manifest_path(build).write_text(content)
    with pytest.raises(SeedError, match=r"theirs\.manifest\.json: not the manifest of a build"):
        open_builds(SourceConfig(name="s", builds=(str(build),)), 9)
    with pytest.raises(SeedError, match="--force replaces it"):
        declare([build], Vocabulary.of_size(9))


def test_either_a_tokenizer_or_a_number_of_ids_is_declared(build: Path, tokenizer: Path) -> None:
    for arguments in ([], ["--tokenizer", tokenizer, "--vocab-size", "9"]):
        with pytest.raises(SeedError, match="either --tokenizer DIRECTORY or"):
            run(build, *arguments)
    assert not manifest_path(build).exists()
