"""A selection in partitions is the one that a single query over all documents gives, however it is cut up."""

import math
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from selection_oracle import expected_selection

from data_prep.annotations import annotation_directory, write_table
from data_prep.documents import SCHEMA, document_id, documents_directory, list_shards
from data_prep.engines.local import LocalEngine
from data_prep.errors import DataError
from data_prep.select import HeldOut, SelectionConfig, select
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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
