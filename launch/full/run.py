"""`quickstart --full`: the steps of the report one after the other, each done once, and a page about them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Console

from launch.finish import machine
from launch.full import commits, github, long_context, math_web, subset, web
from launch.full.builds import Category, prepare_builds
from launch.full.needle import prepare_needles
from launch.full.settings import FullConfig
from launch.full.training import recipe_of, train_and_export, without
from launch.run_folder import own_folder, say
from launch.stages import Stages
from megatron_seed.config.schema import Recipe


def full(config: FullConfig, console: Console) -> dict[str, Any]:
    """Run what is missing of every stage and write `report.html`; returns its numbers.

    A run folder made from other sources or with other settings is moved aside, not overwritten.
    """
    recipe = recipe_of(config)
    with own_folder(config.run_dir, config.corpus, config.asked(), console):
        _greet(config, console)
        stages = Stages(config.run_dir, console)
        found, categories = _prepare(config, recipe, stages)
        if why := found["math_web"]["left_out"]:
            say(console, f"no mathematical pages in the first phase: {why}")
            config = without(config, math_web.CATEGORY)
            recipe = recipe_of(config)
        built = prepare_builds(config, recipe, stages, categories)
        needles = prepare_needles(config, recipe, stages, [found["github"]["kept"], built["tokenizer"]["digest"]])
        trained = train_and_export(config, stages, found["commits"]["prompt"])
        results = {
            "name": "quickstart --full",
            **found,
            **built,
            "needles": needles,
            **trained,
            "machine": machine(),
            "finished": datetime.now().strftime("%Y-%m-%d %H:%M"),
            "seconds": stages.seconds(),
        }
        from launch.full.report import write_report

        write_report(config, results)
    return results


def _greet(config: FullConfig, console: Console) -> None:
    say(console, f"everything goes to {config.run_dir}; stopped anywhere, the same command goes on")
    if config.oracle_url is None:
        say(console, "no --oracle was given: a stand-in that rates by rules is served in its place, and is no model")


def _prepare(config: FullConfig, recipe: Recipe, stages: Stages) -> tuple[dict[str, Any], dict[str, Category]]:
    """The categories of data and what is cut out of them; their numbers, and what is to be built of them."""
    context = max(phase.sequence_length for phase in recipe.phases)
    code = github.prepare_github(config, stages)
    history = commits.prepare_commits(config, stages)
    pages = web.prepare_web(config, stages)
    formulas = math_web.prepare_math_web(config, stages, pages, context)
    pages |= web.select_web(config, stages, pages, [] if formulas["left_out"] else [math_web.TAKEN])
    best = subset.prepare_subset(config, stages, code)
    strings = long_context.prepare_long_context(config, stages, code, context)
    code_corpus, commits_corpus = github.corpus_of(config), commits.corpus_of(config)
    sides = {side: long_context.strings_of(config, side) for side in long_context.SIDES}
    selected = {name: found["digest"] for name, found in history["selected"].items()}
    categories = {
        "github": Category(code_corpus, github.KEPT, code["kept"], held_out=(0.0, 1.0)),
        "web": Category(web.corpus_of(config), web.KEPT, pages["selected"], held_out=(0.0,)),
        "high_quality": Category(code_corpus, subset.SELECTION, best["selected"]["digest"]),
        "long_files": Category(code_corpus, long_context.LONG_FILES, strings["files"]["digest"]),
        "commits": Category(commits_corpus, commits.TRAINED_ON, selected[commits.TRAINED_ON], loss="target"),
        "commits_held_out": Category(commits_corpus, commits.HELD_OUT, selected[commits.HELD_OUT], loss="target"),
        "repositories": Category(sides["train"], "main", strings["digest"]),
        "repositories_held_out": Category(sides["held_out"], "main", strings["digest"]),
    }
    if formulas["left_out"] is None:
        chosen = (web.corpus_of(config), math_web.KEPT, formulas["selected"])
        categories[math_web.CATEGORY] = Category(*chosen, held_out=(0.0,))
    found = {"github": code, "commits": history, "web": pages, "math_web": formulas}
    return {**found, "subset": best, "long_context": strings}, categories
