"""Draws and measures of a subset: exact whatever the shards, and equal to what is computed from single documents."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.annotators.structure import Structure
from data_prep.classify.thresholds import precision_recall, threshold_for_recall
from data_prep.documents import METADATA_COLUMNS, SCHEMA
from data_prep.errors import DataError
from data_prep.partitions import KEYS
from data_prep.subset.draws import bounds, cut, drawn
from data_prep.subset.facts import Question, check, write_facts
from data_prep.subset.measure import Tally, choose_threshold, measure
from data_prep.subset.rounds import tally_shard
from data_prep.subset.settings import Source, SubsetConfig, Threshold, load_config
from data_prep.subset.state import BINS, bin_of, bin_of_probability, id_words, keys, probability_of_bin


def ids(count, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << 63, (count, 2)).astype(np.uint64)


def test_keys_are_a_function_of_id_and_purpose():
    words = ids(1000)
    key = keys(words, 1, "a", "random", 1)
    assert np.array_equal(key[500:], keys(words[500:], 1, "a", "random", 1))
    assert len(np.unique(key)) == 1000 and not np.array_equal(key, keys(words, 1, "a", "random", 2))
    assert abs(np.corrcoef(key, keys(words, 2, "a", "random", 1))[0, 1]) < 0.15
    assert id_words(pa.chunked_array([["00" * 7 + "ff" + "00" * 8]])).tolist() == [[255, 0]]


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 3000), wanted=st.integers(1, 3000), shards=st.integers(1, 5))
def test_a_draw_over_shards_is_the_smallest_keys_of_all(tmp_path_factory, count, wanted, shards):
    folder = tmp_path_factory.mktemp("draw")
    key = keys(ids(count, count), "purpose")
    bound = bounds({"k": min(wanted, count)}, {"k": count})["k"]
    outputs = []
    for index, part in enumerate(np.array_split(key, shards)):
        given_keys = part[part <= np.uint64(bound)]
        outputs.append(folder / f"{index}.parquet")
        pq.write_table(pa.table({"k": given_keys, "text": [str(one) for one in given_keys]}), outputs[-1])
    cuts = cut(outputs, {"k": min(wanted, count)})
    found = sorted(int(text) for output in outputs for _, _, text in drawn(output, cuts))
    assert found == sorted(key.tolist())[:wanted]


def test_a_bound_lets_few_more_through_than_wanted():
    assert bounds({"a": 0, "b": 7}, {"a": 9, "b": 7}) == {"b": KEYS - 1}
    (bound,) = bounds({"a": 10_000}, {"a": 10_000_000}).values()
    assert 10_000 < bound / KEYS * 10_000_000 < 11_000


def test_a_document_that_is_drawn_twice_is_of_the_first_kind(tmp_path):
    output = tmp_path / "draw.parquet"
    seeds, random = pa.array([5, None, 9], pa.uint64()), pa.array([1, 2, 3], pa.uint64())
    pq.write_table(pa.table({"seeds": seeds, "random": random, "text": ["a", "b", "c"]}), output)
    assert list(drawn(output, {"seeds": 5, "random": 3})) == [(5, "seeds", "a"), (2, "random", "b"), (3, "random", "c")]
    assert list(drawn(output, {"random": 2})) == [(1, "random", "a"), (2, "random", "b")]


def test_bins_are_in_the_order_of_probabilities():
    odds = np.array([-50, -12, -1e-3, 0, 0.5, 11.99, 12, 50, np.nan])
    bins = bin_of(odds)
    assert bins.tolist()[-1] == -1 and (np.diff(bins[:-1]) >= 0).all() and bins[0] == 0 and bins[-2] == BINS - 1
    assert [bin_of_probability(one) for one in (0, 0.5, 1)] == [0, BINS // 2, BINS - 1]
    for index in (0, 17, BINS // 2, BINS - 1):
        assert bin_of_probability(probability_of_bin(index) + 1e-9) == index


def tally_of(tmp_path, odds, good, validation, score=None):
    """The tally of documents, counted in two shards."""
    paths = []
    for index, part in enumerate(np.array_split(np.arange(len(odds)), 2)):
        facts, scores, out = (tmp_path / f"{name}-{index}" for name in ("facts", "scores", "tally"))
        columns = {"good": pa.array([good[i] for i in part], pa.bool_()), "validation": validation[part]}
        values = np.arange(len(odds)) / 10 if score is None else score
        columns |= {"score": values[part], "size_bytes": np.full(len(part), 7)}
        pq.write_table(pa.table(columns), facts)
        pq.write_table(pa.table({"log_odds": pa.array(odds[part].astype(np.float32))}), scores)
        with out.open("wb") as stream:
            tally_shard(stream, facts, scores)
        paths.append(out)
    return Tally.read(paths)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), recall=st.floats(0.05, 1), share=st.floats(0.01, 0.9))
def test_thresholds_and_measures_are_those_of_single_documents(tmp_path_factory, seed, recall, share):
    rng = np.random.default_rng(seed)
    odds, good = rng.normal(0, 3, 400), rng.random(400) < 0.3
    validation = rng.random(400) < 0.5
    odds[good] += 1.5
    tally = tally_of(tmp_path_factory.mktemp("tally"), odds, good.tolist(), validation)
    source = Source(name="a", seeds="true", good="true")
    bins, own = bin_of(odds.astype(np.float32)), validation
    by_recall = choose_threshold(tally, Threshold(recall=recall), source)
    assert by_recall == threshold_for_recall(bins[own], good[own], recall)
    by_share = choose_threshold(tally, Threshold(share=share), source)
    assert (bins >= by_share).sum() <= share * 400 or by_share == bins.max()
    assert by_share == 0 or (bins >= bins[bins < by_share].max(initial=0)).sum() > share * 400 or by_share > bins.min()
    measured = measure(tally, by_recall)
    expected = precision_recall(bins[own], good[own], by_recall)
    found = measured["validation"]
    assert (found["recalled"], found["found"], found["good"]) == (expected.recalled, expected.found, expected.positives)
    assert found["precision"] == expected.precision and found["recall"] == expected.recall
    assert measured["recalled"]["documents"] == (bins >= by_recall).sum()
    assert measured["recalled"]["mean_score"] == pytest.approx(np.flatnonzero(bins >= by_recall).mean() / 10)
    assert measured["recalled"]["size_bytes"] == 7 * measured["recalled"]["documents"]


def test_documents_of_which_nothing_is_known_are_not_counted(tmp_path):
    odds = np.array([3.0, 2.0, 1.0, np.nan])
    score = np.array([1.0, np.nan, 3.0, 4.0])
    tally = tally_of(tmp_path, odds, [True, None, False, True], np.ones(4, bool), score)
    measured = measure(tally, 0)
    assert measured["documents"] == 3 and measured["mean_score"] == 2.0
    assert measured["validation"]["documents"] == 2 and measured["validation"]["unknown"] == 1


def test_without_good_documents_there_is_no_threshold_by_recall(tmp_path):
    tally = tally_of(tmp_path, np.zeros(4), [False] * 4, np.ones(4, bool))
    source = Source(name="a", seeds="true", good="score >= 9")
    with pytest.raises(DataError, match="source 'a': no document of a held-out repository is good"):
        choose_threshold(tally, Threshold(recall=0.9), source)
    assert measure(tally, 0)["validation"]["recall"] is None


BAD = [
    ({"sources": [{"name": "a", "seed": "true"}]}, "did you mean 'seeds'"),
    ({"sources": [{"name": "a"}]}, "sources.0.seeds is needed"),
    ({"sources": [{"name": "A b", "seeds": "true"}]}, "sources.0.name"),
    ({"sources": []}, "sources"),
    ({"sources": [{"name": "a", "seeds": "true"}] * 2}, "must be distinct"),
    ({"sources": [{"name": "a", "seeds": "true"}], "threshold": {}}, "exactly one of share and recall"),
    ({"sources": [{"name": "a", "seeds": "true"}], "threshold": {"share": 0.1, "recall": 1}}, "exactly one"),
    ({"sources": [{"name": "a", "seeds": "true"}], "rounds": 0}, "rounds"),
    ({"sources": [{"name": "a", "seeds": "true"}], "clasifier": {}}, "did you mean 'classifier'"),
    ({"sources": [{"name": "a", "seeds": "true"}], "hard_negatives": [{"name": "x", "where": ""}]}, "where"),
    ([1], "a mapping with sources"),
]


@pytest.mark.parametrize(("values", "said"), BAD, ids=range(len(BAD)))
def test_a_config_that_is_wrong_says_where(tmp_path, values, said):
    path = tmp_path / "subset.yaml"
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=said):
        load_config(path)


def test_a_source_takes_from_the_config_what_it_does_not_say():
    config = SubsetConfig.model_validate(
        {
            "sources": [
                {"name": "a", "seeds": "true"},
                {"name": "b", "seeds": "true", "good": "false", "hard_negatives": [], "threshold": {"recall": 1}},
            ],
            "good": "quality.score > 3",
        }
    )
    first, second = config.resolved()
    assert (first.good, first.threshold.share, len(first.hard_negatives)) == ("quality.score > 3", 0.1, 2)
    assert (second.good, second.threshold.recall, second.hard_negatives) == ("false", 1, ())


def asked(tmp_path, question, rows, **beside):
    """The question's answers for documents, as rows."""
    schema = pa.schema([SCHEMA.field(name) for name in METADATA_COLUMNS])
    tables = {"documents": pa.Table.from_pylist(rows, schema), **beside}
    for name, table in tables.items():
        pq.write_table(table, tmp_path / name)
    places = {name: tmp_path / name for name in beside}
    check(question, tmp_path / "documents", places)
    with open(tmp_path / "facts", "wb") as stream:
        write_facts(stream, tmp_path / "documents", places, question)
    return pq.read_table(tmp_path / "facts").to_pylist()


