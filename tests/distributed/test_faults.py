"""Hardware that computes wrongly: noticed, named by rank and host, and survived where it can be."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

from test_parity import losses

from megatron_seed.checkpoint.layout import finished
from megatron_seed.train import metrics

SCRIPT = Path(__file__).parent / "faulty_ranks.py"
LAYOUT = {"distributed_optimizer": False}


def events(run_dir: Path) -> list[dict]:
    return [row for row in metrics.read(run_dir) if row["kind"] == "event"]


def test_a_passing_fault_is_computed_again_and_a_lasting_one_ends_the_run(
    tiny_recipe: Callable[..., Path], start: Callable
) -> None:
    clean = tiny_recipe("clean", layout=LAYOUT)
    start("-m", "megatron_seed.train", clean, processes=2)
    faulty = tiny_recipe("faulty", layout=LAYOUT, guard={"compare_replicas_every_steps": 7})
    # Calls 3 and 7 are computed again as 4 and 8; 17 is step 15, after the comparison and the save of steps 14 and 10.
    faults = ("forward:3", "backward:7", "silent:17")
    ended = start(SCRIPT, *faults, faulty, processes=2, check=False)
    run_dir, rank_1 = faulty.with_suffix(""), f"rank 1 ({socket.gethostname()})"
    assert losses(run_dir)[:14] == losses(clean.with_suffix(""))[:14]
    assert [(event["event"], event["step"]) for event in events(run_dir)] == [
        ("hardware_error", 3),
        ("hardware_error", 6),
        ("replicas_differ", 20),
    ]
    assert [event["ranks"] for event in events(run_dir)[:2]] == [[rank_1], [rank_1]]
    assert [path.name for path in finished(run_dir)] == ["step-00000010"], "none of parameters that differ"
    assert ended.returncode
    assert f"step 20: parameter decoder.final_layernorm.weight (stage 0.0) of rank 0 ({socket.gethostname()}), " in (
        ended.stderr
    )


def test_replicas_are_compared_before_the_last_save(tiny_recipe: Callable[..., Path], start: Callable) -> None:
    guard, saves = {"compare_replicas_every_steps": 7}, {"every_steps": 1000}
    faulty = tiny_recipe("faulty", layout=LAYOUT, guard=guard, checkpoint=saves)
    ended = start(SCRIPT, "silent:18", faulty, processes=2, check=False)
    run_dir = faulty.with_suffix("")
    assert ended.returncode
    assert [(event["event"], event["step"]) for event in events(run_dir)] == [("replicas_differ", 20)]
    assert not finished(run_dir)


def test_out_of_memory_ends_in_one_line_and_a_snapshot(tiny_recipe: Callable[..., Path], start: Callable) -> None:
    recipe = tiny_recipe("hungry", evaluation={"held_out": []})
    batch = ("phases.0.global_batch_size=16384", "phases.0.micro_batch_size=16384", "phases.0.tokens=1e8")
    ended = start(SCRIPT.with_name("with_little_memory.py"), 300, recipe, *batch, check=False)
    (line,) = (line for line in ended.stderr.splitlines() if "out of memory" in line)
    snapshot = recipe.with_suffix("") / "memory" / "rank-0.json"
    assert line.startswith("megatron-seed: out of memory on rank 0 (") and f"snapshot: {snapshot}; lower micro" in line
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    told = json.loads(snapshot.read_text())
    assert told["tensor_bytes"] >= sum(tensor["size_bytes"] for tensor in told["largest"]) > 1_000_000
