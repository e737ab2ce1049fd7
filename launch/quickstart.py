"""The whole flow on a small corpus: raw code in, Hugging Face model out, each stage through the commands' own code."""

from __future__ import annotations

import os
import statistics
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from data_prep.report.formats import size
from data_prep.sources.base import IGNORED_FOLDERS, ImportLimits, SourceSpec
from launch.finish import bars, generate, machine, quoted, recipe_here, train, write_recipe
from launch.finish import export as prove_export
from launch.run_folder import own_folder, say
from launch.stages import Stages
from megatron_seed.checkpoint import manifest
from megatron_seed.config.load import dump_recipe, load_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.errors import SeedError

SELECTION = "quickstart"


@dataclass(frozen=True)
class QuickstartConfig:
    """What the quickstart is asked for; the model and its training are in the shipped recipe `quickstart`."""

    run_dir: Path = Path("runs/quickstart")
    corpus: Path | None = None
    """Folder whose sub-folders are repositories; None: this Python's standard library and installed packages."""
    cap_bytes: int = 48_000_000
    """At most this much raw code is taken."""
    tokenizer_characters: int = 6_000_000
    """The tokenizer is trained on a sample of this size."""
    overrides: tuple[str, ...] = ()
    """key=value changes of the recipe."""
    workers: int = 2

    def sources(self) -> list[SourceSpec]:
        """Where the code comes from. Raises SeedError for a `corpus` that cannot be one."""
        if self.corpus is not None:
            if not self.corpus.is_dir():
                raise SeedError(f"--corpus {self.corpus}: no such folder; it should hold one sub-folder per repository")
            if not any(self.corpus.iterdir()):
                raise SeedError(f"--corpus {self.corpus} is empty; it should hold one sub-folder per repository")
            return [SourceSpec("folders", str(self.corpus.resolve()), "corpus")]
        paths = sysconfig.get_paths()
        return [
            SourceSpec("folders", paths["stdlib"], "standard_library"),
            SourceSpec("folders", paths["purelib"], "installed_packages"),
        ]


def quickstart(config: QuickstartConfig, console: Console) -> dict[str, Any]:
    """Run what is missing of every stage and write `report.html`; returns its numbers.

    A run folder made from another corpus or with other settings is moved aside, not overwritten.
    """
    sources = config.sources()
    recipe = load_recipe("quickstart", config.overrides)
    asked = {
        "sources": [asdict(source) for source in sources],
        "cap_bytes": config.cap_bytes,
        "tokenizer_characters": config.tokenizer_characters,
        "overrides": list(config.overrides),
    }
    with own_folder(config.run_dir, config.corpus, asked, console):
        for source in sources:
            say(console, f"corpus: every folder in {source.path} is a repository")
        say(console, f"at most {size(config.cap_bytes)} of raw code are taken (--cap-bytes)")
        stages = Stages(config.run_dir, console)
        results = {
            "name": "quickstart",
            "corpus": {"sources": [source.path for source in sources], "cap_bytes": config.cap_bytes},
            **_prepare_data(config, recipe, stages),
            **_train_and_export(config, stages),
            "machine": machine(),
            "finished": datetime.now().strftime("%Y-%m-%d %H:%M"),
            "seconds": stages.seconds(),
        }
        from launch.report import write_report

        write_report(results, config.run_dir / "report.html")
    return results


