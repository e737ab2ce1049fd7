"""Layouts that a plan offers can be trained; operations and days are those of a count by hand."""

from __future__ import annotations

import pytest

from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import PhaseConfig, Recipe
from megatron_seed.config.validate import check_layout
from megatron_seed.errors import SeedError
from megatron_seed.plan.hardware import GPUS, Assumptions, override
from megatron_seed.plan.layouts import Candidate, best_layouts, evaluate
from megatron_seed.plan.planner import make_plan

PRETRAIN, CONTINUE = "seed_coder_8b/pretrain", "seed_coder_8b/continue"
H100 = GPUS["h100"]


def search(recipe: Recipe, gpus: int, number: int = 0, count: int = 100, **assumed: float) -> list[Candidate]:
    gpu, assumptions = override(H100, Assumptions(), assumed)
    return best_layouts(recipe, recipe.phases[number], gpus, gpu, assumptions, count)


def with_layout(recipe: Recipe, number: int, candidate: Candidate) -> Recipe:
    changes = {"layout": candidate.layout, "micro_batch_size": candidate.micro_batch_size}
    phase: PhaseConfig = recipe.phases[number].model_copy(update=changes)
    return recipe.model_copy(update={"phases": (phase,)})


@pytest.mark.parametrize(("name", "gpus"), [(PRETRAIN, 8), (PRETRAIN, 256), (CONTINUE, 64), ("quickstart", 2)])
def test_layouts_found_can_be_trained_and_fit(name: str, gpus: int) -> None:
    recipe = load_recipe(name)
    found = search(recipe, gpus)
    assert found
    for candidate in found:
        check_layout(with_layout(recipe, 0, candidate), gpus)
        layout = candidate.layout
        assert layout.model_parallel_size * candidate.replicas == gpus
        passes = candidate.micro_batches * candidate.micro_batch_size * candidate.replicas
        assert passes == recipe.phases[0].global_batch_size
        assert candidate.memory.total <= H100.memory_bytes
        assert layout.tensor_parallel <= H100.gpus_per_node
        assert layout.overlap_grad_reduce == recipe.layout.overlap_grad_reduce


def test_the_fastest_comes_first_and_beats_the_recipes_own() -> None:
    recipe = load_recipe(PRETRAIN)
    found = search(recipe, 256)
    times = [candidate.time.total for candidate in found]
    assert times == sorted(times)
    assert times[0] <= evaluate(recipe, recipe.phases[0], 256, H100, Assumptions()).time.total
    assert search(recipe, 256, count=3) == found[:3]


def test_documents_split_over_ranks_cost_what_is_sent() -> None:
    """Attention is ours then: it keeps the gathered keys and values, and nothing hides their way."""
    split = ["phases.1.layout.context_parallel=4", "phases.1.layout.recompute=none"]
    recipe, plain = load_recipe(CONTINUE, split), load_recipe(CONTINUE, [*split, "phases.1.document_mask=false"])
    masked, unmasked = (evaluate(r, r.phases[1], 64, H100, Assumptions()) for r in (recipe, plain))
    assert masked.time.context_parallel > unmasked.time.context_parallel
    assert masked.memory.activations["attention"] > unmasked.memory.activations["attention"]
    assert any(candidate.layout.context_parallel > 1 for candidate in search(recipe, 64, 1))


def test_less_memory_leaves_leaner_layouts_and_at_last_one_that_does_not_fit() -> None:
    recipe = load_recipe(PRETRAIN)
    roomy, tight = search(recipe, 8)[0], search(recipe, 8, memory_bytes=40e9)[0]
    assert tight.memory.total < 40e9 < roomy.memory.total
    assert tight.time.total > roomy.time.total
    (leanest,) = search(recipe, 8, memory_bytes=10e9)
    assert not leanest.fits
    assert search(recipe, 7) == []


