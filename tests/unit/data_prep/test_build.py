import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from tokenizers import Tokenizer, models, pre_tokenizers

from data_prep import build_part
from data_prep.build import build
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.fim import split_document
from data_prep.held_out import HeldOut
from data_prep.select import SelectionConfig, read_selection, select
from megatron_seed.data.declare import Vocabulary, declare
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.train import TrainSettings, train

NAMES = ["train-fim0.5-epoch0", "train-fim0.5-epoch1", "train-fim0.0-epoch0", "train-fim0.0-epoch1"]


def source_text(index: int) -> str:
    draw = random.Random(index)
    names = [f"{draw.choice('xyz')}_{draw.choice(['size', 'näme', '<[fim-middle]>', '▁'])}" for _ in range(40)]
    return "".join(f"    {name} = {draw.randrange(1000)}\n" for name in names[: draw.randrange(41)]) + "\n"


@pytest.fixture(scope="module")
def encoder_paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind in ("sentencepiece", "byte_bpe"):
        train([Path(random.__file__).read_text()], folder / kind, TrainSettings(520, kind))
    return folder


@pytest.fixture
def corpus(tmp_path, files, take):
    sources = {f"repo{i % 12}/src/f{i}.py": source_text(i) for i in range(90)}
    take(files(tmp_path / "src", sources), "folders", shard_bytes=12_000)
    select(tmp_path / "corpus", "main", SelectionConfig(rules=(), held_out=HeldOut(fraction=0.3)))
    assert len(list_shards(tmp_path / "corpus")) > 3
    return tmp_path / "corpus"


def run(corpus, encoder, out, rates=(0.5, 0.0), epochs=(0, 1), split="train", seed=1234, workers=1, **options):
    return build(corpus, "main", encoder, out, split, rates, epochs, seed, workers, **options)


def documents(corpus, split="train"):
    """The documents of a split in the order of shards and rows."""
    for shard in list_shards(corpus):
        chosen = pq.read_table(corpus / "selections" / "main" / shard.name).to_pylist()
        for row, choice in zip(pq.read_table(shard).to_pylist(), chosen, strict=True):
            assert row["id"] == choice["id"]
            if choice["split"] == split:
                yield row


def expected_tokens(encoder, row, rate, epoch, seed=1234):
    special = encoder.special
    parts = split_document(seed, epoch, row["id"], row["text"], rate)
    if parts is None:
        return [*encoder.encode(row["text"]), special.eos]
    tokens = [special.fim_suffix, *encoder.encode(parts.suffix), special.fim_prefix, *encoder.encode(parts.prefix)]
    return [*tokens, special.fim_middle, *encoder.encode(parts.middle), special.eos]