def _prepare_data(config: QuickstartConfig, recipe: Recipe, stages: Stages) -> dict[str, Any]:
    """Raw code to token files; returns the numbers of it."""
    from data_prep.build import build
    from data_prep.dedup.levels import deduplicate
    from data_prep.importing import import_documents
    from data_prep.report import corpus_report
    from data_prep.select import load_config, select
    from data_prep.texts import selected_texts
    from tokenizer.train import TrainSettings
    from tokenizer.train import train as train_on

    corpus, tokenizer, builds = config.run_dir / "corpus", config.run_dir / "tokenizer", config.run_dir / "builds"
    limits = ImportLimits(
        max_total_bytes=config.cap_bytes, ignored_folders=IGNORED_FOLDERS | {"site-packages", "dist-packages"}
    )
    fim, seed = recipe.phases[0].fim or 0.0, recipe.seed

    def prepare_corpus() -> dict[str, Any]:
        with bars() as progress:
            import_documents(config.sources(), corpus, limits, config.workers, progress)
            deduplicate(corpus, config.workers, progress)
            select(corpus, SELECTION, load_config(), progress, config.workers)
        return corpus_report(corpus, SELECTION)

    def train_tokenizer() -> dict[str, Any]:
        settings = TrainSettings(recipe.model.vocab_size, max_chars=config.tokenizer_characters, seed=seed)
        with bars() as progress:
            return train_on(selected_texts(corpus, SELECTION, "train"), tokenizer, settings, progress)

    def build_tokens() -> list[dict[str, Any]]:
        with bars() as progress:
            common = {"seed": seed, "workers": config.workers, "progress": progress}
            made = build(corpus, SELECTION, tokenizer, builds, "train", [fim], [0], **common)
            return made + build(corpus, SELECTION, tokenizer, builds, "held_out", [0.0, 1.0], [0], **common)

    # Asked anew each time: importing itself finds what has changed.
    data = stages.run("corpus", [os.urandom(8).hex()], prepare_corpus)
    selection = data["selection"]
    documents = [selection["digest"], selection["corpus_fingerprint"]]
    sample = [documents, recipe.model.vocab_size, config.tokenizer_characters, seed]
    described = stages.run("tokenizer", sample, train_tokenizer, made=tokenizer / "tokenizer.json")
    manifests = stages.run("build", [documents, described["digest"], fim, seed], build_tokens, made=builds)
    train_build = manifests[0]
    return {
        "data": data,
        "tokenizer": {
            "kind": described["kind"],
            "vocab_size": described["vocab_size"],
            "bytes_per_token": train_build["size_bytes"] / train_build["tokens"],
        },
        "builds": [
            {
                "fim_rate": manifest["fim"]["rate"],
                "epoch": manifest["fim"]["epoch"],
                **{key: manifest[key] for key in ("split", "documents", "tokens", "size_bytes")},
            }
            for manifest in manifests
        ],
    }


def _recipe(config: QuickstartConfig, paths: Mapping[str, Path] = {}) -> Recipe:
    """The shipped recipe on this machine with `paths`, and what the user asked for."""
    return recipe_here("quickstart", [*quoted(paths), *config.overrides])


def _with_paths(config: QuickstartConfig) -> Recipe:
    """The recipe with this run's paths, as written to `recipe.yaml`."""
    run, fim = config.run_dir, _recipe(config).phases[0].fim or 0.0
    paths = {
        "run_dir": run / "train",
        "tokenizer": run / "tokenizer",
        "phases.0.blend.0.builds": run / "builds" / f"train-fim{fim}-epoch0",
        "evaluation.held_out.0.builds": run / "builds" / "held_out-fim0.0-epoch0",
        "evaluation.held_out.1.builds": run / "builds" / "held_out-fim1.0-epoch0",
    }
    recipe = _recipe(config, paths)
    write_recipe(run / "recipe.yaml", recipe)
    return recipe


def _train_and_export(config: QuickstartConfig, stages: Stages) -> dict[str, Any]:
    """Token files to a Hugging Face model; returns the numbers of it."""
    recipe, hf = _with_paths(config), config.run_dir / "hf"
    training = stages.run(
        "train",
        [stages.key("build"), dump_recipe(_recipe(config))],
        lambda: _train(config, recipe),
        made=recipe.run_dir,
        goes_on_in=recipe.run_dir,
    )
    # A training that was done again, though from equal inputs, is another one.
    trained = [stages.key("train"), training]
    export = stages.run("export", trained, lambda: prove_export(recipe.run_dir, hf), made=hf / manifest.NAME)
    samples = stages.run("generate", stages.key("export"), lambda: generate(hf))
    return {
        "training": training,
        "export": export,
        "samples": samples,
        "model": training["model"],
        "versions": training["versions"],
    }


def _train(config: QuickstartConfig, recipe: Recipe) -> dict[str, Any]:
    from megatron_seed.data.held_out import HeldOut

    facts, steps, held_out = train(config.run_dir / "recipe.yaml", recipe, "held_out")
    source = HeldOut.open(
        recipe.evaluation.held_out[0],
        recipe.model.vocab_size,
        recipe.phases[0].sequence_length,
        recipe.evaluation.max_sequences,
    )
    curve = ("step", "tokens", "loss", "learning_rate", "tokens_per_second", "grad_norm")
    return {
        **facts,
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in steps),
        "unigram_entropy": source.unigram_entropy(),
        "held_out": [{key: row[key] for key in ("step", "tokens", "loss", "bits_per_byte")} for row in held_out],
        "curve": [{key: row[key] for key in curve} for row in steps],
    }
