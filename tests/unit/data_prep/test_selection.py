"""Selection: the waterfall adds up, rules say what is wrong with them, and what is held out stays held out."""

import errno
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.annotations import annotation_shard
from data_prep.dedup.levels import deduplicate
from data_prep.documents import list_shards
from data_prep.errors import DataError
from data_prep.held_out import HeldOut
from data_prep.partitions import Output, Runner, side_path, write_columns, write_side_run
from data_prep.select import Rule, SelectionConfig, load_config, read_selection, select
from data_prep.selection.decide import held_out_rows
from data_prep.selection.places import selection_names, selection_shard
from data_prep.selection.repositories import RUN, place_repositories, repository_records


@pytest.fixture
def corpus(tmp_path, files, take):
    content = {f"r{i:02d}/{j}.py": f"x = {i * j % 50}\n" * (j + 1) for i in range(40) for j in range(6)}
    content |= {f"r{i:02d}/m.js": f"let a = {i % 25};\n" for i in range(40)}
    files(tmp_path / "root", content)
    take(tmp_path / "root", shard_bytes=3000)
    deduplicate(tmp_path / "corpus", 1)
    return tmp_path / "corpus"


def decisions(corpus, name="main"):
    paths = [corpus / "selections" / name / shard.name for shard in list_shards(corpus)]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_selections_and_annotations_lie_where_their_rooms_say(corpus):
    assert selection_names(corpus) == []
    for name in ("b", "a"):
        select(corpus, name, SelectionConfig(rules=RULES))
    assert selection_names(corpus) == ["a", "b"]
    for shard in list_shards(corpus):
        rows = pq.read_metadata(shard).num_rows
        for place in (selection_shard(corpus, "b", shard), annotation_shard(corpus, "exact_dedup", shard)):
            assert pq.read_metadata(place).num_rows == rows
            assert place.relative_to(corpus).parts[0] in ("selections", "annotations")


RULES = (
    Rule(name="exact_duplicate", drop="exact_dedup.duplicate_of IS NOT NULL"),
    Rule(name="short", drop="size_bytes < 10"),
    Rule(name="also short", drop="size_bytes < 14 OR path = '5.py'"),
)


