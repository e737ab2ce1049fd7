"""Whole runs on one NVIDIA GPU with TransformerEngine: FP8, fused gradients, repeats, saves, kills, a full card."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_seed.checkpoint.layout import all_of, finished, step_of
from megatron_seed.checkpoint.reader import CheckpointReader
from megatron_seed.runtime import device, exit_codes
from megatron_seed.train import metrics

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not device.has_transformer_engine(), reason="needs a GPU and TransformerEngine"),
    pytest.mark.timeout(420),
]
TRAIN = ("-m", "megatron_seed.train")


def numbers(recipe: Path, *names: str) -> dict[int, tuple[float, ...]]:
    """Loss and what else is named, by step; of steps done twice, the second time."""
    rows = (row for row in metrics.read(recipe.with_suffix("")) if row["kind"] == "train")
    return {row["step"]: tuple(row[name] for name in ("loss", *names)) for row in rows}


def losses(recipe: Path) -> list[float]:
    return [loss for (loss,) in numbers(recipe).values()]


def tensors(recipe: Path) -> dict[str, torch.Tensor]:
    """Everything in the run's last checkpoint."""
    reader = CheckpointReader(finished(recipe.with_suffix(""))[-1])
    return {key: reader.read(key) for key in [*reader.tensors, *reader.optimizer_tensors]}


def assert_same_run(one: Path, other: Path) -> None:
    assert numbers(one, "grad_norm") == numbers(other, "grad_norm")
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_fp8_stays_near_bf16(source_recipe: Callable[..., Path], start: Callable) -> None:
    """200 steps on real text, with both kinds of scaling."""
    recipes = {kind: source_recipe(kind, steps=200, fp8=kind) for kind in ("off", "current", "delayed")}
    for recipe in recipes.values():
        start(*TRAIN, recipe)
    expected = losses(recipes.pop("off"))
    assert len(expected) == 200 and expected[-1] < expected[0] - 1
    for kind, recipe in recipes.items():
        found = losses(recipe)
        print(kind, *(f"{found[step]:.4f} ({expected[step]:.4f})" for step in (0, 49, 99, 199)))
        assert len(found) == 200
        # Rounding in bf16 alone moves single losses by up to 0.09, and means over 20 steps by up to 0.03.
        for step in range(0, 200, 20):
            near = pytest.approx(sum(expected[step : step + 20]), abs=20 * 0.1)
            assert sum(found[step : step + 20]) == near, (kind, step)


def test_fused_weight_gradients_train_alike(source_recipe: Callable[..., Path], start: Callable) -> None:
    fused, plain = source_recipe("fused", fused_weight_gradient=True), source_recipe("plain")
    for recipe in (fused, plain):
        start(*TRAIN, recipe)
    # Without fusion each gradient is rounded to bf16: over 30 steps that alone moves single losses by 0.03.
    assert losses(fused) == pytest.approx(losses(plain), abs=0.1)
    assert sum(losses(fused)[-10:]) == pytest.approx(sum(losses(plain)[-10:]), abs=10 * 0.05)


def test_a_deterministic_run_repeats_bit_for_bit(source_recipe: Callable[..., Path], start: Callable) -> None:
    once, twice = (source_recipe(name, deterministic=True) for name in ("once", "twice"))
    for recipe in (once, twice):
        start(*TRAIN, recipe)
    assert_same_run(once, twice)


def test_asynchronous_saves_and_kills_change_nothing(source_recipe: Callable[..., Path], start: Callable) -> None:
    """Saves that training outruns hold what they should: a run that goes on from one, after SIGKILL, ends the same."""
    options = {
        "preset": "seed_coder_100m",
        "steps": 30,
        "deterministic": True,
        "checkpoint": {"every_steps": 5, "asynchronous": True, "keep_last": 9},
    }
    whole, killed = source_recipe("whole", **options), source_recipe("killed", **options)
    start(*TRAIN, whole)
    kill_when_saved(killed, step=13)
    start(*TRAIN, killed)
    assert_same_run(killed, whole)
    # From a checkpoint in the middle, saved while steps went on.
    for checkpoint in all_of(killed.with_suffix("")):
        if step_of(checkpoint) > 20:
            shutil.rmtree(checkpoint)
    start(*TRAIN, killed)
    assert_same_run(killed, whole)


