"""Cluster files: what is wrong is named with its line and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.cluster import load_cluster, seconds
from launch.slurm.environment import GPU_VARIABLES, variables
from megatron_seed.errors import SeedError


def load(tmp_path: Path, text: str) -> object:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return load_cluster(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("partition: a\ngpu_per_node: 8\n", r"cluster.yaml:2: unknown key gpu_per_node; did you mean gpus_per_node\?"),
        ("health:\n  clock: 3\n", r"cluster.yaml:2: unknown key health.clock; did you mean clock_skew_s\?"),
        ("container:\n  runtime: pyxis\n", r"cluster.yaml:1: container.image is missing"),
        ("partition: 'a b'\n", r"cluster.yaml:1: partition: String should match"),
        ("gpus_per_node: 8\nprocesses_per_node: 4\n", r"each process has one GPU"),
        ("time: '5'\n", r"time 5 is over before the 600 s of signal_margin_s"),
        ("environment: {A B: c}\n", r"environment: 'A B' cannot be the name of a variable"),
        ('sbatch: {comment: "a\\nb"}\n', r"comment: a directive cannot hold a line break"),
        ("- a\n", r"a mapping of settings is expected, this is list"),
        ("a: [\n", r"not YAML"),
    ],
)
def test_refusals(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SeedError, match=said):
        load(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match="No such file"):
        load_cluster(tmp_path / "none.yaml")


def test_another_time_limit(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("partition: a\n")
    assert load_cluster(tmp_path / "c.yaml", "1-12").time == "1-12"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 5400), ("90:30", 5430), ("2:00:05", 7205), ("1-12", 129_600), ("1-12:30", 131_400), ("1-0:0:1", 86_401)],
)
def test_time_limits(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_variables_go_from_the_table_to_the_cluster_file(tmp_path: Path) -> None:
    text = "network_interface: bond0\ninfiniband: mlx5\nscratch: /local\nenvironment: {NCCL_NVLS_ENABLE: '1', A: x}\n"
    found = variables(load(tmp_path, text))
    assert {variable.name for variable in GPU_VARIABLES} <= set(found)
    assert (found["NCCL_NVLS_ENABLE"], found["A"], found["GLOO_SOCKET_IFNAME"]) == ("1", "x", "bond0")
    assert (found["NCCL_IB_HCA"], found["TRITON_CACHE_DIR"]) == ("mlx5", "/local/triton")
    assert variables(load(tmp_path, "gpus_per_node: 0\n")) == {}


def test_every_variable_of_the_table_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "slurm.md").read_text(encoding="utf-8")
    for variable in GPU_VARIABLES:
        assert f"`{variable.name}={variable.value}`" in page
