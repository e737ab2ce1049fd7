"""Rules on numbers and functions of the user's own: exact shares, thresholds by language, answers made once."""

import hashlib
import math
import sys
import textwrap
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from data_prep.annotations import annotation_directory, write_table
from data_prep.cli import app
from data_prep.dedup.levels import deduplicate
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.select import HeldOut, Rule, SelectionConfig, load_config, read_selection, select
from data_prep.selection.rules import Lowest, Sample, Threshold
from data_prep.shards import ShardTask, finished_manifest, write_shard

NOTHING_HELD_OUT = HeldOut(fraction=0)


@pytest.fixture
def corpus(tmp_path, files, take):
    content = {f"r{i}/{j:02d}.py": f"x = {i}{j}\n" for i in range(4) for j in range(8)}
    content |= {f"r{i}/{j:02d}.rb": f"puts {i}{j}\n" for i in range(4) for j in range(3)}
    take(files(tmp_path / "root", {**content, "r0/only.go": "package x\n"}), shard_bytes=200)
    return tmp_path / "corpus"


def put(corpus, name, version=1, **columns):
    """An annotation with these values of every document, in the order of shards and rows."""
    start = 0
    for shard in list_shards(corpus):
        ids = pq.read_table(shard, columns=["id"])["id"]
        table = pa.table({"id": ids, **{key: values.slice(start, len(ids)) for key, values in columns.items()}})
        start += len(ids)
        about = {"name": name, "version": version, "settings": {}}
        counters = {"documents_sha256": finished_manifest(shard)["sha256"], "annotator": about}
        output = annotation_directory(corpus, name) / shard.name
        write_shard(ShardTask(output, f"{name} {version}", write_table, (table, counters)))


def dropped(corpus, name="main"):
    paths = [corpus / "selections" / name / shard.name for shard in list_shards(corpus)]
    return [by for path in paths for by in pq.read_table(path)["dropped_by"].to_pylist()]


def scores(values):
    return pa.array(values, pa.float32())


def select_by(corpus, *rules, **more):
    return select(corpus, "main", SelectionConfig(rules=rules, held_out=NOTHING_HELD_OUT, **more))


# Few values, so that there are many ties.
some_scores = st.lists(st.sampled_from([None, math.nan, 0.0, 4.1, 5.0, 5.5, 7.25, 10.0]), min_size=45, max_size=45)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=some_scores, share=st.sampled_from([0.0, 0.1, 0.29, 0.5, 1 / 3, 0.875]), ruby=st.sampled_from([None, 0.5])
)
@example(values=[5.0] * 45, share=0.1, ruby=None)
@example(values=[None] * 45, share=0.1, ruby=0.5)
def test_a_share_is_exact_and_taken_from_what_is_left(corpus, rows, values, share, ruby):
    put(corpus, "mark", of=scores(values))
    documents = rows()
    shares = {"Ruby": ruby} if ruby else {}
    small = Rule(name="in r1", drop="repository = 'r1'")
    lowest = Rule(name="low", lowest=Lowest(of="mark.of", share=share, per="language", languages=shares))
    result = select_by(corpus, small, lowest)

    def expected(candidates):
        found = set()
        for language in {document["language"] for document, _ in candidates}:
            group = [(value, document["id"]) for document, value in candidates
                     if document["language"] == language and value is not None and not math.isnan(value)]  # fmt: skip
            take = math.floor(len(group) * Decimal(repr(shares.get(language, share))))
            found |= {id_ for _, id_ in sorted(group)[:take]}
        return found

    every = list(zip(documents, values, strict=True))
    in_order = expected([pair for pair in every if pair[0]["repository"] != "r1"])
    by_rule = {document["id"]: rule for document, rule in zip(documents, dropped(corpus), strict=True)}
    assert {id_ for id_, rule in by_rule.items() if rule == "low"} == in_order
    step = result["dropped"][1]
    alone = expected(every)
    assert (step["documents"], step["alone"]["documents"]) == (len(in_order), len(alone))
    sizes = {document["id"]: document["size_bytes"] for document in documents}
    assert step["size_bytes"] == sum(map(sizes.get, in_order))
    assert step["alone"]["size_bytes"] == sum(map(sizes.get, alone))
    assert step["without"] == sum(value is None or math.isnan(value) for value in values)


