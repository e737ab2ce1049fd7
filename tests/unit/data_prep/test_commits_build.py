"""Commits as tokens: headings as special tokens or text, and where the loss begins."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pygit2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDataset
from typer.testing import CliRunner

from data_prep.annotate import annotate
from data_prep.annotators.base import AnnotatorSpec
from data_prep.build import build
from data_prep.cli import app
from data_prep.commits.repositories import CommitSource
from data_prep.commits.run import import_commits
from data_prep.commits.settings import load_config
from data_prep.commits.target import apply_target
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.select import SelectionConfig, select
from data_prep.structure import pieces_of
from tokenizer.encode import Encoder
from tokenizer.errors import TokenizerError
from tokenizer.special import COMMIT_ROLES, STRINGS
from tokenizer.train import TrainSettings, train

ALL = {"repositories": {"min_stars": 0, "min_forks": 0, "min_commits": 0, "min_days": 0}, "shard_commits": 3}
ADDRESS = "ann.lee@corp.io"
# What a file may say to pass for a heading, as text and as the string of a special token.
POSING = "## paths\nM\ta.py\n## changes\n" + "".join(STRINGS[role] + "x\n" for role in COMMIT_ROLES) + STRINGS["eos"]
KINDS = ("sentencepiece", "byte_bpe")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        train([Path(json.__file__).read_text()], folder / kind, TrainSettings(560, kind, special=("commits",)))
    train([Path(json.__file__).read_text()], folder / "without", TrainSettings(560, "byte_bpe"))
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A history whose README, files and changes hold addresses and pose as headings; commit -> files before, after."""
    folder = tmp_path_factory.mktemp("repos") / "tool.git"
    git, files, found = pygit2.init_repository(folder, bare=True), {"README.md": f"# Tool\n{ADDRESS}\n{POSING}\n"}, {}
    for number in range(8):
        before = dict(files)
        files["a.py"] = f"# {ADDRESS}\na = {number}\n{POSING}\n" + "é = 1\n" * number
        files[f"f{number}.txt"] = f"{number} {POSING}"  # its last line does not end
        index = pygit2.Index()
        for path, text in files.items():
            index.add(pygit2.IndexEntry(path, git.create_blob(text.encode()), pygit2.enums.FileMode.BLOB))
        who = pygit2.Signature("Ann", "ann@example.org", 1_600_000_000 + number, 0)
        parents = [] if git.head_is_unborn else [git.head.target]
        message = f"Change a to {number}, says {ADDRESS}\n\n{POSING}"
        commit = str(git.create_commit("HEAD", who, who, message, index.write_tree(git), parents))
        found[commit] = (before, dict(files))
    return folder, found


@pytest.fixture
def corpus(tmp_path, repository):
    """corpus(markers, redact, ...) makes the corpus and its selection, and returns its folder."""

    def make(markers="special", redact=(), **sample) -> Path:
        config = load_config(None, {**ALL, "sample": {"markers": markers, **sample}})
        import_commits(tmp_path / "corpus", [CommitSource(str(repository[0]), "git")], config)
        annotate(tmp_path / "corpus", [AnnotatorSpec.of("secrets")])
        select(tmp_path / "corpus", "main", SelectionConfig(rules=(), held_out={"fraction": 0}, redact=redact))
        return tmp_path / "corpus"

    return make


def run(corpus, tokenizer, out, loss="target", workers=1, **options):
    return build(corpus, "main", tokenizer, out, "train", [0.0], [0], 1, workers, loss=loss, **options)[0]


def rows_of(corpus: Path) -> list[dict]:
    found = []
    for shard in list_shards(corpus):
        facts = pq.read_table(corpus / "annotations/commits" / shard.name).to_pylist()
        found += [{**row, **fact} for row, fact in zip(pq.read_table(shard).to_pylist(), facts, strict=True)]
    return found


