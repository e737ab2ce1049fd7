"""The shard: unit of work, of retry and of resume.

A shard is a file and, beside it, its manifest `<file>.json`. Both are written to a temporary name, fsynced and renamed,
the manifest last. The manifest holds `inputs` (a fingerprint of everything the content depends on), `sha256`,
`size_bytes`, `rows` and whatever else the shard function counted. A shard is done when its manifest is there, names the
same inputs, and every file it names has the recorded size; anything else is made again. In an object store, which has
no rename, both are put whole, the manifest last.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from data_prep.engines.base import Call, Engine
from data_prep.engines.local import LocalEngine
from data_prep.engines.runs import FOLDER as RUNS
from data_prep.engines.runs import end_runs
from data_prep.errors import DataError
from data_prep.leases import hold_lease
from data_prep.storage import beside, each, in_words, is_remote, put, read_bytes, remove_file

if TYPE_CHECKING:  # workers show no progress; they start faster without it
    from rich.progress import Progress

TEMPORARY_SUFFIX = ".tmp"
LOCK_NAME = ".lock"


@dataclass(frozen=True)
class Digest:
    """SHA-256 (hex) and size of a file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class ShardTask:
    """One shard to make: `function(stream, *args, *common) -> counters` writes `output`'s bytes to `stream`.

    `function` is module-level, its arguments are picklable, and `common` is one and the same object in the tasks of a
    run: it is what would otherwise be sent with each of them, such as the paths of all shards. The counters are a
    JSON-able dict with at least `rows`. A shard of more than one file writes the others with `write_atomic` beside
    `output` and counts them as `files: {path relative to output's directory: asdict(digest)}`; they are then checked
    like the output itself.
    """

    output: Path
    inputs: str
    function: Callable[..., Mapping[str, Any]]
    args: tuple[Any, ...] = ()
    common: tuple[Any, ...] = ()


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex) of JSON-able parts; equal parts give equal fingerprints on any machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_path(output: Path) -> Path:
    return output.with_name(output.name + ".json")


def read_manifest(output: Path) -> dict[str, Any] | None:
    """The manifest of a shard, or None where there is none, or one that says nothing.

    Raises `DataError` where it cannot be read, which does not mean that the shard was not made.
    """
    path = manifest_path(output)
    try:
        manifest = json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {in_words(error)}; run again once it can") from None
    return manifest if isinstance(manifest, dict) else None


def finished_manifest(output: Path, inputs: str | None = None) -> dict[str, Any] | None:
    """The manifest of `output` if the shard is done (made from `inputs`, when given), else None."""
    manifest = read_manifest(output)
    if manifest is None or (inputs is not None and manifest.get("inputs") != inputs):
        return None
    sizes = {output.name: manifest.get("size_bytes")}
    sizes |= {name: digest["size_bytes"] for name, digest in manifest.get("files", {}).items()}
    return manifest if all(_size(beside(output, name)) == size for name, size in sizes.items()) else None


def finished_manifests(outputs: Sequence[Path], inputs: Sequence[str] | None = None) -> list[dict[str, Any] | None]:
    """`finished_manifest` of each output."""
    asked = list(zip(outputs, inputs or [None] * len(outputs), strict=True))
    return each(lambda pair: finished_manifest(*pair), asked, outputs[0] if outputs else None)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be looked at: {in_words(error)}; run again once it can") from None


def write_atomic(path: Path, writer: Callable[[BinaryIO], Any]) -> Digest:
    """Writes a file that is either whole or absent: temporary name, fsync, rename, fsync of the directory.

    `writer` gets a seekable binary stream of a local file. On any failure the temporary file is removed and what was
    there before stays.
    """
    if is_remote(path):
        with tempfile.NamedTemporaryFile(prefix="megatron-seed-") as stream:
            writer(stream)
            digest = _digest(stream)
            put(stream, path)
        return digest
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "w+b") as stream:
            writer(stream)
            stream.flush()
            os.fsync(stream.fileno())
            digest = _digest(stream)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_directory(path.parent)
    return digest