def test_time_grows_with_what_slows_a_step() -> None:
    recipe = load_recipe(PRETRAIN)
    phase = recipe.phases[0]

    def time(*overrides: str, **assumed: float) -> dict[str, float]:
        changed = load_recipe(PRETRAIN, list(overrides))
        gpu, assumptions = override(H100, Assumptions(), assumed)
        return vars(evaluate(changed, changed.phases[0], 64, gpu, assumptions).time)

    plain = time()
    assert all(seconds >= 0 for seconds in plain.values())
    assert plain["recompute"] == 0 < time("layout.recompute=selective")["recompute"]
    assert time("layout.recompute=full")["recompute"] > time("layout.recompute=selective")["recompute"]
    assert time(nvlink_bytes_per_s=45e9)["tensor_parallel"] > plain["tensor_parallel"]
    assert time(network_bytes_per_s=1e9)["data_parallel"] > plain["data_parallel"]
    assert time("layout.virtual_pipeline=4")["bubble"] < plain["bubble"]
    assert time("layout.pipeline_parallel=1")["bubble"] == 0
    # The stage with the head computes 16 layers and the head: 6 per parameter and token, 8 where logits come twice.
    layer = 4096 * 128 * (32 + 2 * 8) + 4096 * 4096 + 3 * 4096 * 14336
    products = (16 * 6 * layer + 8 * 155_136 * 4096) * phase.tokens_per_step / (4 * 8)
    assert plain["matrices"] == pytest.approx(products / (989e12 * 0.7), rel=1e-6)


def test_operations_and_days_are_those_of_a_count_by_hand() -> None:
    recipe = load_recipe(PRETRAIN)
    plan = make_plan(recipe, 256, H100, Assumptions(), mfu=0.4)
    layer = 4096 * 128 * (32 + 2 * 8) + 4096 * 4096 + 3 * 4096 * 14336
    matrices = 32 * layer + 155_136 * 4096
    full = 12 * 32 * 32 * 128 * 8192
    web, code = plan.phases
    assert web.flops_per_token_full == 6 * matrices + full
    assert web.flops_per_token_causal == 6 * matrices + full / 2
    assert web.flops_causal == web.flops_per_token_causal * 1e12
    assert plan.days == pytest.approx(5e12 * web.flops_per_token_causal / (256 * 0.4 * 989e12) / 86_400)
    assert web.days + code.days == plan.days < plan.days_with_failures
    assert plan.model.parameters == pytest.approx(8.25e9, rel=1e-3)
    assert plan.model.parameters == plan.model.embedding_parameters + 32 * plan.model.layer_parameters + 4096


def test_goodput_at_the_recipes_interval_is_that_of_all_its_steps() -> None:
    recipe = load_recipe(CONTINUE)
    first, second = recipe.phases
    short = recipe.model_copy(update={"phases": (first, second.model_copy(update={"tokens": second.tokens_per_step}))})
    one, both = (
        make_plan(recipe.model_copy(update={"phases": phases}), 256, H100, Assumptions(), 0.4, layouts=1).checkpoint
        for phases in ((first,), short.phases)
    )
    assert both.own_goodput == pytest.approx(one.own_goodput, rel=1e-6)


def test_each_gpu_of_the_table_can_be_planned_and_numbers_replaced() -> None:
    recipe = load_recipe(PRETRAIN)
    days = {name: make_plan(recipe, 64, gpu, Assumptions(), 0.4, layouts=1).days for name, gpu in GPUS.items()}
    assert days["b200"] < days["h100"] == days["h200"] < days["a100"] < days["h20"]
    faster, assumptions = override(H100, Assumptions(), {"bf16_flops": 2 * H100.bf16_flops, "restart_s": 0.0})
    assert make_plan(recipe, 64, faster, assumptions, 0.4, layouts=1).days == pytest.approx(days["h100"] / 2)
    assert assumptions.restart_s == 0.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1.0}, "assume speed: no such number"),
        ({"bf16_flops": 0.0}, "must be above zero"),
        ({"mtbf_node_hours": float("nan")}, "mtbf_node_hours=nan: must be a finite number"),
        ({"mtbf_node_hours": float("inf")}, "must be a finite number"),
        ({"gpus_per_node": 0.5}, "gpus_per_node=0.5: must be a whole number"),
    ],
)
def test_numbers_that_are_not_there_or_cannot_be_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(SeedError, match=message):
        override(H100, Assumptions(), changes)
