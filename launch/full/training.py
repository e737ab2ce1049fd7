"""Four phases of pretraining (report, 2.3), and what is measured of each."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data_prep.shards import write_atomic
from launch.finish import COMPLETION, INFILLING, export, run_command, write_on
from launch.full.builds import blend_path
from launch.full.settings import FullConfig
from launch.stages import Stages
from megatron_seed.config.load import dump_recipe, load_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.errors import SeedError

RECIPE = "quickstart_full"
_NEW_TOKENS = 64
_SHOWN = 400
"""Characters of a long prompt that a page shows, of its beginning and of its end."""
_SHIPPED_BUILDS = Path("runs/quickstart-full/builds")
_OF_A_BLEND = re.compile(r"phases\.[^.=]+\.blend\b")


def recipe_of(config: FullConfig, values: Sequence[str] = ()) -> Recipe:
    """The shipped recipe with this machine's precision and layout, what the user asked for, and `values`."""
    from megatron_seed.runtime import device

    gpu = ["precision=bf16", f"layout.tensor_parallel={min(2, device.count())}"] if device.has_gpu() else []
    return load_recipe(RECIPE, [*gpu, *config.overrides, *values])


def train_and_export(config: FullConfig, stages: Stages, commit_prompt: str | None) -> dict[str, Any]:
    """Token files to a Hugging Face model; returns the numbers of training, export and completions."""
    recipe, hf = _with_paths(config), config.run_dir / "hf"
    training = stages.run(
        "train",
        [stages.key("builds"), dump_recipe(recipe_of(config))],
        lambda: _train(config, recipe),
        made=recipe.run_dir,
        goes_on_in=recipe.run_dir,
    )
    proved = stages.run("export", stages.key("train"), lambda: export(recipe.run_dir, hf), made=hf)
    samples = stages.run("generate", [stages.key("export"), commit_prompt], lambda: _generate(hf, commit_prompt))
    return {"training": training, "export": proved, "samples": samples}


def _with_paths(config: FullConfig) -> Recipe:
    """The recipe with this run's paths and the blends of `data mixtures`, as written to `recipe.yaml`."""
    run, plain = config.run_dir, recipe_of(config)
    paths = {"run_dir": run / "train", "tokenizer": run / "tokenizer"}
    paths |= {f"phases.{number}.blend": blend_path(config, phase) for number, phase in enumerate(plain.phases)}
    for number, source in enumerate(plain.evaluation.held_out):
        shipped = Path(source.builds[0])
        if shipped.is_relative_to(_SHIPPED_BUILDS):
            paths[f"evaluation.held_out.{number}.builds"] = run / "builds" / shipped.relative_to(_SHIPPED_BUILDS)
    # Quoted, or YAML would read a path such as `a: b` or `1e3` as something else.
    quoted = {key: yaml.safe_dump(str(path), default_style='"') for key, path in paths.items()}
    # What the user asked for of a blend is in the mixture already, and a path takes the place of the whole list.
    own = tuple(value for value in config.overrides if not _OF_A_BLEND.match(value))
    recipe = recipe_of(FullConfig(overrides=own), [f"{key}={path}" for key, path in quoted.items()])
    write_atomic(run / "recipe.yaml", lambda stream: stream.write(dump_recipe(recipe).encode()))
    return recipe


def _train(config: FullConfig, recipe: Recipe) -> dict[str, Any]:
    from megatron_seed.model.arithmetic import parameter_count
    from megatron_seed.runtime import device
    from megatron_seed.train import metrics

    processes = recipe.layout.model_parallel_size
    command = ["-m", "launch", "train", str(config.run_dir / "recipe.yaml"), "--processes", str(processes)]
    run_command(command, "training")
    rows = list(metrics.read(recipe.run_dir))
    steps = [row for row in rows if row["kind"] == "train"]
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    if not steps or not evaluations:
        raise SeedError(
            f"{recipe.run_dir / metrics.NAME} holds {len(steps)} steps and {len(evaluations)} evaluations, the report "
            "needs both: keep evaluation.held_out, and logging.every_steps below the number of steps"
        )
    curve = ("step", "tokens", "phase", "loss", "learning_rate", "grad_norm")
    return {
        "processes": processes,
        "layout": recipe.layout.model_dump(),
        "device": "GPU" if device.has_gpu() else "CPU",
        "steps": steps[-1]["step"],
        "tokens": steps[-1]["tokens"],
        "seconds": sum(row["step_seconds"] for row in steps),
        "phases": _phases(recipe, steps, evaluations),
        "held_out": [
            {key: row.get(key) for key in ("step", "tokens", "source", "loss", "bits_per_byte")} for row in evaluations
        ],
        "curve": [{key: row[key] for key in curve} for row in steps],
        "unigram_entropy": _unigram_entropies(recipe),
        "model": {"parameters": parameter_count(recipe.model), **recipe.model.model_dump()},
        "versions": device.versions(),
    }


def _phases(recipe: Recipe, steps: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each phase: settings, what was done, and the last held-out loss of every source in it."""
    found, before = [], 0
    for phase in recipe.phases:
        own = [row for row in steps if row["phase"] == phase.name]
        if not own:
            raise SeedError(f"{recipe.run_dir}: no step of phase {phase.name} was logged; lower logging.every_steps")
        last = own[-1]["step"]
        seen = [row for row in evaluations if before < row["step"] <= last]
        held_out = {row["source"]: {"loss": row["loss"], "bits_per_byte": row.get("bits_per_byte")} for row in seen}
        found.append(
            {
                "name": phase.name,
                "sequence_length": phase.sequence_length,
                "global_batch_size": phase.global_batch_size,
                "learning_rate": phase.learning_rate.peak,
                "fim": phase.fim,
                "first_step": own[0]["step"],
                "last_step": last,
                "tokens": own[-1]["tokens"],
                "seconds": sum(row["step_seconds"] for row in own),
                "tokens_per_second": statistics.median(row["tokens_per_second"] for row in own),
                "loss": own[-1]["loss"],
                "held_out": held_out,
            }
        )
        before = last
    return found


def _unigram_entropies(recipe: Recipe) -> dict[str, float]:
    from megatron_seed.data.held_out import HeldOut

    evaluation, length = recipe.evaluation, recipe.phases[0].sequence_length
    sources = [source for source in evaluation.held_out if source.score != "middle"]
    opened = [HeldOut.open(one, recipe.model.vocab_size, length, evaluation.max_sequences) for one in sources]
    return {one.name: one.unigram_entropy() for one in opened}


def _generate(hf: Path, commit_prompt: str | None) -> list[dict[str, str]]:
    """A completion, an infilling, and where there is one the change that a commit's message asks for."""
    samples = [
        {"kind": "completion", "prefix": COMPLETION},
        {"kind": "infilling", "prefix": INFILLING[0], "suffix": INFILLING[1]},
    ]
    if commit_prompt:
        head, tail = commit_prompt[:_SHOWN], commit_prompt[_SHOWN:]
        shown = f"{head}\n⋯ {len(tail) - _SHOWN:,} more characters ⋯\n" if len(tail) > _SHOWN else head
        sample = {"kind": "change of a commit", "prefix": commit_prompt, "shown": shown}
        samples.append({**sample, "tail": tail[-_SHOWN:]})
    return write_on(hf, samples, _NEW_TOKENS)
