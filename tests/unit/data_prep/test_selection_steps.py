"""A selection in partitions is the one that a single query over all documents gives, however it is cut up."""

import itertools
import json
import math
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from selection_oracle import expected_selection, expected_sides
from typer.testing import CliRunner

from data_prep.annotations import annotation_directory, write_table
from data_prep.cli import app
from data_prep.documents import SCHEMA, document_id, documents_directory, list_shards
from data_prep.engines.local import LocalEngine
from data_prep.errors import DataError
from data_prep.partitions import Output, Runner, side_path, write_columns, write_side_run
from data_prep.select import HeldOut, SelectionConfig, load_config, select
from data_prep.selection.decide import held_out_rows
from data_prep.selection.judge import group_key
from data_prep.selection.repositories import RUN, place_repositories, repository_records
from data_prep.shards import ShardTask, finished_manifest, write_shard

DEDUP = {
    "exact_dedup": ("duplicate_of", "repository_duplicate_of"),
    "near_dedup": ("duplicate_of", "cluster"),
    "repository_dedup": ("duplicate_of", "family"),
}
LANGUAGES = ("Python", "C", "Go")


def random_documents(seed: int, count: int, repositories: int) -> list[dict]:
    """Documents with all that annotations say of them. The same names are in two sources; files and names repeat."""
    draw = random.Random(seed)
    found = []
    for index in range(count):
        source, repository = draw.choice("ab"), f"r{draw.randrange(repositories)}"
        found.append(
            {"id": document_id(source, repository, f"{index}.py"), "source": source, "repository": repository,
             "path": f"{index}.py", "language": draw.choice(LANGUAGES), "size_bytes": draw.randrange(1, 2000),
             "mark.of": draw.choice([None, math.nan, -0.0, 0.0, -1.5, 3.0, 3.25, math.inf, 1e-300]),
             "mark.whole": draw.choice([None, *range(-3, 4), 2**53 + 1, 2**53]),
             "mark.label": draw.choice([None, "forum", "shop", "it's"])}
        )  # fmt: skip
    _duplicates(found, draw)
    _clusters(found, draw)
    _families(found, draw)
    return found


def _duplicates(documents: list[dict], draw: random.Random) -> None:
    keepers = [document["id"] for document in documents if draw.random() < 0.8]
    kept = set(keepers)
    for document in documents:
        keep = document["id"] in kept or not keepers
        document["exact_dedup.duplicate_of"] = None if keep else draw.choice(keepers)


def _clusters(documents: list[dict], draw: random.Random) -> None:
    """Of those that are no exact duplicates; a cluster may have two keepers, as after growth."""
    alone = [document for document in documents if document["exact_dedup.duplicate_of"] is None]
    draw.shuffle(alone)
    for document in documents:
        document["near_dedup.duplicate_of"] = document["near_dedup.cluster"] = None
    while len(alone) > 4 and draw.random() < 0.9:
        members = [alone.pop() for _ in range(draw.randrange(2, 5))]
        for place, document in enumerate(members):
            document["near_dedup.cluster"] = members[0]["id"]
            if place > draw.randrange(2):
                document["near_dedup.duplicate_of"] = members[0]["id"]


def _families(documents: list[dict], draw: random.Random) -> None:
    names = sorted({(document["source"], document["repository"]) for document in documents})
    families: dict[tuple[str, str], tuple[str | None, str | None]] = {}
    kept: dict[str, str] = {}
    for source, repository in names:
        family = f"f{draw.randrange(len(names))}" if draw.random() < 0.5 else None
        keeps = family is None or family not in kept or draw.random() < 0.1
        families[source, repository] = (family, None if keeps else kept[family])
        if family and keeps:
            kept.setdefault(family, f"{source}/{repository}")
    for document in documents:
        family, duplicate_of = families[document["source"], document["repository"]]
        document["repository_dedup.family"], document["repository_dedup.duplicate_of"] = family, duplicate_of
        document["exact_dedup.repository_duplicate_of"] = duplicate_of if document["repository"] < "r2" else None


