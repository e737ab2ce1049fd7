"""Two small tokenizers of each test session, trained on files of the standard library."""

import sysconfig
from pathlib import Path

import pytest

from tokenizer.encode import Encoder
from tokenizer.train import TrainSettings, train

KINDS = ("sentencepiece", "byte_bpe")
VOCAB_SIZE = 4096


def library_texts(pattern: str) -> list[str]:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob(pattern))
    return [file.read_bytes().decode() for file in files]


@pytest.fixture(scope="session")
def training_texts() -> list[str]:
    return library_texts("[a-f]*.py") + library_texts("asyncio/*.py") + ["CC\t:= cc\n\t\t@echo\ta\n" * 200]


@pytest.fixture(scope="session")
def other_texts() -> list[str]:
    return library_texts("json/*.py") + library_texts("[t-z]*.py") + library_texts("email/*.py")


@pytest.fixture(scope="session")
def directories(training_texts, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        train(training_texts, folder / kind, TrainSettings(VOCAB_SIZE, kind))
    return {kind: folder / kind for kind in KINDS}


@pytest.fixture(params=KINDS)
def encoder(request, directories) -> Encoder:
    return Encoder.load(directories[request.param])
