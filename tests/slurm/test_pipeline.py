"""Jobs of a pipeline wait for each other on a real Slurm."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from cluster import Cluster
from training_jobs import write_settings

from launch.pipeline import Submitted, load_pipeline, submit_pipeline

pytestmark = pytest.mark.slow


def submit(tmp_path: Path, steps: list[dict]) -> dict[str, Submitted]:
    cluster = str(write_settings(tmp_path / "cluster.yaml"))
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"folder": "pipe", "steps": [{"cluster": cluster, **step} for step in steps]}))
    return {submitted.step: submitted for submitted in submit_pipeline(load_pipeline(file))}


def states(cluster: Cluster, submitted: Mapping[str, Submitted]) -> dict[str, str]:
    """Once none of them waits or runs."""
    deadline = time.monotonic() + 120
    while True:
        found = {
            name: cluster.run("squeue", "-h", "--states=all", "-o", "%T", "-j", one.job).strip()
            for name, one in submitted.items()
        }
        if not {"PENDING", "RUNNING", "COMPLETING"} & set(found.values()):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.3)


def test_each_step_waits_for_those_before_it(
    on_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = 'it\'s $HOME; "two\nlines"'
    steps = [
        {"name": "make", "command": ["bash", "-c", 'sleep 2; printf %s "$1" >made', "bash", words]},
        {"name": "take", "after": ["make"], "command": ["cp", "made", "taken"]},
        {"name": "plan", "after": ["take"], "command": ["megatron-seed", "plan", "seed_coder_8b/pretrain", "--json"]},
    ]
    submitted = submit(tmp_path, steps)
    assert set(states(on_cluster, submitted).values()) == {"COMPLETED"}
    assert (tmp_path / "taken").read_text() == words
    (log,) = (tmp_path / "pipe" / "launch" / "submission-0001").glob("plan-*.out")
    assert yaml.safe_load(log.read_text())["gpus"] == 8


def test_what_waits_for_a_step_that_fails_leaves_the_queue(
    on_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = [
        {"name": "fails", "command": ["bash", "-c", "sleep 1; exit 3"]},
        {"name": "waits", "after": ["fails"], "command": ["touch", "never"]},
    ]
    found = states(on_cluster, submit(tmp_path, steps))
    assert found == {"fails": "FAILED", "waits": "CANCELLED"}
    assert not (tmp_path / "never").exists()
