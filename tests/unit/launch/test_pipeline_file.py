"""Pipeline files, and the scripts of their steps."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.pipeline import load_pipeline, pipeline_scripts
from megatron_seed.errors import SeedError

CLUSTER = "gpus_per_node: 0\nprocesses_per_node: 2\npartition: cpu\n"
GOOD = """
folder: pipe
steps:
  - {name: tokenise, cluster: c.yaml, command: [megatron-seed, data, build, "my corpus", out, --tokenizer, tok]}
  - name: train
    cluster: c.yaml
    time: 3-00
    after: [tokenise]
    train: {recipe: quickstart, nodes: 1, overrides: ["name=it's"]}
  - {name: export, cluster: c.yaml, after: [train], command: [megatron-seed, hf, export, runs/x, out]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CLUSTER)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(text)
    return path


def test_scripts_of_all_steps(folder: Path) -> None:
    scripts = pipeline_scripts(load_pipeline(write(folder, GOOD)))
    assert list(scripts) == ["tokenise", "train", "export"]
    assert f"exec {sys.executable} -m launch data build 'my corpus' out --tokenizer tok\n" in scripts["tokenise"]
    assert "#SBATCH --time=3-00\n" in scripts["train"] and "launch.slurm.supervise" in scripts["train"]
    if shutil.which("shellcheck"):
        for name, text in scripts.items():
            (folder / f"{name}.sh").write_text(text)
            done = subprocess.run(["shellcheck", f"{name}.sh"], capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("after: [tokenise]", "after: [tokenize]"), "step train waits for tokenize, which is no step before it"),
        (("after: [tokenise]", "after: [export]"), "step train waits for export, which is no step before it"),
        (("name: export", "name: train"), "two steps are named train"),
        (("    train: {", "    trian: {"), r"pipeline.yaml:9: unknown key steps.1.trian; did you mean train\?"),
        (("nodes: 1", "node: 1"), r"unknown key steps.1.train.node; did you mean nodes\?"),
        (("command: [megatron-seed, hf, export, runs/x, out]", "command: []"), "give either `command` or `train`"),
        (("name: export", "name: ../export"), "steps.2.name"),
    ],
)
def test_refusals(folder: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(SeedError, match=said):
        load_pipeline(write(folder, GOOD.replace(*change)))
