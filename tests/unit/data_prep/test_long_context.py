"""Repository-level strings from an imported corpus to token files, and long files by a rule of a selection."""

import json

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data_prep.cli import app
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.repositories.assemble import assemble
from data_prep.repositories.run import describe, write_repositories
from data_prep.repositories.settings import RepositorySettings, load_settings
from data_prep.select import SelectionConfig, load_config, select

ALL = SelectionConfig(variant=None, rules=(), held_out=HeldOut(fraction=0))
SMALL = RepositorySettings(min_tokens=0)
CHAIN = {f"chain/pkg/m{index}.py": f"from pkg import m{index + 1}\n# {'x' * 200}\n" for index in range(9)}
SOURCES = {
    **CHAIN,
    "chain/pkg/m9.py": "VALUE = 1",
    "chain/README.md": "# Chain\n",
    "chain/schema.sql": "SELECT 1;\n",
    "web/index.html": "<p>one</p>\n",
    "web/query.sql": "SELECT 2;\n",
    "web/run.sh": "echo three\n",
    "alone/only.py": "x = 1\n",
    "ring/a.js": "import './b'\n",
    "ring/b.js": "import './a'\nimport './c'\n",
    "ring/c.js": "export const c = 1\n",
}


def composition(out) -> list[dict]:
    return [
        row for shard in sorted((out / "composition").glob("*.parquet")) for row in pq.read_table(shard).to_pylist()
    ]


@pytest.fixture
def corpus(tmp_path, files, take):
    take(files(tmp_path / "src", SOURCES), "folders", shard_bytes=1000)
    select(tmp_path / "corpus", "main", ALL)
    return tmp_path / "corpus"


def test_one_document_per_repository_with_dependencies_first(corpus, tmp_path, rows):
    assert len(list_shards(corpus)) > 2
    about = write_repositories(corpus, tmp_path / "out", settings=SMALL)
    documents = {row["repository"]: row for row in rows(tmp_path / "out")}
    assert set(documents) == {"chain", "web", "ring"} and about["left_out"] == {"too few files": 1}
    text = documents["chain"]["text"]
    places = [text.index(f"# file: pkg/m{index}.py\n") for index in range(10)]
    assert places == sorted(places, reverse=True)
    assert "<!-- file: README.md -->\n# Chain\n" in text and "-- file: schema.sql\nSELECT 1;\n" in text
    assert documents["chain"]["language"] == "Python" and documents["chain"]["path"] == "part-00001-of-00001"
    ring = documents["ring"]["text"]
    assert ring.index("file: c.js") < min(ring.index("file: a.js"), ring.index("file: b.js"))
    assert about["imports"] == {"backwards": 10, "forwards": 0, "in_cycles": 2, "other_part": 0}


def test_the_composition_finds_every_file_in_its_string(corpus, tmp_path, rows):
    write_repositories(corpus, tmp_path / "out", settings=SMALL)
    texts = {row["id"]: row["text"] for row in rows(corpus)}
    strings = {row["id"]: row["text"].encode() for row in rows(tmp_path / "out")}
    found = composition(tmp_path / "out")
    assert sorted(row["path"] for row in found) == sorted(
        path.split("/", 1)[1] for path in SOURCES if "only" not in path
    )
    for row in found:
        text = texts[row["id"]].encode()
        assert strings[row["document"]][row["offset_bytes"] :].startswith(text)
    needs = {row["path"]: len(row["needs"]) for row in found}
    assert needs["pkg/m0.py"] == 1 and needs["pkg/m9.py"] == 0
    assert {row["path"] for row in found if row["in_cycle"]} == {"a.js", "b.js"}


def test_a_large_repository_is_cut_into_slices_under_the_limit(corpus, tmp_path, rows):
    settings = SMALL.model_copy(update={"max_tokens": 256, "bytes_per_token": 2.0})
    about = write_repositories(corpus, tmp_path / "out", settings=settings)
    parts = [row for row in rows(tmp_path / "out") if row["repository"] == "chain"]
    assert about["cut"] == 1 and len(parts) > 4
    assert all(row["size_bytes"] <= 2 * 256 for row in parts)
    assert {row["path"] for row in parts} == {f"part-{n + 1:05d}-of-{len(parts):05d}" for n in range(len(parts))}
    chain = [row["path"] for row in composition(tmp_path / "out") if row["path"].startswith("pkg/")]
    assert chain == [f"pkg/m{index}.py" for index in range(9, -1, -1)]
    assert about["imports"]["other_part"] > 0 and about["imports"]["forwards"] == 0


