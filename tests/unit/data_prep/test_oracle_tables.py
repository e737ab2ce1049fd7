"""Scores that are imported, scores that are compared, and the commands."""

import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_server import OracleServer, Says, rate
from typer.testing import CliRunner

from data_prep.cli import app
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.oracle.compare import agreement, compare_oracles, spearman
from data_prep.oracle.import_scores import ImportedTable, import_scores
from data_prep.oracle.scores import SCHEMA, read_scores, write_scores


@pytest.fixture
def corpus(tmp_path):
    """12 files; the texts of the last two are equal."""
    records = [
        {"repo": f"r{i % 3}", "path": f"{i:02d}.py", "content": "x = 1\n" * (min(i, 10) + 1) + "#\n" * (i > 9)}
        for i in range(12)
    ]
    (tmp_path / "src.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    spec = SourceSpec("jsonl", str(tmp_path / "src.jsonl"), "src")
    import_documents([spec], tmp_path / "corpus", ImportLimits(), 1)
    return tmp_path / "corpus"


@pytest.fixture
def given_table(corpus, tmp_path, rows):
    """given_table(score of a document, columns) writes a parquet table with a row for each and says where."""

    def write(score, columns=("id", "sha256", "score"), more=()):
        found = [{**row, "score": score(row)} for row in rows()] + list(more)
        path = tmp_path / "given.parquet"
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in found]), path)
        return path

    return write


def index(row):
    return int(row["path"][:2])


@pytest.mark.parametrize("columns", [("id", "score"), ("sha256", "score"), ("id", "sha256", "score")])
def test_scores_are_imported_by_id_or_by_content(corpus, given_table, columns):
    path = given_table(lambda row: min(index(row), 10) / 10, columns)
    manifest = import_scores(corpus, "theirs", ImportedTable(path, out_of=1.0, model="m", prompt_version="p"))
    table = read_scores(corpus, "theirs").to_pylist()
    assert len(table) == 12 == manifest["scored"] and manifest["unused"] == {}
    assert all(row["score"] == pytest.approx(min(index(row), 10)) for row in table)
    assert {(row["model"], row["prompt_version"], row["cut"]) for row in table} == {("m", "p", False)}
    assert manifest["histogram"] == [1] * 10 + [2]


def test_what_is_wrong_with_imported_rows_is_counted(corpus, given_table, rows):
    odd = {"00.py": None, "01.py": float("nan"), "02.py": 11.0, "03.py": -0.5}
    documents = {row["path"]: row for row in rows()}
    more = [
        {"id": "0" * 32, "sha256": documents["04.py"]["sha256"], "score": 3.0},
        {"id": documents["05.py"]["id"], "sha256": "f" * 64, "score": 3.0},
        {"id": documents["06.py"]["id"], "sha256": documents["06.py"]["sha256"], "score": 6.0},
    ]
    path = given_table(lambda row: odd.get(row["path"], min(float(index(row)), 10.0)), more=more)
    manifest = import_scores(corpus, "theirs", ImportedTable(path))
    assert manifest["problems"] == {"no_score": 2, "out_of_range": 2} and manifest["scored"] == 8
    assert manifest["unused"] == {
        "unknown": {"rows": 1, "examples": ["0" * 32]},
        "other_text": {"rows": 1, "examples": [documents["05.py"]["id"]]},
    }
    scores = {row["path"]: row["score"] for row in read_scores(corpus, "theirs").to_pylist()}
    assert scores["05.py"] == 5 and scores["06.py"] == 6 and scores["02.py"] is None