def sha256_of(path: Path) -> str:
    """The digest (hex) of a file on a disk. Raises `OSError`."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(stream: BinaryIO) -> Digest:
    stream.flush()
    stream.seek(0)
    return Digest(hashlib.file_digest(stream, "sha256").hexdigest(), os.fstat(stream.fileno()).st_size)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> Digest:
    """Writes `value` as indented JSON, atomically."""
    data = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
    return write_atomic(path, lambda stream: stream.write(data))


def write_shard(task: ShardTask, *common: Any) -> dict[str, Any]:
    """Makes one shard here and now and returns its manifest; `common` is what the task left out of its own."""
    remove_file(manifest_path(task.output))  # of an older content: never beside the new one
    counters: dict[str, Any] = {}
    arguments = common or task.common
    digest = write_atomic(task.output, lambda stream: counters.update(task.function(stream, *task.args, *arguments)))
    manifest = {"inputs": task.inputs, **asdict(digest), **counters}
    write_json(manifest_path(task.output), manifest)
    return manifest


def remove_shard(output: Path) -> None:
    """Removes a shard, manifest first, so that it never looks done."""
    remove_file(manifest_path(output))
    remove_file(output)


def _call(task: ShardTask) -> Call:
    return Call(str(task.output), write_shard, (replace(task, common=()),), task.common)


def run_shards(
    tasks: Sequence[ShardTask],
    workers: int,
    progress: Progress | None = None,
    label: str = "shards",
    engine: Engine | None = None,
) -> list[dict[str, Any]]:
    """Makes every shard that is not done yet and returns the manifests of all, in the order of `tasks`.

    Runs on `engine`, or on a local pool of `workers` processes. Raises `DataError` naming the shard when a shard
    function fails or its worker dies twice; shards finished by then stay finished.
    """
    outputs = {task.output for task in tasks}
    if len(outputs) != len(tasks):
        raise DataError(f"{label}: two shards of one run have the same output")
    manifests = finished_manifests([task.output for task in tasks], [task.inputs for task in tasks])
    missing = [index for index, manifest in enumerate(manifests) if manifest is None]
    calls = [_call(tasks[index]) for index in missing]
    bar = progress.add_task(label, total=len(tasks), completed=len(tasks) - len(missing)) if progress else None
    for position, manifest in (engine or LocalEngine(workers)).run(calls):
        manifests[missing[position]] = manifest
        if progress:
            progress.advance(bar)
    return manifests


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Holds `directory` for this process; a second run on it is refused with `DataError`.

    The lock is the kernel's (flock on `.lock`), so it ends with the process however that ends; in an object store it is
    a lease, which runs out. Tasks of earlier runs that were killed do nothing more from then on. Temporary files that a
    killed run or worker left behind are removed, other than those in folders below that have a lock of their own.
    """
    if is_remote(directory):
        with hold_lease(directory / LOCK_NAME):
            end_runs(directory / RUNS)
            yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / LOCK_NAME, "a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read(80).decode(errors="replace").strip() or "another process"
            raise DataError(f"{directory} is in use by {holder}: wait for it to end, or stop it") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename}\n".encode())
        lock.flush()
        end_runs(directory / RUNS)
        _remove_temporary_files(directory)
        try:
            yield
        finally:
            _remove_temporary_files(directory)


def _remove_temporary_files(directory: Path) -> None:
    for folder, below, files in os.walk(directory):
        # In a folder with a lock of its own, and in one that is filled to be renamed, another run may be at work.
        below[:] = [n for n in below if not _is_temporary(n) and not os.path.exists(os.path.join(folder, n, LOCK_NAME))]
        for name in filter(_is_temporary, files):
            Path(folder, name).unlink(missing_ok=True)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)