def test_bytes_do_not_depend_on_workers_or_shards_and_a_second_run_writes_nothing(
    corpus, tmp_path, snapshot, take, rows
):
    out = tmp_path / "out"
    write_repositories(corpus, out, settings=SMALL)
    before = snapshot(out)
    stamps = {path: path.stat().st_mtime_ns for path in (out / "documents").iterdir()}
    write_repositories(corpus, out, settings=SMALL)
    assert {path: path.stat().st_mtime_ns for path in (out / "documents").iterdir()} == stamps
    write_repositories(corpus, tmp_path / "two", settings=SMALL, workers=2)
    assert snapshot(tmp_path / "two") == before
    texts = {(row["id"], row["text"]) for row in rows(out)}
    take(tmp_path / "src", "folders", shard_bytes=1 << 20)
    select(corpus, "main", ALL)
    write_repositories(corpus, out, settings=SMALL)
    assert len(list_shards(out)) == 1 and {(row["id"], row["text"]) for row in rows(out)} == texts


def test_new_text_and_another_seed_are_noticed(corpus, tmp_path, files, take, rows):
    out = tmp_path / "out"
    write_repositories(corpus, out, settings=SMALL)
    first = {row["repository"]: row["text"] for row in rows(out)}
    files(tmp_path / "src", {"web/run.sh": "echo four\n"})
    take(tmp_path / "src", "folders", shard_bytes=1000)
    with pytest.raises(DataError, match="older than the documents"):
        write_repositories(corpus, out, settings=SMALL)
    select(corpus, "main", ALL)
    write_repositories(corpus, out, settings=SMALL)
    second = {row["repository"]: row["text"] for row in rows(out)}
    assert "echo four" in second["web"] and second["chain"] == first["chain"]
    order = [row["path"] for row in composition(out)]
    write_repositories(corpus, out, settings=SMALL.model_copy(update={"seed": 1}))
    again = [row["path"] for row in composition(out)]
    assert again != order and sorted(again) == sorted(order)


def test_only_the_selections_side_is_taken_and_redacted(corpus, tmp_path, rows, files, take):
    files(tmp_path / "src", {"web/mail.sh": "echo someone@company.org\n"})
    take(tmp_path / "src", "folders", shard_bytes=1000)
    CliRunner().invoke(app, ["annotate", str(corpus), "secrets"], catch_exceptions=False)
    config = {
        "variant": None,
        "rules": [{"name": "ring", "drop": "documents.repository = 'ring'"}],
        "redact": ["email"],
    }
    select(corpus, "main", SelectionConfig.model_validate({**config, "held_out": {"fraction": 0}}))
    write_repositories(corpus, tmp_path / "out", settings=SMALL)
    documents = {row["repository"]: row["text"] for row in rows(tmp_path / "out")}
    assert set(documents) == {"chain", "web"}
    assert "company" not in documents["web"] and "echo <EMAIL>\n" in documents["web"]


def test_repositories_are_chosen_by_the_mean_score_of_their_files(corpus, tmp_path, rows, monkeypatch):
    (tmp_path / "scoring.py").write_text(
        "def score(documents):\n    return [None if 'ring' in d['text'] else 8 if d['path'].endswith('.py') else 1"
        " for d in documents]\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"quality\.score; make it with `data annotate quality`"):
        write_repositories(corpus, tmp_path / "out", settings=SMALL.model_copy(update={"min_mean_score": 4}))
    done = CliRunner().invoke(app, ["annotate", str(corpus), "quality", "--set", "scorer=scoring:score"])
    assert done.exit_code == 0, done.output
    settings = SMALL.model_copy(update={"min_mean_score": 4.0})
    about = write_repositories(corpus, tmp_path / "out", settings=settings)
    assert {row["repository"] for row in rows(tmp_path / "out")} == {"chain"}
    assert about["left_out"] == {"a low mean score": 2, "too few files": 1}
    assert about["mean"]["lowest"] == pytest.approx((10 * 8 + 2 * 1) / 12)


def test_files_whose_imports_cannot_be_read_are_kept_and_counted(tmp_path, files, take, rows):
    deep = f"use {'a::{' * 3000}b{'}' * 3000};\n"
    take(files(tmp_path / "src", {"r/deep.rs": deep, "r/lib.rs": "mod deep;\n"}), "folders")
    select(tmp_path / "corpus", "main", ALL)
    about = write_repositories(tmp_path / "corpus", tmp_path / "out", settings=SMALL)
    assert about["unread"] == 1 and about["unread_examples"][0]["path"] == "deep.rs"
    assert "imports of 1 files could not be read, such as deep.rs (RecursionError" in describe(about)[-1]
    (text,) = (row["text"] for row in rows(tmp_path / "out"))
    assert text == f"// file: deep.rs\n{deep}\n// file: lib.rs\nmod deep;\n"


def test_what_is_held_out_is_written_apart(corpus, tmp_path, rows):
    select(corpus, "main", ALL.model_copy(update={"held_out": HeldOut(fraction=0.5, seed=3)}))
    sides = {}
    for split in ("train", "held_out"):
        settings = SMALL.model_copy(update={"split": split, "min_files": 1})
        write_repositories(corpus, tmp_path / split, settings=settings)
        sides[split] = {row["repository"] for row in rows(tmp_path / split)}
    assert sides["train"] and sides["held_out"] and not sides["train"] & sides["held_out"]
    assert sides["train"] | sides["held_out"] == {"alone", "chain", "ring", "web"}


def test_a_run_that_failed_goes_on_with_what_is_missing(tmp_path, files, take, snapshot, monkeypatch):
    sources = {f"r{one}/{two}.py": f"# {one} {two}\n" * 80 for one in range(4) for two in "ab"}
    take(files(tmp_path / "src", sources), "folders", shard_bytes=1000)
    corpus = tmp_path / "corpus"
    select(corpus, "main", ALL)
    write_repositories(corpus, tmp_path / "two", settings=SMALL)
    shards = list_shards(tmp_path / "two")
    last = pq.read_table(shards[-1])["repository"][0].as_py()

    def fail_on_last(files, texts, name, *more):
        if name == last:
            raise OSError("no space left")
        return assemble(files, texts, name, *more)

    monkeypatch.setattr("data_prep.repositories.shard.assemble", fail_on_last)
    with pytest.raises(DataError, match="no space left"):
        write_repositories(corpus, tmp_path / "out", settings=SMALL)
    with pytest.raises(DataError, match="import did not finish"):
        list_shards(tmp_path / "out")
    monkeypatch.undo()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "documents").iterdir()}
    assert len(stamps) == 2 * (len(shards) - 1) > 0
    write_repositories(corpus, tmp_path / "out", settings=SMALL)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "two")


