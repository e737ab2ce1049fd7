"""What Megatron-LM began goes on here: its parameters, its optimizer's state, and the place where it stood."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_llama import ARGS, BATCH, LENGTH, VOCABULARY

HERE = Path(__file__).parent
MODEL = {
    "num_layers": ARGS["num_layers"],
    "hidden_size": ARGS["hidden_size"],
    "ffn_hidden_size": ARGS["ffn_hidden_size"],
    "num_attention_heads": ARGS["num_attention_heads"],
    "num_query_groups": ARGS["num_query_groups"],
    "head_dim": ARGS["kv_channels"],
    "norm_epsilon": ARGS["norm_epsilon"],
    "rotary_base": ARGS["rotary_base"],
    "vocab_size": VOCABULARY,
}


@pytest.mark.parametrize(
    ("their_processes", "distributed_optimizer", "our_processes", "our_layout"),
    [
        (1, True, 1, {}),
        pytest.param(1, False, 2, {}, marks=pytest.mark.slow),
        pytest.param(
            2,
            True,
            2,
            {"tensor_parallel": 2, "sequence_parallel": True, "distributed_optimizer": False},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["one process", "plain optimizer to DP2", "TP2 to TP2+SP, another padding"],
)
def test_the_next_steps_are_theirs(
    their_processes: int,
    distributed_optimizer: bool,
    our_processes: int,
    our_layout: dict,
    tiny_recipe: Callable[..., Path],
    start: Callable,
    tmp_path: Path,
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours.json"
    start(HERE / "train_with_megatron_core.py", theirs, distributed_optimizer, processes=their_processes)
    expected = json.loads((theirs / "losses.json").read_text())
    recipe = tiny_recipe("ours", model=MODEL, layout=our_layout, start_from={"checkpoint": str(theirs)})
    said = start(HERE / "train_on_batches.py", recipe, theirs / "batches.npz", ours, processes=our_processes)
    found = json.loads(ours.read_text())
    progress = {name: value for name, value in found["progress"].items() if value}
    checkpoint = str(theirs / "iter_0000003")
    assert progress == {"step": 3, "consumed_tokens": 3 * BATCH * LENGTH, "parent": checkpoint}
    assert "going on from Megatron-LM's" in said.stderr and f"{checkpoint}: step 3, 384 tokens" in said.stderr
    # The first step shows the parameters, those after it the optimizer's state.
    assert expected["losses"][0] - expected["losses"][-1] > 0.05
    if their_processes == 1:
        assert found["losses"] == pytest.approx(expected["losses"], abs=1e-5)
    else:  # their loss has 128 padded rows in it, ours has none
        assert found["losses"][0] == pytest.approx(expected["real"], abs=1e-5)
        assert found["losses"][0] < expected["losses"][0] - 1e-3
        assert "128 padded rows" in said.stderr
