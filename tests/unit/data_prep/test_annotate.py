"""Annotate: any annotator gets isolation, resume, cache, engines, report and the command line unchanged."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data_prep.annotate import AnnotatorSpec, IsolationLimits, annotate
from data_prep.annotators.base import BUILT_IN, specs_of
from data_prep.cli import app
from data_prep.documents import list_shards
from data_prep.engines.base import Call
from data_prep.errors import DataError
from data_prep.report import corpus_report
from data_prep.select import Rule, SelectionConfig, select
from data_prep.shards import finished_manifest

ROOT = Path(__file__).parents[3]
OWN = """
    import os, time
    from typing import ClassVar
    from data_prep.annotate import Annotator, annotator

    class Poisoned(Annotator):
        version = 1
        columns: ClassVar = {"length": "int32", "marked": "bool"}
        log: str = ""

        def annotate(self, documents):
            if self.log:
                with open(self.log, "a") as log:
                    log.write("".join(document["path"] + "\\n" for document in documents))
            for document in documents:
                text = document["text"]
                if "EXIT" in text:
                    os._exit(3)
                if "CLOSE" in text:
                    os.closerange(3, 256) or time.sleep(600)
                if "ABORT" in text:
                    os.abort()
                if "SLEEP" in text:
                    time.sleep(600)
                if "RAISE" in text:
                    raise ValueError("two\\nlines")
            return {"length": [len(d["text"]) for d in documents], "marked": ["#" in d["text"] for d in documents]}

    @annotator(columns={"lines": "int32"})
    def count_lines(documents, extra: int = 0):
        return {"lines": [document["text"].count("\\n") + extra for document in documents]}
