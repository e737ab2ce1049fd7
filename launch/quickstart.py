"""The whole flow on a small corpus: raw code in, Hugging Face model out, each stage through the commands' own code."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_prep.report.formats import size
from data_prep.shards import write_atomic, write_json
from data_prep.sources.base import IGNORED_FOLDERS, ImportLimits, SourceSpec
from launch.stages import Stages, move_aside
from megatron_seed.config.load import dump_recipe, load_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.errors import SeedError

SELECTION = "quickstart"
NOTE = "quickstart.json"


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
    with _own_folder(config, sources, console):
        for source in sources:
            _say(console, f"corpus: every folder in {source.path} is a repository")
        _say(console, f"at most {size(config.cap_bytes)} of raw code are taken (--cap-bytes)")
        stages = Stages(config.run_dir, console)
        results = {
            "name": "quickstart",
            "corpus": {"sources": [source.path for source in sources], "cap_bytes": config.cap_bytes},
            **_prepare_data(config, recipe, stages),
            **_train_and_export(config, stages),
            "machine": _machine(),
            "finished": datetime.now().strftime("%Y-%m-%d %H:%M"),
            "seconds": stages.seconds(),
        }
        from launch.report import write_report

        write_report(results, config.run_dir / "report.html")
    return results


def _say(console: Console, line: str) -> None:
    """A line as it is: paths may hold anything, and must not be broken where they are to be copied."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _own_folder(config: QuickstartConfig, sources: Sequence[SourceSpec], console: Console) -> Iterator[None]:
    """Hold the run folder for this process and the commands it starts; one made with other settings is moved aside."""
    run_dir = config.run_dir
    _check_folders(config)
    asked = {
        "sources": [asdict(source) for source in sources],
        "cap_bytes": config.cap_bytes,
        "tokenizer_characters": config.tokenizer_characters,
        "overrides": list(config.overrides),
    }
    if (run_dir / NOTE).exists() and _noted(run_dir) != asked:
        with _locked(run_dir):
            aside = move_aside(run_dir)
        _say(console, f"{run_dir} was made with other settings: moved to {aside}")
    run_dir.mkdir(parents=True, exist_ok=True)
    with _locked(run_dir):
        _remove_leftovers(run_dir)
        if _noted(run_dir) != asked:
            write_json(run_dir / NOTE, asked)
        yield


def _check_folders(config: QuickstartConfig) -> None:
    """Raise SeedError for a run folder that is something else's, or that would become part of its own corpus."""
    run_dir = config.run_dir
    if run_dir.exists() and not run_dir.is_dir():
        raise SeedError(f"--run-dir {run_dir} is not a folder")
    if run_dir.is_dir() and not (run_dir / NOTE).exists():
        found = sorted(path.name for path in run_dir.iterdir() if not path.name.startswith("."))
        if found:
            raise SeedError(
                f"--run-dir {run_dir} holds {found[0]} but no {NOTE}, so it is no quickstart's: name a new folder"
            )
    if config.corpus is None:
        return
    corpus, run = config.corpus.resolve(), run_dir.resolve()
    if run.is_relative_to(corpus) or corpus.is_relative_to(run):
        raise SeedError(
            f"--run-dir {run_dir} and --corpus {config.corpus} lie in one another: what the run writes would become "
            "its data; name a run folder elsewhere"
        )


def _remove_leftovers(run_dir: Path) -> None:
    """What killed stages were writing; each has a name that nobody else uses."""
    for path in [*run_dir.glob(".*.tmp"), *run_dir.glob(".*.old")]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _noted(run_dir: Path) -> Any:
    try:
        return json.loads((run_dir / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
    """The kernel's lock on the run folder. Commands started meanwhile inherit it and hold it as long as they live."""
    with open(run_dir / ".lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SeedError(
                f"{run_dir} is in use by {lock.read(80).strip()} or by what it started: wait for it to end, or stop it"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        os.set_inheritable(lock.fileno(), True)
        yield


def _prepare_data(config: QuickstartConfig, recipe: Recipe, stages: Stages) -> dict[str, Any]:
    """Raw code to token files; returns the numbers of it."""
    from data_prep.build import build
    from data_prep.dedup.levels import deduplicate
    from data_prep.importing import import_documents
    from data_prep.report import corpus_report
    from data_prep.select import load_config, select
    from data_prep.texts import selected_texts
    from tokenizer.train import TrainSettings, train

    corpus, tokenizer, builds = config.run_dir / "corpus", config.run_dir / "tokenizer", config.run_dir / "builds"
    limits = ImportLimits(
        max_total_bytes=config.cap_bytes, ignored_folders=IGNORED_FOLDERS | {"site-packages", "dist-packages"}
    )
    fim, seed = recipe.phases[0].fim or 0.0, recipe.seed

    def prepare_corpus() -> dict[str, Any]:
        with _bars() as bars:
            import_documents(config.sources(), corpus, limits, config.workers, bars)
            deduplicate(corpus, config.workers, bars)
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


def _recipe(config: QuickstartConfig, values: Sequence[str] = ()) -> Recipe:
    """The shipped recipe with `values`, this machine's precision and layout, and what the user asked for."""
    from megatron_seed.runtime import device

    gpu = ["precision=bf16", f"layout.tensor_parallel={min(2, device.count())}"] if device.has_gpu() else []
    return load_recipe("quickstart", [*values, *gpu, *config.overrides])


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
    # Quoted, or YAML would read a path such as `a: b` or `1e3` as something else.
    quoted = {key: yaml.safe_dump(str(path), default_style='"') for key, path in paths.items()}
    recipe = _recipe(config, [f"{key}={path}" for key, path in quoted.items()])
    write_atomic(run / "recipe.yaml", lambda stream: stream.write(dump_recipe(recipe).encode()))
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
    export = stages.run("export", stages.key("train"), lambda: _export(config, recipe), made=hf)
    samples = stages.run("generate", stages.key("export"), lambda: _generate(hf))
    return {
        "training": training,
        "export": export,
        "samples": samples,
        "model": training["model"],
        "versions": training["versions"],
    }


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
    held_out = [row for row in rows if row["kind"] == "evaluation" and row["source"] == "held_out"]
    if not steps or not held_out:
        raise SeedError(
            f"{recipe.run_dir / metrics.NAME} holds {len(steps)} steps and {len(held_out)} evaluations, the report "
            "needs both: keep evaluation.held_out, and logging.every_steps below the number of steps"
        )
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
        "steps": steps[-1]["step"],
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
    """Run one of our own commands, on this terminal; it inherits the lock on the run folder."""
    # A folder named `launch` or `tokenizer` where the user stands must not be imported in place of ours.
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    with subprocess.Popen([sys.executable, *arguments], close_fds=False, env=environment) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(30)  # the terminal has interrupted it too, and it stops its own workers
            child.terminate()
            raise
    if code:
        raise SeedError(f"{what} ended with exit code {code}, see above; the same command again goes on")


def _machine() -> str:
    from megatron_seed.runtime import device

    where = "GPU over NCCL" if device.has_gpu() else "CPU over gloo"
    return f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, {where}"


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield bars