def test_a_share_of_all_together_and_of_any_group(corpus, rows):
    put(corpus, "mark", of=scores([float(i) for i in range(45)]))
    select_by(corpus, Rule(name="low", lowest=Lowest(of="-mark.of", share=0.2)))
    assert [rule == "low" for rule in dropped(corpus)] == [i >= 36 for i in range(45)]
    select_by(corpus, Rule(name="low", lowest=Lowest(of="mark.of", share=0.25, per="repository || language")))
    kept = [d["repository"] + d["language"] for d, by in zip(rows(), dropped(corpus), strict=True) if not by]
    assert {group: kept.count(group) for group in kept} == {
        **{f"r{i}Python": 6 for i in range(4)}, **{f"r{i}Ruby": 3 for i in range(4)}, "r0Go": 1,
    }  # fmt: skip


def test_two_shares_one_after_the_other(corpus):
    put(corpus, "mark", up=scores(range(45)), down=scores(range(45, 0, -1)))
    first = Rule(name="first", lowest=Lowest(of="mark.up", share=0.2))
    second = Rule(name="second", lowest=Lowest(of="mark.down", share=0.5))
    result = select_by(corpus, first, second)
    assert dropped(corpus) == ["first"] * 9 + [None] * 18 + ["second"] * 18
    assert [(step["documents"], step["alone"]["documents"]) for step in result["dropped"]] == [(9, 9), (18, 22)]


def test_thresholds_by_language(corpus, rows):
    put(corpus, "mark", of=scores([4.1, 3.0, None, math.nan, 5.0] * 9))
    below = Rule(name="low", below=Threshold(of="mark.of", default=4.1, languages={"Ruby": 3.5}))
    result = select_by(corpus, below)
    limits = {"Ruby": 3.5}
    for document, value, by in zip(rows(), [4.1, 3.0, None, math.nan, 5.0] * 9, dropped(corpus), strict=True):
        assert (by == "low") == (value is not None and value < limits.get(document["language"], 4.1))
    assert result["dropped"][0]["drop"] == "mark.of < 4.1 (Ruby 3.5)"
    assert result["dropped"][0]["without"] == 18
    select_by(corpus, Rule(name="high", above=Threshold(of="mark.of", languages={"Python": 4})))
    for document, value, by in zip(rows(), [4.1, 3.0, None, math.nan, 5.0] * 9, dropped(corpus), strict=True):
        assert (by == "high") == (document["language"] == "Python" and value is not None and value > 4)


def test_thresholds_by_any_column(corpus, rows):
    """Null is no value, so it gets the default; a value that needs quoting is one like any other."""
    labels, values = ["forum", None, "it's", "shop", "x"] * 9, [float(i % 7) for i in range(45)]
    put(corpus, "mark", of=scores(values), label=pa.array(labels), old=pa.array([i % 2 == 0 for i in range(45)]))
    limits = {"forum": 2, "it's": 6, "nobody": 100}
    by_label = Threshold(of="mark.of", by="mark.label", values=limits, default=4)
    result = select_by(corpus, Rule(name="low", below=by_label))
    assert dropped(corpus) == ["low" if v < limits.get(n, 4) else None for n, v in zip(labels, values, strict=True)]
    assert result["dropped"][0]["drop"] == "mark.of < 4.0 (forum 2.0, it's 6.0, nobody 100.0 by mark.label)"
    select_by(corpus, Rule(name="high", above=Threshold(of="mark.of", by="mark.label", values={"shop": 3})))
    assert dropped(corpus) == ["high" if n == "shop" and v > 3 else None for n, v in zip(labels, values, strict=True)]
    path = corpus.parent / "selection.yaml"
    path.write_text("rules: [{name: odd, above: {of: mark.of, by: mark.old, values: {true: 3, false: 5}}}]")
    select(corpus, "main", load_config(path, {"held_out": {"fraction": 0}}))
    assert dropped(corpus) == ["odd" if v > (5, 3)[i % 2 == 0] else None for i, v in enumerate(values)]
    short = Threshold(of="mark.of", default=4, languages={"Ruby": 2})
    select_by(corpus, Rule(name="low", below=short))
    expected = dropped(corpus)
    select_by(corpus, Rule(name="low", below=Threshold(of="mark.of", default=4, by="language", values={"Ruby": 2})))
    assert dropped(corpus) == expected and len(set(expected)) == 2


