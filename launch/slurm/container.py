"""The words that put a process into a cluster's container."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from launch.cluster import ClusterConfig
from megatron_seed.errors import SeedError


def pyxis_options(cluster: ClusterConfig, folder: Path, mounted: Sequence[Path]) -> Iterator[str]:
    """srun's, where the runtime is pyxis; processes start in `folder`."""
    container = cluster.container
    if container is None or container.runtime != "pyxis":
        return
    mounts = list(_mounts(cluster, mounted))
    for mount in mounts:
        if "," in mount or mount.count(":") > 2:
            raise SeedError(f"{mount}: pyxis cannot mount a path with a comma or a colon in its name")
    yield f"--container-image={container.image}"
    yield f"--container-mounts={','.join(mounts)}"
    yield f"--container-workdir={folder}"


def enter(cluster: ClusterConfig, folder: Path, mounted: Sequence[Path]) -> Iterator[str]:
    """What comes before a command, where the runtime is apptainer."""
    container = cluster.container
    if container is None or container.runtime != "apptainer":
        return
    yield from ("apptainer", "exec", "--pwd", str(folder))
    yield from ["--nv"] if cluster.gpus_per_node else []
    for mount in _mounts(cluster, mounted):
        yield from ("--bind", mount)
    yield container.image


def _mounts(cluster: ClusterConfig, mounted: Sequence[Path]) -> Iterator[str]:
    yield from dict.fromkeys(f"{path}:{path}" for path in mounted)
    yield from (mount if ":" in mount else f"{mount}:{mount}" for mount in cluster.container.mounts)
