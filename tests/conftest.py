"""Small builds and a way to start real multi-process runs, for all tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import warm_python
import yaml
from hypothesis import settings

settings.register_profile("default", deadline=None)  # the machine's speed is not a property
settings.load_profile("default")

# Tests run beside each other, one per core: threads of one would wait, spinning, for those of another.
os.environ["OMP_NUM_THREADS"] = "1"

TINY_VOCABULARY = 120


@pytest.fixture(scope="session")
def tiny_builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two builds (`train`, `held_out`) of 300 short documents in which each odd token follows from the one before."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    from megatron_seed.data.declare import Vocabulary, declare

    folder = tmp_path_factory.mktemp("builds")
    prefixes = {}
    for seed, name in enumerate(("train", "held_out")):
        prefixes[name] = str(folder / name)
        builder = IndexedDatasetBuilder(f"{prefixes[name]}.bin", dtype=np.uint16)
        generator = np.random.default_rng(seed)
        for _ in range(300):
            tokens = generator.integers(0, TINY_VOCABULARY, 2 * generator.integers(5, 100))
            tokens[1::2] = (tokens[::2] * 3 + 1) % TINY_VOCABULARY
            builder.add_item(torch.from_numpy(tokens))
            builder.end_document()
        builder.finalize(f"{prefixes[name]}.idx")
    declare(list(prefixes.values()), Vocabulary.of_size(TINY_VOCABULARY))
    return prefixes


@pytest.fixture
def tiny_recipe(tiny_builds: dict[str, str], tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe of 20 steps for the tiny model, with changes given as top-level keys; returns its path."""

    def write(name: str = "run", **changes: object) -> Path:
        phase = {
            "name": "main",
            "tokens": 20 * 8 * 32,
            "learning_rate": 3e-3,
            "blend": [{"name": "a", "builds": tiny_builds["train"]}],
            "sequence_length": 32,
            "global_batch_size": 8,
        }
        recipe = {
            "name": name,
            "run_dir": str(tmp_path / name),
            "model": {"preset": "seed_coder_tiny", "vocab_size": TINY_VOCABULARY},
            "precision": "fp32",
            "phases": [phase],
            "checkpoint": {"every_steps": 10},
            "logging": {"tensorboard": False, "wandb": "off"},
            **changes,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An executable that does what Python does, and has imported the training stack already.

    Where there is a GPU, Python itself: a fork of a process that has looked for one cannot use it.
    """
    import torch

    if torch.cuda.is_available():
        yield sys.executable
        return
    path = tmp_path_factory.mktemp("warm") / "python"
    name = f"megatron-seed-tests-{os.getpid()}"
    warm_python.write_client(path, name)
    command = [sys.executable, "-W", "ignore", warm_python.__file__, name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as server:
        assert server.stdout.readline() == b"ready\n"
        yield str(path)
        server.stdin.close()


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `-m MODULE ARGUMENTS` (or a script) in one process or under torchrun, with a hard time-out.

    `fresh`: by a Python that has imported nothing.
    """

    def run(
        *arguments: str | Path, processes: int = 1, timeout_s: float = 180.0, check: bool = True, fresh: bool = False
    ) -> subprocess.CompletedProcess:
        python = sys.executable if fresh else request.getfixturevalue("python")
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [python, *(launcher if processes > 1 else []), *map(str, arguments)]
        # Also without the service that a wandb run within the tests' own process left behind.
        foreign = ("SLURM_", "RANK", "WORLD_SIZE", "WANDB_SERVICE")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        result = subprocess.run(
            command,
            env={**clean, "PYTHON_EXEC": python},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert not check or result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
        return result

    return run
