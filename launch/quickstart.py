"""The whole flow on a small corpus: raw code in, Hugging Face model out, each stage through the commands' own code."""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_prep.sources.base import IGNORED_FOLDERS, ImportLimits, SourceSpec
from launch.stages import Stages
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
        if self.corpus is not None:
            if not self.corpus.is_dir():
                raise SeedError(f"--corpus {self.corpus}: no such folder; it should hold one sub-folder per repository")
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
    _keep_other_runs(config, console)
    stages = Stages(config.run_dir, console)
    limits = ImportLimits(
        max_total_bytes=config.cap_bytes, ignored_folders=IGNORED_FOLDERS | {"site-packages", "dist-packages"}
    )
    for source in config.sources():
        console.print(f"corpus: every folder in {source.path} is a repository")
    console.print(f"at most {config.cap_bytes / 1e6:.0f} MB of raw code are taken (--cap-bytes)")
    data = _prepare_data(config, limits, stages)
    recipe = _write_recipe(config)
    training = stages.run("train", [stages.key("build"), dump_recipe(recipe)], lambda: _train(config, recipe))
    export = stages.run("export", stages.key("train"), lambda: _export(config, recipe), made=config.run_dir / "hf")
    samples = stages.run("generate", stages.key("export"), lambda: _generate(config.run_dir / "hf"))
    results = {
        "name": "quickstart",
        "finished": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "machine": _machine(),
        "corpus": {"sources": [source.path for source in config.sources()], "cap_bytes": config.cap_bytes},
        **data,
        "training": training,
        "export": export,
        "samples": samples,
        "model": training["model"],
        "versions": training["versions"],
        "seconds": stages.seconds(),
    }
    from launch.report import write_report

    write_report(results, config.run_dir / "report.html")
    return results


def _keep_other_runs(config: QuickstartConfig, console: Console) -> None:
    asked = json.dumps({**asdict(config), "sources": [asdict(source) for source in config.sources()]}, default=str)
    note = config.run_dir / "quickstart.json"
    if config.run_dir.exists() and (not note.is_file() or note.read_text(encoding="utf-8") != asked):
        numbered = (config.run_dir.with_name(f"{config.run_dir.name}.{n}") for n in itertools.count(1))
        aside = next(path for path in numbered if not path.exists())
        config.run_dir.rename(aside)
        console.print(f"{config.run_dir} was made with other settings: moved to {aside}")
    config.run_dir.mkdir(parents=True, exist_ok=True)
    note.write_text(asked, encoding="utf-8")


def _prepare_data(config: QuickstartConfig, limits: ImportLimits, stages: Stages) -> dict[str, Any]:
    """Raw code to token files; returns the numbers of it."""
    from data_prep.build import build

    from data_prep.dedup.exact import annotate_exact
    from data_prep.importing import import_documents
    from data_prep.report import corpus_report
    from data_prep.select import load_config, select
    from data_prep.texts import selected_texts
    from tokenizer.train import TrainSettings, train

    corpus, tokenizer, builds = config.run_dir / "corpus", config.run_dir / "tokenizer", config.run_dir / "builds"
    recipe = load_recipe("quickstart", config.overrides)
    fim, seed = recipe.phases[0].fim or 0.0, recipe.seed

    def prepare_corpus() -> dict[str, Any]:
        with _bars() as bars:
            import_documents(config.sources(), corpus, limits, config.workers, bars)
            annotate_exact(corpus, config.workers, bars)
            select(corpus, SELECTION, load_config(), bars, config.workers)
        return corpus_report(corpus, SELECTION)

    def train_tokenizer() -> dict[str, Any]:
        settings = TrainSettings(recipe.model.vocab_size, max_chars=config.tokenizer_characters, seed=seed)
        with _bars() as bars:
            return train(selected_texts(corpus, SELECTION, "train"), tokenizer, settings, bars)

    def build_tokens() -> list[dict[str, Any]]:
        with _bars() as bars:
            common = {"seed": seed, "workers": config.workers, "progress": bars}
            made = build(corpus, SELECTION, tokenizer, builds, "train", [fim], [0], **common)
            return made + build(corpus, SELECTION, tokenizer, builds, "held_out", [0.0], [0], **common)

    # Asked anew each time: importing itself finds what has changed.
    data = stages.run("corpus", [os.urandom(8).hex()], prepare_corpus)
    selection = data["selection"]
    sample = [selection["digest"], recipe.model.vocab_size, config.tokenizer_characters]
    described = stages.run("tokenizer", sample, train_tokenizer, made=tokenizer)
    manifests = stages.run("build", [selection["digest"], described["digest"], fim, seed], build_tokens, made=builds)
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


