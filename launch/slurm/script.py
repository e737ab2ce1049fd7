"""Batch scripts as text. Values stand in directives that are checked, or in words that are quoted; nowhere else."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import ClusterConfig
from launch.slurm.environment import variables
from megatron_seed.errors import SeedError

_PLAIN = re.compile(r"[\w.,:+@/=&|*()\[\]%-]+", re.ASCII)


@dataclass(frozen=True)
class Script:
    """A batch job of one command."""

    cluster: ClusterConfig
    directives: Mapping[str, str | int | None]
    """Of sbatch by long name; without a value where that is None."""
    about: Sequence[str]
    """What it does, for those who read it; text of this program alone, no value of anyone's."""
    folder: Path
    """That it runs in."""
    code: Path | None
    """Folder of the packages; None where the interpreter has them installed."""
    words: Sequence[Sequence[str]]
    """The command, each option with its value."""


def render(script: Script) -> str:
    """The script's text. Raises SeedError for a directive that cannot be written."""
    return "\n".join(_lines(script)) + "\n"


def directive(name: str, value: str | int | None) -> str:
    """One `#SBATCH` line; sbatch takes quoted values apart as a shell would, but expands nothing."""
    if value is None:
        return f"#SBATCH --{name}"
    text = str(value)
    if re.search(r"[\n\r\0]", text):
        raise SeedError(f"sbatch --{name}: {text!r} has a line break, which a directive cannot hold")
    if not _PLAIN.fullmatch(text):
        text = '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
    return f"#SBATCH --{name}={text}"


def log_pattern(path: Path) -> str:
    """A path for sbatch's `--output` in which no sign but `%j` (in its last part) stands for something else."""
    if "\\" in str(path):
        raise SeedError(f"{path}: Slurm cannot write its log there, for the backslash in its name")
    return f"{str(path.parent).replace('%', '%%')}/{path.name}"


def _lines(script: Script) -> Iterator[str]:
    cluster = script.cluster
    yield "#!/bin/bash"
    yield from (directive(name, value) for name, value in script.directives.items())
    yield from ("", *(f"# {line}" for line in script.about))
    yield from ("# Values are quoted so that nothing in them is taken for shell.", "# shellcheck disable=SC2016,SC1003")
    yield from ("", "set -e")
    yield f"cd {shlex.quote(str(script.folder))}"
    if cluster.modules:
        yield "# shellcheck disable=SC1091"
        yield '[ "$(type -t module)" = function ] || source /etc/profile'
        yield from (f"module load {shlex.quote(module)}" for module in cluster.modules)
    yield from (f"# shellcheck source=/dev/null\nsource {shlex.quote(str(path))}" for path in cluster.source)
    yield from (f"export {name}={shlex.quote(value)}" for name, value in variables(cluster).items())
    if script.code:
        # What is in the folder that the job runs in must not come first.
        yield "export PYTHONSAFEPATH=1"
        yield f"export PYTHONPATH={shlex.quote(str(script.code))}" + '"${PYTHONPATH:+:$PYTHONPATH}"'
    yield ""
    yield "exec " + " \\\n    ".join(" ".join(map(shlex.quote, words)) for words in script.words)


def node_directives(cluster: ClusterConfig) -> Iterator[tuple[str, str | int | None]]:
    """What each job asks of this kind of node."""
    for name in ("partition", "account", "qos", "reservation", "constraint"):
        if getattr(cluster, name):
            yield name, getattr(cluster, name)
    yield "time", cluster.time
    if cluster.cpus_per_process:
        yield "cpus-per-task", cluster.cpus_per_process
    if cluster.gpus_per_node and cluster.gpu_request == "gpus":
        yield "gpus-per-node", cluster.gpus_per_node
    elif cluster.gpus_per_node:
        yield "gres", f"gpu:{cluster.gpus_per_node}"
    if cluster.exclusive:
        yield "exclusive", None
    if cluster.memory_gb:
        yield "mem", f"{cluster.memory_gb}G"
    elif cluster.exclusive:
        yield "mem", 0


def further_directives(cluster: ClusterConfig) -> Iterator[tuple[str, str | int | None]]:
    """Those of the cluster file, last: they go before all others."""
    return ((name, value if value != "" else None) for name, value in cluster.sbatch.items())


def job_name(name: str, run_dir: Path) -> str:
    """The same for all jobs of a run, and another for each run folder, since chains go by it."""
    import hashlib

    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")[:40] or "run"
    return f"{plain}-{hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:6]}"
