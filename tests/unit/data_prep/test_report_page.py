"""The page of a corpus: it shows what is known, survives what is missing, and never a secret or foreign markup."""

import json
import re
import shutil
from html.parser import HTMLParser
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from object_store import s3_server
from typer.testing import CliRunner

from data_prep.annotate import Annotator
from data_prep.annotations import annotation_directory, write_table
from data_prep.annotators.decontamination import Decontamination
from data_prep.annotators.licence import Licence
from data_prep.annotators.secrets import Secrets
from data_prep.annotators.signs import Signs
from data_prep.annotators.syntax import Syntax
from data_prep.cli import app
from data_prep.dedup.levels import deduplicate
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.report.excerpts import difference, excerpt
from data_prep.report.page import gather, render_page, write_report
from data_prep.report.scores import _FINE, _scale, _Spread
from data_prep.select import load_config, select
from data_prep.shards import ShardTask, finished_manifest, write_shard

HOSTILE = "<script>alert(1)</script> & \" ' </pre></style> {{ 7 * 7 }} \u202e"
KEY, EMAIL = "AKIAQWERTYUIOPASDFGH", "jane.doe@corp-mail.io"
PROBLEM = "def add_up(numbers): return the total of every number that stands in the list of numbers"


class Quality(Annotator):
    """An annotator of one's own that fails on a document."""

    version = 7
    columns: ClassVar = {"score": pa.float32(), "word": pa.string(), "ok": pa.bool_()}

    def annotate(self, documents):
        return {
            "score": [len(document["text"]) % 97 / 9.7 for document in documents],
            "word": [document["text"][:8] for document in documents],
            "ok": [True for document in documents],
        }


def put(corpus, name, annotator):
    """What `data annotate` writes, without a process of its own; documents that say "explode" have failed."""
    for shard in list_shards(corpus):
        documents = pq.read_table(shard).to_pylist()
        failed = [f"ValueError: cannot judge {EMAIL}" if "explode" in row["text"] else None for row in documents]
        failed = failed if name == "quality" else [None for _ in documents]
        columns = {
            key: pa.array([None if why else value for value, why in zip(values, failed, strict=True)], kind)
            for (key, kind), values in zip(
                annotator.columns.items(), annotator.annotate(documents).values(), strict=True
            )
        }
        ids = [row["id"] for row in documents]
        table = pa.table({"id": ids, **columns, "failed": pa.array(failed, pa.string())})
        counters = {
            "documents_sha256": finished_manifest(shard)["sha256"],
            "annotator": {"name": name, "version": annotator.version, "settings": annotator.model_dump(mode="json")},
            "failed": sum(map(bool, failed)),
            "failures": [
                {"id": row["id"], "path": row["path"], "why": why}
                for row, why in zip(documents, failed, strict=True)
                if why
            ],
        }
        write_shard(ShardTask(annotation_directory(corpus, name) / shard.name, name, write_table, (table, counters)))


def functions(count, seed):
    rng = np.random.default_rng(seed)
    names = [f"part_{i}_{rng.integers(10**6)}" for i in range(count)]
    return "\n".join(f"def {name}(value):\n    return value + {len(name)} - {i}\n" for i, name in enumerate(names))


def make_files(root):
    near = functions(30, 1)
    files = {f"r{i:02d}/a{j}.py": functions(4 + j, 10 * i + j) for i in range(12) for j in range(4)}
    files |= {f"copy{i}/same.py": functions(3, 999) for i in range(3)}
    files |= {"near1/n.py": near, "near2/n.py": near + "\nlast = 1\n", "near3/n.py": "first = 1\n" + near}
    files |= {f"fork{k}/{j}.py": functions(9, 5000 + j) for k in range(2) for j in range(6)}
    files["fork1/0.py"] = functions(9, 77)
    files |= {
        f"{HOSTILE.replace('/', '|')}/x.py": f"text = '''{HOSTILE}'''\n" * 3,
        "leaky/config.py": f"key = '{KEY}'\nowner = '{EMAIL}'\n" * 2,
        "cheat/solution.py": f"# {PROBLEM}\nimport os\n",
        "broken/cut.py": functions(9, 4) + "\nfoo = [1, 2, (3,\n",
        "long/" + "n" * 200 + ".py": "x = '" + "y" * 5000 + "'\n",
        "bad/explode.py": "explode = True\n",
        "web/site.rb": "puts 'hello'\n" * 4,
        "note/empty.py": "",
        "note/what.unknown": "what",
    }
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)


def take(corpus, root, **more):
    import_documents([SourceSpec("folders", str(root), "src")] if root else [], corpus, ImportLimits(), 1, **more)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    base = tmp_path_factory.mktemp("report")
    make_files(base / "root")
    take(base / "corpus", base / "root")
    deduplicate(base / "corpus", 1)
    (base / "problems.jsonl").write_text(json.dumps({"task_id": "add/1", "prompt": PROBLEM}) + "\n")
    made = {"syntax": Syntax(), "signs": Signs(), "licence": Licence(), "secrets": Secrets(), "quality": Quality()}
    made["decontamination"] = Decontamination(benchmarks=[str(base / "problems.jsonl")])
    for name, annotator in made.items():
        put(base / "corpus", name, annotator)
    select(base / "corpus", "main", load_config())
    return base / "corpus"