"""


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_annotators_of_a_test.py").write_text(textwrap.dedent(OWN))
    return folder


def poisoned(own, **settings):
    return AnnotatorSpec.of("own_annotators_of_a_test:Poisoned", own, **settings)


def lines(own, **settings):
    return AnnotatorSpec.of("own_annotators_of_a_test:count_lines", own, **settings)


MARKS = {"r0/1.py": "# CLOSE", "r1/4.py": "# EXIT", "r2/9.py": "# SLEEP", "r2/0.py": "# RAISE", "r4/5.py": "# ABORT"}


@pytest.fixture
def corpus(tmp_path, files, take):
    content = {f"r{i}/{j}.py": f"x = {i * j}\n" * (j + 1) for i in range(6) for j in range(10)}
    for path, mark in MARKS.items():
        content[path] += mark + "\n"
    take(files(tmp_path / "root", content), "folders", shard_bytes=700)
    assert len(list_shards(tmp_path / "corpus")) > 2
    return tmp_path / "corpus"


def annotation(corpus, name):
    paths = [corpus / "annotations" / name / shard.name for shard in list_shards(corpus)]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize("workers", [1, 2])
def test_documents_that_crash_hang_or_raise_cost_themselves_alone(corpus, own, rows, workers):
    before = children()
    (result,) = annotate(corpus, [poisoned(own)], workers, IsolationLimits(timeout_s=1.5))
    documents, found = rows(), annotation(corpus, "poisoned")
    assert [row["id"] for row in found] == [document["id"] for document in documents]
    why = {"EXIT": "ended with exit code 3", "SLEEP": "timed out after 1.5 s", "RAISE": "ValueError: two lines"}
    why |= {"ABORT": "crashed (signal 6)", "CLOSE": "closed its connection"}
    for row, document in zip(found, documents, strict=True):
        mark = next((mark for mark in why if mark in document["text"]), None)
        assert row["failed"] == (why[mark] if mark else None)
        assert row["length"] == (None if mark else len(document["text"]))
        assert row["marked"] == (None if mark else False)
    assert (result["documents"], result["failed"], result["counts"]) == (60, 5, {"marked": 0})
    assert {failure["why"] for failure in result["failures"]} == set(why.values())
    left = [psutil.Process(pid).cmdline() for pid in children() - before]
    assert not [command for command in left if "isolation" in " ".join(command)]


def test_only_what_changed_is_made_again(corpus, own, tmp_path, take):
    log = tmp_path / "log"
    for path in MARKS:
        (tmp_path / "root" / path).write_text("fine = 1\n")
    take(tmp_path / "root", "folders", shard_bytes=700)
    spec = poisoned(own, log=str(log))

    def seen():
        calls = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return len(calls)

    (first,) = annotate(corpus, [spec])
    assert (seen(), first["shards_made"]) == (60, first["shards"])
    times = {path: path.stat().st_mtime_ns for path in (corpus / "annotations").rglob("*")}
    (again,) = annotate(corpus, [spec])
    assert (seen(), again["shards_made"]) == (0, 0)
    assert {path: path.stat().st_mtime_ns for path in times} == times

    (tmp_path / "root/r3/3.py").write_text("y = 1\n")
    take(tmp_path / "root", "folders", shard_bytes=700)
    (changed,) = annotate(corpus, [spec])
    assert changed["shards_made"] == 1 and 0 < seen() < 60

    victim = corpus / "annotations/poisoned" / list_shards(corpus)[0].name
    victim.write_bytes(b"")
    assert annotate(corpus, [spec])[0]["shards_made"] == 1
    seen()

    module = own / "own_annotators_of_a_test.py"
    module.write_text(module.read_text().replace("version = 1", "version = 2"))
    sys.modules.pop("own_annotators_of_a_test")
    assert annotate(corpus, [spec])[0]["shards_made"] == first["shards"]
    assert seen() == 60
    assert finished_manifest(victim)["annotator"]["version"] == 2


def test_settings_and_source_are_part_of_what_an_annotation_is_made_from(corpus, own):
    assert annotate(corpus, [lines(own)])[0]["shards_made"] > 0
    assert annotate(corpus, [lines(own, extra=0)])[0]["shards_made"] == 0
    assert annotate(corpus, [lines(own, extra=5)])[0]["shards_made"] > 0
    assert {row["lines"] for row in annotation(corpus, "count_lines")} >= {6, 15}
    module = own / "own_annotators_of_a_test.py"
    module.write_text(module.read_text().replace("+ extra", "- extra"))
    sys.modules.pop("own_annotators_of_a_test")
    assert annotate(corpus, [lines(own, extra=5)])[0]["shards_made"] > 0  # no version: the file's digest
    assert min(row["lines"] for row in annotation(corpus, "count_lines")) == -4


def test_the_same_bytes_whatever_the_workers_and_batches(corpus, snapshot):
    found = []
    for workers, limits in (
        (1, IsolationLimits()),
        (2, IsolationLimits(batch_rows=3)),
        (1, IsolationLimits(batch_bytes=1)),
    ):
        annotate(corpus, [AnnotatorSpec.of("signs")], workers, limits)
        found.append(snapshot(corpus / "annotations"))
        for path in (corpus / "annotations/signs").iterdir():
            path.unlink()
    assert found[0] == found[1] == found[2] and len(found[0]) > 6


def test_failed_documents_are_tried_again_when_asked(corpus, own, tmp_path, take):
    for path, mark in MARKS.items():
        (tmp_path / "root" / path).write_text("# RAISE\n" if mark == "# RAISE" else "fine = 1\n")
    take(tmp_path / "root", "folders", shard_bytes=700)
    assert annotate(corpus, [poisoned(own)])[0]["failed"] == 1
    module = own / "own_annotators_of_a_test.py"
    module.write_text(module.read_text().replace("raise ValueError", "lambda: ValueError"))
    assert annotate(corpus, [poisoned(own)])[0]["failed"] == 1  # the same version: nothing is made again
    (result,) = annotate(corpus, [poisoned(own)], retry_failed=True)
    assert (result["failed"], result["shards_made"]) == (0, 1)


class OtherEngine:
    """Makes calls backwards; what an engine of another kind would do with them."""

    def __init__(self):
        self.labels = []

    def run(self, calls: list[Call]):
        for index in reversed(range(len(calls))):
            self.labels.append(calls[index].label)
            yield index, calls[index].function(*calls[index].args)


def test_any_engine_runs_an_annotator(corpus, own):
    engine = OtherEngine()
    (result,) = annotate(corpus, [lines(own)], engine=engine)
    assert len(engine.labels) == result["shards_made"] == len(list_shards(corpus))
    assert result["documents"] == 60


def test_annotators_of_one_command_share_one_run(corpus, own):
    engine, shards = OtherEngine(), len(list_shards(corpus))
    first, second = annotate(corpus, [lines(own), AnnotatorSpec.of("signs")], engine=engine)
    assert len(engine.labels) == first["shards_made"] + second["shards_made"] == 2 * shards
    assert [result["annotator"]["name"] for result in (first, second)] == ["count_lines", "signs"]
    again = annotate(corpus, [lines(own, extra=1), AnnotatorSpec.of("signs")], engine=engine)
    assert [result["shards_made"] for result in again] == [shards, 0]


def test_one_that_fails_on_every_document_takes_no_other_with_it(own, tmp_path, files, take):
    take(files(tmp_path / "root", {"a/x.py": "RAISE\n", "a/y.py": "RAISE\n\n"}))
    with pytest.raises(DataError, match=r"annotator poisoned failed on every document, such as x\.py: ValueError"):
        annotate(tmp_path / "corpus", [poisoned(own), lines(own)])
    assert [row["lines"] for row in annotation(tmp_path / "corpus", "count_lines")] == [1, 2]


BAD = """
    from data_prep.annotate import Annotator, annotator
    not_an_annotator = 3
    @annotator(columns={"n": "int31"})
    def bad_type(documents): return {}
    @annotator(columns={"path": "int32"})
    def bad_column(documents): return {}
    @annotator(columns={"n": "int32"}, reads=["txt"])
    def bad_reads(documents): return {}
    @annotator(columns={"n": "int32"})
    def language(documents): return {}
    @annotator(columns={"n": "int32"})
    def repository_dedup(documents): return {}
    @annotator(columns={"n": "int32"})
    def short(documents): return {"n": [1] * (len(documents) + 1)}
    @annotator(columns={"n": "int32"})
    def other_column(documents): return {"m": [1] * len(documents)}
    @annotator(columns={"n": "int32"})
    def words(documents): return {"n": ["x"] * len(documents)}
    @annotator(columns={"n": "int32"})
    def needs(documents, level: int): return {"n": [level] * len(documents)}
