"""Forks and copies against exhaustive comparison; families and clusters stay on one side of the split."""

import itertools
import json
import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_prep.dedup.levels import deduplicate
from data_prep.dedup.near_repositories import annotate_repositories
from data_prep.dedup.settings import NearSettings
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.select import SelectionConfig, select


@pytest.fixture
def make_corpus(tmp_path):
    """make_corpus(repositories) imports {name: (stars, [texts])} of one source, or {source: {...}} of several."""

    def make(sources: dict[str, dict[str, tuple]], shard_bytes: int = 12_000) -> Path:
        specs = []
        for source, repositories in sources.items():
            path = tmp_path / f"{source}.jsonl"
            with open(path, "w") as stream:
                for name, (stars, texts) in repositories.items():
                    for index, text in enumerate(texts):
                        record = {"repo": name, "path": f"{index}.py", "content": text, "stars": stars}
                        stream.write(json.dumps(record) + "\n")
            specs.append(SourceSpec("jsonl", str(path), source))
        import_documents(specs, tmp_path / "corpus", ImportLimits(shard_bytes=shard_bytes), 1)
        return tmp_path / "corpus"

    return make


def text_of(draw: random.Random) -> str:
    return " ".join(f"w{draw.randrange(5000)}" for _ in range(12))


def forks(seed: int, originals: int = 12, files: int = 20) -> dict[str, tuple]:
    """Repositories, each with forks in which 0 to 40 % of the files are others."""
    draw = random.Random(seed)
    found = {}
    for original in range(originals):
        texts = [text_of(draw) for _ in range(files)]
        found[f"o{original:02d}"] = (draw.choice([1, 5]), texts)
        for fork in range(draw.randrange(4)):
            changed = draw.sample(range(files), round(files * draw.uniform(0, 0.4)))
            stars = draw.choice([None, 0, 9])
            found[f"f{original:02d}-{fork}"] = (
                stars,
                [text_of(draw) if i in changed else t for i, t in enumerate(texts)],
            )
    return found


def of_repositories(corpus: Path) -> dict[str, dict]:
    """name -> row of the annotation, the same for all documents of a repository."""
    found = {}
    for shard in list_shards(corpus):
        rows = pq.read_table(corpus / "annotations/repository_dedup" / shard.name).to_pylist()
        for row, document in zip(rows, pq.read_table(shard).to_pylist(), strict=True):
            assert row.pop("id") == document["id"]
            name = f"{document['source']}/{document['repository']}"
            assert found.setdefault(name, row) == row
    return found


def exhaustive(repositories: dict[str, tuple], threshold: float) -> dict[str, dict]:
    sets = {name: set(texts) for name, (_, texts) in repositories.items()}
    families = {name: {name} for name in sets}
    highest = dict.fromkeys(sets, 0.0)
    for one, other in itertools.combinations(sets, 2):
        similarity = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        if similarity >= threshold:
            joined = families[one] | families[other]
            families |= dict.fromkeys(joined, joined)
            highest |= {name: max(highest[name], similarity) for name in (one, other)}

    def rank(name):
        stars, texts = repositories[name]
        return (-1 if stars is None else stars) * -1, -sum(map(len, texts)), name

    found = {}
    for name, family in families.items():
        first = min(family, key=rank)
        found[f"a/{name}"] = {
            "duplicate_of": None if first == name else f"a/{first}",
            "family": None if len(family) == 1 else f"a/{first}",
            "similarity": pytest.approx(highest[name]) if highest[name] else None,
        }
    return found


@pytest.mark.parametrize(("seed", "partitions"), [(0, 1), (1, 4)])
def test_forks_are_found_as_by_exhaustive_comparison(make_corpus, seed, partitions):
    repositories = forks(seed)
    corpus = make_corpus({"a": repositories})
    numbers = annotate_repositories(corpus, 1, partitions=partitions)
    expected = exhaustive(repositories, 0.7)
    assert of_repositories(corpus) == expected
    duplicates = sum(row["duplicate_of"] is not None for row in expected.values())
    assert numbers["duplicate_repositories"] == duplicates and 0 < duplicates < len(repositories) - 12
    assert numbers["repositories"] == len(repositories)


def test_the_threshold_decides(make_corpus):
    draw = random.Random(3)
    texts = [text_of(draw) for _ in range(20)]
    changed = [text_of(draw) for _ in range(3)] + texts[3:]  # 17 of 23
    corpus = make_corpus({"a": {"one": (1, texts), "two": (0, changed)}})
    for threshold, found in ((17 / 23, True), (17 / 23 + 1e-9, False)):
        annotate_repositories(corpus, 1, settings=NearSettings(repository_threshold=threshold))
        assert (of_repositories(corpus)["a/two"]["duplicate_of"] == "a/one") is found


def test_a_fork_with_more_stars_that_comes_later_does_not_take_over(make_corpus):
    draw = random.Random(4)
    texts = [text_of(draw) for _ in range(10)]
    old = {"one": (1, texts), "alone": (1, [text_of(draw)])}
    corpus = make_corpus({"a": old})
    deduplicate(corpus, 1)
    make_corpus({"a": old, "b": {"star": (99, texts), "near": (98, [*texts[:-1], text_of(draw)])}})
    deduplicate(corpus, 1)
    rows = of_repositories(corpus)
    assert [rows[name]["duplicate_of"] for name in ("a/one", "b/star", "b/near")] == [None, "a/one", "a/one"]
    exact = [
        row["repository_duplicate_of"]
        for shard in list_shards(corpus)
        for row in pq.read_table(corpus / "annotations/exact_dedup" / shard.name).to_pylist()
    ]
    assert set(exact) == {None, "a/one"}
    deduplicate(corpus, 1, rekey=True)
    assert of_repositories(corpus)["a/one"]["duplicate_of"] == "b/star"


