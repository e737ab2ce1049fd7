"""Batch scripts say what was asked for, whatever signs are in names, paths and values."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from launch.cluster import ClusterConfig
from launch.slurm.script import directive, log_pattern, render
from launch.slurm.training import Request, TrainingJob, training_script
from megatron_seed.config.load import load_recipe
from megatron_seed.errors import SeedError

RECIPE = load_recipe("quickstart", ["layout.tensor_parallel=2"])
CPU = {"gpus_per_node": 0, "time": "60", "python": sys.executable}
AWKWARD = [
    "two words",
    "it's",
    'say "hi"',
    "$HOME",
    "$(touch injected)",
    "`touch injected`",
    "; touch injected #",
    "a\nb",
    "\\",
    "-",
    "~",
    "*",
    "!x",
    "ü\u2028",
]
ANY = st.one_of(
    st.sampled_from(AWKWARD),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)
LINE = st.text(st.characters(exclude_characters="\0\n\r\\", exclude_categories=["Cs"]), max_size=20)
_FAKE_SRUN = """\
import json, os, sys
given = sys.argv[1:]
words = given[given.index("bash", given.index("bash") + 1) + 1 :]
told = {"srun": given, "words": words, "environ": dict(os.environ), "folder": os.getcwd()}
open(os.environ["TOLD"], "w").write(json.dumps(told))
log = words[0]
for rank in range(2):
    open(f"{log}/rank-{rank}.exit", "w").write(f"0 n{rank + 1}\\n")
"""
_FAKE_SCONTROL = """\
case $2 in
    hostnames) printf 'n1\\nn2\\n' ;;
    job) echo "JobId=7 JobName=x Reason=None NodeList=n[1-2]" ;;
esac
"""


@pytest.fixture(scope="module")
def fake_slurm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an srun that writes down what it was given, and a scontrol that knows two nodes."""
    folder = tmp_path_factory.mktemp("bin")
    shells = {"srun": f"{sys.executable} -SE", "scontrol": "/bin/sh", "squeue": "/bin/sh", "scancel": "/bin/sh"}
    texts = {"srun": _FAKE_SRUN, "scontrol": _FAKE_SCONTROL}
    for name, shell in shells.items():
        path = folder / name
        path.write_text(f"#!{shell}\n{texts.get(name, '')}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def run_script(text: str, fake_slurm: Path, folder: Path) -> dict[str, Any]:
    """What the fake srun was given by the script."""
    script, told = folder / "job.sh", folder / "told.json"
    script.write_text(text)
    environ = {
        "PATH": f"{fake_slurm}{os.pathsep}{os.environ['PATH']}",
        "TOLD": str(told),
        "HOME": "/not/to/be/seen",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[1-2]",
    }
    done = subprocess.run(["bash", str(script)], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(told.read_text())


def job(folder: Path, arguments: tuple[str, ...], cluster: dict[str, Any], **changes: Any) -> TrainingJob:
    recipe = changes.pop("recipe", RECIPE)
    request = Request(nodes=2, health=False, **changes)
    return TrainingJob(recipe, arguments, ClusterConfig(**{**CPU, **cluster}), request, folder, None)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ANY, max_size=4), st.dictionaries(st.from_regex(r"[A-Z_]{3,8}X", fullmatch=True), ANY, max_size=3), LINE
)
@example(AWKWARD, {"AWKWARDX": "\n".join(AWKWARD)}, "run $(touch injected) 'x' \"y\" `id`")
def test_values_arrive_as_they_are(
    fake_slurm: Path, tmp_path: Path, arguments: list[str], environment: dict[str, str], name: str
) -> None:
    plain = "".join(sign for sign in name if sign != "/").strip(".") or "folder"
    folder = tmp_path / f"f{plain[:40]}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = job(folder, ("recipe.yaml", *arguments), {"environment": environment})
    told = run_script(render(training_script(made)), fake_slurm, tmp_path)
    assert told["words"][1:] == [sys.executable, "-m", "megatron_seed.train", "recipe.yaml", *arguments]
    assert {name: told["environ"].get(name) for name in environment} == environment
    assert told["folder"] == str(folder)
    assert (folder / RECIPE.run_dir / "launch" / "jobs.jsonl").is_file()
    assert not list(tmp_path.rglob("injected"))


