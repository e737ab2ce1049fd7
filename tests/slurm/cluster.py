"""A Slurm cluster of a few nodes on this one machine: Debian's slurm-wlm and munge, in a folder of its own.

Needs root, as slurmd does. Nothing of a cluster that the machine may belong to is touched: configuration, keys,
sockets, ports and state are all in the folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo", "squeue", "scancel", "scontrol")
_START_S = 30.0
_CONFIG = """
ClusterName=seed{key}
SlurmctldHost={host}
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=20
MinJobAge=600
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
JobRequeue=1
{nodes}
PartitionName=main Nodes={names} Default=YES MaxTime=60 State=UP
"""


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


@dataclass
class Cluster:
    """Starts on entering, ends with all its jobs on leaving."""

    folder: Path
    nodes: Sequence[str] = ("n1", "n2")
    cpus: int = 4
    """That each node claims to have."""
    _daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """For Slurm's commands, and for whatever calls them."""
        foreign = ("SLURM", "SBATCH", "SRUN")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return {**kept, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> Cluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "state").mkdir()
        try:
            self._write_config()
            self._start_munge()
            self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.folder / "slurm.conf")])
            for node in self.nodes:
                self.start_node(node)
            self.wait_until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *unused: object) -> None:
        if "slurmctld" in self._daemons:
            self.run("scancel", "--user=root", "--signal=KILL", "--full", "--quiet", check=False)
        for name in [*self.nodes, "slurmctld", "munged"]:
            if name in self._daemons:
                self._stop(name)

    def run(self, *command: str | Path, check: bool = True, timeout_s: float = 60.0) -> str:
        """A command of Slurm's, or one that uses them; its output."""
        done = subprocess.run(
            list(map(str, command)), env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def start_node(self, node: str) -> None:
        self._start(node, ["slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf")])

    def kill_node(self, node: str) -> None:
        """As a power cut would: the daemon and every process of its jobs are gone, and nobody was told."""
        self._daemons.pop(node).kill()
        steps, others = self._processes_of(node)
        for process in [*steps, *others]:  # those first who would tell of the others
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, 9)

    def _processes_of(self, node: str) -> tuple[list[int], list[int]]:
        """Step daemons of a node, and what its jobs run."""
        log = str(self.folder / f"slurmd-{node}.log")
        steps, others = [], []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                if (process / "comm").read_text() == "slurmstepd\n":
                    if log in {os.readlink(handle) for handle in (process / "fd").iterdir()}:
                        steps.append(int(process.name))
                elif f"SLURMD_NODENAME={node}\0".encode() in (process / "environ").read_bytes():
                    others.append(int(process.name))
        return steps, others

    def _write_config(self) -> None:
        host = socket.gethostname().split(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} CPUs={self.cpus} "
            f"Sockets=1 CoresPerSocket={self.cpus} ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN"
            for node in self.nodes
        )
        text = _CONFIG.format(
            key=secrets.token_hex(3), host=f"{host}(127.0.0.1)", port=_free_port(), folder=self.folder, nodes=nodes,
            names=",".join(self.nodes),
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text)

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        options = [f"--socket={self.folder}/munge.socket", f"--key-file={key}", f"--pid-file={self.folder}/munge.pid"]
        options += [f"--log-file={self.folder}/munge.log", f"--seed-file={self.folder}/munge.seed"]
        self._start("munged", ["munged", "--foreground", "--force", *options])
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )

    def _stop(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def wait_until_idle(self) -> None:
        def idle() -> bool:
            states = self.run("sinfo", "-h", "-N", "-o", "%T", check=False).split()
            return states == ["idle"] * len(self.nodes)

        self._wait(idle, "the nodes")

    def _wait(self, ready: object, what: str) -> None:
        deadline = time.monotonic() + _START_S
        while not ready():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                told = "".join((self.folder / f"{name}.out").read_text()[-2000:] for name in dead)
                raise RuntimeError(f"{what}: not ready after {_START_S:.0f} s; ended: {dead}\n{told}")
            time.sleep(0.1)
