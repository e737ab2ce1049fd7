"""Which files are sampled: shares of languages, and nothing else decides but the seed and the ids."""

import hashlib
import json
import random

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.annotate import AnnotatorSpec, annotate
from data_prep.dedup.exact import annotate_exact
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.oracle.sample import allocate, draw_sample
from data_prep.oracle.settings import REPORT_COUNTS, SampleSettings
from data_prep.select import SelectionConfig, select

NAMES = st.sampled_from(sorted(REPORT_COUNTS))
COUNTS = st.dictionaries(NAMES, st.integers(0, 30_000), min_size=1)
AVAILABLE = st.dictionaries(NAMES, st.integers(0, 200))


def tally(order):
    return {language: order.count(language) for language in order}


@given(COUNTS, AVAILABLE, st.integers(1, 500))
def test_a_sample_is_as_large_as_asked_and_takes_no_more_than_there_is(counts, available, files):
    there = {language: available.get(language, 0) for language, count in counts.items() if count}
    order = allocate(counts, available, files)
    assert len(order) == min(files, sum(there.values()))
    assert all(taken <= there[language] for language, taken in tally(order).items())


@given(COUNTS.filter(lambda counts: any(counts.values())), st.integers(1, 500))
def test_shares_are_those_of_the_counts(counts, files):
    taken = tally(allocate(counts, dict.fromkeys(counts, 10**6), files))
    for one in counts:
        for other in counts:
            if counts[one] and counts[other]:  # no file would be better given from one to the other (Webster)
                have, lack = taken.get(one, 0), taken.get(other, 0)
                assert (2 * have - 1) * counts[other] <= (2 * lack + 1) * counts[one]


@given(COUNTS, AVAILABLE, st.integers(1, 300), st.integers(1, 300))
def test_a_larger_sample_begins_with_the_smaller(counts, available, files, more):
    small, large = allocate(counts, available, files), allocate(counts, available, files + more)
    assert large[: len(small)] == small


def test_the_reports_sample_is_the_reports_counts():
    order = allocate(REPORT_COUNTS, dict.fromkeys(REPORT_COUNTS, 10**6), sum(REPORT_COUNTS.values()))
    assert len(order) == 222_066 and tally_fast(order) == REPORT_COUNTS
    missing = allocate(REPORT_COUNTS, {"Python": 50, "Rust": 50}, 80)
    assert missing == ["Python"] * 50


def tally_fast(order):
    found = {}
    for language in order:
        found[language] = found.get(language, 0) + 1
    return found


def make_corpus(folder, records, shard_bytes=2000, sources=("a", "b", "c")):
    """The records in turn from each source; the sources are imported one after the other."""
    for source in sources:
        path = folder.with_name(f"{source}.jsonl")
        kept = records["abc".index(source) :: 3]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept))
        import_documents([SourceSpec("jsonl", str(path), source)], folder, ImportLimits(shard_bytes=shard_bytes), 1)
    return folder


def make_records(count=240, seed=0):
    draw = random.Random(seed)
    extensions = ["py"] * 6 + ["go", "go", "rb", "rs"]
    return [
        {"repo": f"r{i % 17}", "path": f"{i}.{draw.choice(extensions)}", "content": f"x{i} = {draw.random()}\n" * 9}
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("oracle") / "corpus", make_records())


def drawn(corpus, name="a", **settings):
    sample = draw_sample(corpus, corpus / "oracle" / name, SampleSettings(**settings))
    return sample, pq.read_table(sample.path).to_pylist()


def test_it_is_what_brute_force_finds(corpus):
    counts = {"Python": 30, "Go": 10, "Ruby": 1000}
    sample, rows = drawn(corpus, counts=counts, files=100, seed=5)
    documents = [row for shard in list_shards(corpus) for row in pq.read_table(shard).to_pylist()]
    by_language = {}
    for row in documents:
        by_language.setdefault(row["language"], []).append(row)
    for found in by_language.values():
        found.sort(key=lambda row: hashlib.sha256(f"5:{row['id']}".encode()).hexdigest())
    order = allocate(counts, {language: len(found) for language, found in by_language.items()}, 100)
    expected = []
    for language in order:
        expected.append(by_language[language].pop(0))
    assert [row["id"] for row in rows] == [row["id"] for row in expected]
    assert [row["text"] for row in rows] == [row["text"] for row in expected]
    about = sample.manifest["languages"]
    assert sample.files == 100 and "Rust" not in about
    assert about["Ruby"]["files"] == about["Ruby"]["available"] < about["Ruby"]["wanted"]


def test_shards_and_their_order_do_not_matter(corpus, tmp_path):
    other = make_corpus(tmp_path / "other", make_records(), 50_000, ("c", "a", "b"))
    assert len(list_shards(other)) < len(list_shards(corpus))
    assert drawn(corpus, files=60)[1] == drawn(other, files=60)[1]
    assert drawn(corpus, files=60)[1] != drawn(other, files=60, seed=1)[1]
    assert drawn(corpus, files=60)[1][:40] == drawn(corpus, files=40)[1]


def test_by_default_a_tenth_of_what_has_a_count(corpus):
    sample, rows = drawn(corpus)
    available = sum(entry["available"] for entry in sample.manifest["languages"].values())
    assert len(rows) == round(available / 10)
    assert "Rust" not in {row["language"] for row in rows}


def test_it_is_drawn_once(corpus):
    first, _ = drawn(corpus, "once", files=9)
    before = first.path.stat().st_mtime_ns
    assert drawn(corpus, "once", files=9)[0].path.stat().st_mtime_ns == before
    assert drawn(corpus, "once", files=8)[0].files == 8
    assert not (corpus / "oracle/once/.work").exists()


def test_duplicates_and_what_a_selection_drops_are_not_sampled(tmp_path):
    records = make_records(60)
    records += [{**record, "repo": "copy"} for record in records[:30]]
    secret = {"repo": "r1", "path": "secret.py", "content": "who = 'anne.smith@megacorp.io'\n" * 3}
    corpus = make_corpus(tmp_path / "corpus", [*records, secret])
    everything = {"max_share": 1.0}
    assert drawn(corpus, **everything)[0].manifest["left_by"].startswith("nothing")
    before = len(drawn(corpus, **everything)[1])
    annotate_exact(corpus, 1)
    sample, rows = drawn(corpus, **everything)
    assert sample.manifest["left_by"] == "exact_dedup"
    assert 0 < len(rows) < before and len({row["sha256"] for row in rows}) == len(rows)

    annotate(corpus, [AnnotatorSpec.of("secrets")])
    rules = [{"name": "go", "drop": "documents.language = 'Go'"}]
    select(corpus, "main", SelectionConfig(rules=rules, redact=["email"], held_out={"fraction": 0.2}))
    sample, rows = drawn(corpus, selection="main", **everything)
    assert sample.manifest["left_by"] == "selection main"
    assert {row["language"] for row in rows} == {"Python", "Ruby"}
    (found,) = [row for row in rows if row["path"] == "secret.py"]
    assert found["text"] == "who = '<EMAIL>'\n" * 3
    assert found["sha256"] == hashlib.sha256(secret["content"].encode()).hexdigest()
    with pytest.raises(DataError, match="no selection 'other'"):
        drawn(corpus, selection="other")


def test_nothing_to_sample_is_said(corpus):
    with pytest.raises(DataError, match="no file in Java"):
        drawn(corpus, counts={"Java": 5})
    assert drawn(corpus, counts={"Rust": 1}, files=2)[1][0]["language"] == "Rust"