@given(st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True), LINE)
def test_a_directive_is_one_line_that_bash_never_runs(name: str, value: str) -> None:
    text = directive(name, value)
    assert text.startswith(f"#SBATCH --{name}=") and len(text.split("\n")) == 1


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
def test_a_directive_with_a_line_break_is_refused(value: str) -> None:
    with pytest.raises(SeedError, match=r"sbatch --comment: .* has a line break"):
        directive("comment", value)


def test_a_log_that_slurm_could_not_name_is_refused() -> None:
    assert log_pattern(Path("/a%b/job-%j.out")) == "/a%%b/job-%j.out"
    with pytest.raises(SeedError, match="backslash"):
        log_pattern(Path("/a\\b/job-%j.out"))


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="NO SHELLCHECK HERE (Debian: apt-get install shellcheck)"
)
@pytest.mark.parametrize("launcher", ["srun", "torchrun"])
def test_shellcheck_finds_nothing(tmp_path: Path, launcher: str) -> None:
    cluster = {
        "environment": {"A": "\n".join(AWKWARD)},
        "modules": ["cuda/12.8", "it's"],
        "source": ["/etc/site $x.sh"],
        "scratch": "/scr atch",
        "cpus_per_process": 4,
        "sbatch": {"switches": 1, "comment": "a 'b' \"c\" $d"},
    }
    made = job(tmp_path, ("recipe.yaml", *AWKWARD), cluster, launcher=launcher, chain=3, spare_nodes=1)
    script = tmp_path / "job.sh"
    script.write_text(render(training_script(made)))
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def directives(made: TrainingJob) -> list[str]:
    return [
        line.removeprefix("#SBATCH --") for line in render(training_script(made)).splitlines() if line.startswith("#SB")
    ]


def test_directives_of_a_gpu_cluster(tmp_path: Path) -> None:
    cluster = {"gpus_per_node": 8, "partition": "h100", "account": "code", "cpus_per_process": 12, "time": "2-00"}
    recipe = load_recipe("seed_coder_8b/pretrain")
    found = directives(
        TrainingJob(recipe, (), ClusterConfig(**cluster), Request(nodes=4, spare_nodes=1), tmp_path, None)
    )
    wanted = [
        "nodes=5", "ntasks-per-node=8", "partition=h100", "account=code", "time=2-00", "cpus-per-task=12",
        "gpus-per-node=8", "exclusive", "mem=0", "open-mode=append", "requeue", "signal=USR1@600", "no-kill",
    ]  # fmt: skip
    assert [line for line in found if not line.startswith(("job-name", "output"))] == wanted


def test_fewer_nodes_only_where_the_recipe_can_train_on_them(tmp_path: Path) -> None:
    recipe = load_recipe("seed_coder_8b/pretrain")  # 1,024 sequences over replicas of 8 GPUs
    made = TrainingJob(recipe, (), ClusterConfig(), Request(nodes=8, min_nodes=3), tmp_path, None)
    found = directives(made)
    assert "nodes=4-8" in found and "cpus-per-task=8" in found
    assert not [line for line in found if line.startswith("ntasks")]
    assert "--nodes 4,8" in render(training_script(made))
    with pytest.raises(SeedError, match="global_batch_size"):
        directives(TrainingJob(recipe, (), ClusterConfig(), Request(nodes=7), tmp_path, None))


def test_containers(tmp_path: Path) -> None:
    settings_ = {"container": {"image": "/img $x.sqsh", "mounts": ["/data"]}}
    text = render(training_script(job(tmp_path, ("r.yaml",), {**settings_, "python": None})))
    assert f"'--srun-option=--container-mounts={tmp_path}:{tmp_path},{tmp_path / RECIPE.run_dir}:" in text or (
        f"--srun-option=--container-mounts={tmp_path}:{tmp_path},{tmp_path / RECIPE.run_dir}:" in text
    )
    assert "'--srun-option=--container-image=/img $x.sqsh'" in text
    assert "exec python3 -m launch.slurm.supervise" in text
    settings_["container"]["runtime"] = "apptainer"
    text = render(training_script(job(tmp_path, ("r.yaml",), settings_)))
    assert "--inside=apptainer" in text and "'--inside=/img $x.sqsh'" in text
