"""Rank and rendezvous out of launchers' variables."""

from __future__ import annotations

import pytest

from megatron_seed.runtime.groups import first_host, read_launch


def test_torchrun() -> None:
    launch = read_launch(
        {
            "RANK": "5",
            "WORLD_SIZE": "8",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "node0",
            "MASTER_PORT": "1234",
        }
    )
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (5, 8, 1, 4)
    assert (launch.address, launch.port) == ("node0", 1234)


def test_slurm() -> None:
    launch = read_launch(
        {
            "SLURM_PROCID": "9",
            "SLURM_STEP_NUM_TASKS": "11",
            "SLURM_LOCALID": "1",
            "SLURM_NODEID": "2",
            "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
            "SLURM_STEP_NODELIST": "gpu[007-009]",
            "SLURM_JOB_ID": "123456",
        }
    )
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (9, 11, 1, 3)
    assert launch.address == "gpu007"
    assert 20_000 <= launch.port < 40_000


@pytest.mark.parametrize("environ", [{}, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "8"}])
def test_alone(environ: dict[str, str]) -> None:
    assert read_launch(environ).world_size == 1


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a1", "a1"), ("a1,a2", "a1"), ("gpu[3,7-9]", "gpu3"), ("gpu[007-010],login", "gpu007"), ("n[1-2]-ib", "n1-ib")],
)
def test_first_host_of_a_node_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host