def expected(encoder: Encoder, row: dict, redact: bool) -> tuple[list[int], int]:
    """Tokens and first token of the target, by the places of headings alone."""

    def encode(text: str) -> list[int]:
        return encoder.encode(text.replace(ADDRESS, "<EMAIL>") if redact else text)

    text, at, tokens, start = row["text"], 0, [], 0
    if row["markers"] == "text":
        context = encode(text[: row["target_start"]])
        return [*context, *encode(text[row["target_start"] :]), encoder.special.eos], len(context)
    for heading in row["headings"]:
        tokens += [*encode(text[at : heading["start"]]), getattr(encoder.special, heading["role"])]
        at = heading["end"]
        if at == row["target_start"]:
            start = len(tokens)
    return [*tokens, *encode(text[at:]), encoder.special.eos], start


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("markers", ["special", "text"])
@pytest.mark.parametrize("redact", [(), ("email",)])
def test_a_build_of_commits_token_by_token(corpus, tokenizers, repository, tmp_path, kind, markers, redact):
    folder = corpus(markers, redact)
    manifest = run(folder, tokenizers / kind, tmp_path / "out")
    prefix, encoder, rows = tmp_path / "out" / manifest["name"], Encoder.load(tokenizers / kind), rows_of(folder)
    dataset = IndexedDataset(str(prefix))
    starts = np.load(f"{prefix}.loss_starts.npy")
    assert len(dataset) == len(starts) == len(rows) == 7 and starts.dtype == np.int32
    specials = {getattr(encoder.special, role) for role in COMMIT_ROLES}
    for tokens, start, row in zip((dataset[i].tolist() for i in range(7)), starts.tolist(), rows, strict=True):
        assert (tokens, start) == expected(encoder, row, bool(redact))
        # However often the texts say what special tokens are called, only headings are some.
        headings = len(row["headings"]) if markers == "special" else 0
        assert sum(token in specials for token in tokens) == headings and tokens.count(encoder.special.eos) == 1
        assert row["text"].count(STRINGS["commit_file"]) > 3 and row["text"].count("## paths\n") > 3
        before, after = repository[1][row["commit"]]
        if not redact:
            assert apply_target(encoder.decode(tokens[start:-1]), before.__getitem__, row["format"]).files == {
                path: text for path, text in after.items() if text != before.get(path)
            }
    counted = sum(map(len, (dataset[i] for i in range(7)))) - int(starts.sum())
    assert manifest["loss"] == {"on": "target", "starts": f"{prefix.name}.loss_starts.npy", "tokens": counted}
    for name, file in manifest["files"].items():
        assert file["sha256"] == hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
    assert len(manifest["files"]) == 4
    provenance = pq.read_table(f"{prefix}.provenance.parquet")
    assert provenance["loss_start"].to_pylist() == starts.tolist()
    said = [row["text"].replace(ADDRESS, "<EMAIL>") if redact else row["text"] for row in rows]
    sizes = [len(text.encode()) for text in said]
    if markers == "special":  # headings are ASCII, and stand for no text
        sizes = [size - headings_length(row) for size, row in zip(sizes, rows, strict=True)]
    assert provenance["size_bytes"].to_pylist() == sizes


def headings_length(row: dict) -> int:
    return sum(heading["end"] - heading["start"] for heading in row["headings"])


def test_without_loss_on_targets_nothing_is_written_beside(corpus, tokenizers, tmp_path):
    folder = corpus("text")
    manifest = run(folder, tokenizers / "without", tmp_path / "out", loss="all")
    assert "loss" not in manifest and not list((tmp_path / "out").glob("*.npy"))
    encoder, dataset = Encoder.load(tokenizers / "without"), IndexedDataset(str(tmp_path / "out" / manifest["name"]))
    for index, row in enumerate(rows_of(folder)):
        assert dataset[index].tolist() == [*encoder.encode(row["text"]), encoder.special.eos]


def test_texts_are_the_same_with_either_kind_of_marker(corpus):
    special = rows_of(corpus("special"))
    text = rows_of(corpus("text"))
    own = ("markers", "tokens")
    assert [{**row, **dict.fromkeys(own)} for row in special] == [{**row, **dict.fromkeys(own)} for row in text]
    for row in text:
        said = [row["text"][heading["start"] : heading["end"]] for heading in row["headings"]]
        roles = [heading["role"] for heading in row["headings"]]
        assert said[:3] == ["## message\n", "## readme ", "## tree\n"] and said[-2:] == ["## paths\n", "## changes\n"]
        assert roles[0] == "commit_message" and roles[-2:] == ["commit_paths", "commit_changes"]


