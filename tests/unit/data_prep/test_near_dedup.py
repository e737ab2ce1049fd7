"""Near duplicates against brute force; the same bytes however the work is cut up, killed, resumed or grown."""

import itertools
import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import data_prep.shards
from data_prep.dedup import known_pairs
from data_prep.dedup.exact import annotate_exact
from data_prep.dedup.levels import deduplicate
from data_prep.dedup.near import annotate_near
from data_prep.dedup.settings import NearSettings
from data_prep.documents import list_shards
from data_prep.engines.base import Call
from data_prep.engines.local import LocalEngine
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents

WORDS = [f"w{index}" for index in range(3000)]


def near_text(draw: random.Random, text: str, changes: int) -> str:
    words = text.split()
    for place in draw.sample(range(len(words)), min(changes, len(words))):
        words[place] = draw.choice(WORDS)
    return " ".join(words)


def make_records(seed: int, bases: int = 40) -> list[dict]:
    """Texts of random words with variants of variants, from nearly equal to just too different; repeated ones too."""
    draw = random.Random(seed)
    found = []
    for base in range(bases):
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randrange(6, 160)))
        for copy in range(draw.choice([1, 1, 2, 3, 6])):
            stars = draw.choice([None, 0, 3, 9])
            found.append(
                {"repo": f"r{draw.randrange(25):02d}", "path": f"{base}-{copy}.py", "content": text, "stars": stars}
            )
            text = near_text(draw, text, draw.choice([0, 1, 1, 2, 4, 8]))
    draw.shuffle(found)
    return found


