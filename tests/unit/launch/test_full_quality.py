"""Whom `quickstart --full` asks for ratings: an endpoint of the user's, or the stand-in, which is said to be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.dedup.levels import deduplicate
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.oracle.scores import read_scores
from launch import quickstart_command
from launch.full import stand_in
from launch.full.quality import Sample, ask
from launch.full.settings import FullConfig
from megatron_seed.errors import SeedError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    for number in range(8):
        (folder / f"r{number}").mkdir()
        body = "\n".join(f"def f{n}(value):\n    return value + {n * number}\n" for n in range(3 + number))
        (folder / f"r{number}" / "module.py").write_text(body)
    corpus = tmp_path_factory.mktemp("corpus") / "corpus"
    import_documents([SourceSpec("folders", str(folder), "code")], corpus, ImportLimits(), 1)
    deduplicate(corpus, 1, levels=("exact", "near"))
    return corpus


def test_without_an_endpoint_the_stand_in_answers_and_is_named(corpus: Path) -> None:
    said = ask(FullConfig(), corpus, "own", Sample(6, None, "code_quality"))
    assert said["stand_in"] is True and said["model"] == stand_in.MODEL
    assert said["scored"] == said["rows"] == 6 == sum(said["histogram"])


def test_an_endpoint_of_the_users_is_asked_for_its_model(corpus: Path) -> None:
    with stand_in.serve() as url:
        said = ask(FullConfig(oracle_url=url, oracle_model="large"), corpus, "theirs", Sample(6, None, "code_quality"))
    assert said["stand_in"] is False and said["model"] == "large"
    assert set(read_scores(corpus, "theirs")["model"].to_pylist()) == {"large"}


def test_labels_are_counted(corpus: Path) -> None:
    said = ask(FullConfig(), corpus, "kinds", Sample(5, None, "site_category"))
    assert sum(said["labels"].values()) == 5 and said["histogram"] is None


@pytest.mark.parametrize("options", [{"oracle": "http://127.0.0.1:9/v1"}, {"oracle_model": "large"}])
def test_an_endpoint_and_its_model_belong_together(options: dict[str, str]) -> None:
    with pytest.raises(SeedError, match="--oracle and --oracle-model belong together"):
        quickstart_command.quickstart(full=True, **options)


def test_a_key_without_an_endpoint_is_refused() -> None:
    with pytest.raises(SeedError, match="--oracle-key-env goes with --oracle:"):
        quickstart_command.quickstart(full=True, oracle_key_env="KEY")


@pytest.mark.parametrize(
    ("options", "name"),
    [({"history": Path("x")}, "--history"), ({"oracle": "u"}, "--oracle"), ({"pages": 3}, "--pages")],
)
def test_what_belongs_to_the_full_one_is_refused_without_it(options: dict, name: str) -> None:
    with pytest.raises(SeedError, match=f"^{name} goes with --full$"):
        quickstart_command.quickstart(**options)