@pytest.fixture(scope="module")
def facts(corpus):
    return gather(corpus, None, 2, 1, 1)


@pytest.fixture(scope="module")
def page(facts):
    return render_page(facts)


class Structure(HTMLParser):
    """Tags, attributes and text of a page as a browser would see them."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_data(self, data):
        self.text += data

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


def words(page):
    return re.sub(r"\s+", " ", Structure(page).text)


# fmt: off
SHOWN = (
    "What the corpus holds", "src (73)", "selection main", "73 →",
    "empty", "note/empty.py", "unknown language", "note/what.unknown",  # import
    "exact duplicate", "if it were the only rule", "By language", "Ruby",  # waterfall
    "equal files7", "near-equal files", "42 bands of 6 of 256", "copy0/same.py", "near2/n.py", "src/fork0",
    "broken1", "broken/cut.py", "Licences", "none found", "Secrets and e-mail",
    "problems.jsonl", "cheat/solution.py", "problems.jsonl:add/1", "dropped: contaminated", "def add_up numbers return",
    "72 documents have a number in quality.score; 1 has none", "What scores look like", "low quality",
    "lowest 10 % of quality.score per language", "1 document has no number that low quality could judge",
    "Dropped and kept, side by side", "yes for 72", "failed: explode.py: ValueError: cannot judge <EMAIL>",
    "version 7", "- {name: low_quality, lowest: {of: quality.score, share: 0.1, per: language}, if_annotated: quality}",
)
# fmt: on


@pytest.mark.parametrize("said", SHOWN)
def test_the_page_shows(page, said):
    assert said in words(page)


def test_no_secret_and_no_foreign_markup(page, facts):
    assert any(
        EMAIL not in row["excerpt"] for rule in facts["samples"] for pair in rule["pairs"] for row in pair.values()
    )
    assert KEY not in page and EMAIL not in page and KEY not in json.dumps(facts, default=str)
    structure = Structure(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(structure.tags)
    assert "alert(1)" in structure.text and "⟨U+202E⟩" in structure.text and "\u202e" not in page
    assert "{{ 7 * 7 }}" in structure.text
    assert not re.search(r"https?://|@import|javascript:", page)
    assert not structure.values("src")


def test_ids_are_unique_and_references_resolve(page):
    structure = Structure(page)
    ids = structure.values("id")
    assert len(ids) == len(set(ids))
    targets = structure.values("aria-labelledby") + structure.values("aria-describedby")
    targets += [target[1:] for target in structure.values("href") + re.findall(r"url\(([^)]*)", page)]
    assert set(targets) <= set(ids) and len(targets) > 15


def test_samples_stand_beside_what_they_repeat(facts):
    by_rule = {rule["rule"]: rule["pairs"] for rule in facts["samples"]}
    for pair in by_rule["exact_duplicate"]:
        assert pair["dropped"]["path"] == pair["kept"]["path"]
        assert pair["dropped"]["excerpt"] == pair["kept"]["excerpt"]
    assert {pair["kept"]["path"] for pair in by_rule["near_duplicate"] if pair["dropped"]["path"] == "n.py"} <= {"n.py"}
    for rule, pairs in by_rule.items():
        assert 1 <= len(pairs) <= 2
        assert all(pair["dropped"]["dropped_by"] == rule for pair in pairs)
    kept = [pair["kept"] for rule, pairs in by_rule.items() if "duplicate" not in rule for pair in pairs]
    assert kept and all(one is None or one["split"] for one in kept)


def test_documents_of_repeated_repositories_stand_beside_the_same_path(corpus):
    select(corpus, "long", load_config(None, {"variant": "repository"}))
    try:
        (rule,) = (rule for rule in gather(corpus, "long", 2, 1, 1)["samples"] if rule["rule"] == "near_repository")
    finally:
        shutil.rmtree(corpus / "selections" / "long")
    for pair in rule["pairs"]:
        names = [pair[side]["repository"] for side in ("dropped", "kept")]
        assert sorted(names) == ["fork0", "fork1"] and pair["dropped"]["path"] == pair["kept"]["path"]


def test_an_equal_corpus_gives_equal_bytes_and_a_seed_other_samples(corpus, page, tmp_path):
    write_report(corpus, tmp_path / "a.html", "main", 2, 1, 2)
    assert (tmp_path / "a.html").read_bytes() == page.encode()
    other = gather(corpus, "main", 2, 2, 1)
    assert render_page(other) != page


def test_a_corpus_in_an_object_store_has_the_same_page(corpus, page, tmp_path):
    with pytest.MonkeyPatch.context() as environment, s3_server(environment) as bucket:
        for path in corpus.rglob("*"):
            if path.is_file():
                (bucket / "corpus" / path.relative_to(corpus).as_posix()).write_bytes(path.read_bytes())
        write_report("s3://bucket/corpus", tmp_path / "there.html", None, 2, 1, 1)
    assert (tmp_path / "there.html").read_bytes() == page.encode()


def test_scores_agree_with_the_annotation(facts, corpus, rows):
    (score,) = facts["scores"]
    values = sorted(len(row["text"]) % 97 / 9.7 for row in rows(corpus) if "explode" not in row["text"])
    assert score["documents"] == len(values) == sum(sum(bins) for bins in score["bins"].values())
    assert score["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    low = next(step for step in facts["data"]["selection"]["dropped"] if step["rule"] == "low_quality")
    assert score["dropped"] == low["documents"] == sum(score["bins"]["rule"])
    assert sum(band["documents"] for band in score["examples"]) == len(values)
    for band in score["examples"]:
        for one in band["examples"]:
            assert band["low"] <= one["scores"]["quality.score"] <= band["high"]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200), st.sampled_from([0.05, 0.25, 0.5, 0.95]))
def test_quantiles_are_right_to_a_thousandth_of_the_range(values, share):
    counts = np.bincount([min(int(value / 10 * _FINE), _FINE - 1) for value in values], minlength=_FINE)
    found = _Spread(0.0, 10.0)._quantile(counts.tolist(), share)
    exact = np.quantile(values, share, method="inverted_cdf")
    assert abs(found - exact) <= 10 / _FINE + 1e-9


@settings(max_examples=100)
@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=200), max_size=60))
def test_an_excerpt_shows_lines_in_their_order_and_counts_the_others(lines):
    shown = excerpt("\n".join(lines)).split("\n")
    assert len(shown) <= 25 and all(len(line) <= 121 for line in shown)
    missing = sum(int(line.split()[1]) for line in shown if re.fullmatch(r"⋯ \d+ more lines? ⋯", line))
    gaps = sum(bool(re.fullmatch(r"⋯ \d+ more lines? ⋯", line)) for line in shown)
    whole = "\n".join(lines).split("\n")
    assert len(shown) - gaps + missing == len(whole) - (len(whole) > 0 and not whole[-1]) or whole == [""]


def test_a_difference_shows_what_differs():
    assert difference("a\nb\nc\nd\n", "a\nb\nX\nd\n") == [(" ", "b"), ("-", "c"), ("+", "X"), (" ", "d")]
    assert difference("same\n", "same\n") == []


def test_a_corpus_of_which_little_is_known(tmp_path):
    make_files(tmp_path / "root")
    take(tmp_path / "corpus", tmp_path / "root")
    write_report(tmp_path / "corpus", tmp_path / "plain.html")
    text = words((tmp_path / "plain.html").read_text())
    assert "nothing selected yet" in text and "73" in text
    for absent in ("Duplicates", "Scores", "Licences", "Benchmark problems", "Dropped and kept"):
        assert absent not in text
    with pytest.raises(DataError, match=r"score 'quality.score' is no number of an annotation \(annotations: none\)"):
        write_report(tmp_path / "corpus", tmp_path / "plain.html", scores=["quality.score"])
    with pytest.raises(DataError, match="there is no selection 'other'"):
        write_report(tmp_path / "corpus", tmp_path / "plain.html", "other")
    with pytest.raises(DataError, match="there is no corpus"):
        write_report(tmp_path / "nothing", tmp_path / "plain.html")


def test_an_annotation_that_is_out_of_date_is_left_out_and_named(tmp_path):
    root = tmp_path / "root"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "x.py").write_text(f"{name} = 1\n")
    take(tmp_path / "corpus", root)
    deduplicate(tmp_path / "corpus", 1)
    (root / "a" / "y.py").write_text("y = 2\n")
    take(tmp_path / "corpus", root)
    write_report(tmp_path / "corpus", tmp_path / "page.html")
    text = words((tmp_path / "page.html").read_text())
    assert "exact_dedup out of date, and therefore left out" in text and "near-equal files" not in text


def test_a_corpus_without_a_document(tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x.py").write_text("x = 1\n")
    take(tmp_path / "corpus", root)
    imported = tmp_path / "corpus" / "import.json"
    for shard in (tmp_path / "corpus" / "documents").iterdir():
        shard.unlink()
    stored = json.loads(imported.read_text()) | {"documents": 0, "text_bytes": 0, "sources": {}, "languages": {}}
    imported.write_text(json.dumps(stored))
    write_report(tmp_path / "corpus", tmp_path / "page.html")
    assert "nothing selected yet" in words((tmp_path / "page.html").read_text())


def test_the_command(corpus, tmp_path):
    out = tmp_path / "report.html"
    arguments = ["report", corpus, "--out", out, "--examples", "1", "--score", "signs.mean_line_length"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0 and str(out) in result.output
    text = words(out.read_text())
    assert "73 documents have a number in signs.mean_line_length" in text


@given(st.integers(-9999, 9999), st.integers(0, 9999), st.sampled_from([1, 10, 1000]))
@example(1028, 37, 10)
def test_every_score_lies_on_the_scale(tenths: int, more: int, parts: int) -> None:
    low, high = tenths / parts, (tenths + more) / parts
    least, most = _scale(low, high)
    assert least <= low <= high <= most and least < most