def test_a_classifier_of_which_little_is_said_is_one_for_code():
    values = {"sources": [{"name": "a", "seeds": "true"}], "classifier": {"epochs": 3}}
    classifier = SubsetConfig.model_validate(values).classifier
    assert (classifier.epochs, classifier.word_ngrams) == (3, 2)


@pytest.mark.parametrize("sql", ["quality.scor > 3", "nothing.there = 1", "language = ", "1; DROP TABLE documents"])
def test_sql_that_is_none_is_named(tmp_path, sql):
    source = SubsetConfig.model_validate({"sources": [{"name": "a", "seeds": sql}]}).resolved()[0]
    quality, structure = pa.table({"score": pa.array([], pa.float32())}), pa.table({"comment_share": pa.array([1.0])})
    question = Question.of(source, "quality.score", SubsetConfig.model_fields["validation"].default, False)
    said = "there is no annotation 'nothing'" if "nothing" in sql else ".*annotations that it names: quality, structure"
    with pytest.raises(DataError, match=rf"source 'a', seeds: {said}"):
        asked(tmp_path, question, [], quality=quality, structure=structure.slice(0, 0))


@pytest.mark.parametrize(
    "sql", ["row_number() OVER (ORDER BY id) < 3", "size_bytes > (SELECT avg(size_bytes) FROM documents)"]
)
def test_sql_about_other_documents_is_refused(tmp_path, sql):
    values = {"sources": [{"name": "a", "seeds": sql, "good": "true"}], "score": "size_bytes"}
    source = SubsetConfig.model_validate(values | {"new_positives": {"where": "true"}, "hard_negatives": []}).resolved()
    question = Question.of(source[0], "size_bytes", SubsetConfig.model_fields["validation"].default, False)
    with pytest.raises(DataError, match=r"source 'a', seeds: .*looks at other documents"):
        asked(tmp_path, question, [])