def test_the_waterfall_adds_up_and_agrees_with_the_files(corpus, rows):
    result = select(corpus, "main", SelectionConfig(rules=RULES, languages=("Python",)))
    found, documents = decisions(corpus), rows()
    assert [row["id"] for row in found] == [row["id"] for row in documents]
    for key in ("documents", "size_bytes"):
        total = sum(step[key] for step in result["dropped"]) + sum(side[key] for side in result["left"].values())
        assert result["documents_in"][key] == total
        for side in ("train", "held_out"):
            assert result["left"][side][key] == sum(entry[side][key] for entry in result["languages"].values())
    assert result["documents_in"]["size_bytes"] == sum(document["size_bytes"] for document in documents)
    assert [step["rule"] for step in result["dropped"]] == ["language", "exact_duplicate", "short", "also short"]
    assert all(step["documents"] for step in result["dropped"])

    order = {"language": 0, "exact_duplicate": 1, "short": 2, "also short": 3}
    duplicates = {
        row["id"]: row["duplicate_of"]
        for shard in list_shards(corpus)
        for row in pq.read_table(corpus / "annotations/exact_dedup" / shard.name).to_pylist()
    }
    for row, document in zip(found, documents, strict=True):
        drops = [
            document["language"] != "Python",
            duplicates[row["id"]] is not None,
            document["size_bytes"] < 10,
            document["size_bytes"] < 14 or document["path"] == "5.py",
        ]
        assert row["dropped_by"] == (list(order)[drops.index(True)] if any(drops) else None)
        assert (row["split"] is None) == any(drops)
    sides = {}
    for row, document in zip(found, documents, strict=True):
        if row["split"]:
            sides.setdefault(document["repository"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in sides.values())
    assert result["left"]["train"]["repositories"] + result["left"]["held_out"]["repositories"] == len(sides)


def test_no_text_is_on_both_sides(corpus, rows):
    select(corpus, "main", SelectionConfig(held_out=HeldOut(fraction=0.4)))
    texts = {"train": set(), "held_out": set(), None: set()}
    for row, document in zip(decisions(corpus), rows(), strict=True):
        texts[row["split"]].add(document["text"])
    assert texts["train"] and texts["held_out"]
    assert not texts["train"] & texts["held_out"]


def test_a_second_run_does_nothing_and_a_changed_rule_does(corpus):
    first = select(corpus, "main", SelectionConfig())
    times = {path: path.stat().st_mtime_ns for path in (corpus / "selections").rglob("*")}
    assert select(corpus, "main", SelectionConfig()) == first == read_selection(corpus, "main")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    other = select(corpus, "main", SelectionConfig(variant="file", rules=RULES))
    assert other["digest"] != first["digest"]
    assert other["left"]["train"]["documents"] < first["left"]["train"]["documents"]


def test_a_damaged_or_old_selection_is_not_read(corpus, tmp_path, files, take):
    select(corpus, "main", SelectionConfig())
    shard = corpus / "selections/main" / list_shards(corpus)[0].name
    shard.write_bytes(b"")
    with pytest.raises(DataError, match="unfinished or older"):
        read_selection(corpus, "main")
    select(corpus, "main", SelectionConfig())
    read_selection(corpus, "main")
    files(tmp_path / "root", {"new/a.py": "new = 1\n"})
    take(tmp_path / "root", shard_bytes=3000)
    with pytest.raises(DataError, match="unfinished or older"):
        read_selection(corpus, "main")
    with pytest.raises(DataError, match="annotation exact_dedup"):
        select(corpus, "main", SelectionConfig())
    deduplicate(corpus, 1)
    select(corpus, "main", SelectionConfig())
    assert len(list((corpus / "selections/main").glob("*.parquet"))) == len(list_shards(corpus))
    with pytest.raises(DataError, match="there is no selection 'other'"):
        read_selection(corpus, "other")


def test_a_selection_of_mixed_shards_is_not_read(corpus):
    select(corpus, "main", SelectionConfig())
    select(corpus, "other", SelectionConfig(rules=RULES))
    name = list_shards(corpus)[0].name
    for file in (name, f"{name}.json"):
        (corpus / "selections/main" / file).write_bytes((corpus / "selections/other" / file).read_bytes())
    with pytest.raises(DataError, match="unfinished or older"):
        read_selection(corpus, "main")


def test_an_annotation_of_changed_documents_is_refused(corpus, tmp_path, take):
    names = [shard.name for shard in list_shards(corpus)]
    (tmp_path / "root/r05/3.py").write_text("x = 1234\n")
    take(tmp_path / "root", shard_bytes=3000)
    assert [shard.name for shard in list_shards(corpus)] == names
    with pytest.raises(DataError, match="annotation exact_dedup is older"):
        select(corpus, "main", SelectionConfig())


@pytest.mark.parametrize(
    "sql", ["nonsense > 1", "size_bytes >", "path::INT > 3", "exact_dedup.nope", "1) FROM x", "count(*) > 1", "[1]"]
)
def test_bad_sql_names_its_rule(corpus, sql):
    config = SelectionConfig(rules=(Rule(name="fine", drop="size_bytes < 3"), Rule(name="the bad one", drop=sql)))
    with pytest.raises(DataError, match="rule 'the bad one': ") as caught:
        select(corpus, "main", config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("row_number() OVER (ORDER BY size_bytes) > 3", r"row_number\(...\) OVER looks at other documents"),
        ("repository IN (SELECT repository FROM documents WHERE path = 'm.js')", "a subquery over documents looks"),
        ("size_bytes > (SELECT avg(x) FROM (SELECT d.size_bytes AS x FROM documents AS d))", "a subquery over"),
    ],
)
def test_a_rule_looks_at_one_document(corpus, sql, said):
    with pytest.raises(DataError, match=f"rule 'the bad one': {said}.*one document at a time"):
        select(corpus, "main", SelectionConfig(rules=(Rule(name="the bad one", drop=sql),)))


def test_a_subquery_over_the_document_itself_or_over_another_file(corpus, tmp_path, rows):
    pq.write_table(pa.table({"name": ["r03", "r05"]}), tmp_path / "list.parquet")
    config = SelectionConfig(
        rules=(
            Rule(name="listed", drop=f"repository IN (SELECT name FROM '{tmp_path}/list.parquet')"),
            Rule(name="dots", drop="(SELECT count(*) FROM unnest(string_split(path, '.')) WHERE unnest = '1') > 0"),
        )
    )
    select(corpus, "main", config)
    for row, document in zip(decisions(corpus), rows(), strict=True):
        listed, dots = document["repository"] in ("r03", "r05"), document["path"].split(".").count("1") > 0
        assert row["dropped_by"] == ("listed" if listed else "dots" if dots else None)


