"""High-quality subset: rounds over a planted corpus, resume, changed settings, and the selection made of it."""

import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data_prep.annotate import AnnotatorSpec
from data_prep.annotate import annotate as run_annotators
from data_prep.annotations import StepAnnotation, write_table
from data_prep.cli import app
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.select import load_config as load_selection
from data_prep.select import select
from data_prep.shards import ShardTask, finished_manifest, write_shard
from data_prep.subset import rounds, run
from data_prep.subset.draws import drawn
from data_prep.subset.page import describe
from data_prep.subset.run import find_subset
from data_prep.subset.settings import SubsetConfig

REPOSITORIES, FILES = 30, 20
GOOD, POOR = ("parse", "token", "grammar", "visit"), ("foo", "tmp", "xx", "bar")


def text_of(rng, good):
    words = [rng.choice(GOOD if good else POOR) if rng.random() < 0.5 else rng.choice("abcdefgh") for _ in range(60)]
    return "".join(f"{word} = {index}\n" for index, word in enumerate(words)) + f"# {rng.random()}\n"


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A corpus of two shards; good files have a score of 8, poor ones of 2, one in ten is misjudged or has none."""
    root, rng = tmp_path_factory.mktemp("planted"), random.Random(5)
    truth = {}
    for repository in range(REPOSITORIES):
        for number in range(FILES):
            path = root / "src" / f"r{repository}" / f"{number}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            good = rng.random() < 0.3
            path.write_text("x\n" if number == 19 else text_of(rng, good))
            score = None if rng.random() < 0.05 else 8.0 if good != (rng.random() < 0.05) else 2.0
            truth[f"r{repository}", f"{number}.py"] = (score, rng.random() < 0.8, good)
    spec = SourceSpec("folders", str(root / "src"), "src")
    import_documents([spec], root / "corpus", ImportLimits(shard_bytes=200_000), 1)
    for shard in list_shards(root / "corpus"):
        documents = pq.read_table(shard, columns=["id", "repository", "path"]).to_pylist()
        facts = [truth[row["repository"], row["path"]] for row in documents]
        ids = [row["id"] for row in documents]
        annotate(root / "corpus", shard, "quality", pa.table({"id": ids, "score": pa.array([f[0] for f in facts])}))
        shares = [0.2 if f[1] else 0.0 for f in facts]
        annotate(root / "corpus", shard, "structure", pa.table({"id": ids, "comment_share": shares}))
    return root / "corpus", truth


def annotate(corpus, shard, name, table):
    counters = {"documents_sha256": finished_manifest(shard)["sha256"]}
    write_shard(ShardTask(corpus / "annotations" / name / shard.name, "x", write_table, (table, counters)))


@pytest.fixture
def corpus(planted, tmp_path):
    return shutil.copytree(planted[0], tmp_path / "corpus")


@pytest.fixture
def without_page(monkeypatch):
    """Charts take longer than the rounds of a small corpus."""
    monkeypatch.setattr(run, "write_page", lambda report, *_: report)


def config(**more):
    values = {
        "sources": [
            {"name": "all", "seeds": "quality.score >= 7 AND structure.comment_share > 0", "seed_count": 60},
            {
                "name": "even",
                "where": "regexp_matches(path, '[02468].py')",
                "seeds": "quality.score >= 7",
                "seed_count": 30,
            },
        ],
        "rounds": 2,
        "minimum_seeds": 10,
        "validation": {"fraction": 0.3},
        "threshold": {"share": 0.25},
        "classifier": {"buckets": 4096},
        "least_examples": 2000,
        "new_positives": {"where": "quality.score >= 7", "probability": 0.6},
    }
    return SubsetConfig.model_validate(values | more)


def annotation(corpus, name="high_quality"):
    tables = [pq.read_table(corpus / "annotations" / name / shard.name) for shard in list_shards(corpus)]
    return pa.concat_tables(tables)


def documents(corpus):
    return pa.concat_tables([pq.read_table(shard) for shard in list_shards(corpus)]).to_pylist()


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory):
    corpus = shutil.copytree(planted[0], tmp_path_factory.mktemp("found") / "corpus")
    return corpus, find_subset(corpus, config())


def test_good_documents_are_found_in_repositories_that_nothing_was_trained_on(found):
    _, report = found
    assert [source["name"] for source in report["sources"]] == ["all", "even"]
    for source in report["sources"]:
        for round_ in source["rounds"]:
            measured = round_["validation"]
            assert measured["precision"] > 0.85 > 2 * measured["base_rate"] and measured["recall"] > 0.6
        groups = source["scores"]["groups"]
        assert groups["subset"]["mean_score"] > groups["random"]["mean_score"] + 2
        assert groups["by_score"]["mean_score"] >= groups["subset"]["mean_score"] - 0.05
        assert groups["subset"]["documents"] <= 0.25 * source["documents"] and groups["subset"]["documents"] > 0


def test_the_annotation_is_of_the_documents_and_agrees_with_the_report(found, planted):
    corpus, report = found
    rows = annotation(corpus)
    assert rows["id"].to_pylist() == [row["id"] for row in documents(corpus)]
    recalled = np.array(rows["recalled"].to_pylist())
    assert recalled.sum() == report["recalled"]["documents"] and not rows["recalled"].null_count
    by_source = {source["name"]: source["rounds"][-1]["recalled"]["documents"] for source in report["sources"]}
    sources = rows["sources"].to_pylist()
    assert {name: sum(name in found for found in sources) for name in by_source} == by_source
    assert [bool(found) for found in sources] == recalled.tolist()
    for row in rows.to_pylist():
        assert row["source"] == (row["sources"][0] if row["sources"] else row["source"])
        assert row["round"] is not None or not row["recalled"]
        assert 0 <= row["probability"] <= 1
    whether_even = [row["path"][-4] in "02468" for row in documents(corpus)]
    assert all(even for even, name in zip(whether_even, rows["source"].to_pylist(), strict=True) if name == "even")


def test_precision_and_recall_are_those_of_single_documents(found):
    corpus, report = found
    split, good = config().validation, []
    names = {row["id"]: row["repository"] for row in documents(corpus)}
    scores = pa.concat_tables(
        [pq.read_table(corpus / "annotations/quality" / shard.name) for shard in list_shards(corpus)]
    ).to_pylist()
    for row, answer in zip(scores, annotation(corpus).to_pylist(), strict=True):
        if split.holds_out(names[row["id"]]) and row["score"] is not None:
            good.append((row["score"] >= 7, "all" in answer["sources"]))
    truth, recalled = np.array(good).T
    measured = report["sources"][0]["rounds"][-1]["validation"]
    assert (measured["documents"], measured["good"]) == (len(good), truth.sum())
    assert measured["precision"] == (truth & recalled).sum() / recalled.sum()
    assert measured["recall"] == (truth & recalled).sum() / truth.sum()


def drawn_texts(corpus, source, round_):
    """Kind -> texts that a round was trained on."""
    folder = corpus / "subsets/high_quality" / source / f"round-{round_}"
    cuts = json.loads((folder / "train.json").read_bytes())["cuts"]
    kinds = {}
    for shard in list_shards(corpus):
        for _, kind, text in drawn(folder / "draw" / shard.name, cuts):
            kinds.setdefault(kind, []).append(text)
    return kinds


def test_what_a_round_is_trained_on(found, planted):
    corpus, report = found
    by_text, split, truth = {}, config().validation, planted[1]
    for row in documents(corpus):
        by_text[row["text"]] = (row, *truth[row["repository"], row["path"]])
    for number in (1, 2):
        kinds = drawn_texts(corpus, "all", number)
        assert {kind: len(texts) for kind, texts in kinds.items()} == report["sources"][0]["rounds"][number - 1][
            "drawn"
        ]
        assert len(kinds["seeds"]) == 60
        for kind, texts in kinds.items():
            for text in texts:
                row, score, commented, _ = by_text[text]
                if text == "x\n":  # of every repository
                    continue
                assert not split.holds_out(row["repository"])
                is_seed = (score or 0) >= 7 and commented
                assert is_seed == (kind == "seeds" or (kind.startswith("found") and is_seed))
                if kind == "hard: uncommented":
                    assert score >= 7 and not commented
                if kind == "hard: recalled but poor":
                    assert score < 5
    first, second = drawn_texts(corpus, "all", 1), drawn_texts(corpus, "all", 2)
    assert sorted(first["seeds"]) == sorted(second["seeds"]) and sorted(first["random"]) != sorted(second["random"])
    assert "hard: recalled but poor" not in first and "found in round 1" in second


def test_a_second_run_does_nothing(found):
    corpus, report = found
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*.parquet")}
    models = {path: path.stat().st_mtime_ns for path in corpus.rglob("train.json")}
    assert report["parts_made"] == report["parts"] > 0
    again = find_subset(corpus, config())
    assert again == {**report, "parts_made": 0} and "(0 of" in describe(again)[0]
    assert before == {path: path.stat().st_mtime_ns for path in corpus.rglob("*.parquet")}
    assert models == {path: path.stat().st_mtime_ns for path in corpus.rglob("train.json")}


def made_again(corpus, values, files="train.json"):
    """Names of files that another run has written anew."""
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob(files)}
    find_subset(corpus, values)
    after = {path: path.stat().st_mtime_ns for path in corpus.rglob(files)}
    root = corpus / "subsets/high_quality"
    return sorted(str(path.relative_to(root)) for path, when in after.items() if before.get(path) != when)


CHANGES = [
    ({"rounds": 3}, ["all/round-3/train.json", "even/round-3/train.json"]),
    ({"good": "quality.score >= 3"}, []),
    ({"examples": 1}, []),
    ({"score": "quality.score * 2"}, []),
    ({"new_positives": {"where": "quality.score > 9"}}, ["all/round-2/train.json", "even/round-2/train.json"]),
    ({"threshold": {"share": 0.05}}, ["all/round-2/train.json", "even/round-2/train.json"]),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[next(iter(change)) for change, _ in CHANGES])
def test_a_changed_setting_trains_only_what_follows_from_it(found, tmp_path, without_page, change, expected):
    corpus = shutil.copytree(found[0], tmp_path / "corpus")
    assert made_again(corpus, config(**change)) == expected


def test_a_changed_source_leaves_the_others_as_they_are(found, tmp_path, without_page):
    corpus = shutil.copytree(found[0], tmp_path / "corpus")
    sources = [source.model_dump(exclude_none=True) for source in config().sources]
    sources[1]["seeds"] = "quality.score >= 7 AND structure.comment_share = 0"
    again = made_again(corpus, config(sources=sources, hard_negatives=[]))
    assert "even/round-1/train.json" in again
    again = made_again(corpus, config(sources=sources[:1], hard_negatives=[]), "scores/*.parquet")
    assert again == [] and not (corpus / "subsets/high_quality/even").exists()


def test_a_run_that_broke_off_goes_on_to_the_same_bytes(corpus, found, snapshot, monkeypatch):
    score_shard, calls = rounds.score_shard, []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return score_shard(*arguments)

    monkeypatch.setattr(rounds, "score_shard", fail)
    with pytest.raises(KeyboardInterrupt):
        find_subset(corpus, config())
    finished = {path: path.stat().st_mtime_ns for path in corpus.rglob("scores/*.parquet")}
    assert finished and not (corpus / "annotations/high_quality").exists()
    monkeypatch.undo()
    find_subset(corpus, config())
    assert all(path.stat().st_mtime_ns == when for path, when in finished.items())
    assert snapshot(corpus) == snapshot(found[0])


def test_what_is_of_documents_that_are_gone_is_removed(found, tmp_path, without_page):
    corpus = shutil.copytree(found[0], tmp_path / "corpus")
    for folder in ("facts", "round-1/tally", "round-2/count"):
        (corpus / "subsets/high_quality/all" / folder / "gone-0.npy").write_text("x")
        (corpus / "subsets/high_quality/all" / folder / "gone-0.npy.json").write_text("{}")
    find_subset(corpus, config())
    assert not list(corpus.rglob("gone*"))
    assert len(list(corpus.rglob("all/round-1/scores/*.parquet"))) == len(list_shards(corpus))


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers(corpus, found, snapshot):
    find_subset(corpus, config(), workers=3)
    assert snapshot(corpus) == snapshot(found[0])


def test_a_selection_of_the_subset(found, tmp_path):
    corpus = shutil.copytree(found[0], tmp_path / "corpus")
    path = tmp_path / "selection.yaml"
    rule = "{name: not in the subset, drop: NOT high_quality.recalled}"
    path.write_text(f"rules: [{rule}]\nheld_out: {{fraction: 0.2}}\n")
    selection = select(corpus, "high_quality", load_selection(path))
    left = sum(side["documents"] for side in selection["left"].values())
    assert left == found[1]["recalled"]["documents"]


def test_only_documents_of_the_selection_are_looked_at(corpus, without_page):
    rules = [{"name": "long", "drop": "path LIKE '1%'"}]
    select(corpus, "some", load_selection(None, {"variant": None, "rules": rules}))
    report = find_subset(corpus, config(selection="some"))
    chosen = [pq.read_table(corpus / "selections/some" / shard.name) for shard in list_shards(corpus)]
    dropped = [row is not None for row in pa.concat_tables(chosen)["dropped_by"].to_pylist()]
    answers = annotation(corpus).to_pylist()
    assert all(
        row["source"] is None and not row["recalled"] for row, gone in zip(answers, dropped, strict=True) if gone
    )
    assert report["sources"][0]["documents"] == len(dropped) - sum(dropped)


def test_sources_with_too_few_seeds_are_left_out_and_named(corpus, without_page):
    sources = [*(source.model_dump(exclude_none=True) for source in config().sources[:1])]
    report = find_subset(corpus, config(sources=[*sources, {"name": "none", "seeds": "path LIKE '%.ipynb'"}]))
    assert report["left_out"] == {"none": "0 seeds, 10 are needed (minimum_seeds)"}
    assert [source["name"] for source in report["sources"]] == ["all"]
    with pytest.raises(DataError, match="no source can be trained: none: 0 seeds"):
        find_subset(corpus, config(sources=[{"name": "none", "seeds": "false"}]))
    with pytest.raises(DataError, match="every document is a seed"):
        find_subset(corpus, config(sources=[{"name": "every", "seeds": "true"}]))


def test_a_refused_run_leaves_nothing_and_takes_nothing_of_an_earlier_one(corpus, found, tmp_path, snapshot):
    none = config(sources=[{"name": "none", "seeds": "false"}])
    with pytest.raises(DataError, match="no source can be trained"):
        find_subset(corpus, none)
    assert not run.subset_directory(corpus, "high_quality").exists()
    earlier = shutil.copytree(found[0], tmp_path / "earlier")
    before = snapshot(run.subset_directory(earlier, "high_quality") / "all")
    with pytest.raises(DataError, match="no source can be trained"):
        find_subset(earlier, config(sources=[{"name": "all", "seeds": "false"}]))
    after = snapshot(run.subset_directory(earlier, "high_quality") / "all")
    assert {name for name in before if "round-2" in str(name)} <= set(after)


WRONG = [
    (
        {"sources": [{"name": "a", "seeds": "signs.lines > 3"}]},
        "source 'a', seeds: there is no annotation 'signs': `data annotate ... signs` makes it",
    ),
    ({"selection": "nothing"}, "there is no selection 'nothing'"),
    ({"good": "high_quality.recalled"}, "names the annotation that it makes"),
    ({"score": "language"}, "source 'all', score"),
]


@pytest.mark.parametrize(("values", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_asked_wrongly_is_one_line(corpus, values, said):
    with pytest.raises(DataError, match=said) as error:
        find_subset(corpus, config(**values))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["quality", "Bad name", "language", "../x", "structure", "signs", *StepAnnotation])
def test_names_that_are_taken(corpus, name):
    with pytest.raises(DataError, match=f"subset.*'{name}'") as error:
        find_subset(corpus, config(), str(name))
    assert "\n" not in str(error.value) and not (corpus / "subsets").exists()


def test_an_annotator_of_the_same_name_does_not_write_over_a_subset(found, tmp_path, snapshot):
    corpus, _ = found
    (tmp_path / "annotators_named_like_a_subset.py").write_text(
        "from data_prep.annotate import annotator\n\n"
        "@annotator(columns={'recalled': 'bool'})\n"
        "def high_quality(documents):\n"
        "    return {'recalled': [True for _ in documents]}\n"
    )
    before = snapshot(corpus)
    with pytest.raises(DataError, match="high_quality was made by another step; call this one otherwise"):
        run_annotators(corpus, [AnnotatorSpec.of("annotators_named_like_a_subset:high_quality", tmp_path)])
    assert snapshot(corpus) == before


def test_annotations_that_are_out_of_date_are_refused(corpus):
    shard = list_shards(corpus)[0]
    (corpus / "annotations/quality" / shard.name).unlink()
    with pytest.raises(DataError, match="annotation quality lacks"):
        find_subset(corpus, config())


def test_a_source_that_is_no_better_than_chance_is_called_doubtful(corpus):
    by_chance = "regexp_matches(sha256, '^[0-7]')"
    report = find_subset(corpus, config(sources=[{"name": "chance", "seeds": by_chance, "seed_count": 50}], rounds=1))
    assert any("not surely better than a random draw" in line for line in describe(report))
    assert "doubtful" in (corpus / "subsets/high_quality/report.html").read_text()


def test_the_page_needs_nothing_else_and_shows_texts_as_text(found, tmp_path):
    corpus = found[0]
    page = (corpus / "subsets/high_quality/report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") == 8 and "doubtful" not in page and "recalled, not good" in page


def test_the_command(corpus, tmp_path):
    path = tmp_path / "subset.yaml"
    path.write_text(json.dumps(config(rounds=1).model_dump(mode="json", exclude_none=True)))
    result = CliRunner().invoke(app, ["subset", str(corpus), "--config", str(path), "--name", "best", "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert "subset best:" in result.output and "round 1:" in result.output and "report.html" in result.output
    assert annotation(corpus, "best").num_rows == REPOSITORIES * FILES
    assert run.subset_directory(corpus, "best").is_dir()