def test_shares_of_any_column(corpus, rows):
    labels = ["forum", "shop", None] * 15
    put(corpus, "mark", of=scores([float(i) for i in range(45)]), label=pa.array(labels))
    lowest = Lowest(of="mark.of", share=0.2, per="mark.label", shares={"shop": 0.6})
    result = select_by(corpus, Rule(name="low", lowest=lowest))
    limits = {"forum": 9, "shop": 27, None: 9}  # the lowest 3, 9 and 3 of 15 each
    assert dropped(corpus) == ["low" if i < limits[label] else None for i, label in enumerate(labels)]
    assert result["dropped"][0]["drop"] == "lowest 20 % of mark.of per mark.label (shop 60 %)"


def fraction(seed, document):
    return int(hashlib.sha256(f"{seed}:{document['id']}".encode()).hexdigest(), 16) / 2**256


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.floats(0, 1),
    rates=st.dictionaries(st.sampled_from(["forum", "shop", "it's"]), st.floats(0, 1)),
    seed=st.integers(-5, 1 << 70),
)
@example(rate=1.0, rates={"shop": 0.0}, seed=1)
def test_a_sample_is_kept_by_the_hash_of_each_document(corpus, rows, rate, rates, seed):
    labels = ["forum", None, "it's", "shop", "x"] * 9
    put(corpus, "mark", label=pa.array(labels))
    small = Rule(name="in r1", drop="repository = 'r1'")
    sample = Sample(rate=rate, rates=rates, seed=seed, by="mark.label" if rates else None)
    try:
        result = select_by(corpus, small, Rule(name="drawn", sample=sample))
    except DataError as error:
        assert "nothing is left" in str(error)
        return
    lost = [fraction(seed, d) >= rates.get(n, rate) for d, n in zip(rows(), labels, strict=True)]
    gone = [d["repository"] == "r1" for d in rows()]
    expected = ["in r1" if g else "drawn" if lose else None for g, lose in zip(gone, lost, strict=True)]
    assert dropped(corpus) == expected
    step = result["dropped"][1]
    assert (step["documents"], step["alone"]["documents"]) == (expected.count("drawn"), sum(lost))
    assert sum(entry["in"]["documents"] for entry in result["languages"].values()) == 45


def test_a_sample_does_not_depend_on_what_else_is_there_and_a_lower_rate_keeps_less(corpus, rows, files, take):
    def kept(rate):
        select_by(corpus, Rule(name="drawn", sample=Sample(rate=rate)))
        return {d["id"] for d, by in zip(rows(), dropped(corpus), strict=True) if not by}

    tenth, half, most = kept(0.1), kept(0.5), kept(0.9)
    assert tenth < half < most
    take(files(corpus.parent / "root", {f"s{i}/a.c": f"int x{i};\n" for i in range(200)}), shard_bytes=300)
    more = kept(0.5)
    before = {d["id"] for d in rows() if not d["repository"].startswith("s")}
    assert more & before == half
    assert 0.4 * 200 < len(more - before) < 0.6 * 200


def test_the_waterfall_alone_and_in_order_by_language(corpus, rows):
    rules = (Rule(name="odd", drop="path LIKE '%1.%'"), Rule(name="r1", drop="repository = 'r1'"))
    result = select_by(corpus, *rules)
    odd = {d["id"] for d in rows() if "1." in d["path"]}
    first = {d["id"] for d in rows() if d["repository"] == "r1"}
    numbers = [(step["documents"], step["alone"]["documents"]) for step in result["dropped"]]
    assert numbers == [(len(odd), len(odd)), (len(first - odd), len(first))]
    for step in result["dropped"]:
        parts = [entry["dropped"].get(step["rule"]) for entry in result["languages"].values()]
        for key in ("documents", "size_bytes"):
            assert step[key] == sum(part[key] for part in parts if part)
            assert step["alone"][key] == sum(part["alone"][key] for part in parts if part)
    assert "r1" not in result["languages"]["Go"]["dropped"]