def test_an_annotation_that_was_not_made(tmp_path, files, take):
    files(tmp_path / "root", {"a/x.py": "x = 1\n", "b/y.py": "y = 1\n"})
    take(tmp_path / "root")
    with pytest.raises(DataError, match=r"rule 'exact_duplicate': there is no annotation .*: `data dedup` makes it"):
        select(tmp_path / "corpus", "main", SelectionConfig())


def test_nothing_left(corpus):
    with pytest.raises(DataError, match="nothing is left: everything dropped 280"):
        select(corpus, "main", SelectionConfig(rules=(Rule(name="everything", drop="true"),)))


def test_null_is_no_reason_to_drop(corpus):
    result = select(corpus, "main", SelectionConfig(rules=(Rule(name="unstarred", drop="stars < 5"),)))
    assert result["dropped"][0]["documents"] == 0


def test_nothing_held_out(corpus):
    result = select(corpus, "main", SelectionConfig(held_out=HeldOut(fraction=0)))
    assert result["left"]["held_out"]["documents"] == 0 and not result["pinned"]


def test_one_repository_cannot_be_split(tmp_path, files, take):
    files(tmp_path / "root", {"a/x.py": "x = 1\n"})
    take(tmp_path / "root")
    with pytest.raises(DataError, match=r"1 repositories cannot be split.*set held_out.fraction to 0"):
        select(tmp_path / "corpus", "main", SelectionConfig(rules=()))
    result = select(tmp_path / "corpus", "main", SelectionConfig(rules=(), held_out=HeldOut(fraction=0)))
    assert result["left"]["train"]["documents"] == 1


def test_the_held_out_side_of_a_small_corpus_stays_when_it_grows(tmp_path, files, take, rows):
    config = SelectionConfig(rules=(), held_out=HeldOut(fraction=0.01, minimum_repositories=2))
    root = files(tmp_path / "root", {f"r{i}/a.py": f"x = {i}\n" for i in range(4)})
    take(root)
    pinned = select(tmp_path / "corpus", "main", config)["pinned"]
    assert len(pinned) == 2
    files(root, {f"s{i}/a.py": f"y = {i}\n" for i in range(60)})
    take(root)
    again = select(tmp_path / "corpus", "main", config)
    assert again["pinned"] == pinned
    held = {document["repository"] for row, document in zip(decisions(tmp_path / "corpus"), rows(), strict=True)
            if row["split"] == "held_out"}  # fmt: skip
    assert held == set(pinned) | {name for name in (f"s{i}" for i in range(60)) if config.held_out.holds_out(name)}
    fresh = select(tmp_path / "corpus", "fresh", config)
    assert fresh["left"]["held_out"]["repositories"] >= 2


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), PermissionError(13, "Access denied")])
def test_what_is_held_out_stays_when_it_cannot_be_read(tmp_path, files, take, monkeypatch, error):
    config = SelectionConfig(rules=(), held_out=HeldOut(fraction=0.01, minimum_repositories=2))
    root = files(tmp_path / "root", {f"r{i}/a.py": f"x = {i}\n" for i in range(4)})
    take(root)
    corpus = tmp_path / "corpus"
    pinned = select(corpus, "main", config)["pinned"]
    files(root, {f"s{i}/a.py": f"y = {i}\n" for i in range(60)})
    take(root)
    read = Path.read_bytes

    def failing(path):
        if path.name == "selection.json":
            raise error
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises(DataError, match=rf"selection.json cannot be read \({error.strerror}\)"):
            select(corpus, "main", config)
    path = corpus / "selections/main/selection.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    for use in (lambda: select(corpus, "main", config), lambda: read_selection(corpus, "main")):
        with pytest.raises(DataError, match=r"selection.json cannot be read .* restore it"):
            use()
    path.write_bytes(whole)
    assert select(corpus, "main", config)["pinned"] == pinned


