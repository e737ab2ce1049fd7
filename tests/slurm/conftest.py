"""One Slurm cluster for all tests of a session; each of pytest-xdist's workers has one of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, missing_programs


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Skipped, loudly, where it cannot start; with CI=true that is a failure."""
    reason = ""
    if os.geteuid():
        reason = "slurmd needs root"
    elif missing := missing_programs():
        reason = f"not installed: {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    if reason and os.environ.get("CI") == "true":
        pytest.fail(f"no Slurm here: {reason}")
    if reason:
        pytest.skip(f"NO SLURM HERE, NOTHING OF IT IS TESTED: {reason}")
    with Cluster(Path(tmp_path_factory.mktemp("slurm")), nodes=("n1", "n2", "n3")) as cluster:
        yield cluster


@pytest.fixture
def on_cluster(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Slurm's commands of this process speak to the test cluster."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "SRUN"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    return slurm