"""


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("syntx", {}, "did you mean 'syntax'"),
        ("nothing_here:at_all", {}, "cannot be imported.*ModuleNotFoundError"),
        ("bad_ones:missing", {}, "cannot be imported.*AttributeError"),
        ("bad_ones:not_an_annotator", {}, "is no annotator"),
        ("bad_ones:bad_type", {}, "column n: 'int31' is no type"),
        ("bad_ones:bad_column", {}, "other than documents' own .found path"),
        ("bad_ones:bad_reads", {}, "reads 'txt'"),
        ("bad_ones:language", {}, "cannot be called 'language'"),
        ("bad_ones:repository_dedup", {}, "cannot be called 'repository_dedup'"),
        ("bad_ones:short", {}, "failed on .*has 2 values for 1 documents"),
        ("bad_ones:other_column", {}, "failed on .*n are declared, m were made"),
        ("bad_ones:words", {}, "failed on .*x"),
        ("bad_ones:needs", {}, "level is needed"),
        ("bad_ones:needs", {"level": "high"}, "level: .*integer"),
        ("signs", {"long_lin": 3}, "no key 'long_lin'; did you mean 'long_line'"),
        ("decontamination", {}, "needs benchmark files"),
    ],
)
def test_what_is_wrong_with_an_annotator_is_said(tmp_path, files, take, name, settings, said):
    (tmp_path / "bad_ones.py").write_text(textwrap.dedent(BAD))
    sys.modules.pop("bad_ones", None)
    take(files(tmp_path / "root", {"a/x.py": "x = 1\n"}))
    with pytest.raises(DataError, match=said) as caught:
        annotate(tmp_path / "corpus", [AnnotatorSpec.of(name, tmp_path, **settings)])
    assert "\n" not in str(caught.value)


def test_an_annotator_that_fails_on_everything_is_given_up_early(tmp_path, files, take):
    (tmp_path / "hopeless.py").write_text(
        "from data_prep.annotate import annotator\n\n"
        "@annotator(columns={'n': 'int32'}, version=1)\ndef always(documents): raise OSError(len(documents))\n"
    )
    take(files(tmp_path / "root", {f"a/{i}.py": f"x = {i}\n" for i in range(300)}))
    limits = IsolationLimits(batch_rows=10)
    with pytest.raises(DataError, match=r"failed on each of the first 20 documents.*OSError: 1"):
        annotate(tmp_path / "corpus", [AnnotatorSpec.of("hopeless:always", tmp_path)], 1, limits)


def test_settings_from_a_command_line():
    specs = specs_of(["signs", "m:Own"], [("signs.long_line", "7"), ("own.words", "[a, b]")], Path("/here"))
    assert specs[0] == AnnotatorSpec.of("signs", long_line=7)
    assert specs[1] == AnnotatorSpec.of("m:Own", Path("/here"), words=["a", "b"])
    with pytest.raises(DataError, match=r"name the annotator, as in signs\.long_line"):
        specs_of(["signs", "m:Own"], [("long_line", "7")], Path())
    with pytest.raises(DataError, match="'syntax' is not annotated"):
        specs_of(["signs"], [("syntax.x", "7")], Path())


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_example_from_the_command_line_to_a_selection_and_the_report(corpus, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len((ROOT / "examples/own_annotator.py").read_text().splitlines()) <= 20
    said = run("annotate", corpus, "examples.own_annotator:todos", "signs", "--set", "todos.word=x =",
               "--workers", "2", "--engine", "local")  # fmt: skip
    assert "todos: 60 documents: too_many 30" in said
    result = select(corpus, "main", SelectionConfig(rules=(Rule(name="unfinished", drop="todos.too_many"),)))
    assert result["dropped"][0]["documents"] == 30
    report = corpus_report(corpus, "main")
    assert report["annotations"]["todos"]["counts"] == {"too_many": 30}
    assert json.loads(run("inspect", corpus, "--json")) == report
    assert "too_many 30" in run("inspect", corpus)


def test_a_run_that_is_killed_leaves_no_process_and_goes_on_where_it_was(corpus, own, tmp_path, take):
    for path in MARKS.keys() - {"r2/9.py"}:
        (tmp_path / "root" / path).write_text("fine = 1\n")
    take(tmp_path / "root", "folders", shard_bytes=700)
    log = tmp_path / "log"
    code = (
        "import sys; from pathlib import Path; from data_prep.annotate import *\n"
        "annotate(Path(sys.argv[1]), [AnnotatorSpec.of('own_annotators_of_a_test:Poisoned', Path(sys.argv[2]),"
        " log=sys.argv[3])], 1, IsolationLimits(batch_rows=1))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(corpus), str(own), str(log)])
    deadline = time.monotonic() + 60
    while not (log.exists() and "9.py" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert below and not psutil.wait_procs(below, timeout=10)[1]
    (result,) = annotate(corpus, [poisoned(own, log=str(log))], 1, IsolationLimits(timeout_s=1))
    assert (result["documents"], result["failed"]) == (60, 1)
    assert not list(corpus.rglob("*.tmp"))


def test_default_rules_hold_where_their_annotation_was_made(tmp_path, files, take):
    good = {f"r{i}/a.py": f"def f{i}():\n    return {i}\n" for i in range(30)}
    bad = {"r1/broken.py": "def f(:\n", "r2/made.py": "# Code generated by protoc. DO NOT EDIT.\nx = 1\n"}
    take(files(tmp_path / "root", good | bad))
    corpus = tmp_path / "corpus"
    from data_prep.dedup.levels import deduplicate

    deduplicate(corpus, 1)
    first = select(corpus, "main", SelectionConfig())
    assert [step["rule"] for step in first["dropped"]] == ["exact_duplicate", "near_duplicate"]
    assert first["rules_left_out"] == [
        "broken_syntax",
        "generated",
        "minified",
        "data_file",
        "contaminated",
        "not_searched_for_benchmarks",
        "low_quality",
    ]
    annotate(corpus, [AnnotatorSpec.of("syntax"), AnnotatorSpec.of("signs")])
    dropped = {step["rule"]: step["documents"] for step in select(corpus, "main", SelectionConfig())["dropped"]}
    wanted = {"broken_syntax": 1, "generated": 1}
    assert {rule: count for rule, count in dropped.items() if count} == wanted
    files(tmp_path / "root", {"r3/new.py": "new = 1\n"})
    take(tmp_path / "root")
    deduplicate(corpus, 1)
    with pytest.raises(DataError, match=r"annotation s(igns|yntax) "):
        select(corpus, "main", SelectionConfig())


def test_every_built_in_annotator_is_one(tmp_path):
    (tmp_path / "b.jsonl").write_text(
        '{"prompt": "these are more than ten different words in a row, all of them telling"}\n'
    )
    (tmp_path / "a_scorer.py").write_text("def five(documents):\n    return [5.0 for _ in documents]\n")
    needed = {
        "decontamination": {"benchmarks": [str(tmp_path / "b.jsonl")]},
        "quality": {"scorer": "a_scorer:five", "module_folder": str(tmp_path)},
    }
    for name in BUILT_IN:
        loaded = AnnotatorSpec.of(name, **needed.get(name, {})).load()
        assert loaded.version is not None and AnnotatorSpec.of(name).name == name
        answers = loaded.annotate([dict.fromkeys(loaded.reads) | {"text": "", "language": "Python", "path": "a.py"}])
        assert {column: len(values) for column, values in answers.items()} == dict.fromkeys(loaded.columns, 1)