@pytest.mark.parametrize("markers", ["special", "text"])
def test_counted_tokens_are_those_of_the_build(corpus, tokenizers, tmp_path, markers):
    tokenizer = tokenizers / "byte_bpe"
    folder = corpus(markers, tokenizer=str(tokenizer), max_tokens=1500)
    run(folder, tokenizer, tmp_path / "out", loss="all")
    table = pq.read_table(next((tmp_path / "out").glob("*.provenance.parquet")))
    counted = [row["tokens"] + 1 for row in rows_of(folder)]
    assert counted and table["tokens"].to_pylist() == counted and max(counted) <= 1501


def test_a_tokenizer_without_the_markers_is_refused_and_may_name_its_own(corpus, tokenizers, tmp_path):
    with pytest.raises(
        TokenizerError, match=r"no token for commit_message, .*--special commits, or .* counted by bytes"
    ):
        corpus("special", tokenizer=str(tokenizers / "without"))
    folder = corpus("special")
    with pytest.raises(TokenizerError, match=r"no token for commit_message, .*; train one with --special commits, or"):
        run(folder, tokenizers / "without", tmp_path / "out")
    own = {role: f"<[reserved-{20 + place}]>" for place, role in enumerate(COMMIT_ROLES)}
    manifest = run(folder, tokenizers / "without", tmp_path / "out", roles=own)
    dataset, encoder = (
        IndexedDataset(str(tmp_path / "out" / manifest["name"])),
        Encoder.load(tokenizers / "without", own),
    )
    for index, row in enumerate(rows_of(folder)):
        assert dataset[index].tolist() == expected(encoder, row, False)[0]


def test_what_cannot_be_built_is_refused(corpus, tokenizers, tmp_path, files, take):
    folder, tokenizer = corpus("text"), tokenizers / "byte_bpe"
    with pytest.raises(DataError, match="documents with targets cannot be split for infilling; build them with --fim-"):
        build(folder, "main", tokenizer, tmp_path / "out", "train", [0.5, 0.0], [0], 1, 1, loss="target")
    with pytest.raises(DataError, match="loss is 'targets'; it must be one of all, target"):
        run(folder, tokenizer, tmp_path / "out", loss="targets")
    build(folder, "main", tokenizer, tmp_path / "out", "train", [0.5], [0], 1, 1)  # of plain text it may be
    with pytest.raises(DataError, match="documents with special markers cannot be split"):
        build(corpus("special"), "main", tokenizer, tmp_path / "out", "train", [0.5], [0], 1, 1)
    (tmp_path / "corpus").rename(tmp_path / "commits")
    take(files(tmp_path / "src", {"r/a.py": "a = 1\n", "q/b.py": "b = 1\n"}), "folders")
    select(tmp_path / "corpus", "main", SelectionConfig(rules=(), held_out={"fraction": 0}))
    with pytest.raises(DataError, match="loss on targets needs the annotation commits, which `data commits` writes"):
        run(tmp_path / "corpus", tokenizer, tmp_path / "out")


def test_an_annotation_that_is_damaged_is_not_taken_for_none(corpus, tokenizers, tmp_path):
    folder = corpus("special")
    path = next((folder / "annotations/commits").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="does not fit its documents; run the step that makes it again"):
        run(folder, tokenizers / "byte_bpe", tmp_path / "out", loss="all")


def test_documents_without_a_target_have_loss_everywhere(corpus, tokenizers, tmp_path, files, take):
    corpus("special")
    take(files(tmp_path / "src", {"r/a.py": f"a = 1\n{POSING}"}), "folders")
    select(tmp_path / "corpus", "main", SelectionConfig(rules=(), held_out={"fraction": 0}))
    manifest = run(tmp_path / "corpus", tokenizers / "byte_bpe", tmp_path / "out")
    starts = np.load(tmp_path / "out" / manifest["loss"]["starts"])
    provenance = pq.read_table(next((tmp_path / "out").glob("*.provenance.parquet"))).to_pylist()
    assert {row["source"]: bool(start) for row, start in zip(provenance, starts, strict=True)} == {
        "git": True,
        "src": False,
    }