def write_corpus(corpus: Path, documents: list[dict], shards: int, order: random.Random | None = None) -> Path:
    """A corpus of these documents in so many shards, in this or a drawn order."""
    documents = list(documents)
    if order:
        order.shuffle(documents)
    shutil.rmtree(corpus, ignore_errors=True)
    kinds = {"mark.of": pa.float64(), "mark.whole": pa.int64()}
    for index, rows in enumerate(np.array_split(np.arange(len(documents)), shards)):
        part = [documents[row] for row in rows]
        columns = {
            field.name: pa.array([d.get(field.name, None if field.nullable else "") for d in part], field.type)
            for field in SCHEMA
        }
        shard = documents_directory(corpus) / f"{index:04d}.parquet"
        write_shard(ShardTask(shard, "test", write_table, (pa.table(columns, SCHEMA), {"text_bytes": 0})))
        sha256 = finished_manifest(shard)["sha256"]
        for name, fields in {"mark": ("of", "whole", "label"), **DEDUP}.items():
            answers = {
                field: pa.array([d[f"{name}.{field}"] for d in part], kinds.get(f"{name}.{field}", pa.string()))
                for field in fields
            }
            table = pa.table({"id": columns["id"], **answers})
            output = annotation_directory(corpus, name) / shard.name
            write_shard(ShardTask(output, "test", write_table, (table, {"documents_sha256": sha256})))
    (corpus / "import.json").write_text("{}")
    return corpus


RULES = (
    {"name": "old", "drop": "mark.label = 'forum' AND size_bytes > 1000"},
    {"name": "poor", "below": {"of": "mark.of", "by": "mark.label", "values": {"shop": 3.1}, "default": -1}},
    {"name": "low", "lowest": {"of": "mark.of", "share": 0.3, "per": "language", "shares": {"Go": 0.55}}},
    {"name": "drawn", "sample": {"rate": 0.8, "by": "language", "rates": {"C": 0.5}}},
    {"name": "all together", "lowest": {"of": "mark.whole", "share": 0.25}},
    {"name": "by repository", "lowest": {"of": "-size_bytes", "share": 0.2, "per": "repository"}},
    {"name": "by label", "lowest": {"of": "size_bytes / 7", "share": 1 / 3, "per": "mark.label"}},
)
configs = st.builds(
    lambda variant, rules, fraction, minimum: SelectionConfig(
        variant=variant, rules=rules, held_out=HeldOut(fraction=fraction, minimum_repositories=minimum)
    ),
    st.sampled_from([None, "file", "repository"]),
    st.lists(st.sampled_from(RULES), unique_by=lambda rule: rule["name"], max_size=4),
    st.sampled_from([0.0, 0.01, 0.1, 0.4]),
    st.integers(1, 4),
)


def try_select(corpus: Path, name: str, config: SelectionConfig, **more) -> dict | None:
    try:
        return select(corpus, name, config, **more)
    except DataError as error:
        assert "nothing is left" in str(error) or "cannot be split" in str(error)
        return None


def rows_of(corpus: Path, name: str) -> list[tuple]:
    paths = [corpus / "selections" / name / shard.name for shard in list_shards(corpus)]
    return [tuple(row[key] for key in ("id", "split", "dropped_by")) for path in paths
            for row in pq.read_table(path).to_pylist()]  # fmt: skip


def check(corpus: Path, name: str, result: dict | None, config: SelectionConfig, pinned: list[str]) -> None:
    expected = expected_selection(corpus, config, pinned)
    assert (result is None) == (expected is None)
    if expected is None:
        return
    assert rows_of(corpus, name) == expected.rows
    assert result["pinned"] == expected.pinned
    found = {step["rule"]: step for step in result["dropped"]}
    assert list(found) == [rule.name for rule in config.rules] + ["in_both_splits"] * ("in_both_splits" in found)
    for rule, step in found.items():
        assert (step["documents"], step["size_bytes"]) == expected.dropped.get(rule, (0, 0))
        if step["alone"]:
            assert (step["alone"]["documents"], step["alone"]["size_bytes"]) == expected.alone[rule]
        assert step.get("without") == expected.without.get(rule)
    assert set(expected.dropped) <= set(found)
    left = {split: tuple(numbers.values()) for split, numbers in result["left"].items()}
    assert left == {split: expected.left.get(split, (0, 0, 0)) for split in left}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1 << 32), count=st.integers(1, 120), names=st.integers(1, 40), shards=st.integers(1, 7),
    config=configs, partitions=st.sampled_from([1, 3, 16]),
)  # fmt: skip
@example(seed=1, count=120, names=6, shards=5, config=SelectionConfig(rules=RULES), partitions=3)
@example(seed=2, count=120, names=30, shards=3, config=SelectionConfig(
    variant="repository", rules=RULES[2:3], held_out=HeldOut(fraction=0.4)), partitions=16)  # fmt: skip