def test_quality_is_judged_by_default_where_it_is_known(corpus):
    deduplicate(corpus, 1)
    without = select(corpus, "main", SelectionConfig(held_out=NOTHING_HELD_OUT))
    assert "low_quality" in without["rules_left_out"]
    put(corpus, "quality", score=scores([i / 10 for i in range(45)]))
    with_it = select(corpus, "main", SelectionConfig(held_out=NOTHING_HELD_OUT))
    step = with_it["dropped"][-1]
    assert (step["rule"], step["drop"]) == ("low_quality", "lowest 10 % of quality.score per language")
    assert step["documents"] == 32 // 10 + 12 // 10


def test_a_selection_says_which_versions_it_was_made_of(corpus, snapshot):
    put(corpus, "mark", version=3, of=scores([1] * 45))
    rule = Rule(name="low", below=Threshold(of="mark.of", default=0.5))
    first = select_by(corpus, rule)
    assert first["annotations"]["mark"]["version"] == 3 and len(first["annotations"]) == 1
    before = snapshot(corpus / "annotations")
    again = select_by(corpus, Rule(name="low", below=Threshold(of="mark.of", default=0.75)))
    assert again["annotations"] == first["annotations"] and again["inputs"] != first["inputs"]
    assert snapshot(corpus / "annotations") == before  # a changed threshold makes nothing before it again
    put(corpus, "mark", version=4, of=scores([1] * 45))
    assert select_by(corpus, rule)["annotations"]["mark"]["version"] == 4
    shards = list_shards(corpus)
    assert len(shards) > 1
    for path in (shards[0].name, f"{shards[0].name}.json"):
        half = annotation_directory(corpus, "mark") / path
        half.write_bytes(before[f"mark/{path}"])
    with pytest.raises(DataError, match="annotation mark is half done"):
        select_by(corpus, rule)


def test_rules_are_read_from_yaml(tmp_path):
    path = tmp_path / "selection.yaml"
    path.write_text(
        textwrap.dedent("""
        variant: file
        rules:
          - {name: broken, drop: syntax.broken, if_annotated: syntax}
          - {name: poor, below: {of: quality.score, default: 3, languages: {Python: 4}}}
          - {name: low, lowest: {of: quality.score, share: 0.1, per: language}, if_annotated: quality}
          - {name: mine, function: "package.module:judge", settings: {most: 3}}
        """)
    )
    config = load_config(path)
    assert [rule.name for rule in config.rules][-4:] == ["broken", "poor", "low", "mine"]
    assert config.rules[-3].below.languages == {"Python": 4}
    assert config.rules[-1].text() == "package.module:judge(most=3)"
    assert SelectionConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{name: a}", "exactly one of drop, below, above, lowest, sample, function"),
        ("{name: a, drop: 'true', below: {of: x, default: 1}}", "exactly one of"),
        ("{name: a, below: {of: x}}", "a threshold is needed"),
        ("{name: a, below: {of: x, default: 1, languages: {Pyton: 2}}}", "did you mean 'Python'"),
        ("{name: a, lowest: {of: x, share: 1.5}}", "rules.0.lowest.share"),
        ("{name: a, lowest: {of: x, sharre: 0.5}}", "did you mean 'share'"),
        ("{name: a, lowest: {of: x, share: 0.1, shares: {C: 0.2}}}", "shares needs `per`"),
        ("{name: a, lowest: {of: x, share: 0.1, per: language, shares: {Pyton: 0.2}}}", "did you mean 'Python'"),
        ("{name: a, lowest: {of: x, share: 0.1, per: language, shares: {C: 1}, languages: {C: 1}}}", "are the same"),
        ("{name: a, lowest: {of: x, share: 0.1, per: y, shares: {C: 2}}}", "rules.0.lowest.shares.C"),
        ("{name: a, below: {of: x, default: 1, values: {forum: 2}}}", "values needs `by`"),
        ("{name: a, below: {of: x, default: 1, by: site.label}}", "`by` needs values"),
        ("{name: a, below: {of: x, by: language, values: {Pyton: 2}}}", "did you mean 'Python'"),
        ("{name: a, below: {of: x, by: y, values: {b: 2}, languages: {C: 2}}}", "is short for"),
        ("{name: a, below: {of: x, by: y, valeus: {b: 2}}}", "did you mean 'values'"),
        ("{name: a, sample: {by: y, rates: {b: 2}}}", "rules.0.sample.rate "),
        ("{name: a, sample: {rate: 1.1}}", "rules.0.sample.rate"),
        ("{name: a, sample: {rate: 0.5, rates: {b: 0.2}}}", "rates needs `by`"),
        ("{name: a, sample: {rate: 0.5, by: y}}", "`by` needs rates"),
        ("{name: a, sample: {rate: 0.5, sead: 3}}", "did you mean 'seed'"),
        ("{name: a, lowest: {of: x, share: 0.1, languages: {C: 0.2}}}", "need `per: language`"),
        ("{name: a, below: {of: x, default: .nan}}", "rules.0.below.default"),
        ("{name: a, function: not a reference}", "rules.0.function"),
        ("{name: a, drop: 'true', settings: {b: 1}}", "settings are for a function"),
    ],
)
def test_a_rule_that_is_wrong_says_where(tmp_path, rule, said):
    path = tmp_path / "selection.yaml"
    path.write_text(f"rules: [{rule}]")
    with pytest.raises(DataError, match=said) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("of", ["mark.nope", "mark.word", "nothing.score", "1) FROM"])