NO_FAMILIES = pa.table(
    {"repository": pa.array([], pa.uint32()), "family": pa.array([], pa.binary(16)), "kept": pa.array([], pa.bool_())}
)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


@pytest.fixture
def sides(tmp_path):
    """sides(names, config, pinned) is ({name: held out}, pinned) of repositories that are left, in two shards."""

    def run(repositories, config, pinned=()):
        work = Path(tempfile.mkdtemp(dir=tmp_path))
        judged, outputs, parts = [], [], [repositories[::2], repositories[::2] + repositories[1::2]]
        for index, names in enumerate(parts):
            judged.append(work / f"{index}.names.arrow")
            with open(judged[-1], "wb") as stream:
                write_columns(stream, pa.table({"repository": pa.array(names, pa.string())}))
            output = work / f"{index}.arrow"
            found = repository_records(names, np.arange(len(names)), NO_FAMILIES, config.seed)
            write_side_run(side_path(output, RUN), found)
            outputs.append(output)
        decided = Output(tuple(outputs), ({"sha256": ""}, {"sha256": ""}))
        placed = place_repositories(config, pinned, decided, judged, Runner(1, 3, 1), work)
        held = [held_out_rows(placed.paths, i, np.arange(len(names))) for i, names in enumerate(parts)]
        assert held[0].tolist() == held[1].tolist()[: len(parts[0])]
        return dict(zip(parts[1], held[1].tolist(), strict=True)), placed.pinned

    return run


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.sets(names, min_size=2, max_size=12),
    new=st.sets(names, max_size=12),
    fraction=st.sampled_from([0.001, 0.05, 0.3, 0.6]),
    seed=st.integers(0, 2**31),
)
def test_more_repositories_move_no_other(sides, old, new, fraction, seed):
    config = HeldOut(fraction=fraction, seed=seed)
    try:
        before, pinned = sides(sorted(old), config)
    except DataError:  # every one of a few names can fall on one side
        return
    after, pinned_after = sides(sorted(old | new), config, pinned)
    assert {name: after[name] for name in old} == before
    assert pinned_after == pinned
    for name, held in after.items():
        assert held == (config.holds_out(name) or name in pinned)


def test_the_fraction_is_met_by_expectation():
    config = HeldOut(fraction=0.05)
    share = sum(config.holds_out(f"owner/repository-{i}") for i in range(20_000)) / 20_000
    assert 0.045 < share < 0.055


def test_config_from_yaml_and_overrides(tmp_path):
    path = tmp_path / "selection.yaml"
    path.write_text("languages: [Python, C++]\nheld_out: {fraction: 0.1}\n")
    config = load_config(path, {"rules": [{"name": "long", "drop": "size_bytes > 9"}], "held_out": {"seed": 7}})
    assert config.languages == ("Python", "C++")
    assert (config.held_out.fraction, config.held_out.seed) == (0.1, 7)
    assert [rule.name for rule in config.rules] == [*(rule.name for rule in SelectionConfig().rules), "long"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("langages: [C]", "langages"),
        ("languages: [Pyton]", "did you mean 'Python'"),
        ("held_out: {fraction: 2}", "held_out.fraction"),
        ("rules: [{name: language, drop: 'true'}]", "distinct"),
        ("rules: [{name: \"it's\", drop: 'true'}]", "rules.0.name"),
        ("rules: [{name: a, drop: 3}]", "rules.0.drop"),
        ("[1]", "a mapping"),
        ("{", "no YAML"),
    ],
)
def test_a_config_that_is_wrong_says_where(tmp_path, text, said):
    path = tmp_path / "selection.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../out", "", "a b", ".hidden"])
def test_a_name_that_is_no_name(corpus, name):
    with pytest.raises(DataError, match="selection name"):
        select(corpus, name, SelectionConfig())


def test_the_selection_is_json(corpus):
    select(corpus, "main", SelectionConfig())
    stored = json.loads((corpus / "selections/main/selection.json").read_text())
    assert stored["format"] == "data_prep.selection/2"
    rules = {rule["name"]: rule["drop"] for rule in stored["config"]["rules"]}
    assert rules == {
        "exact_duplicate": "exact_dedup.duplicate_of IS NOT NULL",
        "near_duplicate": "near_dedup.duplicate_of IS NOT NULL",
    }
    assert SelectionConfig.model_validate(stored["config"]).variant == "file"
