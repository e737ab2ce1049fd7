"""The data stages themselves as job arrays: the bytes that this machine makes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from cluster import Cluster

from data_prep.annotate import AnnotatorSpec, annotate
from data_prep.build import build
from data_prep.dedup.exact import annotate_exact
from data_prep.dedup.near import annotate_near
from data_prep.engines.base import Engine
from data_prep.engines.slurm import SlurmEngine
from data_prep.importing import ImportLimits, SourceSpec, import_documents
from data_prep.select import SelectionConfig, select
from tokenizer.train import TrainSettings, train

pytestmark = pytest.mark.slow


def run(folder: Path, table: Path, tokenizer: Path, engine: Engine | None) -> dict[str, bytes]:
    """All stages on an engine; what they wrote, by name."""
    corpus = folder / "corpus"
    import_documents([SourceSpec("jsonl", str(table), "a")], corpus, ImportLimits(shard_bytes=20_000), 1, engine=engine)
    annotate_exact(corpus, 1)
    annotate_near(corpus, 1, partitions=1 if engine is None else 3, engine=engine)
    annotate(corpus, [AnnotatorSpec.of("signs")], engine=engine)
    select(corpus, "main", SelectionConfig(rules=({"name": "near", "drop": "near_dedup.duplicate_of IS NOT NULL"},)))
    build(corpus, "main", tokenizer, folder / "build", "train", [0.5], [0], 1, 1, engine=engine)
    wanted = (".parquet", ".bin", ".idx")
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.suffix in wanted}


def test_stages_on_slurm_write_the_bytes_of_a_local_run(on_cluster: Cluster, tmp_path: Path) -> None:
    draw = random.Random(4)
    words = [f"word{index}" for index in range(2000)]
    table = tmp_path / "a.jsonl"
    with table.open("w") as stream:
        for number in range(60):
            text = draw.choices(words, k=120)
            for copy in range(draw.choice([1, 1, 2, 3])):
                text[draw.randrange(120)] = "edited"
                path, content = f"{number}-{copy}.py", " ".join(text)
                stream.write(json.dumps({"repo": f"r{number % 7}", "path": path, "content": content}) + "\n")
    train([Path(random.__file__).read_text()], tmp_path / "tokenizer", TrainSettings(520, "byte_bpe"))
    here = run(tmp_path / "here", table, tmp_path / "tokenizer", None)
    engine = SlurmEngine(tmp_path / "jobs", memory_gb=0.5, time_minutes=5, poll_s=0.3)
    assert len([name for name in here if name.startswith("corpus/documents/")]) > 3
    assert run(tmp_path / "there", table, tmp_path / "tokenizer", engine) == here