def test_a_number_that_is_none_names_its_rule(corpus, of):
    put(corpus, "mark", word=pa.array(["word"] * 45))
    for rule in (
        Rule(name="the bad one", lowest=Lowest(of=of, share=0.1)),
        Rule(name="the bad one", below=Threshold(of=of, default=1)),
        Rule(name="the bad one", lowest=Lowest(of="1", share=0.1, per=of.replace("word", "wort"))),
        Rule(name="the bad one", above=Threshold(of="1", by=of.replace("word", "wort"), values={"x": 1})),
        Rule(name="the bad one", sample=Sample(rate=1, by=of.replace("word", "wort"), rates={"x": 1})),
    ):
        with pytest.raises(DataError, match="rule 'the bad one': "):
            select_by(corpus, rule)


OWN = """
from data_prep.select import selection_function

@selection_function(reads=["path", "language", "mark.of"])
def judge(documents, limit: float = 3.0, language: str = "Python"):
    with open({log!r}, "a") as log:
        log.write(f"{{len(documents)}}\\n")
    return [None if d["mark.of"] is None else d["language"] == language and d["mark.of"] < limit for d in documents]

@selection_function(reads=["path"], version=1)
def fails(documents):
    return [document["nothing"] for document in documents]

@selection_function(reads=["path"], version=1)
def answers_too_little(documents):
    return [True]

@selection_function(reads=["text"])
def reads_text(documents):
    return [False for _ in documents]

@selection_function(reads=["mark.off"])
def reads_nothing(documents):
    return [False for _ in documents]

def unmarked(documents):
    return [False for _ in documents]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with functions, and what `judge` was asked."""
    folder = tmp_path / "own"
    folder.mkdir()
    log = tmp_path / "asked.log"
    log.touch()
    (folder / "own_functions_of_a_test.py").write_text(OWN.format(log=str(log)))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder, lambda: sum(map(int, log.read_text().split()))
    sys.modules.pop("own_functions_of_a_test", None)


