"""Ids are the same whoever encodes: on every document of this Python's standard library."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from data_prep.dedup.levels import deduplicate
from data_prep.importing import import_documents
from data_prep.select import load_config, select
from data_prep.sources.base import IGNORED_FOLDERS, ImportLimits, SourceSpec
from data_prep.texts import selected_texts
from tokenizer.check import compare
from tokenizer.train import TrainSettings, train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The standard library with its tests, which hold every encoding trouble that Python was ever tested for."""
    folder = tmp_path_factory.mktemp("standard_library") / "corpus"
    source = SourceSpec("folders", sysconfig.get_path("stdlib"), "standard_library")
    import_documents([source], folder, ImportLimits(ignored_folders=IGNORED_FOLDERS | {"site-packages"}), workers=2)
    deduplicate(folder, workers=2)
    select(folder, "main", load_config())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sentencepiece", "byte_bpe"])
def test_encoders_agree_on_the_standard_library(kind: str, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    train(selected_texts(corpus, "main", "train"), out, TrainSettings(8192, kind, max_chars=6_000_000))
    texts = [text for split in ("train", "held_out") for text in selected_texts(corpus, "main", split)]
    assert len(texts) > 1000
    report = compare(out, texts)
    assert report.texts == len(texts)
    assert report.agree, report