def test_a_selection_is_what_one_query_gives_and_does_not_depend_on_how_it_is_cut(
    tmp_path, seed, count, names, shards, config, partitions
):
    documents = random_documents(seed, count, names)
    corpus = write_corpus(tmp_path / "corpus", documents[: count * 2 // 3 + 1], shards)
    first = try_select(corpus, "main", config, partitions=partitions)
    check(corpus, "main", first, config, [])
    selections = tmp_path / "selections"
    shutil.rmtree(selections, ignore_errors=True)
    shutil.copytree(corpus / "selections", selections) if (corpus / "selections").exists() else None

    # More documents, in other shards: what was pinned stays so.
    order = random.Random(seed + 1)
    corpus = write_corpus(tmp_path / "corpus", documents, shards % 3 + 1, order)
    if selections.exists():
        shutil.copytree(selections, corpus / "selections")
    pinned = first["pinned"] if first else []
    again = try_select(corpus, "main", config, partitions=partitions)
    check(corpus, "main", again, config, pinned)
    if again is None:
        return
    for other, engine in ((1, None), (5, Backwards())):
        name = f"p{other}"
        if selections.exists():
            shutil.copytree(selections / "main", corpus / "selections" / name, dirs_exist_ok=True)
        third = select(corpus, name, config, partitions=other, engine=engine)
        for key in ("digest", "pinned", "dropped", "left", "languages", "documents_in"):
            assert third[key] == again[key], key
        shutil.rmtree(corpus / "selections" / name)


class Backwards:
    """Makes calls in the opposite order."""

    def run(self, calls):
        for index, result in LocalEngine(1).run(calls[::-1]):
            yield len(calls) - 1 - index, result


class Stops:
    """Ends a run before its call number `after`, counted over all steps; counts the calls that were made."""

    def __init__(self, after: int) -> None:
        self.after, self.made = after, 0

    def run(self, calls):
        for index, call in enumerate(calls):
            if self.made == self.after:
                raise DataError("stopped")
            self.made += 1
            yield from ((index, result) for _, result in LocalEngine(1).run([call]))


ALL = SelectionConfig(variant="repository", rules=RULES, held_out=HeldOut(fraction=0.4))


def test_a_run_that_is_stopped_anywhere_goes_on_and_makes_nothing_twice(tmp_path, snapshot):
    corpus = write_corpus(tmp_path / "corpus", random_documents(3, 120, 20), 3)
    whole = select(corpus, "main", ALL, engine=(engine := Stops(-1)), partitions=2)
    files = snapshot(corpus / "selections/main")
    steps, stops = engine.made, 0
    shutil.rmtree(corpus / "selections")
    made = 0
    for after in itertools.cycle((1, 4, 9)):
        engine = Stops(after)
        try:
            again = select(corpus, "main", ALL, engine=engine, partitions=2)
            break
        except DataError as error:
            assert str(error) == "stopped"
            assert not (corpus / "selections/main/selection.json").exists()
            stops += 1
        finally:
            made += engine.made
    assert stops > 5 and made == steps
    assert again == whole and snapshot(corpus / "selections/main") == files


def test_another_share_asks_nothing_again_and_another_annotation_only_where_it_changed(tmp_path, snapshot):
    documents = random_documents(4, 90, 12)
    corpus = write_corpus(tmp_path / "corpus", documents, 3)

    def config(share):
        rule = {**RULES[2], "lowest": {**RULES[2]["lowest"], "share": share}}
        return SelectionConfig(rules=[RULES[0], rule], held_out=HeldOut(fraction=0.3))

    def judged():
        return {path.name: path.stat().st_mtime_ns for path in (corpus / "selections/main/work/judged").iterdir()}

    first = select(corpus, "main", config(0.3))
    before = judged()
    assert {path.name for path in (corpus / "selections/main/work").iterdir()} == {"judged"}
    other = select(corpus, "main", config(0.6))
    assert judged() == before and other["digest"] != first["digest"]
    for document in documents[30:60]:  # the second shard
        document["mark.of"] = 5.0
    shutil.copytree(corpus / "selections", tmp_path / "selections")
    corpus = write_corpus(tmp_path / "corpus", documents, 3)
    shutil.copytree(tmp_path / "selections", corpus / "selections")
    before = judged()
    changed = select(corpus, "main", config(0.6))
    assert {name for name, at in judged().items() if at != before[name]} == {
        f"0001.{suffix}" for suffix in ("arrow", "arrow.json", "names.feather", "families.feather")
    }
    shutil.rmtree(corpus / "selections")
    fresh = select(corpus, "main", config(0.6))
    assert fresh == changed and fresh["digest"] != other["digest"]


def test_groups_that_are_larger_than_a_partition_and_equal_numbers_in_many_partitions(tmp_path):
    documents = random_documents(5, 300, 30)
    for place, document in enumerate(documents):
        document |= {"mark.of": 7.0, "mark.label": "forum" if place % 50 else None}
    corpus = write_corpus(tmp_path / "corpus", documents, 4)
    rule = {"name": "low", "lowest": {"of": "mark.of", "share": 0.29, "per": "mark.label"}}
    config = SelectionConfig(rules=[rule], held_out=HeldOut(fraction=0))
    for partitions in (1, 2, 40):
        select(corpus, f"p{partitions}", config, partitions=partitions)
        lost = {id_ for id_, _, by in rows_of(corpus, f"p{partitions}") if by}
        for label, count in (("forum", 294 * 29 // 100), (None, 6 * 29 // 100)):
            ids = sorted(document["id"] for document in documents if document["mark.label"] == label)
            assert lost & set(ids) == set(ids[:count])


class Watches:
    """Notes how many rows each task of a step had."""

    def __init__(self, step: str) -> None:
        self.step, self.rows = step, []

    def run(self, calls):
        for index, result in LocalEngine(1).run(calls):
            if calls[index].args[0].function.__name__ == self.step:
                self.rows.append(result["rows"])
            yield index, result


@pytest.mark.parametrize("shards", [2, 60])
def test_no_partition_has_much_more_than_its_part(tmp_path, shards):
    documents = random_documents(8, 3000, 30)
    for document in documents:
        document["mark.of"] = 1.0
    documents.sort(key=lambda document: document["language"])  # as where each source has shards of its own
    corpus = write_corpus(tmp_path / "corpus", documents, shards)
    rule = {"name": "low", "lowest": {"of": "mark.of", "share": 0.1, "per": "language"}}
    engine = Watches("count_partition")
    select(corpus, "main", SelectionConfig(rules=[rule], held_out=HeldOut(fraction=0)), engine=engine, partitions=10)
    assert len(engine.rows) == 10 and sum(engine.rows) == 3000 and max(engine.rows) < 1.5 * 300


@pytest.mark.slow
def test_in_an_object_store_the_bytes_are_the_same(tmp_path, monkeypatch):
    from object_store import s3_server

    documents = random_documents(9, 60, 12)
    corpus = write_corpus(tmp_path / "corpus", documents, 2)
    here = select(corpus, "main", ALL, partitions=2)
    with s3_server(monkeypatch) as bucket:
        for path in corpus.rglob("*"):
            if path.is_file() and "selections" not in path.parts:
                (bucket / "corpus" / path.relative_to(corpus).as_posix()).write_bytes(path.read_bytes())
        there = select(bucket / "corpus", "main", ALL, partitions=2)
    assert there == here


def test_numbers_of_two_kinds_are_refused(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", random_documents(6, 20, 5), 2)
    shard = annotation_directory(corpus, "mark") / "0001.parquet"
    table = pq.read_table(shard)
    column = table.column_names.index("whole")
    table = table.set_column(column, "whole", table["whole"].cast(pa.float64(), safe=False))
    counters = {"documents_sha256": finished_manifest(shard)["documents_sha256"]}
    write_shard(ShardTask(shard, "test", write_table, (table, counters)))
    with pytest.raises(DataError, match="rule 'all together': its numbers are whole in some shards and not in others"):
        select(corpus, "main", SelectionConfig(rules=RULES[4:5], held_out=HeldOut(fraction=0)))


def test_an_annotation_with_other_rows_is_refused(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", random_documents(6, 20, 5), 2)
    shard = annotation_directory(corpus, "mark") / "0000.parquet"
    counters = {"documents_sha256": finished_manifest(shard)["documents_sha256"]}
    write_shard(ShardTask(shard, "test", write_table, (pq.read_table(shard).slice(1), counters)))
    with pytest.raises(DataError, match=r"0000.parquet: annotations of it have other rows"):
        select(corpus, "main", SelectionConfig(rules=RULES[:1], held_out=HeldOut(fraction=0)))


def test_processes_and_partitions_from_the_command_line_give_the_same(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", random_documents(7, 90, 25), 3)
    path = tmp_path / "selection.yaml"
    path.write_text(json.dumps({"rules": RULES, "variant": "file", "held_out": {"fraction": 0.3}}))
    expected = select(corpus, "main", load_config(path))
    command = ["select", str(corpus), "--selection", "other", "--config", str(path), "--partitions", "3"]
    command += ["--workers", "2"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads((corpus / "selections/other/selection.json").read_text())["digest"] == expected["digest"]
    again = select(corpus, "pool", load_config(path), engine=LocalEngine(2), partitions=4)
    assert again["digest"] == expected["digest"] and again["left"] == expected["left"]


# How a sides task decides, beside the sets of the oracle: families that names connect, whatever lies where.
family_rows = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["f1", "f2", "f3", "f4"]), st.booleans()), max_size=8
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    left=st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6), min_size=1, max_size=3),
    families=st.lists(family_rows, min_size=3, max_size=3),
    config=st.builds(HeldOut, fraction=st.sampled_from([0.0, 0.05, 0.4]), minimum_repositories=st.integers(1, 4),
                     seed=st.integers(0, 99)),
    pinned=st.lists(st.sampled_from("abcxy"), unique=True, max_size=2),
    partitions=st.sampled_from([1, 3]),
)  # fmt: skip
def test_repositories_and_families(tmp_path, left, families, config, pinned, partitions):
    work = Path(tempfile.mkdtemp(dir=tmp_path))
    names_paths, outputs, shards = [], [], []
    for index, here in enumerate(left):
        rows = sorted(set(families[index]))
        names = sorted({*here, *(row[0] for row in rows)})
        shards.append(names)
        names_paths.append(work / f"{index}.names.arrow")
        with open(names_paths[-1], "wb") as stream:
            write_columns(stream, pa.table({"repository": pa.array(names, pa.string())}))
        table = pa.table(
            {
                "repository": pa.array([names.index(row[0]) for row in rows], pa.uint32()),
                "family": pa.array([group_key(row[1]) for row in rows], pa.binary(16)),
                "kept": pa.array([row[2] for row in rows], pa.bool_()),
            }
        )
        found = repository_records(names, np.array([names.index(name) for name in here], int), table, config.seed)
        outputs.append(work / f"{index}.arrow")
        write_side_run(side_path(outputs[-1], RUN), found)
    decided = Output(tuple(outputs), ({"sha256": ""},) * len(outputs))
    all_left = sorted({name for here in left for name in here})
    rows = [row for index in range(len(left)) for row in families[index]]
    held, pins = expected_sides(all_left, rows, config, pinned)
    try:
        placed = place_repositories(config, pinned, decided, names_paths, Runner(1, partitions, 1), work)
    except DataError:
        assert held is None
        return
    for index, names in enumerate(shards):
        flags = held_out_rows(placed.paths, index, np.arange(len(names)))
        known = {name: flag for name, flag in zip(names, flags.tolist(), strict=True) if name in all_left}
        assert known == {name: name in held for name in known}
    assert placed.pinned == pins and (placed.left, placed.held) == (len(all_left), len(held))
