"""Classifiers over a corpus: labels, sides, thresholds, figures, the annotation, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data_prep.annotations import current_annotation
from data_prep.classify.apply import apply_classifier
from data_prep.classify.labels import SIDES, find_labelled, label_source
from data_prep.classify.measure import Judged, by_site, measure_labels, measure_recall
from data_prep.classify.model import TextClassifier, describe, digest
from data_prep.classify.settings import ClassifyConfig, load_config
from data_prep.classify.train import check_classifier, train_classifier
from data_prep.cli import app
from data_prep.documents import corpus_fingerprint, list_shards
from data_prep.errors import DataError
from data_prep.select import SelectionConfig, select

REPOSITORIES = 30
KINDS = ("code", "other", "recipe")


def text_of(repository: int, number: int) -> tuple[str, str]:
    """(path, text): code, prose or a recipe, in turn."""
    if number % 3 == 0:
        return f"m{number}.py", f"def f{repository}(x):\n    return x + {number} * {repository}\n"
    if number % 3 == 1:
        return f"p{number}.md", f"The old sailor of town {repository} told story {number} of a long voyage at sea.\n"
    return f"r{number}.rst", f"Stir {number} eggs with {repository} spoons of sugar, then bake until they are brown.\n"


CONFIG = {
    "labels": {"code": "language = 'Python'", "other": "language <> 'Python'"},
    "positive": "code",
    "minimum_train": 20,
    "minimum_evaluated": 4,
    "split": {"train": 0.5, "validation": 0.25},
    "model": {"dim": 4, "epochs": 20, "min_count": 1},
}
MANY = {
    **{key: value for key, value in CONFIG.items() if key not in ("labels", "positive")},
    "label": "CASE language WHEN 'Python' THEN 'code' WHEN 'Markdown' THEN 'other' ELSE 'recipe' END",
}


def config(**changes) -> ClassifyConfig:
    return ClassifyConfig.model_validate({**CONFIG, **changes})


@pytest.fixture
def corpus(files: Callable, take: Callable, tmp_path: Path) -> Path:
    """30 repositories of 9 files each, three of each kind, in several shards."""
    written = {
        f"r{repository}/{path}": text
        for repository in range(REPOSITORIES)
        for path, text in (text_of(repository, number) for number in range(9))
    }
    take(files(tmp_path / "code", written), "folders", shard_bytes=6000)
    return tmp_path / "corpus"


def write_yaml(folder: Path, values: dict) -> Path:
    path = folder / "classify.yaml"
    path.write_text(json.dumps(values))
    return path


def annotation(corpus: Path, name: str) -> list[dict]:
    found = current_annotation(corpus, name, corpus_fingerprint(corpus))
    return [row for path, _ in found for row in pq.read_table(path).to_pylist()]


def labelled(corpus: Path, asked: ClassifyConfig) -> tuple[dict, list[tuple]]:
    with duckdb.connect() as database:
        counts = find_labelled(database, label_source(corpus, asked), asked)
        columns = "_shard, _row, repository, label, side"
        return counts, database.execute(f"SELECT {columns} FROM chosen ORDER BY ALL").fetchall()


class TestLabels:
    def test_the_first_that_is_true_counts_and_others_are_not_used(self, corpus: Path) -> None:
        asked = config(labels={"code": "path LIKE '%.py'", "other": "path LIKE '%.py' OR path LIKE '%.md'"})
        counts, _ = labelled(corpus, asked)
        assert counts["labelled"] == {"code": 90, "other": 90}
        assert counts["left_out"]["unlabelled"] == 90

    def test_a_site_is_on_one_side_and_stays_there(self, corpus: Path) -> None:
        counts, rows = labelled(corpus, config())
        sides = {(repository, side) for *_, repository, _, side in rows}
        assert len(sides) == len({repository for repository, _ in sides}) == REPOSITORIES
        assert sum(counts["repositories"].values()) == REPOSITORIES
        others = {(row[2], row[4]) for row in labelled(corpus, config(labels=CONFIG["labels"], recall=0.5))[1]}
        assert others == sides
        assert {(row[2], row[4]) for row in labelled(corpus, config(split={**CONFIG["split"], "seed": 5}))[1]} != sides

    def test_equal_texts_are_on_one_side_only(self, files: Callable, take: Callable, tmp_path: Path) -> None:
        written = {f"r{n}/a.py": "x = 1\n" * (1 + n % 2) for n in range(40)}
        written |= {f"r{n}/{k}.md": f"Prose {n} {k} of its own kind.\n" for n in range(40) for k in range(2)}
        written |= {f"r{n}/b{n}.py": f"y = {n}\n" for n in range(40)}
        take(files(tmp_path / "code", written), "folders")
        counts, rows = labelled(tmp_path / "corpus", config(minimum_train=4, minimum_evaluated=1))
        assert counts["left_out"]["copies"] == 38
        assert len([row for row in rows if row[3] == "code"]) == 42

    def test_equal_texts_with_two_labels_have_none(self, files: Callable, take: Callable, tmp_path: Path) -> None:
        written = {
            f"r{n}/{k}.{end}": f"Text {n} {k} {end}.\n" for n in range(40) for k in (1, 2) for end in ("py", "md")
        }
        take(files(tmp_path / "code", written | {"r1/c.py": "same\n", "r2/c.md": "same\n"}), "folders")
        counts, _ = labelled(tmp_path / "corpus", config(minimum_train=4, minimum_evaluated=1))
        assert counts["left_out"]["contradictory"] == 2

    def test_caps_take_those_with_the_smallest_hashes(self, corpus: Path) -> None:
        counts, rows = labelled(corpus, config(documents_per_label=22, evaluated_documents=40))
        assert counts["sides"]["train"] == {"code": 22, "other": 22}
        assert sum(counts["sides"]["test"].values()) == 40
        everything = set(labelled(corpus, config())[1])
        assert set(rows) < everything
        assert counts["left_out"]["over_cap"] == len(everything) - len(rows)

    @pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
    @pytest.mark.parametrize("key", ["id", "site"])
    def test_tables(self, corpus: Path, tmp_path: Path, rows: Callable, ending: str, key: str) -> None:
        documents = rows(corpus)
        if key == "id":
            said = {row["id"]: "code" if row["path"].endswith(".py") else "other" for row in documents}
        else:
            said = {f"r{n}": ("code", "other")[n % 2] for n in range(REPOSITORIES)}
        path = tmp_path / f"labels.{ending}"
        table = pa.table({key: [*said, "nobody"], "label": [*said.values(), "code"]})
        with duckdb.connect() as database:
            database.register("given", table)
            form = "json" if ending == "jsonl" else ending
            database.execute(f"COPY given TO '{path}' (FORMAT {form})")
        counts, _ = labelled(corpus, config(labels={}, table=path))
        assert counts["left_out"]["unused_rows"] == 1
        assert sum(counts["labelled"].values()) == len(documents)

    def test_tables_that_are_none(self, corpus: Path, tmp_path: Path) -> None:
        def refused(name: str, text: str, why: str) -> None:
            (tmp_path / name).write_text(text)
            with pytest.raises(DataError, match=why):
                labelled(corpus, config(labels={}, table=tmp_path / name))

        refused("a.csv", "id,name\n1,2\n", "columns label and one of id, site, repository are expected, not id, name")
        refused("b.csv", "site,label\nr1,code\nr1,other\n", "1 keys have two labels, such as r1: code, other")
        refused("c.parquet", "no parquet", "is no table that can be read")
        refused("d.txt", "", "a table ends in .parquet")
        with pytest.raises(DataError, match="cannot be read"):
            labelled(corpus, config(labels={}, table=tmp_path / "none.csv"))

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"labels": {"code": "languag = 1", "other": "true"}}, r"label 'code': .*languag"),
            ({"labels": {"code": "web.has_code", "other": "true"}}, r"label 'code': .*web"),
            ({"labels": {"code": "path", "other": "true"}}, r"label 'code': Conversion Error"),
            ({"labels": {"code": "false", "other": "true"}}, r"label 'code': 0 documents on the train side of 0 label"),
            ({"minimum_train": 100}, r"label 'code': \d+ documents on the train side of 90 labelled; at least 100"),
            ({"minimum_evaluated": 80}, r"label 'code': \d+ documents on the validation side of 90"),
        ],
    )
    def test_labels_that_cannot_be_had(self, corpus: Path, changes: dict, why: str) -> None:
        with pytest.raises(DataError, match=why) as failure:
            labelled(corpus, config(**changes))
        assert "\n" not in str(failure.value)


class TestConfig:
    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"table": "a.csv"}, "labels and table are given"),
            ({"labels": {}}, "none is given"),
            ({"positive": "cod"}, "positive 'cod' is none of the labels code, other"),
            ({"labels": {"a": "true", "b": "true", "code": "true"}}, "needs two labels, 3 are given"),
            ({"labels": {"code": "true"}}, "two are needed at least"),
            ({"labels": {"code": " ", "b": "true"}}, "label 'code' needs SQL"),
            ({"split": {"train": 0.9, "validation": 0.1}}, "leave nothing to test on"),
            ({"per": "repository"}, "so it has no `positive`"),
            ({"recal": 0.9}, "did you mean 'recall'"),
            ({"model": {"dimm": 3}}, "did you mean 'dim'"),
        ],
    )
    def test_what_is_refused(self, tmp_path: Path, changes: dict, why: str) -> None:
        with pytest.raises(DataError, match=why):
            load_config(write_yaml(tmp_path, {**CONFIG, **changes}))


class TestTraining:
    def test_a_recall_classifier(self, corpus: Path, tmp_path: Path, snapshot: Callable) -> None:
        about = train_classifier(corpus, tmp_path / "model", config())
        found = about["measured"]["recall"]
        assert found["validation"]["recall"] >= 0.99
        assert found["test"]["recall"] >= 0.9 and found["test"]["precision"] > 2 * found["test"]["base_rate"]
        low, high = found["test"]["intervals"]["recall"]
        assert low <= found["test"]["recall"] <= high
        assert describe(tmp_path / "model")["threshold"] == about["threshold"]
        page = (tmp_path / "model.report" / "report.html").read_text()
        assert "Base rate" in page and "<svg" in page
        assert not (tmp_path / "model.work").exists()
        before = snapshot(tmp_path)
        assert train_classifier(corpus, tmp_path / "model", config())["made_now"] is False
        assert snapshot(tmp_path) == before
        again = train_classifier(corpus, tmp_path / "again", config(), workers=2)
        assert (again["model"], again["measured"]) == (about["model"], about["measured"])
        assert train_classifier(corpus, tmp_path / "model", config(recall=0.5))["made_now"] is True

    def test_figures_are_those_of_the_annotation(self, corpus: Path, tmp_path: Path, rows: Callable) -> None:
        about = train_classifier(corpus, tmp_path / "model", config())
        apply_classifier(corpus, tmp_path / "model", "code_page")
        _, chosen = labelled(corpus, config())
        documents, said = rows(corpus), annotation(corpus, "code_page")
        test = {repository for *_, repository, _, side in chosen if SIDES[side] == "test"}
        own = [
            (row["path"].endswith(".py"), answer["recalled"])
            for row, answer in zip(documents, said, strict=True)
            if row["repository"] in test
        ]
        found = about["measured"]["recall"]["test"]
        assert len(own) == found["documents"]
        assert sum(recalled for _, recalled in own) == found["recalled"]
        assert sum(recalled and positive for positive, recalled in own) == found["found"]

    def test_a_folder_of_something_else_is_left_alone(self, corpus: Path, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "thesis.txt").write_text("mine")
        with pytest.raises(DataError, match="is there and is no classifier"):
            train_classifier(corpus, tmp_path / "model", config())

    def test_a_run_that_broke_off_leaves_the_older_model(self, corpus: Path, tmp_path: Path, monkeypatch) -> None:
        train_classifier(corpus, tmp_path / "model", config())
        before = describe(tmp_path / "model")
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr("data_prep.classify.model.write_json", lambda *_: (_ for _ in ()).throw(RuntimeError()))
            train_classifier(corpus, tmp_path / "model", config(recall=0.5, model={**CONFIG["model"], "dim": 8}))
        assert describe(tmp_path / "model") == before
        TextClassifier.load(tmp_path / "model")
        about = train_classifier(corpus, tmp_path / "model", config(recall=0.5, model={**CONFIG["model"], "dim": 8}))
        assert about["made_now"] and len(list((tmp_path / "model").iterdir())) == 2

    @pytest.mark.parametrize("lost", ["write_page", "page.write_json"])
    def test_a_report_that_broke_off_is_written(self, corpus: Path, tmp_path: Path, monkeypatch, lost: str) -> None:
        train_classifier(corpus, tmp_path / "model", config())
        module = "data_prep.classify.train" if lost == "write_page" else "data_prep.classify"
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(f"{module}.{lost}", lambda *_: (_ for _ in ()).throw(RuntimeError()))
            train_classifier(corpus, tmp_path / "model", config(recall=0.5))
        about = train_classifier(corpus, tmp_path / "model", config(recall=0.5))
        report = json.loads((tmp_path / "model.report" / "report.json").read_text())
        assert report["inputs"] == about["inputs"]

    def test_many_labels(self, corpus: Path, tmp_path: Path) -> None:
        about = train_classifier(corpus, tmp_path / "model", ClassifyConfig.model_validate(MANY))
        found = about["measured"]["test"]
        assert sorted(about["labels"]) == sorted(KINDS)
        assert found["accuracy"] > 0.9 and found["majority"] < 0.5
        assert np.array(found["confusion"]).sum() == found["documents"]
        assert "recall" not in about["measured"] and "threshold" not in about

    def test_check_on_another_corpus(self, corpus: Path, tmp_path: Path, files: Callable, take: Callable) -> None:
        about = train_classifier(corpus, tmp_path / "model", config())
        same = check_classifier(corpus, tmp_path / "model", tmp_path / "check")
        assert same["measured"]["recall"]["test"] == about["measured"]["recall"]["test"]
        shutil.move(corpus, tmp_path / "first")
        written = {f"x{n}/a.py": f"def g(y):\n    return y + {n}\n" for n in range(12)}
        take(files(tmp_path / "new", written | {"x1/b.md": "A voyage at sea, told by sailors.\n"}), "folders")
        found = check_classifier(tmp_path / "corpus", tmp_path / "model", tmp_path / "check", every=True)
        assert found["measured"]["recall"]["test"]["documents"] == 13


class TestApply:
    def test_the_annotation(self, corpus: Path, tmp_path: Path, rows: Callable, snapshot: Callable) -> None:
        about = train_classifier(corpus, tmp_path / "model", config())
        result = apply_classifier(corpus, tmp_path / "model", "code_page", workers=2)
        said = annotation(corpus, "code_page")
        classifier = TextClassifier.load(tmp_path / "model")
        documents = rows(corpus)
        expected = classifier.probabilities([row["text"] for row in documents])
        number = classifier.labels.index("code")
        assert [row["probability"] for row in said] == pytest.approx(expected[:, number].tolist(), abs=0)
        assert [row["recalled"] for row in said] == (expected[:, number] >= about["threshold"]).tolist()
        assert [row["id"] for row in said] == [row["id"] for row in documents]
        assert result["counts"]["recalled"] == sum(row["recalled"] for row in said)
        assert sum(result["labels"].values()) == len(documents)
        manifest = json.loads(next((corpus / "annotations" / "code_page").glob("*.json")).read_text())
        assert manifest["annotator"]["settings"]["digest"] == digest(describe(tmp_path / "model"))
        before = snapshot(corpus / "annotations")
        assert apply_classifier(corpus, tmp_path / "model", "code_page")["shards_made"] == 0
        shutil.rmtree(corpus / "annotations" / "code_page")
        apply_classifier(corpus, tmp_path / "model", "code_page", workers=1)
        assert snapshot(corpus / "annotations") == before

    def test_another_model_makes_it_again_and_a_moved_one_does_not(self, corpus: Path, tmp_path: Path) -> None:
        train_classifier(corpus, tmp_path / "model", config())
        assert apply_classifier(corpus, tmp_path / "model", "code_page")["shards_made"] > 1
        shutil.move(tmp_path / "model", tmp_path / "moved")
        assert apply_classifier(corpus, tmp_path / "moved", "code_page")["shards_made"] == 0
        train_classifier(corpus, tmp_path / "moved", config(model={**CONFIG["model"], "dim": 8}))
        assert apply_classifier(corpus, tmp_path / "moved", "code_page")["shards_made"] > 1

    def test_a_selection_keeps_what_is_recalled(self, corpus: Path, tmp_path: Path) -> None:
        train_classifier(corpus, tmp_path / "model", config())
        result = apply_classifier(corpus, tmp_path / "model", "code_page")
        rule = {"name": "not recalled", "drop": "NOT code_page.recalled"}
        left = select(corpus, "recalled", SelectionConfig.model_validate({"rules": [rule]}))["left"]
        assert sum(side["documents"] for side in left.values()) == result["counts"]["recalled"]

    def test_a_model_of_sites_gives_a_site_one_label(self, corpus: Path, tmp_path: Path, rows: Callable) -> None:
        table = tmp_path / "sites.csv"
        table.write_text("site,label\n" + "".join(f"r{n},{'even' if n % 2 else 'odd'}\n" for n in range(REPOSITORIES)))
        asked = {**MANY, "label": None, "table": table, "per": "repository"}
        about = train_classifier(corpus, tmp_path / "model", ClassifyConfig.model_validate(asked))
        assert about["measured"]["test"]["by_site"]["documents"] == about["measured"]["test"]["by_site"]["sites"]
        result = apply_classifier(corpus, tmp_path / "model", "site", workers=2)
        said, each = annotation(corpus, "site"), annotation(corpus, "site_each")
        sites: dict[str, list[int]] = {}
        for place, row in enumerate(rows(corpus)):
            sites.setdefault(row["repository"], []).append(place)
        assert len(sites) == REPOSITORIES
        for places in sites.values():
            mean = np.mean([each[place]["probabilities"] for place in places], axis=0)
            for place in places:
                assert said[place]["documents"] == len(places)
                assert said[place]["label"] == about["labels"][int(mean.argmax())]
                assert said[place]["probability"] == pytest.approx(float(mean.max()), abs=1e-5)
        assert result["shards_made"] > 1
        assert apply_classifier(corpus, tmp_path / "model", "site")["shards_made"] == 0
        with pytest.raises(DataError, match="--annotation: an annotation cannot be called 'exact_dedup'"):
            apply_classifier(corpus, tmp_path / "model", "exact_dedup")

    def test_what_another_step_made_is_not_lost(self, corpus: Path, tmp_path: Path) -> None:
        from data_prep.annotate import AnnotatorSpec, annotate

        train_classifier(corpus, tmp_path / "model", config())
        annotate(corpus, [AnnotatorSpec("signs")])
        with pytest.raises(DataError, match="annotation signs was made by another step"):
            apply_classifier(corpus, tmp_path / "model", "signs")
        with pytest.raises(DataError, match="cannot be called 'No Name'"):
            apply_classifier(corpus, tmp_path / "model", "No Name")
        with pytest.raises(DataError, match="--annotation: an annotation cannot be called 'exact_dedup'"):
            apply_classifier(corpus, tmp_path / "model", "exact_dedup")

    def test_a_damaged_model_ends_in_one_line(self, corpus: Path, tmp_path: Path) -> None:
        about = train_classifier(corpus, tmp_path / "model", config())
        path = tmp_path / "model" / about["model"]["file"]
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"cannot be started: .* is not the file that") as failure:
            apply_classifier(corpus, tmp_path / "model", "code_page")
        assert "\n" not in str(failure.value)


class TestFigures:
    def judged(self) -> Judged:
        probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3], [0.1, 0.9], [0.4, 0.6]], np.float32)
        places = np.stack([np.zeros(6, np.int64), np.arange(6)], axis=1)
        return Judged(("a", "b"), np.array([0, 0, 0, 1, 1, 1]), probabilities, np.array([0, 0, 1, 1, 2, 2]), places)

    def test_many_labels(self) -> None:
        found = measure_labels(self.judged())
        assert found["confusion"] == [[2, 1], [1, 2]]
        assert (found["accuracy"], found["majority"], found["sites"]) == (4 / 6, 0.5, 3)
        assert found["labels"][0] == {"label": "a", "documents": 3, "precision": 2 / 3, "recall": 2 / 3}

    def test_by_site_is_a_row_for_each_site_and_label_in_it(self) -> None:
        found = by_site(self.judged())
        assert found.sites.tolist() == [0, 1, 1, 2] and found.true.tolist() == [0, 0, 1, 1]
        assert found.probabilities[:, 0].tolist() == pytest.approx([0.75, 0.45, 0.45, 0.25])

    def test_recall(self) -> None:
        found = measure_recall(self.judged(), "b", 0.6)
        assert (found["recalled"], found["found"], found["recall"], found["positive_sites"]) == (3, 2, 2 / 3, 2)
        assert found["intervals"]["recall"][0] <= 0.25
        assert measure_recall(self.judged(), "b", 0.6) == found


def test_the_commands(corpus: Path, tmp_path: Path) -> None:
    path = write_yaml(tmp_path, CONFIG)
    model, runner = str(tmp_path / "model"), CliRunner()

    def run(*words: str) -> str:
        result = runner.invoke(app, ["classify", *words])
        assert result.exit_code == 0, result.output
        return result.output

    said = run("train", str(corpus), model, "--config", str(path), "--set", "model.dim=8")
    assert "trained on code" in said and "recall" in said and "at a base rate of 3" in said
    assert describe(tmp_path / "model")["settings"]["dim"] == 8
    said = run("apply", str(corpus), model, "--annotation", "code_page")
    assert "270 documents" in said and "recalled" in said
    assert "code: recall" in run("check", str(corpus), model)
    assert len(list_shards(corpus)) > 1