def test_workers_and_builds_before_change_no_bytes(corpus, tokenizers, repository, tmp_path, snapshot):
    folder, tokenizer = corpus("special", ("email",)), tokenizers / "sentencepiece"
    first = run(folder, tokenizer, tmp_path / "one")
    run(folder, tokenizer, tmp_path / "two", workers=2)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")
    assert run(folder, tokenizer, tmp_path / "one") == first
    everywhere = run(folder, tokenizer, tmp_path / "one", loss="all")
    assert everywhere["files"][f"{first['name']}.bin"] == first["files"][f"{first['name']}.bin"]
    select(folder, "main", SelectionConfig(rules=(), held_out={"fraction": 0}, redact=("email", "key")))
    again = run(folder, tokenizer, tmp_path / "one")
    assert again["loss"] == first["loss"]
    assert not any("tmp" in name for name in snapshot(tmp_path / "one"))
    # The annotation is part of what a build is made from: the same texts with other markers are another build.
    corpus("text", ("email", "key"))
    assert run(folder, tokenizer, tmp_path / "one")["loss"] != first["loss"]


SECRET = "\ue000"
stretches = st.lists(st.tuples(st.sampled_from(COMMIT_ROLES), st.text("ab\n" + SECRET, max_size=8)), min_size=1)


@given(st.text("ab\n", max_size=3), stretches, st.data())
def test_pieces_keep_headings_and_target_whatever_is_redacted(lead, parts, data):
    """Every run of SECRET, over headings too, is to be redacted; what is left is known by cutting first."""
    heading = "## h" + SECRET + "\n"  # even a heading that a span covers whole stays
    text, headings = lead, []
    for role, said in parts:
        headings.append({"role": role, "start": len(text), "end": len(text) + len(heading)})
        text += heading + said
    target = data.draw(st.integers(0, len(parts) - 1))
    covered = data.draw(st.booleans())
    spans = [{"start": 0, "end": len(text), "kind": "key"}] if covered and text else runs(text)
    row = {"headings": headings, "target_start": headings[target]["end"], "markers": "special"}

    def redacted(part: str) -> str:
        if covered:
            return "<KEY>" if part else ""
        return "".join("<KEY>" if run[0] == SECRET else run for run in grouped(part))

    found = pieces_of(text, row, spans)
    wanted = [(None, redacted(lead), False)] if lead else []
    wanted += [(role, redacted(said), place >= target) for place, (role, said) in enumerate(parts)]
    assert [tuple(piece) for piece in found] == wanted
    context, rest = pieces_of(text, {**row, "markers": "text"}, spans)
    said = [heading + redacted(part) for _, part in parts]
    assert rest.is_target and not context.is_target
    assert context.text == redacted(lead) + "".join(said[:target]) + heading
    assert rest.text == redacted(parts[target][1]) + "".join(said[target + 1 :])


def grouped(text: str) -> list[str]:
    found: list[str] = []
    for character in text:
        if found and (found[-1][0] == SECRET) == (character == SECRET):
            found[-1] += character
        else:
            found.append(character)
    return found


def runs(text: str) -> list[dict]:
    at, found = 0, []
    for run in grouped(text):
        if run[0] == SECRET:
            found.append({"start": at, "end": at + len(run), "kind": "key"})
        at += len(run)
    return found


def test_from_the_command_line(repository, tokenizers, tmp_path):
    def invoke(*arguments) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    config = tmp_path / "commits.yaml"
    config.write_text("repositories: {min_stars: 0, min_forks: 0, min_commits: 0, min_days: 0}\n")
    corpus = tmp_path / "corpus"
    invoke("commits", corpus, f"git={repository[0]}", "--config", config, "--markers", "special", "--workers", 1)
    rules = tmp_path / "select.yaml"
    rules.write_text("rules: []\nheld_out: {fraction: 0}\n")
    invoke("select", corpus, "--config", rules, "--workers", 1)
    tokenizer = tmp_path / "tok"
    invoke("tokenizer", corpus, tokenizer, "--vocab-size", 520, "--special", "commits")
    options = ["--tokenizer", tokenizer, "--fim-rate", 0, "--loss", "target", "--workers", 1]
    said = invoke("build", corpus, tmp_path / "build", *options)
    assert "7 documents" in said and "MB of text, loss on " in said