def _write_recipe(config: QuickstartConfig) -> Recipe:
    """The shipped recipe with this run's paths, and this machine's precision and layout."""
    from megatron_seed.runtime import device

    run = config.run_dir
    values = [f"run_dir={run / 'train'}", f"tokenizer={run / 'tokenizer'}"]
    fim = load_recipe("quickstart", config.overrides).phases[0].fim or 0.0
    values += [f"phases.0.blend.0.builds={run}/builds/train-fim{fim}-epoch0"]
    values += [f"evaluation.held_out.0.builds={run}/builds/held_out-fim0.0-epoch0"]
    if device.has_gpu():
        values += ["precision=bf16", f"layout.tensor_parallel={min(2, device.count())}"]
    recipe = load_recipe("quickstart", [*values, *config.overrides])
    (run / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    return recipe


def _train(config: QuickstartConfig, recipe: Recipe) -> dict[str, Any]:
    from megatron_seed.data.held_out import HeldOut
    from megatron_seed.model.arithmetic import parameter_count
    from megatron_seed.runtime import device
    from megatron_seed.train import metrics

    processes = recipe.layout.model_parallel_size
    path = str(config.run_dir / "recipe.yaml")
    _run(["-m", "launch", "train", path, "--processes", str(processes)], "training")
    rows = list(metrics.read(recipe.run_dir))
    steps = [row for row in rows if row["kind"] == "train"]
    held_out = [row for row in rows if row["kind"] == "evaluation"]
    source = HeldOut.open(
        recipe.evaluation.held_out[0],
        recipe.model.vocab_size,
        recipe.phases[0].sequence_length,
        recipe.evaluation.max_sequences,
    )
    curve = ("step", "tokens", "loss", "learning_rate", "tokens_per_second", "grad_norm")
    return {
        "processes": processes,
        "layout": recipe.layout.model_dump(),
        "device": "GPU" if device.has_gpu() else "CPU",
        "steps": len(steps),
        "tokens": steps[-1]["tokens"],
        "seconds": sum(row["step_seconds"] for row in steps),
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in steps),
        "unigram_entropy": source.unigram_entropy(),
        "held_out": [{key: row[key] for key in ("step", "tokens", "loss", "bits_per_byte")} for row in held_out],
        "curve": [{key: row[key] for key in curve} for row in steps],
        "model": {"parameters": parameter_count(recipe.model), **recipe.model.model_dump()},
        "versions": device.versions(),
    }


def _export(config: QuickstartConfig, recipe: Recipe) -> dict[str, Any]:
    """Export and prove it, in a process of its own: megatron-core is not needed in this one."""
    from megatron_seed.checkpoint.layout import resolve

    checkpoint, hf = resolve(recipe.run_dir), config.run_dir / "hf"
    _run(["-m", "launch", "hf", "export", str(checkpoint), str(hf)], "export")
    out = config.run_dir / "verify.json"
    command = ["-m", "launch", "hf", "verify", str(checkpoint), str(hf), "--out", str(out)]
    _run(command, "verification of the export")
    found = json.loads(out.read_text(encoding="utf-8"))
    checks = [{"name": "tensors equal bit for bit", "value": f"{found['tensors']} tensors", "passed": True}]
    for kind, difference in found["logit_difference"].items():
        name = f"logits of the {kind} prompt"
        checks.append({"name": name, "value": f"differ by {difference:.1e} of the largest", "passed": True})
    checks.append({"name": "greedy tokens", "value": f"{found['greedy_tokens']} alike", "passed": True})
    return {"path": str(hf), "checks": checks}


def _generate(hf: Path) -> list[dict[str, str]]:
    """One completion and one infilling, with nothing but transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(hf)
    model = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    prefix = "import os\n\ndef read_file(path):\n"
    gap = ('def area(width, height):\n    """Area of a rectangle."""\n    return ', "\n\n\ndef main():\n")
    samples = [{"kind": "completion", "prefix": prefix}, {"kind": "infilling", "prefix": gap[0], "suffix": gap[1]}]
    for sample in samples:
        text = sample["prefix"]
        if "suffix" in sample:
            text = f"<[fim-suffix]>{sample['suffix']}<[fim-prefix]>{sample['prefix']}<[fim-middle]>"
        prompt = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        output = model.generate(**prompt, max_new_tokens=64, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        sample["output"] = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return samples


def _run(arguments: list[str], what: str) -> None:
    """Run one of our own commands; its output goes to this terminal."""
    result = subprocess.run([sys.executable, *arguments], check=False)
    if result.returncode:
        raise SeedError(f"{what} ended with exit code {result.returncode}, see above; the same command again goes on")


def _machine() -> str:
    from megatron_seed.runtime import device

    where = "GPU over NCCL" if device.has_gpu() else "CPU over gloo"
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {where}"


@contextmanager
def _bars() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield bars