@pytest.mark.parametrize("kind", ["sentencepiece", "byte_bpe"])
def test_a_build_is_what_megatron_core_would_write_and_reads(corpus, encoder_paths, tmp_path, kind):
    manifests = run(corpus, encoder_paths / kind, tmp_path / "out")
    encoder = Encoder.load(encoder_paths / kind)
    assert [manifest["name"] for manifest in manifests] == NAMES
    for manifest in manifests:
        rate, epoch = manifest["fim"]["rate"], manifest["fim"]["epoch"]
        expected = [expected_tokens(encoder, row, rate, epoch) for row in documents(corpus)]
        prefix = tmp_path / "out" / manifest["name"]
        dataset = IndexedDataset(str(prefix))
        assert [dataset[i].tolist() for i in range(len(dataset))] == expected
        theirs = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
        for tokens in expected:
            theirs.add_document(torch.tensor(tokens), [len(tokens)])
        theirs.finalize(str(tmp_path / "theirs.idx"))
        for suffix in ("bin", "idx"):
            assert (
                prefix.with_name(f"{prefix.name}.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()
            )


def test_provenance_and_manifest_say_what_is_in_the_build(corpus, encoder_paths, tmp_path):
    manifest = run(corpus, encoder_paths / "sentencepiece", tmp_path / "out", [0.5], [3])[0]
    prefix = tmp_path / "out" / "train-fim0.5-epoch3"
    rows = list(documents(corpus))
    table = pq.read_table(prefix.with_name(prefix.name + ".provenance.parquet"))
    columns = ["document_index", "id", "source", "repository", "path", "fim", "tokens", "size_bytes"]
    assert table.column_names == columns
    found = table.to_pylist()
    assert [row["document_index"] for row in found] == list(range(len(rows)))
    kept = ("id", "source", "repository", "path", "size_bytes")
    assert [[row[name] for name in kept] for row in found] == [[row[name] for name in kept] for row in rows]
    splits = [split_document(1234, 3, row["id"], row["text"], 0.5) is not None for row in rows]
    assert [row["fim"] for row in found] == splits
    dataset = IndexedDataset(str(prefix))  # its arrays are views of a map that ends with it
    lengths = dataset.sequence_lengths.tolist()
    assert [row["tokens"] for row in found] == lengths
    assert (manifest["documents"], manifest["tokens"]) == (len(rows), sum(lengths))
    assert manifest["size_bytes"] == sum(row["size_bytes"] for row in rows)
    assert manifest["fim"] == {"rate": 0.5, "seed": 1234, "epoch": 3}
    assert (manifest["split"], manifest["dtype"], manifest["fim_documents"]) == ("train", "uint16", sum(splits))
    encoder = Encoder.load(encoder_paths / "sentencepiece")
    assert manifest["tokenizer"] == {"digest": encoder.digest, "vocab_size": 520, "eos_id": 2}
    assert manifest["selection"] == read_selection(corpus, "main")["digest"]
    for name, file in manifest["files"].items():
        data = (tmp_path / "out" / name).read_bytes()
        assert file == {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert json.loads(prefix.with_name(prefix.name + ".manifest.json").read_text()) == manifest


@pytest.mark.parametrize("kind", ["sentencepiece", "byte_bpe"])
def test_a_declared_build_says_what_the_build_itself_said(corpus, encoder_paths, tmp_path, kind):
    for ours in run(corpus, encoder_paths / kind, tmp_path / "out", epochs=(0,)):
        vocabulary = Vocabulary.of_tokenizer(encoder_paths / kind)
        [theirs] = declare([tmp_path / "out" / ours["name"]], vocabulary, ours["fim"]["rate"], force=True)
        assert theirs.pop("declared") is True
        assert theirs.pop("files").items() <= ours["files"].items()
        assert theirs.pop("fim").items() <= ours["fim"].items()
        assert theirs.items() <= ours.items()
        assert {*ours} - {*theirs} == {"split", "fim_documents", "fim", "selection", "inputs", "files"}


def test_any_number_of_workers_and_any_grouping_give_the_same_bytes(corpus, encoder_paths, tmp_path, snapshot):
    run(corpus, encoder_paths / "sentencepiece", tmp_path / "one")
    run(corpus, encoder_paths / "sentencepiece", tmp_path / "two", workers=2)
    for rate in (0.0, 0.5):
        for epoch in (1, 0):
            run(corpus, encoder_paths / "sentencepiece", tmp_path / "single", [rate], [epoch])
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two") == snapshot(tmp_path / "single")
    assert len(snapshot(tmp_path / "one")) == 20


def test_held_out_documents_are_built_apart(corpus, encoder_paths, tmp_path):
    out = tmp_path / "out"
    held_out = run(corpus, encoder_paths / "byte_bpe", out, [0.0], [0], split="held_out")[0]
    trained = run(corpus, encoder_paths / "byte_bpe", out, [0.0], [0])[0]
    assert held_out["documents"] == len(list(documents(corpus, "held_out"))) > 0
    assert trained["documents"] == len(list(documents(corpus, "train"))) > held_out["documents"]
    assert (out / "held_out-fim0.0-epoch0.bin").is_file()


def test_what_is_up_to_date_is_left_alone_and_only_the_rest_is_made(corpus, encoder_paths, tmp_path, monkeypatch):
    out, tokenizer = tmp_path / "out", encoder_paths / "sentencepiece"
    first = run(corpus, tokenizer, out, [0.5], [0, 1])
    made = []
    encode = build_part.encode_documents
    monkeypatch.setattr(
        build_part, "encode_documents", lambda e, plan, *a: made.append(plan.variants) or encode(e, plan, *a)
    )
    assert run(corpus, tokenizer, out, [0.5], [0, 1]) == first
    assert made == []
    (out / "train-fim0.5-epoch1.bin").write_bytes(b"damaged")
    assert run(corpus, tokenizer, out, [0.5], [0, 1]) == first
    assert {variant.epoch for variants in made for variant in variants} == {1}
    changed = run(corpus, tokenizer, out, [0.5], [0, 1], seed=99)
    assert all(a["files"] != b["files"] for a, b in zip(first, changed, strict=True))
    made.clear()
    select(corpus, "main", SelectionConfig(rules=(), held_out=HeldOut(fraction=0.3, seed=5)))
    run(corpus, tokenizer, out, [0.5], [0, 1], seed=99)
    assert made


def test_an_interrupted_build_goes_on_where_it_stopped(corpus, encoder_paths, tmp_path, monkeypatch, snapshot):
    tokenizer = encoder_paths / "sentencepiece"
    run(corpus, tokenizer, tmp_path / "whole")
    encode, calls = build_part.encode_documents, []

    def stop_at_third(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("power cut")
        return encode(*arguments)

    monkeypatch.setattr(build_part, "encode_documents", stop_at_third)
    with pytest.raises(DataError, match="power cut"):
        run(corpus, tokenizer, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.manifest.json"))
    before = len(calls)
    run(corpus, tokenizer, tmp_path / "out")
    assert len(calls) - before == len(list_shards(corpus)) - 2
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


def test_new_documents_are_encoded_alone_and_the_bytes_are_those_of_a_build_from_nothing(
    corpus, encoder_paths, tmp_path, monkeypatch, snapshot, files, take
):
    tokenizer, out = encoder_paths / "byte_bpe", tmp_path / "out"
    run(corpus, tokenizer, out, [0.5], [0, 1])
    files(tmp_path / "src", {f"more{i}/f.py": source_text(1000 + i) for i in range(6)})
    files(tmp_path / "src", {"repo1/src/f1.py": "changed = 1\n"})
    (tmp_path / "src/repo3/src/f3.py").unlink()
    take(tmp_path / "src", "folders", shard_bytes=12_000)
    select(corpus, "main", SelectionConfig(rules=(), held_out=HeldOut(fraction=0.3)))
    encoded, encode = {0: 0, 1: 0, 2: 0}, build_part.encode_documents

    def count(encoder, plan, ids, texts):
        for variant in plan.variants:
            encoded[variant.epoch] += len(ids)
        return encode(encoder, plan, ids, texts)

    monkeypatch.setattr(build_part, "encode_documents", count)
    manifests = run(corpus, tokenizer, out, [0.5], [0, 1, 2])
    number = len(list(documents(corpus)))
    assert encoded[2] == number and 0 < encoded[0] == encoded[1] < number
    assert manifests == run(corpus, tokenizer, tmp_path / "fresh", [0.5], [0, 1, 2])
    assert snapshot(out) == snapshot(tmp_path / "fresh")


@pytest.mark.parametrize("damage", ["", "{", '{"inputs": "other", "parts": []}', '{"parts": 3}', "short"])
def test_a_list_of_parts_that_says_nothing_is_not_believed(corpus, encoder_paths, tmp_path, snapshot, damage):
    tokenizer, out = encoder_paths / "byte_bpe", tmp_path / "out"
    (manifest,) = run(corpus, tokenizer, out, [0.0], [0])
    parts = out / f"{manifest['name']}.parts.json"
    stored = json.loads(parts.read_text())
    short = json.dumps(stored | {"parts": stored["parts"][1:]})
    parts.write_text(short if damage == "short" else damage)
    select(corpus, "main", SelectionConfig(rules=(), held_out=HeldOut(fraction=0.3, seed=5)))
    run(corpus, tokenizer, out, [0.0], [0])
    run(corpus, tokenizer, tmp_path / "fresh", [0.0], [0])
    assert snapshot(out) == snapshot(tmp_path / "fresh")


def test_a_text_that_several_builds_need_is_encoded_once(encoder_paths):
    encoder = Encoder.load(encoder_paths / "byte_bpe")
    plan = build_part.Plan(
        "train",
        tuple(build_part.Variant(rate, epoch) for rate in (0.0, 0.5, 0.9) for epoch in (0, 1)),
        1,
        encoder.path,
        encoder.digest,
        (),
    )
    ids, texts = [str(i) for i in range(60)], [source_text(i) for i in range(60)]
    encoded = []

    class Counting:
        special, dtype = encoder.special, encoder.dtype

        def encode_batch(self, pieces):
            encoded.extend(pieces)
            return encoder.encode_batch(pieces)

    build_part.encode_documents(Counting(), plan, ids, texts)
    split = sum(split_document(1, epoch, i, "x", 0.9) is not None for epoch in (0, 1) for i in ids)
    assert len(encoded) == len(texts) + 3 * split


def test_tokenizers_of_others_are_used_with_their_own_roles(corpus, tmp_path):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="no token for eos"):
        run(corpus, tmp_path / "tokenizer.json", tmp_path / "out", [0.0])
    roles = {"eos": "<|end|>"}
    with pytest.raises(TokenizerError, match="no token for fim_suffix, fim_prefix, fim_middle"):
        run(corpus, tmp_path / "tokenizer.json", tmp_path / "out", [0.0, 0.1], roles=roles)
    manifest = run(corpus, tmp_path / "tokenizer.json", tmp_path / "out", [0.0], [0], roles=roles)[0]
    assert (manifest["tokenizer"]["eos_id"], manifest["dtype"]) == (256, "uint16")
    assert manifest["tokens"] == manifest["size_bytes"] + manifest["documents"]


def test_impossible_wishes_are_refused(corpus, encoder_paths, tmp_path, monkeypatch):
    tokenizer = encoder_paths / "byte_bpe"
    with pytest.raises(DataError, match="split is 'test'; it must be one of train, held_out"):
        run(corpus, tokenizer, tmp_path / "out", split="test")
    for rates, epochs in (([1.5], [0]), ([0.5], [-1]), ([], [0]), ([0.5], [])):
        with pytest.raises(DataError, match="give rates from 0 to 1 and epochs from 0"):
            run(corpus, tokenizer, tmp_path / "out", rates, epochs)
    with pytest.raises(DataError, match="there is no selection 'other'"):
        build(corpus, "other", tokenizer, tmp_path / "out", "train", [0.5], [0], 1, 1)
    select(corpus, "main", SelectionConfig(rules=(), held_out=HeldOut(fraction=0.0)))
    with pytest.raises(DataError, match="selection 'main' has no held_out documents"):
        run(corpus, tokenizer, tmp_path / "out", split="held_out")
    assert not (tmp_path / "out").exists()