def test_what_cannot_be_done_is_said(corpus, tmp_path):
    with pytest.raises(DataError, match="no repository is left: 4 have too little text"):
        write_repositories(corpus, tmp_path / "out", settings=RepositorySettings(min_files=1))
    with pytest.raises(DataError, match="a corpus with sources of its own"):
        write_repositories(corpus, corpus)
    with pytest.raises(DataError, match="no selection 'other'"):
        write_repositories(corpus, tmp_path / "out", "other")
    with pytest.raises(DataError, match="no key 'max_token'; did you mean 'max_tokens'"):
        load_settings(None, {"max_token": 3})
    with pytest.raises(DataError, match="header: only"):
        load_settings(None, {"header": "{folder}"})


def test_from_the_command_line_to_token_files(corpus, tmp_path, tokenizer_dir):
    out, settings = tmp_path / "out", tmp_path / "long.yaml"
    settings.write_text("min_tokens: 0\nheader: '[{repository}] {path}'\ncomment: false\n")
    command = ["repositories", str(corpus), str(out), "--config", str(settings), "--set", "seed=3"]
    done = CliRunner().invoke(app, [*command, "--tokenizer", str(tokenizer_dir), "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "3 of 4 repositories, 18 files, as 3 documents" in done.output
    assert json.loads((out / "repositories.json").read_text())["settings"]["seed"] == 3
    build = ["build", str(out), str(tmp_path / "tokens"), "--tokenizer", str(tokenizer_dir), "--fim-rate", "0"]
    done = CliRunner().invoke(app, [*build, "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert "3 documents" in done.output


def test_long_files_are_a_rule_of_a_selection(tmp_path, files, take, rows):
    take(files(tmp_path / "src", {"a/long.py": "x = 1\n" * 500, "a/short.py": "x = 2\n", "b/long.py": "y = 1\n" * 900}))
    rule = {"name": "short", "below": {"of": "documents.size_bytes", "default": 3000, "languages": {}}}
    config = load_config(None, {"variant": None, "held_out": {"fraction": 0}})
    config = SelectionConfig.model_validate({**config.model_dump(exclude={"rules"}), "rules": [rule]})
    found = select(tmp_path / "corpus", "long-files", config)
    assert found["left"]["train"]["documents"] == 2 and found["dropped"][0]["documents"] == 1


@pytest.mark.slow
def test_in_an_object_store_the_bytes_are_the_same(tmp_path, files, take, snapshot, monkeypatch):
    from object_store import s3_server

    small = {path: text for path, text in SOURCES.items() if path.startswith(("ring", "web"))}
    take(files(tmp_path / "src", small), "folders")
    select(tmp_path / "corpus", "main", ALL)
    write_repositories(tmp_path / "corpus", tmp_path / "out", settings=SMALL)
    with s3_server(monkeypatch) as bucket:
        import_documents([SourceSpec("folders", str(tmp_path / "src"), "src")], bucket / "corpus", ImportLimits(), 1)
        select(bucket / "corpus", "main", ALL)
        write_repositories(bucket / "corpus", bucket / "out", settings=SMALL)
        for name, data in snapshot(tmp_path / "out").items():
            assert (bucket / "out" / name).read_bytes() == data, name
