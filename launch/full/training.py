"""Four phases of pretraining (report, 2.3), and what is measured of each."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.finish import export, generate, quoted, recipe_here, seconds_of, train, write_recipe
from launch.full.builds import blend_path
from launch.full.settings import FullConfig
from launch.stages import Stages
from megatron_seed.checkpoint import manifest
from megatron_seed.config.load import dump_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.errors import SeedError

RECIPE = "quickstart_full"
_SHIPPED_BUILDS = Path("runs/quickstart-full/builds")
_OF_A_BLEND = re.compile(r"phases\.[^.=]+\.blend\b")


def recipe_of(config: FullConfig, values: Sequence[str] = ()) -> Recipe:
    """The shipped recipe on this machine with what the user asked for, and `values`."""
    return recipe_here(RECIPE, [*config.overrides, *values])


def without(config: FullConfig, category: str) -> FullConfig:
    """The same, with changes of the recipe by which no phase reads a category, nor is any evaluated on it."""
    recipe = recipe_of(config)
    sources = {f"phases.{number}.blend": phase.blend for number, phase in enumerate(recipe.phases)}
    changed = []
    for key, those in {**sources, "evaluation.held_out": recipe.evaluation.held_out}.items():
        left = [one.model_dump(mode="json", exclude_none=True) for one in those if one.name != category]
        changed += [f"{key}={json.dumps(left)}"] if len(left) < len(those) else []
    return replace(config, overrides=(*config.overrides, *changed))


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
    # A training that was done again, though from equal inputs, is another one.
    trained = [stages.key("train"), training]
    proved = stages.run("export", trained, lambda: export(recipe.run_dir, hf), made=hf / manifest.NAME)
    asked = [{"kind": "change of a commit", "prefix": commit_prompt}] if commit_prompt else []
    samples = stages.run("generate", [stages.key("export"), commit_prompt], lambda: generate(hf, asked))
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
    # What the user asked for of a blend is in the mixture already, and a path takes the place of the whole list.
    own = tuple(value for value in config.overrides if not _OF_A_BLEND.match(value))
    recipe = recipe_of(FullConfig(overrides=own), quoted(paths))
    write_recipe(run / "recipe.yaml", recipe)
    return recipe


def _train(config: FullConfig, recipe: Recipe) -> dict[str, Any]:
    facts, steps, evaluations = train(config.run_dir / "recipe.yaml", recipe)
    curve = ("step", "tokens", "phase", "loss", "learning_rate", "grad_norm")
    return {
        **facts,
        "phases": _phases(recipe, steps, evaluations),
        "held_out": [
            {key: row.get(key) for key in ("step", "tokens", "source", "loss", "bits_per_byte")} for row in evaluations
        ],
        "curve": [{key: row[key] for key in curve} for row in steps],
        "unigram_entropy": _unigram_entropies(recipe),
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
                "seconds": seconds_of(own, before),
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
