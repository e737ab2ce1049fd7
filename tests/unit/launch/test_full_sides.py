"""What one selection of `quickstart --full` holds out is in none of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.dedup.levels import deduplicate
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.select import SelectionConfig, select
from launch.full.github import one_side
from launch.full.sides import Sides, sides_of


def module(words: int, seed: int) -> str:
    return "\n".join(f"def function_{seed}_{n}(value):\n    return value * {n * seed + 1}" for n in range(words))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Twelve repositories; each has a file of its own, one that all share, and one that is nearly the next one's."""
    for number in range(12):
        folder = tmp_path / "code" / f"it's {number}"
        folder.mkdir(parents=True)
        (folder / "own.py").write_text(module(30, 100 + number))
        (folder / "same.py").write_text(module(30, 7))
        if number < 4:  # one repository would be left of each pair, were they nearly equal as a whole
            (folder / "near.py").write_text(module(60, 50 + number // 2) + f"\nNUMBER = {number}\n")
    corpus = tmp_path / "corpus"
    import_documents([SourceSpec("folders", str(tmp_path / "code"), "code")], corpus, ImportLimits(), 1)
    deduplicate(corpus, 1)
    return corpus


def documents(corpus: Path, name: str, split: str) -> set[tuple[str, str]]:
    from data_prep.report.source import open_source

    with open_source(corpus, name, 1) as source:
        return {
            (row["repository"], row["path"])
            for row in source.rows("SELECT repository, path FROM files WHERE split = ?", [split])
        }


def test_the_other_selections_keep_to_the_split(corpus: Path) -> None:
    asked = {"variant": "file", "rules": [], "held_out": {"fraction": 0.3, "minimum_repositories": 3}}
    select(corpus, "kept", SelectionConfig.model_validate(asked))
    sides = sides_of(corpus, "kept")
    held_out = set(sides.repositories)
    assert len(held_out) >= 3 and held_out == {name for name, _ in documents(corpus, "kept", "held_out")}

    whole = SelectionConfig.model_validate({**asked, "variant": "repository"})
    select(corpus, "train", one_side(whole, sides.to_train()))
    select(corpus, "held_out", one_side(whole, sides.to_hold_out()))
    trained, kept_apart = documents(corpus, "train", "train"), documents(corpus, "held_out", "train")
    assert {name for name, _ in kept_apart} == held_out
    assert {name for name, _ in trained} == {f"it's {number}" for number in range(12)} - held_out
    # `same.py` equals a held-out file, so it is trained on nowhere.
    assert not any(path == "same.py" for _, path in trained) and any(path == "same.py" for _, path in kept_apart)


def test_what_nearly_repeats_a_held_out_file_is_not_trained_on(corpus: Path) -> None:
    asked = {"variant": "file", "rules": [], "held_out": {"fraction": 0.3, "minimum_repositories": 3}}
    select(corpus, "kept", SelectionConfig.model_validate(asked))
    sides = sides_of(corpus, "kept")
    whole = SelectionConfig.model_validate({**asked, "variant": "repository"})
    select(corpus, "train", one_side(whole, sides.to_train()))
    near = {name for name, path in documents(corpus, "train", "train") if path == "near.py"}
    for first in (0, 2):
        pair = {f"it's {first}", f"it's {first + 1}"}
        assert not near & pair or not set(sides.repositories) & pair


def test_a_split_without_anything_drops_nothing(corpus: Path) -> None:
    empty = Sides((), (), ())
    everything = SelectionConfig.model_validate({"variant": None, "rules": [], "held_out": {"fraction": 0}})
    select(corpus, "all", one_side(everything, empty.to_train()))
    assert len(documents(corpus, "all", "train")) == 28