def test_annotations_with_other_rows_are_refused(tmp_path):
    source = SubsetConfig.model_validate({"sources": [{"name": "a", "seeds": "true"}], "hard_negatives": []}).resolved()
    question = Question.of(source[0], "quality.score", SubsetConfig.model_fields["validation"].default, False)
    with pytest.raises(DataError, match="other than the documents'"):
        asked(tmp_path, question, [], quality=pa.table({"score": pa.array([1.0, 2.0])}))


def test_the_shipped_example_chooses_the_seeds_it_is_meant_to(tmp_path):
    """Each of these files is a seed of one source, apart from the last, whose score is low."""
    config = load_config(Path(__file__).parents[3] / "examples" / "high_quality.yaml")
    files = [
        ("src/app.py", 8.5, 0.2, 0.9, ["os"]),
        ("course/sorting/quick.py", 7.5, 0.1, 0.1, []),
        ("web/views.py", 7.5, 0.1, 0.1, ["django"]),
        ("intro.ipynb", 7.5, 0.2, None, ["pandas"]),
        ("sorting/django.ipynb", 6.0, 0.2, 0.9, ["django", "heapq", "pandas"]),
    ]
    paths, scores, comments, docstrings, packages = zip(*files, strict=True)
    row = {"id": "0" * 32, "source": "s", "repository": "r", "language": "Python", "encoding": "utf-8", "sha256": ""}
    rows = [{**row, "path": path, "size_bytes": 4000} for path in paths]
    structure = {"comment_share": comments, "docstring_share": docstrings, "functions": [3] * 5, "packages": packages}
    beside = {
        "quality": pa.table({"score": pa.array(scores, pa.float32())}),
        "structure": pa.table({name: pa.array(structure[name], Structure.columns[name]) for name in structure}),
        "selection": pa.table({"dropped_by": pa.array([None] * 5, pa.string())}),
    }
    seeds = {}
    for source in config.resolved():
        question = Question.of(source, config.score, config.validation, config.selection is not None)
        answers = asked(tmp_path, question, rows, **beside)
        seeds[source.name] = [i for i, row in enumerate(answers) if row["inside"] and row["seed"]]
    assert seeds == {
        "major_languages": [0],
        "algorithms": [1],
        "application_development": [2],
        "notebooks": [3],
        "general_code": [0],
    }
