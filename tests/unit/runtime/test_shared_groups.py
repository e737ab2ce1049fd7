"""Over gloo, groups of the same processes are one group; of others, another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_seed.config.schema import LayoutConfig
from megatron_seed.runtime.groups import process_groups

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, groups are megatron-core's own")

TWO_RANKS = """
import json, sys
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron_seed.config.schema import LayoutConfig
from megatron_seed.runtime.groups import process_groups

with process_groups(LayoutConfig(tensor_parallel=2), seed=0) as groups:
    tensor, data = parallel_state.get_tensor_model_parallel_group(), parallel_state.get_data_parallel_group()
    found = {
        "model_parallel_is_tensor_parallel": parallel_state.get_model_parallel_group() is tensor,
        "control_is_tensor_parallel": groups.control is tensor,
        "tensor": dist.get_process_group_ranks(tensor),
        "data": dist.get_process_group_ranks(data),
    }
    for name, group in (("tensor_sum", tensor), ("data_sum", data)):
        number = torch.tensor(groups.rank + 1)
        dist.all_reduce(number, group=group)
        found[name] = int(number)
open(f"{sys.argv[1]}/{groups.rank}.json", "w").write(json.dumps(found))
"""


def gloo_loops() -> int:
    """Threads of this process that wake for a gloo group."""
    return sum(path.read_text() == "gloo_tcp_loop\n" for path in Path("/proc/self/task").glob("*/comm"))


def test_a_process_alone_keeps_three_groups() -> None:
    from megatron.core import parallel_state

    before, create = gloo_loops(), parallel_state.create_group
    with process_groups(LayoutConfig(), seed=0) as groups:
        assert gloo_loops() - before <= 3, "all processes, those of the layout, and what must not wait for training"
        assert parallel_state.get_tensor_model_parallel_group() is parallel_state.get_data_parallel_group()
        assert groups.control is not parallel_state.get_data_parallel_group()
    assert parallel_state.create_group is create


def test_of_two_processes_each_group_has_its_own(start: Callable, tmp_path: Path) -> None:
    script = tmp_path / "two_ranks.py"
    script.write_text(TWO_RANKS)
    start(script, tmp_path, processes=2)
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["model_parallel_is_tensor_parallel"] and not found["control_is_tensor_parallel"]
        assert (found["tensor"], found["data"]) == ([0, 1], [rank])
        assert (found["tensor_sum"], found["data_sum"]) == (3, rank + 1)
