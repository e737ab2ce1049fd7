"""The model scorer from an imported Hugging Face model to the annotation: trained on two processes, used in one."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from data_prep.cli import app
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.oracle.scores import SCHEMA, write_scores
from data_prep.scorer.base import open_scorer
from data_prep.scorer.llama import LlamaSettings, buckets, train_llama
from data_prep.scorer.rows import encode_files, pack
from data_prep.scorer.train import train_scorer
from megatron_seed.checkpoint.reader import CheckpointReader
from megatron_seed.hf.import_ import import_hf
from tokenizer.encode import Encoder
from tokenizer.train import TrainSettings, train

SETTINGS = {"file_tokens": 64, "batch_rows": 4, "learning_rate": 1e-2, "tensor_parallel": 2, "batch_tokens": 512}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a tokenizer, imported."""
    folder = tmp_path_factory.mktemp("pretrained")
    texts = [path.read_text() for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-c]*.py"))]
    train(texts, folder / "hf", TrainSettings(512, "byte_bpe"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "hf")
    import_hf(folder / "hf", folder / "checkpoint")
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are good where they are documented, scored by an oracle."""
    folder = tmp_path_factory.mktemp("corpus")
    for repository in range(20):
        for number in range(12):
            text = (
                f"def f{repository}(x):\n" + ('    """Adds."""\n' if number % 2 else "") + f"    return x + {number}\n"
            )
            path = folder / "code" / f"r{repository}" / f"m{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    import_documents([SourceSpec("folders", str(folder / "code"), "code")], folder / "corpus", ImportLimits(), 1)
    rows = [row for shard in list_shards(folder / "corpus") for row in pq.read_table(shard).to_pylist()]
    names = ("id", "repository", "path", "language", "size_bytes", "sha256")
    columns = {name: [row[name] for row in rows] for name in names} | {
        "cut": [False] * len(rows),
        "score": [9.0 if '"""' in row["text"] else 1.0 for row in rows],
        "problem": pa.nulls(len(rows), pa.string()),
        "model": ["m"] * len(rows),
        "prompt_version": ["p@1"] * len(rows),
    }
    write_scores(folder / "corpus", "oracle", pa.table(columns, schema=SCHEMA), "inputs", {})
    return folder / "corpus"


def test_an_imported_model_learns_scores_and_scores_a_corpus(pretrained: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "scorer"
    about = train_scorer(corpus, "oracle", out, "llama", SETTINGS, held_out=0.3, checkpoint=pretrained, processes=2)
    assert about["kind"] == "llama" and about["trained_on"]["files"] > 100
    reader = CheckpointReader(out / "model")
    assert not reader.optimizer_tensors and set(reader.tensors) >= {"score_head.weight", "score_head.bias"}
    rows = [row for shard in list_shards(corpus) for row in pq.read_table(shard).to_pylist()]
    scorer = open_scorer(out)
    found = scorer.score(rows)
    good = np.array(['"""' in row["text"] for row in rows])
    assert found[good].mean() > found[~good].mean() + 3
    alone = np.concatenate([scorer.score([row]) for row in rows[:9]])
    np.testing.assert_allclose(alone, found[:9], atol=2e-3)
    scorer.close()
    result = CliRunner().invoke(app, ["score", "apply", str(corpus), str(out), "--workers", "1"])
    assert result.exit_code == 0, result.output
    (shard,) = list_shards(corpus)
    written = pq.read_table(corpus / "annotations" / "quality" / shard.name)["score"].to_numpy()
    np.testing.assert_allclose(written, found, atol=2e-3)


def test_another_tokenizer_or_none_is_refused(pretrained: Path, tmp_path: Path) -> None:
    texts = [path.read_text() for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[s-t]*.py"))]
    train(texts, tmp_path / "other", TrainSettings(512, "byte_bpe"))
    settings, nothing = LlamaSettings(**SETTINGS), (np.empty(0), tmp_path / "run")
    with pytest.raises(DataError, match=r"other is not the tokenizer that .*checkpoint was trained with"):
        train_llama([], nothing[0], pretrained, nothing[1], settings, 1, 0, tmp_path / "other")
    with pytest.raises(DataError, match="not a checkpoint"):
        train_llama([], nothing[0], tmp_path / "other", nothing[1], settings, 1, 0)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 90))
def test_rows_hold_every_file_once_and_are_not_too_long(lengths: list[int], row_tokens: int) -> None:
    rows = pack(lengths, row_tokens)
    assert sorted(file for row in rows for file in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[file] for file in row) <= row_tokens for row in rows)
    assert not lengths or len(rows) <= 2 * -(-sum(lengths) // row_tokens)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 400))
def test_batches_hold_every_file_once_and_little_padding(lengths: list[int], most_tokens: int) -> None:
    batches = list(buckets(lengths, most_tokens))
    assert sorted(file for batch in batches for file in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[file] for file in batch) <= most_tokens


def test_a_file_is_its_language_its_beginning_and_the_end_token(pretrained: Path) -> None:
    encoder = Encoder.load(pretrained / "tokenizer")
    short, long = encode_files(
        encoder, [{"language": "Go", "text": "x = 1\n"}, {"language": "Go", "text": "y = 2\n" * 4000}], 32
    )
    assert encoder.decode(short[:-1]) == "Language: Go\nx = 1\n" and short[-1] == long[-1] == encoder.special.eos
    assert len(long) == 32 and encoder.decode(long[:-1]).startswith("Language: Go\ny = 2\ny")