def kill_when_saved(recipe: Path, step: int) -> None:
    """Start a run and kill it without warning once it has done so many steps and finished a save."""
    process = subprocess.Popen([sys.executable, *TRAIN, str(recipe)], start_new_session=True)
    deadline = time.monotonic() + 180
    run_dir = recipe.with_suffix("")
    while not (finished(run_dir) and max(numbers(recipe), default=0) >= step):
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_running_out_of_memory_is_one_line(source_recipe: Callable[..., Path], start: Callable) -> None:
    recipe = source_recipe("large", preset="seed_coder_100m")
    # Activations that no card holds, of tensors that are small enough for every kernel.
    sizes = {"global_batch_size": 256, "micro_batch_size": 256, "sequence_length": 1024, "tokens": 256 * 1024}
    changes = ["model.num_layers=48", *(f"phases.0.{name}={size}" for name, size in sizes.items())]
    result = start(*TRAIN, recipe, *changes, check=False)
    assert result.returncode == exit_codes.WRONG_INPUT, result.stderr
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("megatron-seed:"))
    assert "out of memory on rank 0 (CUDA out of memory" in line and "micro_batch_size" in line
    assert "Traceback" not in result.stderr
    snapshot = recipe.with_suffix("") / "memory" / "rank-0.pickle"
    assert str(snapshot) in line and snapshot.stat().st_size > 1000


def test_a_checkpoint_goes_from_fused_adam_to_torchs_and_back(
    source_recipe: Callable[..., Path], start: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps with TransformerEngine, ten on the CPU by our own spec, and the rest on the GPU again."""
    moving, whole = source_recipe("moving", steps=30), source_recipe("whole", steps=30)
    start(*TRAIN, moving, f"phases.0.tokens={10 * 2048}")
    with monkeypatch.context() as without_gpu:
        without_gpu.setenv("CUDA_VISIBLE_DEVICES", "")
        start(*TRAIN, moving, f"phases.0.tokens={20 * 2048}")
    start(*TRAIN, moving)
    start(*TRAIN, whole)
    assert len(losses(moving)) == 30
    assert losses(moving) == pytest.approx(losses(whole), abs=0.1)


def test_an_export_has_the_logits_of_the_run(source_recipe: Callable[..., Path], start: Callable) -> None:
    """Trained with TransformerEngine, exported, and read by transformers on the GPU."""
    from transformers import AutoModelForCausalLM

    from megatron_seed.generate import Generator
    from megatron_seed.hf.export import export_hf

    recipe = source_recipe("exported")
    start(*TRAIN, recipe)
    (checkpoint,) = finished(recipe.with_suffix(""))[-1:]
    export_hf(checkpoint, recipe.with_name("hf"))
    tokens = torch.frombuffer(bytearray(Path(__file__).read_bytes()[:1024]), dtype=torch.uint8).long()[None].cuda()
    for precision, tolerance in (("fp32", 5e-3), ("bf16", 3e-2)):
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        theirs = AutoModelForCausalLM.from_pretrained(recipe.with_name("hf"), dtype=dtype).cuda().eval()
        with torch.no_grad(), Generator.load(checkpoint, precision=precision) as ours:
            expected, found = theirs(tokens).logits.float(), ours.logits(tokens).float()
        assert found.shape == expected.shape == (1, 1024, 256)
        assert expected.std() > 0.3, "near-uniform logits would prove little"
        assert float((found - expected).norm() / expected.norm()) < tolerance, precision
