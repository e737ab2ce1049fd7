"""Decontamination: every shared n-gram that says something is found, by name; digit runs and boilerplate are not."""

import gzip
import html
import json
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import annotate as annotate_module
from data_prep.annotate import AnnotatorSpec, annotate
from data_prep.annotations import write_table
from data_prep.annotators import decontamination
from data_prep.annotators.decontamination import Decontamination, pieces_of_words, plain_bytes, split_words
from data_prep.cli import app
from data_prep.dedup.levels import deduplicate
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.report import corpus_report
from data_prep.select import Rule, SelectionConfig, select
from data_prep.shards import ShardTask, finished_manifest, run_shards, write_shard

BENCHMARKS = Path(__file__).parents[4] / "shared/benchmarks"
SOLUTION = (
    "    totals = {}\n    for name, amount in sorted(entries):\n"
    "        totals[name] = totals.get(name, 0) + amount\n    return totals\n"
)


@pytest.fixture
def benchmark(tmp_path):
    rows = [
        {"task_id": "Own/0", "prompt": "def add_up(entries):\n", "canonical_solution": SOLUTION},
        {"task_id": "Own/1", "prompt": "def count():\n    return [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]\n"},
        {"task_id": "Own/2", "prompt": "a a a a a a a a a a a a b b b b b b b b b b b b"},
        {"task_id": "Own/3", "prompt": "a b c d e f g h i j k l one 1 two 2 three 3 four 4 five 5 six 6"},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_layout_case_and_punctuation_do_not_matter(benchmark):
    found = Decontamination(benchmarks=(str(benchmark),))
    other = "FOR (name , amount) IN Sorted( entries ) { totals[ name ] := totals -> get(name); 0 }"
    count, problems, example = found.matches(f"// before\n{other}\n// after")
    assert (count, problems) == (3, ["own.jsonl:Own/0"])
    assert example == "for name amount in sorted entries totals name totals get"
    assert found.matches("def add_up(entries): return sum(entries)") == (0, [], None)


def test_n_grams_run_from_one_field_into_the_next(benchmark):
    text = "def add_up(entries):\n    totals = {}\n    for name, amount in sorted(entries): pass"
    assert Decontamination(benchmarks=(str(benchmark),)).matches(text)[1] == ["own.jsonl:Own/0"]


def test_digit_runs_and_repetition_are_no_match(benchmark):
    found = Decontamination(benchmarks=(str(benchmark),))
    assert found.matches("x = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]") == (0, [], None)
    assert found.matches("a " * 30 + "b " * 30) == (0, [], None)
    assert found.matches("a b c d e f g h i j k l one 1 two 2 three 3 four 4 five 5 six 6") == (0, [], None)
    unguarded = Decontamination(benchmarks=(str(benchmark),), minimum_letter_words=0, minimum_distinct_words=1,
                               minimum_telling_words=0)  # fmt: skip
    assert unguarded.matches("x = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]")[1] == ["own.jsonl:Own/1"]
    assert unguarded.matches("a " * 30)[1] == ["own.jsonl:Own/2"]


def naive(text, n):
    words = re.findall(r"\w+", re.sub(r"\\[nrt]|&lt;", " ", text.casefold()))
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


words = st.text(st.sampled_from("abAB1_éßn\u00a0\u2019"), min_size=1, max_size=3)
others = st.sampled_from([" ", "(", "\n", "\0", "\ud800", "=", "\\n", "\\", "&lt;", "&", "\u200b"])
texts = st.lists(st.one_of(words, others), max_size=60).map("".join)


@settings(max_examples=80, deadline=None)
@given(texts, texts, st.integers(2, 4))
def test_it_finds_what_a_plain_search_finds(tmp_path_factory, problem, text, n):
    path = tmp_path_factory.mktemp("b") / "b.jsonl"
    path.write_text(json.dumps({"prompt": problem}) + "\n" + json.dumps({"prompt": "one two three four five"}))
    settings_ = {"n": n, "minimum_letter_words": 0, "minimum_distinct_words": 1, "minimum_telling_words": 0}
    count, problems, _ = Decontamination(benchmarks=(str(path),), **settings_).matches(text)
    wanted = {*naive(problem, n), *naive("one two three four five", n)}
    assert count == sum(ngram in wanted for ngram in naive(text, n))
    assert bool(problems) == (count > 0)


def as_html(text):
    return html.escape(text).replace("  ", "&nbsp; ")


@pytest.mark.parametrize(
    "disguised",
    [
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.replace(" ", "\u3000"),
        lambda text: text.replace(" ", " \u200b"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", "\u2028"),
        lambda text: text.replace("(", "\u201c").replace(",", "\uff0c"),
        lambda text: json.dumps({"code": text}),
        lambda text: json.dumps(json.dumps(text)),
        lambda text: json.dumps(text.replace("=", "<")).replace("<", "\\u003c"),
        as_html,
        lambda text: "".join(f"-- {line}\r\n" for line in text.splitlines()),
        lambda text: "".join(f'    "{line}\\n"\n' for line in text.splitlines()),
    ],
)
def test_a_copy_is_found_however_it_is_spaced_quoted_or_escaped(benchmark, disguised):
    found = Decontamination(benchmarks=(str(benchmark),))
    plain = found.matches(SOLUTION)
    assert plain[0] == 7 and found.matches(f"x = 1\n{disguised(SOLUTION)}\ny = 2\n") == plain


def test_a_long_text_is_searched_in_pieces_that_overlap(benchmark, monkeypatch):
    found = Decontamination(benchmarks=(str(benchmark),))
    text = f"x = {'1' * 18}\n{SOLUTION}" * 3 + "\\n" * 9 + SOLUTION
    whole, wanted = found.matches(text), naive(text, 3)
    assert whole[0] == 28
    for piece in range(20, 80):  # longer than any word
        monkeypatch.setattr(decontamination, "_PIECE", piece)
        assert found.matches(text) == whole
        pieces = [words.ngrams(range(words.starts.size - 2), 3) for words in pieces_of_words(text, 3)]
        assert len(pieces) > 5 and [tuple(ngram.decode().split()) for found in pieces for ngram in found] == wanted
    monkeypatch.setattr(decontamination, "_PIECE", 1000)
    assert found.matches("a" * 50_000 + f"\n{SOLUTION}")[0] == 7


def test_benchmarks_of_one_name_in_several_folders(tmp_path):
    texts = {"one": "words that stand in the first of the two files and nowhere else", "two/deep": SOLUTION}
    for folder, text in texts.items():
        (tmp_path / folder).mkdir(parents=True)
        record = json.dumps({"task_id": 7, "test_list": ["assert True", text], "prompt": None})
        (tmp_path / folder / "test.jsonl").write_text("\ufeff" + record + "\n")
    found = Decontamination(benchmarks=(str(tmp_path), str(tmp_path / "one/test.jsonl")))
    assert found.matches(SOLUTION)[1] == ["deep/test.jsonl:7"] and len(found.inputs()) == 2
    assert found.matches(texts["one"])[1] == ["one/test.jsonl:7"]


def test_words_are_lower_case_runs_with_equal_hashes():
    found = split_words(plain_bytes("Ab ab AB_1 ab_1 Ümlaut x" + "y" * 9000))
    assert found.hashes[0] == found.hashes[1] != found.hashes[2] == found.hashes[3]
    assert list(found.ngrams([0, 2], 2)) == [b"ab ab", b"ab_1 ab_1"] and found.starts.size == 6
    assert split_words(b"").starts.size == split_words(b" \0()").starts.size == 0


@pytest.mark.parametrize("text", ["", " ", "x", "\ud800 \0", "a" * 3_000_000, "a " * 1_000_000, "é" * 100_000])
def test_hostile_texts(benchmark, text):
    assert Decontamination(benchmarks=(str(benchmark),)).matches(text) == (0, [], None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no record has one of the fields"),
        (b'{"id": 1}\n', "no record has one of the fields"),
        (b'{"question_x": "x"}\n', r"no record has one of the fields .* It has question_x: .*fields=\[FIELD"),
        (b"[1]\n", "line 1 is no JSON record"),
        (b'{"prompt": "x"}\n\n{"prompt": "tru', "line 3 is no JSON record"),
        (b"\xff\xfe\n", "is no JSON record in UTF-8"),
        (b'{"prompt": "too short"}\n', "no n-gram"),
    ],
)
def test_benchmark_files_that_are_none(tmp_path, content, said):
    (tmp_path / "b.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=said):
        _ = Decontamination(benchmarks=(str(tmp_path / "b.jsonl"),)).index
    (tmp_path / "b.jsonl").unlink()
    whole = gzip.compress(b'{"prompt": "x"}\n' * 1000)
    for damaged in (whole[:-20], whole[:20] + b"\xff\xff" + whole[22:]):
        (tmp_path / "b.jsonl.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"b\.jsonl\.gz: (cannot be read|line \d+ is no)"):
            _ = Decontamination(benchmarks=(str(tmp_path),)).index
    (tmp_path / "b.jsonl.gz").unlink()
    with pytest.raises(DataError, match="no JSONL file and no folder"):
        Decontamination(benchmarks=(str(tmp_path),)).files()


def test_own_fields_and_a_changed_benchmark(tmp_path, files, take):
    (tmp_path / "b.jsonl").write_text(json.dumps({"question": "", "answer_code": SOLUTION}) + "\n")
    corpus = tmp_path / "corpus"
    take(files(tmp_path / "root", {"a/x.py": SOLUTION, "b/y.py": "y = 1\n"}))
    spec = AnnotatorSpec.of("decontamination", benchmarks=[str(tmp_path / "b.jsonl")], fields=["answer_code"])
    assert annotate(corpus, [spec])[0]["counts"]["problems"] == 1
    assert annotate(corpus, [spec])[0]["shards_made"] == 0
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"answer_code": "entirely different words that nobody would ever write in their code"}) + "\n"
    )
    (result,) = annotate(corpus, [spec])
    assert result["shards_made"] == 1 and result["counts"]["problems"] == 0
    (tmp_path / "b.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"decontamination cannot be started: .*b\.jsonl: no record has one of"):
        annotate(corpus, [spec])


@pytest.mark.parametrize("old", ["said", "unsaid"])
def test_an_annotation_that_was_half_made_anew_for_a_changed_benchmark_is_refused(
    tmp_path, files, take, monkeypatch, old
):
    content = {f"r{i}/x.py": SOLUTION + f"total_{i} = {i}\n" * 40 for i in range(6)}
    take(files(tmp_path / "root", content), shard_bytes=1500)
    corpus, benchmark = tmp_path / "corpus", tmp_path / "b.jsonl"
    spec = AnnotatorSpec.of("decontamination", benchmarks=[str(benchmark)])
    rule = Rule(name="contaminated", drop="decontamination.ngrams > 0")
    config = SelectionConfig(rules=(rule,), held_out=HeldOut(fraction=0))
    other = {"task_id": "1", "prompt": "quick brown foxes jump over lazy dogs near green river banks often today"}
    benchmark.write_text(json.dumps(other) + "\n")
    annotate(corpus, [spec])
    if old == "unsaid":  # as manifests were before they said it
        for path in (corpus / "annotations/decontamination").glob("*.json"):
            path.write_text(
                json.dumps({key: v for key, v in json.loads(path.read_bytes()).items() if key != "answers"})
            )
    assert select(corpus, "main", config)["left"]["train"]["documents"] == 6
    benchmark.write_text(json.dumps({**other, "canonical_solution": SOLUTION}) + "\n")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(annotate_module, "run_shards", broken_off_after_two)
        annotate(corpus, [spec])
    with pytest.raises(DataError, match="decontamination is half done with other settings or files"):
        select(corpus, "main", config)
    (made,) = annotate(corpus, [spec])
    assert 0 < made["shards_made"] < made["shards"] and made["counts"]["problems"] == 6


def broken_off_after_two(tasks, *arguments):
    run_shards(tasks[:2], *arguments)
    raise KeyboardInterrupt


def test_the_report_says_which_problem_is_in_which_document(tmp_path, files, take, benchmark):
    from typer.testing import CliRunner

    good = {f"r{i}/a.py": f"value = {i}\n" for i in range(12)}
    take(files(tmp_path / "root", {**good, "r5/copied.py": f"def mine(entries):\n{SOLUTION}"}), shard_bytes=150)
    corpus = tmp_path / "corpus"
    said = CliRunner().invoke(app, ["annotate", str(corpus), "decontamination", "--benchmarks", str(benchmark)])
    assert "problems 1" in said.output, said.output
    (row,) = corpus_report(corpus)["contaminated"]
    assert (row["repository"], row["path"], row["problems"]) == ("r5", "copied.py", ["own.jsonl:Own/0"])
    assert row["ngrams"] >= 5 and len(row["example"].split()) == 10
    shown = CliRunner().invoke(app, ["inspect", str(corpus)]).output
    assert "r5/copied.py" in shown and "own.jsonl:Own/0" in shown
    result = select(
        corpus, "main", SelectionConfig(rules=(Rule(name="contaminated", drop="decontamination.ngrams > 0"),))
    )
    assert result["dropped"][0]["documents"] == 1


def test_a_document_that_was_not_searched_for_benchmarks_is_not_trained_on(tmp_path, files, take, benchmark):
    good = {f"r{i}/a.py": f"def f{i}():\n    return {i}\n" for i in range(30)}
    take(files(tmp_path / "root", {**good, "copied/x.py": SOLUTION}))
    corpus = tmp_path / "corpus"
    annotate(corpus, [AnnotatorSpec.of("decontamination", benchmarks=[str(benchmark)])])
    deduplicate(corpus, 1)
    (shard,) = list_shards(corpus)
    path = corpus / "annotations/decontamination" / shard.name
    table, manifest = pq.read_table(path).to_pylist(), finished_manifest(path)
    lost = next(row for row in table if not row["problems"])
    lost.update(ngrams=None, problems=None, example=None, failed="timed out after 20 s")
    counters = {"documents_sha256": manifest["documents_sha256"]}
    made = pa.Table.from_pylist(table, pq.read_schema(path))
    write_shard(ShardTask(path, manifest["inputs"], write_table, (made, counters)))
    dropped = {step["rule"]: step["documents"] for step in select(corpus, "main", SelectionConfig())["dropped"]}
    assert (dropped["contaminated"], dropped["not_searched_for_benchmarks"]) == (1, 1)


@pytest.fixture(scope="module")
def registered():
    if not BENCHMARKS.is_dir():
        pytest.skip(f"no benchmark files at {BENCHMARKS}")
    return Decontamination(benchmarks=(str(BENCHMARKS),))


@pytest.mark.parametrize("name", ["HumanEvalPlus", "MbppPlus"])
def test_every_planted_solution_of_ten_words_is_found(registered, name):
    with gzip.open(BENCHMARKS / f"{name}.jsonl.gz", "rt") as stream:
        problems = [json.loads(line) for line in stream]
    host = [f"def helper_{i}(value):\n    return value * {i}\n\n" for i in range(20)]
    planted, missed = 0, []
    for problem in problems:
        solution = problem["canonical_solution"]
        if len(naive(solution, 10)):
            planted += 1
            host.insert(random.Random(planted).randrange(len(host)), solution)
            found = registered.matches("\n".join(host))[1]
            host.remove(solution)
            missed += [] if f"{name}.jsonl.gz:{problem['task_id']}" in found else [problem["task_id"]]
    assert planted > 100 and not missed
    assert registered.matches("\n".join(host)) == (0, [], None)
