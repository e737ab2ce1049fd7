"""Tokenizer, token files and mixtures (report, 2.2.6 and 2.3): selections to what the four phases read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.finish import bars
from launch.full.settings import FullConfig
from launch.stages import Stages
from megatron_seed.config.schema import PhaseConfig, Recipe
from megatron_seed.errors import SeedError

if TYPE_CHECKING:
    from data_prep.mixtures.plan import Plan
    from data_prep.mixtures.settings import MixtureConfig


@dataclass(frozen=True)
class Category:
    """One source of a blend: a selection of a corpus. `made_of` is the selection's digest."""

    corpus: Path
    selection: str
    made_of: str
    held_out: tuple[float, ...] = ()
    """Infilling rates of builds of its held-out side."""
    loss: str = "all"
    """Tokens that training learns from: all, or the targets of commits."""


def prepare_builds(
    config: FullConfig, recipe: Recipe, stages: Stages, categories: dict[str, Category]
) -> dict[str, Any]:
    """Trains the tokenizer on what is trained on, builds every category and writes the phases' blends."""
    made_of = {name: category.made_of for name, category in categories.items()}
    sample = [made_of, recipe.model.vocab_size, config.tokenizer_characters, recipe.seed]
    folder = config.run_dir / "tokenizer"
    described = stages.run(
        "tokenizer", sample, lambda: _train_tokenizer(config, recipe, categories), made=folder / "tokenizer.json"
    )
    wanted = [[phase.name, phase.tokens, phase.fim, _weights(phase)] for phase in recipe.phases]
    tokens = stages.run(
        "builds",
        [sample, described["digest"], wanted],
        lambda: _build(config, recipe, categories),
        made=config.run_dir / "mixtures" / "mixtures.json",
    )
    return {"tokenizer": described, **tokens}


def blend_path(config: FullConfig, phase: PhaseConfig) -> Path:
    return config.run_dir / "mixtures" / phase.name / "blend.yaml"


def _train_tokenizer(config: FullConfig, recipe: Recipe, categories: dict[str, Category]) -> dict[str, Any]:
    from data_prep.texts import selected_texts
    from tokenizer.train import TrainSettings, train

    settings = TrainSettings(recipe.model.vocab_size, max_chars=config.tokenizer_characters, seed=recipe.seed)
    # Each text once: subsets of the code and strings of its repositories hold nothing else.
    sources = [categories[name] for name in ("github", "web", "math_web", "commits") if name in categories]
    texts = itertools.chain.from_iterable(selected_texts(one.corpus, one.selection, "train") for one in sources)
    with bars() as progress:
        return train(texts, config.run_dir / "tokenizer", settings, progress)


def _build(config: FullConfig, recipe: Recipe, categories: dict[str, Category]) -> dict[str, Any]:
    """Builds one epoch of everything, plans, and builds the epochs that the plan finds missing."""
    from data_prep.errors import DataError
    from data_prep.mixtures.builds import find_builds
    from data_prep.mixtures.plan import plan
    from data_prep.mixtures.write import summary, write_plan

    settings, rates = _mixture(config, recipe, categories), _rates(recipe, categories)
    epochs = dict.fromkeys(categories, 1)
    made: dict[tuple[str, str], dict[str, Any]] = {}
    while True:
        for name in categories:
            for manifest in _of_category(config, recipe, categories[name], name, rates[name], epochs[name]):
                made[name, manifest["name"]] = manifest
        found = {name: find_builds(name, category.builds) for name, category in settings.categories.items()}
        planned = plan(settings, found)
        needed = _epochs_needed(planned)
        if all(needed.get(name, 1) <= epochs[name] for name in categories):
            break
        epochs |= needed
    if planned.problems:
        raise DataError("; ".join(planned.problems))
    write_plan(config.run_dir / "mixtures", settings, planned)
    keys = ("name", "split", "documents", "tokens", "size_bytes", "fim")
    builds = [{"category": name, **{key: manifest[key] for key in keys}} for (name, _), manifest in made.items()]
    return {"builds": builds, "mixtures": summary(settings, planned)}


def _of_category(
    config: FullConfig, recipe: Recipe, category: Category, name: str, rates: Sequence[float], epochs: int
) -> list[dict[str, Any]]:
    """A build for each rate and, where documents are split, each epoch; and those of the held-out side."""
    from data_prep.build import build

    asked = (category.corpus, category.selection, config.run_dir / "tokenizer", config.run_dir / "builds" / name)
    with bars() as progress:
        common = {"seed": recipe.seed, "workers": config.workers, "progress": progress, "loss": category.loss}
        made = build(*asked, "train", [0.0], [0], **common) if 0.0 in rates else []
        split = [rate for rate in rates if rate]
        made += build(*asked, "train", split, range(epochs), **common) if split else []
        return made + (build(*asked, "held_out", category.held_out, [0], **common) if category.held_out else [])


def _rates(recipe: Recipe, categories: dict[str, Category]) -> dict[str, list[float]]:
    """Infilling rates at which the phases read each category; what none reads is held out, and built plain."""
    found: dict[str, set[float]] = {name: set() for name in categories}
    for phase in recipe.phases:
        for source in phase.blend:
            found[source.name].add(source.fim if source.fim is not None else phase.fim or 0.0)
    return {name: sorted(rates) or [0.0] for name, rates in found.items()}


def _weights(phase: PhaseConfig) -> dict[str, float]:
    """Share of each source of a phase."""
    whole = sum(source.weight for source in phase.blend)
    return {source.name: source.weight / whole for source in phase.blend}


def _mixture(config: FullConfig, recipe: Recipe, categories: dict[str, Category]) -> MixtureConfig:
    """The recipe's blends as `data mixtures` is asked for them."""
    from data_prep.mixtures.settings import MixtureConfig

    for phase in recipe.phases:
        for source in phase.blend:
            if source.name not in categories:
                raise SeedError(f"phase {phase.name}: no category {source.name}; there are {', '.join(categories)}")
    used = {source.name for phase in recipe.phases for source in phase.blend}
    builds = {name: {"builds": str(config.run_dir / "builds" / name)} for name in categories if name in used}
    phases = [
        {
            "name": phase.name,
            "tokens": phase.tokens,
            "fim": phase.fim or 0.0,
            "blend": {source.name: _amount(source, _weights(phase)) for source in phase.blend},
            "fill": phase.blend[0].name,
        }
        for phase in recipe.phases
    ]
    return MixtureConfig.model_validate({"categories": builds, "phases": phases})


def _amount(source: Any, weights: dict[str, float]) -> dict[str, float]:
    amount = {"share": weights[source.name]}
    return amount if source.fim is None else {**amount, "fim": source.fim}


def _epochs_needed(planned: Plan) -> dict[str, int]:
    """Builds that each category needs of each rate, one for an epoch where documents are split."""
    needed: dict[str, int] = {}
    for entry in (entry for phase in planned.phases for entry in phase.entries):
        needed[entry.category] = max(needed.get(entry.category, 1), len(entry.builds) + entry.missing)
    return needed