def test_tables_that_cannot_be_meant_are_refused(corpus, given_table, tmp_path):
    def taken(path, **given):
        return import_scores(corpus, "theirs", ImportedTable(path, **given))

    with pytest.raises(DataError, match=r"columns id or sha256, and quality"):
        taken(given_table(index), score_column="quality")
    with pytest.raises(DataError, match="scores numbers"):
        taken(given_table(lambda row: "good"))
    with pytest.raises(DataError, match="no score for a document"):
        taken(given_table(lambda row: 11.0))
    with pytest.raises(DataError, match=r"2 documents have more than one score, such as 1[01].py .*: 3.0 and 4.0"):
        taken(given_table(lambda row: 3.0 + (index(row) == 11), ("sha256", "score")))
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(DataError, match="no parquet"):
        taken(tmp_path / "no.parquet")
    with pytest.raises(DataError, match="letters, digits"):
        import_scores(corpus, "../theirs", ImportedTable(tmp_path / "no.parquet"))
    with pytest.raises(DataError, match="no scores of an oracle 'theirs'"):
        read_scores(corpus, "theirs")


def test_a_table_of_scores_is_checked_when_written(tmp_path):
    row = dict.fromkeys(SCHEMA.names, "a") | {"size_bytes": 1, "cut": False, "score": 3.0, "problem": None}

    def write(*changes):
        table = pa.Table.from_pylist([{**row, **change} for change in changes], SCHEMA)
        return write_scores(tmp_path, "a", table, "inputs", {})

    assert write({}, {"id": "b", "score": None, "problem": "refused"})["problems"] == {"refused": 1}
    for wrong in ({"score": None}, {"problem": "refused"}, {"score": 10.5}, {"score": float("nan")}):
        with pytest.raises(DataError, match="each row needs"):
            write(wrong)
    with pytest.raises(DataError, match="each row needs"):
        write({"score": None, "problem": "bored"})
    with pytest.raises(DataError, match="twice"):
        write({}, {})


SCORES = st.integers(0, 20).map(lambda half: half / 2)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=60))
def test_rank_correlation_is_what_sql_says(pairs):
    one, other = (np.array(values) for values in zip(*pairs, strict=True))
    found = spearman(one, other)
    if len(set(one)) < 2 or len(set(other)) < 2:
        assert found is None
        return
    found_pairs = pa.table({"x": one, "y": other})  # noqa: F841 (DuckDB reads it)
    mean_rank = "rank() OVER (ORDER BY {0}) + (count(*) OVER (PARTITION BY {0}) - 1) / 2.0"
    ranks = ", ".join(f"{mean_rank.format(name)} AS {name}" for name in ("x", "y"))
    ((expected,),) = duckdb.sql(f"SELECT corr(x, y) FROM (SELECT {ranks} FROM found_pairs)").fetchall()
    assert found == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=60))
def test_agreement_is_counted(pairs):
    one, other = (np.array(values) for values in zip(*pairs, strict=True))
    found = agreement("a", "b", one, other)
    rounded = [(int(x + 0.5), int(y + 0.5)) for x, y in pairs]
    assert sum(map(sum, found.matrix)) == found.files == len(pairs)
    assert all(found.matrix[x][y] == rounded.count((x, y)) for x, y in rounded)
    assert found.exact == pytest.approx(sum(x == y for x, y in rounded) / len(pairs))
    assert found.within_1 == pytest.approx(sum(abs(x - y) <= 1 for x, y in rounded) / len(pairs))
    assert found.mae == pytest.approx(sum(abs(x - y) for x, y in pairs) / len(pairs))


def test_oracles_are_compared_on_what_both_scored(corpus, given_table):
    def take(name, score):
        import_scores(corpus, name, ImportedTable(given_table(score)))

    take("a", lambda row: min(index(row), 10))
    take("b", lambda row: None if index(row) == 0 else max(min(index(row), 10) - 1, 0))
    take("c", lambda row: 5)
    found = compare_oracles(corpus, ["a", "b", "c"])
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]
    first = found["pairs"][0]
    assert (first["files"], first["exact"], first["within_1"], first["bias"]) == (11, 0.0, 1.0, -1.0)
    assert first["spearman"] == pytest.approx(1.0) and found["pairs"][1]["spearman"] is None
    for names in (["a"], ["a", "a"]):
        with pytest.raises(DataError, match="at least two"):
            compare_oracles(corpus, names)
    with pytest.raises(DataError, match=r"no scores of an oracle 'd' \(there: a, b, c\)"):
        compare_oracles(corpus, ["a", "d"])