def with_function(corpus, own, name="judge", workers=1, **given):
    rule = Rule(name="mine", function=f"own_functions_of_a_test:{name}", settings=given)
    config = SelectionConfig(rules=(rule, Rule(name="in r2", drop="repository = 'r2'")), held_out=NOTHING_HELD_OUT)
    return select(corpus, "main", config, workers=workers, folder=own[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_function_of_ones_own(corpus, own, rows, workers):
    values = [1.0, 5.0, None] * 15
    put(corpus, "mark", of=scores(values))
    result = with_function(corpus, own, workers=workers)
    expected = [d["language"] == "Python" and v is not None and v < 3 for d, v in zip(rows(), values, strict=True)]
    assert [by == "mine" for by in dropped(corpus)] == expected
    assert result["dropped"][0]["documents"] == sum(expected) == result["dropped"][0]["alone"]["documents"]
    assert own[1]() == 45
    assert len(result["functions"]["mine"]) == 64  # without a version: the digest of its file
    assert with_function(corpus, own) == result == read_selection(corpus, "main")
    assert own[1]() == 45


def test_functions_answer_again_only_where_something_changed(corpus, own, rows):
    values = [1.0, 5.0, None] * 15
    put(corpus, "mark", of=scores(values))
    with_function(corpus, own)
    select(corpus, "main", SelectionConfig(rules=(
        Rule(name="mine", function="own_functions_of_a_test:judge"), Rule(name="other", drop="repository = 'r3'"),
    ), held_out=NOTHING_HELD_OUT), folder=own[0])  # fmt: skip
    assert own[1]() == 45  # another rule is no reason
    put(corpus, "mark", version=2, of=scores([*values[:-1], 2.0]))
    with_function(corpus, own)
    last = len(pq.read_table(list_shards(corpus)[-1]))
    assert own[1]() == 45 + last < 90  # only the shard whose numbers changed
    with_function(corpus, own, limit=9.0)
    assert own[1]() == 90 + last
    assert [by == "mine" for by in dropped(corpus)].count(True) > 11
    assert len(list((corpus / "selections/main/functions").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("fails", {}, "rule 'mine': .*fails failed: KeyError: 'nothing'"),
        ("answers_too_little", {}, "1 answers for"),
        ("reads_text", {}, "reads 'text'.*annotator"),
        ("reads_nothing", {}, "no column 'off'; did you mean 'of'"),
        ("unmarked", {}, "no selection function"),
        ("missing", {}, "cannot be imported"),
        ("judge", {"limt": 3}, "there is no key 'limt'; did you mean 'limit'"),
        ("judge", {"limit": "much"}, "judge: limit: Input should be a valid number"),
    ],
)
def test_a_function_that_is_wrong_ends_the_selection(corpus, own, name, given, said):
    put(corpus, "mark", of=scores([1.0] * 45))
    with pytest.raises(DataError, match=said) as caught:
        with_function(corpus, own, name, **given)
    assert "\n" not in str(caught.value)
    assert not (corpus / "selections/main/selection.json").exists()


def test_a_function_without_its_annotation(corpus, own):
    with pytest.raises(DataError, match="rule 'mine' reads the annotation mark, which was not made"):
        with_function(corpus, own)


def test_the_example_of_the_documentation(corpus, tmp_path, monkeypatch, files, take):
    take(files(tmp_path / "root", {"r0/test_a.py": "# TODO: all of it\n", "r0/b.py": "# TODO: no test\n"}))
    monkeypatch.chdir(__file__.rpartition("/tests/")[0])
    for arguments in (
        ["annotate", corpus, "examples.own_annotator:todos", "--workers", "1"],
        ["dedup", corpus, "--workers", "1"],
        ["select", corpus, "--rule", "unfinished=examples.own_selection:unfinished_tests", "--held-out", "0"],
    ):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert "unfinished dropped 1 (0.00 MB), alone 1" in result.output
    assert "left out, since nothing was annotated for them: broken_syntax" in result.output
    shown = Path("examples/own_selection.py").read_text()
    assert len(shown.splitlines()) <= 20
    documentation = Path("docs/selection.md").read_text()
    assert shown[shown.index("from data_prep") :] in documentation
    query = tmp_path / "selection.yaml"
    query.write_text(documentation.split("```yaml\n")[1].split("```")[0])
    assert [rule.name for rule in load_config(query).rules][-1] == "unfinished tests"