def selected(corpus: Path, name: str = "main") -> list[dict]:
    found = []
    for shard in list_shards(corpus):
        row = zip(
            pq.read_table(shard).to_pylist(),
            pq.read_table(corpus / "selections" / name / shard.name).to_pylist(),
            pq.read_table(corpus / "annotations/near_dedup" / shard.name, columns=["cluster"]).to_pylist(),
            pq.read_table(corpus / "annotations/repository_dedup" / shard.name, columns=["family"]).to_pylist(),
            strict=True,
        )
        found += [one | two | three | four for one, two, three, four in row]
    return found


def sides_of(rows: list[dict], key: str) -> list[set[str]]:
    groups: dict[str, set[str]] = {}
    for row in rows:
        if row["split"] and row[key]:
            groups.setdefault(row[key], set()).add(row["split"])
    return list(groups.values())


def tangled(seed: int) -> dict[str, tuple]:
    """Forks, with files near to those of quite other repositories strewn in."""
    draw = random.Random(seed)
    repositories = forks(seed, originals=14, files=16)
    common = [" ".join(f"c{draw.randrange(5000)}" for _ in range(60)) for _ in range(6)]
    for _, texts in repositories.values():
        for text in draw.sample(common, 2):
            texts.append(text if draw.random() < 0.5 else f"{text} x{draw.randrange(9999)}")
    return repositories


@pytest.mark.parametrize("variant", ["file", "repository"])
def test_no_cluster_and_no_family_is_on_both_sides(make_corpus, variant):
    corpus = make_corpus({"a": tangled(5)})
    deduplicate(corpus, 1)
    result = select(corpus, "main", SelectionConfig(variant=variant, held_out=HeldOut(fraction=0.4)))
    rows = selected(corpus)
    for key in ("cluster", "family", "sha256"):
        sides = sides_of(rows, key)
        assert len(sides) > 5 and all(len(side) == 1 for side in sides), key
    left = {split: sum(row["split"] == split for row in rows) for split in ("train", "held_out")}
    assert left == {split: result["left"][split]["documents"] for split in left} and all(left.values())
    steps = {step["rule"]: step["documents"] for step in result["dropped"]}
    assert sum(steps.values()) + sum(left.values()) == len(rows)
    if variant == "repository":
        assert steps["repository_duplicate"] + steps["near_repository"] > 0 and steps["in_both_splits"] > 0
        twice = [row["sha256"] for row in rows if row["split"]]
        assert len(set(twice)) < len(twice)  # files that repositories share are left in them
    else:
        assert steps["near_duplicate"] > 0 and "in_both_splits" not in steps


def test_the_two_variants_and_rules_of_ones_own(make_corpus):
    corpus = make_corpus({"a": tangled(6)})
    deduplicate(corpus, 1)
    for variant, rules in (
        ("file", ["exact_duplicate", "near_duplicate"]),
        ("repository", ["repository_duplicate", "near_repository"]),
    ):
        config = SelectionConfig(variant=variant, rules=[{"name": "tiny", "drop": "size_bytes < 3"}])
        result = select(corpus, variant, config)
        assert [step["rule"] for step in result["dropped"]][:3] == [*rules, "tiny"]
    kept = {row["repository"] for row in selected(corpus, "repository") if row["split"]}
    families = of_repositories(corpus)
    dropped = {name for name, row in families.items() if row["duplicate_of"]}
    assert dropped and not {f"a/{name}" for name in kept} & dropped
    alone = select(corpus, "own", SelectionConfig(rules=[{"name": "tiny", "drop": "size_bytes < 3"}]))
    assert [step["rule"] for step in alone["dropped"]] == ["tiny"]
    shutil.rmtree(corpus / "annotations/repository_dedup")
    with pytest.raises(DataError, match=r"variant file: there is no repository_dedup; run `data dedup`"):
        select(corpus, "main", SelectionConfig())


def test_what_was_held_out_stays_so_when_new_forks_join_families(make_corpus):
    config = SelectionConfig(held_out=HeldOut(fraction=0.3))
    old = forks(7, originals=20, files=10)
    corpus = make_corpus({"a": old})
    deduplicate(corpus, 1)
    select(corpus, "main", config)
    sides = {row["repository"]: row["split"] for row in selected(corpus) if row["split"]}
    draw = random.Random(8)
    new = {f"{name}-new": (50, [*texts[:-1], text_of(draw)]) for name, (_, texts) in old.items()}
    make_corpus({"a": old, "b": new})
    deduplicate(corpus, 1)
    select(corpus, "main", config)
    rows = selected(corpus)
    after = {row["repository"]: row["split"] for row in rows if row["split"]}
    assert {"train", "held_out"} == set(sides.values())
    assert all(after.get(name, "held_out") == "held_out" for name, side in sides.items() if side == "held_out")
    assert all(len(side) == 1 for side in sides_of(rows, "family"))
    moved = [name for name in sides if name in after and after[name] != sides[name]]
    assert len(moved) < len(sides) / 10  # only where new data connects a family that was held out