def test_scores_of_a_text_that_was_another_then_are_not_compared(corpus, given_table):
    import_scores(corpus, "now", ImportedTable(given_table(lambda row: 5)))
    table = read_scores(corpus, "now")
    texts = [text if place % 3 else "0" * 64 for place, text in enumerate(table["sha256"].to_pylist())]
    index = table.schema.get_field_index("sha256")
    then = table.set_column(index, table.schema.field(index), pa.array(texts))
    write_scores(corpus, "then", then, "inputs", {})
    (pair,) = compare_oracles(corpus, ["now", "then"])["pairs"]
    assert pair["files"] == sum(text != "0" * 64 for text in texts) < table.num_rows


def command(*arguments):
    result = CliRunner().invoke(app, ["oracle", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands(corpus, given_table, tmp_path):
    config = tmp_path / "oracle.yaml"
    config.write_text("sample: {counts: {Python: 1}, files: 12}\nendpoint: {backoff_s: 0.0}\n")
    with OracleServer(lambda text, nth: Says(f"Rating: [[{rate(text)}]]" if rate(text) != 3 else "Hm.")) as server:
        where = (corpus, "ours", "--config", config, "--url", server.url, "--model", "judge")
        prices = ("--price-in", "1", "--price-out", "2")
        said = command("estimate", *where, *prices)
        assert "12 files (0 of them cut), 11 different requests, 0 answered already, 11 to ask" in said
        assert "0.300 tokens per byte, assumed" in said and "cost about 0.0" in said and not server.bodies
        said = command("run", *where, *prices)
        assert "11 of 12 files scored (11 answers came now, 0 retries)" in said
        assert "no score for 1 (unparsable), such as 02.py: Hm." in said and "cost 0.0013 in all" in said
    said = command("import", corpus, "theirs", given_table(index, ("id", "score")), "--model", "x")
    assert "11 of 12 files scored" in said and "no score for 1 (out_of_range)" in said
    said = command("import", corpus, "low", given_table(lambda row: index(row) / 11, ("id", "score")))
    assert "12 of 12 files scored" in said and "--out-of 1" in said
    said = command("compare", corpus, "ours", "theirs")
    assert "ours and theirs: 10 files, 10.0% equal" in said
    page = (corpus / "oracle/_comparison/comparison.html").read_text()
    assert page.count("<svg") == 2 and "ours" in page and "://" not in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
        assert texts.count("0") >= 2 and "score of theirs" in texts
    assert json.loads((corpus / "oracle/_comparison/comparison.json").read_text())["pairs"][0]["files"] == 10
    assert "Zero-score policy" in command("prompt")


def test_settings_that_are_wrong_are_named(corpus, tmp_path):
    config = tmp_path / "oracle.yaml"
    cases = {
        "sample: {counts: {Pyton: 1}}": r"sample\.counts.*did you mean \['Python'\]",
        "request: {modle: x}": r"request\.modle",
        "cost: {max_cost: 5}": "max_cost needs price_in",
        "cost: {price_in: 5}": "belong together",
        "endpoint: {concurrency: 0}": r"endpoint\.concurrency.*\(got 0\)",
        "- 1": "a mapping with prompt",
        "a: [": "no YAML",
    }
    for text, said in cases.items():
        config.write_text(text)
        with pytest.raises(DataError, match=said):
            command("run", corpus, "a", "--config", config, "--url", "http://127.0.0.1:9/v1", "--model", "m")
    with pytest.raises(DataError, match=r"endpoint\.url is needed: .* --url"):
        command("run", corpus, "a", "--model", "m")


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from data_prep.cli import app\n"
        "for command in ([], ['run'], ['estimate'], ['import'], ['compare'], ['prompt']):\n"
        "    assert CliRunner().invoke(app, ['oracle', *command, '--help']).exit_code == 0\n"
        "print({'duckdb', 'pyarrow', 'httpx', 'matplotlib', 'numpy', 'torch'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