def write_records(path: Path, found: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return path


@pytest.fixture
def make_corpus(tmp_path):
    """make_corpus(name, {source: records}, shard_bytes) imports into tmp_path/name; more of a source may come later."""

    def make(name: str, sources: dict[str, list[dict]], shard_bytes: int = 15_000) -> Path:
        specs = []
        for source, found in sources.items():
            path = write_records(tmp_path / f"{source}.jsonl", found)
            specs.append(SourceSpec("jsonl", str(path), source))
        import_documents(specs, tmp_path / name, ImportLimits(shard_bytes=shard_bytes), 1)
        return tmp_path / name

    return make


def annotation(corpus: Path, name: str = "near_dedup") -> dict[str, dict]:
    """id -> row, with the document's own columns."""
    found = {}
    for shard in list_shards(corpus):
        rows = pq.read_table(corpus / "annotations" / name / shard.name).to_pylist()
        for row, document in zip(rows, pq.read_table(shard).to_pylist(), strict=True):
            assert row["id"] == document["id"]
            found[row["id"]] = document | row
    return found


def parquet_bytes(corpus: Path) -> dict[str, bytes]:
    return {str(p.relative_to(corpus)): p.read_bytes() for p in (corpus / "annotations").rglob("*.parquet")}


def ngrams(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def brute_force(documents: list[dict], threshold: float) -> tuple[dict[str, set[str]], dict[tuple[str, str], float]]:
    """Clusters (id -> ids of its cluster) and the similarity of every near pair."""
    sets = {document["id"]: ngrams(document["text"]) for document in documents}
    clusters = {id_: {id_} for id_ in sets}
    pairs = {}
    for one, other in itertools.combinations(sorted(sets), 2):
        similarity = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        if similarity >= threshold:
            pairs[one, other] = similarity
            joined = clusters[one] | clusters[other]
            for id_ in joined:
                clusters[id_] = joined
    return clusters, pairs


def rank(document: dict) -> tuple:
    return (-(-1 if document["stars"] is None else document["stars"]), -document["size_bytes"], document["id"])


@pytest.mark.parametrize("seed", range(3))
def test_against_brute_force(make_corpus, seed):
    corpus = make_corpus("corpus", {"a": make_records(seed, bases=60)})
    annotate_exact(corpus, 1)
    numbers = annotate_near(corpus, 1, settings=NearSettings(recall=0.99999), partitions=3)
    exact, found = annotation(corpus, "exact_dedup"), annotation(corpus)
    looked_at = [row for id_, row in found.items() if exact[id_]["duplicate_of"] is None]
    clusters, pairs = brute_force(looked_at, 0.7)
    assert len(pairs) > 25 and any(similarity < 0.8 for similarity in pairs.values())
    for row in looked_at:
        cluster = clusters[row["id"]]
        first = min((found[id_] for id_ in cluster), key=rank)["id"]
        assert row["duplicate_of"] == (None if first == row["id"] else first)
        assert row["cluster"] == (None if len(cluster) == 1 else first)
        near = [similarity for pair, similarity in pairs.items() if row["id"] in pair]
        assert row["similarity"] == (pytest.approx(max(near)) if near else None)
        assert row["ngrams"] == max(1, len(row["text"].split()) - 4)
    for id_, row in found.items():
        if exact[id_]["duplicate_of"]:
            assert row["duplicate_of"] is row["cluster"] is row["ngrams"] is None
    assert numbers["near_pairs"] == len(pairs)
    assert numbers["duplicates"] == sum(row["duplicate_of"] is not None for row in found.values())
    assert numbers["clusters"] == len({min(cluster) for cluster in clusters.values() if len(cluster) > 1})
    assert numbers["compared"] == len(looked_at)


class BackwardsEngine:
    """Makes the last call first."""

    def run(self, calls) -> Iterator:
        for index, result in LocalEngine(1).run(calls[::-1]):
            yield len(calls) - 1 - index, result


def test_partitions_engines_and_a_second_time_change_no_byte(make_corpus, tmp_path, snapshot):
    corpus = make_corpus("corpus", {"a": make_records(5)})
    deduplicate(corpus, 1, partitions=1)
    expected = snapshot(corpus / "annotations")
    assert not (corpus / "dedup/work").exists() or not list((corpus / "dedup/work").iterdir())
    times = {path: path.stat().st_mtime_ns for path in (corpus / "annotations").rglob("*")}
    deduplicate(corpus, 1, partitions=5)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for engine, partitions in ((None, 16), (BackwardsEngine(), 3)):
        shutil.rmtree(corpus / "annotations")
        shutil.rmtree(corpus / "dedup")
        deduplicate(corpus, 1, partitions=partitions, engine=engine)
        assert snapshot(corpus / "annotations") == expected


def test_shards_and_the_order_of_documents_change_no_row(make_corpus):
    found = make_records(6, bases=60)
    draw = random.Random(6)
    common = " ".join(WORDS[:60])  # large buckets, of which only neighbours are compared
    for record in found[::3]:
        record["content"] = near_text(draw, common, 12)
    settings = NearSettings(neighbours=1)
    for number, record in enumerate(found):
        record["path"] = f"{number}.py"
    one = make_corpus("one", {"a": found}, shard_bytes=1 << 20)
    many = make_corpus("many", {"a": found}, shard_bytes=5000)
    assert len(list_shards(one)) == 1 and len(list_shards(many)) > 5
    deduplicate(one, 1, settings=settings)
    deduplicate(many, 1, settings=settings, partitions=4)
    for name in ("exact_dedup", "near_dedup", "repository_dedup"):
        assert annotation(one, name) == annotation(many, name)

    # The id of a row of a table says where it stands; so in another order what is compared is who is with whom.
    other = make_corpus("other", {"a": found[::-1]}, shard_bytes=3000)
    deduplicate(other, 1, settings=settings, partitions=2)

    def clusters(corpus):
        rows = annotation(corpus).values()
        texts = {row["text"]: row for row in rows if row["ngrams"] is not None}
        groups: dict[str, set[str]] = {}
        for text, row in texts.items():
            groups.setdefault(row["cluster"] or row["id"], set()).add(text)
        return {frozenset(group) for group in groups.values()}

    assert clusters(one) == clusters(other)


class StoppingEngine:
    """Makes `calls` calls in all, then fails as a run does that is stopped."""

    def __init__(self, calls: int):
        self.left = calls

    def run(self, calls) -> Iterator:
        for result in LocalEngine(1).run(calls):
            self.left -= 1
            if self.left < 0:
                raise DataError("stopped")
            yield result


def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_bytes(make_corpus, snapshot):
    corpus = make_corpus("corpus", {"a": make_records(7)[:60]}, shard_bytes=8000)
    annotate_exact(corpus, 1)
    exact = snapshot(corpus / "annotations")
    annotate_near(corpus, 1, partitions=3)
    expected = snapshot(corpus / "annotations")
    for stop in (1, 4, 8, 13, 20, 30, 38):
        shutil.rmtree(corpus / "dedup")
        shutil.rmtree(corpus / "annotations/near_dedup")
        assert snapshot(corpus / "annotations") == exact
        with pytest.raises(DataError, match="stopped"):
            annotate_near(corpus, 1, partitions=3, engine=StoppingEngine(stop))
        annotate_near(corpus, 1, partitions=3)
        assert snapshot(corpus / "annotations") == expected


def die_once(marker, function, *args):
    """In a worker: dies where the first file is about to be renamed, on the first try."""
    if not marker.exists():
        marker.touch()
        data_prep.shards.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return function(*args)


class DyingEngine:
    """Kills the workers of two steps once, in the middle of each partition."""

    def __init__(self, folder: Path):
        self.folder, self.deaths = folder, itertools.count()

    def run(self, calls) -> Iterator:
        mortal = [
            Call(call.label, die_once, (self.folder / f"{next(self.deaths)}", call.function, *call.args), call.common)
            if Path(call.label).parent.name in ("candidates", "near")
            else call
            for call in calls
        ]
        yield from LocalEngine(1 if mortal == calls else 2).run(mortal)


def test_workers_killed_in_the_middle_of_partitions_lose_nothing(make_corpus, tmp_path):
    corpus = make_corpus("corpus", {"a": make_records(8)[:50]}, shard_bytes=1 << 20)
    annotate_exact(corpus, 1)
    annotate_near(corpus, 1)
    expected = parquet_bytes(corpus)
    shutil.rmtree(corpus / "annotations/near_dedup")
    shutil.rmtree(corpus / "dedup")
    (tmp_path / "deaths").mkdir()
    annotate_near(corpus, 2, partitions=2, engine=DyingEngine(tmp_path / "deaths"))
    assert len(list((tmp_path / "deaths").iterdir())) == 4
    assert parquet_bytes(corpus) == expected
    assert not list(corpus.rglob("*.tmp"))


def test_new_data_keeps_earlier_keepers_and_rekey_starts_from_nothing(make_corpus, tmp_path, snapshot):
    found = make_records(9, bases=60)
    old, new = found[::2], found[1::2]
    for record in new:
        record["stars"] = 100  # would be chosen everywhere
    corpus = make_corpus("grown", {"old": old})
    deduplicate(corpus, 1)
    before = {name: annotation(corpus, name) for name in ("exact_dedup", "near_dedup")}
    kept = {id_ for id_, row in before["near_dedup"].items() if not (row["duplicate_of"] or row["ngrams"] is None)}
    dropped = {id_ for id_, row in before["near_dedup"].items() if row["duplicate_of"]}
    make_corpus("grown", {"old": old, "new": new})
    numbers = deduplicate(corpus, 1)["near"]
    after = {name: annotation(corpus, name) for name in ("exact_dedup", "near_dedup")}
    assert all(after["exact_dedup"][id_]["duplicate_of"] is None for id_ in kept)
    assert all(after["near_dedup"][id_]["duplicate_of"] is None for id_ in kept)
    assert all(after["near_dedup"][id_]["duplicate_of"] in kept for id_ in dropped)
    near_new = [
        row for id_, row in after["near_dedup"].items() if id_ not in before["near_dedup"] and row["duplicate_of"]
    ]
    assert any(row["duplicate_of"] in kept for row in near_new)

    fresh = tmp_path / "fresh"
    shutil.copytree(corpus, fresh, ignore=shutil.ignore_patterns("annotations", "dedup"))
    deduplicate(fresh, 1)
    assert parquet_bytes(fresh) != parquet_bytes(corpus)
    rekeyed = deduplicate(corpus, 1, rekey=True)["near"]
    assert snapshot(corpus / "annotations") == snapshot(fresh / "annotations")
    assert rekeyed["clusters_with_several_keepers"] == 0 <= numbers["clusters_with_several_keepers"]
    assert any(
        annotation(corpus)[id_]["duplicate_of"] or annotation(corpus, "exact_dedup")[id_]["duplicate_of"]
        for id_ in kept
    )
    times = {path: path.stat().st_mtime_ns for path in (corpus / "annotations").rglob("*")}
    deduplicate(corpus, 1, rekey=True)
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_keepers_stay_when_their_documents_move_to_other_shards(make_corpus):
    found = make_records(10)
    corpus = make_corpus("corpus", {"a": found}, shard_bytes=9000)
    deduplicate(corpus, 1)
    before = annotation(corpus)
    extra = [
        record | {"stars": 50, "path": f"new-{i}.py", "content": record["content"] + " end"}
        for i, record in enumerate(found)
    ]
    make_corpus("corpus", {"a": found + extra}, shard_bytes=14_000)
    deduplicate(corpus, 1, partitions=3)
    after = annotation(corpus)
    for id_, row in before.items():
        if row["ngrams"] is not None and row["duplicate_of"] is None:
            assert after[id_]["duplicate_of"] is None
    assert sum(row["duplicate_of"] is not None for row in after.values()) > len(extra) / 2


def test_clusters_that_new_data_connects_keep_their_keepers(make_corpus):
    words = [f"v{i}" for i in range(200)]
    left, right, bridge = (" ".join(words[a:b]) for a, b in ((0, 160), (40, 200), (20, 180)))
    record = {"repo": "r", "stars": 1}
    old = [{"path": "l.py", "content": left, **record}, {"path": "r.py", "content": right, **record}]
    corpus = make_corpus("corpus", {"old": old})
    assert deduplicate(corpus, 1)["near"]["duplicates"] == 0
    make_corpus("corpus", {"old": old, "new": [{"path": "b.py", "content": bridge, **record, "stars": 9}]})
    numbers = deduplicate(corpus, 1)["near"]
    rows = {row["path"]: row for row in annotation(corpus).values()}
    assert rows["l.py"]["duplicate_of"] is rows["r.py"]["duplicate_of"] is None
    assert rows["b.py"]["duplicate_of"] in (rows["l.py"]["id"], rows["r.py"]["id"])
    assert len({row["cluster"] for row in rows.values()}) == 1
    assert numbers["clusters_with_several_keepers"] == 1
    deduplicate(corpus, 1, rekey=True)
    rows = {row["path"]: row for row in annotation(corpus).values()}
    assert [path for path, row in rows.items() if row["duplicate_of"] is None] == ["b.py"]


def test_only_what_is_new_is_compared_and_what_is_gone_is_forgotten(make_corpus):
    found = make_records(13, bases=60)
    old, new = found[:-8], found[-8:]
    corpus = make_corpus("corpus", {"old": old, "new": new})
    whole = deduplicate(corpus, 1)["near"]
    for name in ("annotations", "dedup"):
        shutil.rmtree(corpus / name)
    make_corpus("corpus", {"old": old})  # a source that is no longer named stays; so it is taken out
    import_documents([], corpus, ImportLimits(shard_bytes=15_000), 1, remove=["new"])
    before = deduplicate(corpus, 1)["near"]
    make_corpus("corpus", {"old": old, "new": new})
    grown = deduplicate(corpus, 1, partitions=3)["near"]
    assert grown["near_pairs"] == whole["near_pairs"] and grown["clusters"] == whole["clusters"]
    assert 0 < grown["candidate_pairs"] < whole["candidate_pairs"] / 2
    import_documents([], corpus, ImportLimits(shard_bytes=15_000), 1, remove=["new"])
    shrunk = deduplicate(corpus, 1)["near"]
    assert shrunk["near_pairs"] == before["near_pairs"] and shrunk["candidate_pairs"] == 0


@pytest.mark.parametrize("kept", ["some", "none"])
def test_a_kill_while_known_pairs_are_put_in_place_loses_none(make_corpus, monkeypatch, kept):
    found = make_records(13, bases=60)
    deduplicate(make_corpus("corpus", {"old": found[:-8]}), 1, partitions=3)
    corpus = make_corpus("corpus", {"old": found[:-8], "new": found[-8:-4]})

    def killed(folder):
        pairs = sorted(folder.glob("*.npy"))
        assert len(pairs) == 3
        for path in pairs[: 2 if kept == "some" else 3]:
            path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(known_pairs, "remove_folder", killed)
        deduplicate(corpus, 1, partitions=3)
    make_corpus("corpus", {"old": found[:-8], "new": found[-8:]})
    grown = deduplicate(corpus, 1, partitions=3)["near"]
    other = make_corpus("other", {"old": found[:-8], "new": found[-8:]})
    whole = deduplicate(other, 1)["near"]
    assert grown["near_pairs"] == whole["near_pairs"] and grown["clusters"] == whole["clusters"]


def test_known_pairs_of_which_a_file_is_gone_are_looked_for_again(make_corpus):
    found = make_records(13, bases=60)
    corpus = make_corpus("corpus", {"old": found[:-8]})
    deduplicate(corpus, 1, partitions=3)
    next((corpus / "dedup/pairs/near_dedup").glob("*.npy")).unlink()
    make_corpus("corpus", {"old": found[:-8], "new": found[-8:]})
    grown = deduplicate(corpus, 1, partitions=3)["near"]
    whole = deduplicate(make_corpus("other", {"old": found[:-8], "new": found[-8:]}), 1)["near"]
    assert grown["near_pairs"] == whole["near_pairs"] and grown["clusters"] == whole["clusters"]


def test_another_threshold_asks_anew(make_corpus):
    corpus = make_corpus("corpus", {"a": make_records(11)})
    strict = deduplicate(corpus, 1, settings=NearSettings(threshold=0.9))["near"]
    loose = deduplicate(corpus, 1, settings=NearSettings(threshold=0.5))["near"]
    again = deduplicate(corpus, 1, settings=NearSettings(threshold=0.9))["near"]
    assert strict["duplicates"] < loose["duplicates"]
    assert strict == again


def test_many_files_with_one_licence_are_few_pairs(make_corpus):
    """A bucket that all share costs `neighbours` pairs each, and near duplicates in it are still found."""
    draw = random.Random(1)
    licence = " ".join(f"licence{i}" for i in range(300))
    found = []
    for number in range(120):
        body = " ".join(draw.choice(WORDS) for _ in range(60))
        found += [
            {"repo": "r", "path": f"{number}-{copy}.py", "content": f"{licence} {text}", "stars": 1}
            for copy, text in enumerate((body, near_text(draw, body, 1)))
        ]
    corpus = make_corpus("corpus", {"a": found}, shard_bytes=1 << 20)
    annotate_exact(corpus, 1)
    settings = NearSettings(threshold=0.95, recall=0.9999, neighbours=4)
    numbers = annotate_near(corpus, 1, settings=settings)
    _, pairs = brute_force(list(annotation(corpus).values()), 0.95)
    assert len(pairs) > 100
    assert numbers["near_pairs"] >= 0.95 * len(pairs)
    assert numbers["candidate_pairs"] < len(found) * 42 * 4


def test_what_is_missing_or_old_is_said(make_corpus):
    corpus = make_corpus("corpus", {"a": make_records(12)[:20]})
    with pytest.raises(DataError, match="exact_dedup"):
        annotate_near(corpus, 1)
    annotate_exact(corpus, 1)
    annotate_near(corpus, 1)
    make_corpus("corpus", {"a": make_records(12)[:21]})
    with pytest.raises(DataError, match="exact_dedup is older"):
        annotate_near(corpus, 1)
