"""Files digested as they are written: their bytes and digests, and file systems that refuse direct writes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_seed.checkpoint import digesting
from megatron_seed.checkpoint.digesting import DigestingFile

NOISE = os.urandom(6_000_000)


def written(path: Path, pieces: list[bytes]) -> DigestingFile:
    with DigestingFile(path) as file:
        for piece in pieces:
            file.write(piece)
    return file


def holds(file: DigestingFile, expected: bytes) -> bool:
    digest = hashlib.sha256(expected).hexdigest()
    same = file.path.read_bytes() == expected
    return same and file.entry == {"size_bytes": len(expected), "sha256": digest}


@given(st.lists(st.integers(0, 5_000_000) | st.sampled_from([1 << 20, 1 << 21]), max_size=5))
@settings(max_examples=20, deadline=None)
def test_a_file_holds_what_was_written_however_it_was_cut(sizes: list[int]) -> None:
    pieces = [NOISE[size % 7 : size % 7 + size] for size in sizes]
    with tempfile.TemporaryDirectory() as folder:
        assert holds(written(Path(folder, "file"), pieces), b"".join(pieces))


def takes_direct_writes(folder: Path) -> bool:
    try:
        os.close(os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o666))
    except (OSError, AttributeError):
        return False
    return True


def test_whole_blocks_are_written_directly_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, direct = os.write, []

    def watched(handle: int, data: memoryview) -> int:
        direct.append(bool(fcntl.fcntl(handle, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0)))
        return write(handle, data)

    monkeypatch.setattr(digesting.os, "write", watched)
    assert holds(written(tmp_path / "file", [NOISE]), NOISE)  # two blocks and the end, which is no whole page
    assert direct == [takes_direct_writes(tmp_path)] * 2 + [False]


def test_writes_that_end_early_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(digesting.os, "write", lambda handle, data: write(handle, data[:1_000_001]))
    assert holds(written(tmp_path / "file", [NOISE]), NOISE)


def test_where_direct_writes_are_refused_they_go_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, refused = os.write, []

    def refuse(handle: int, data: memoryview) -> int:
        if not refused:
            refused.append(handle)
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(handle, data)

    monkeypatch.setattr(digesting.os, "write", refuse)
    monkeypatch.setattr(DigestingFile, "_set_direct", lambda file, direct: setattr(file, "_direct", direct))
    assert holds(written(tmp_path / "file", [NOISE]), NOISE)
    assert refused


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    written(tmp_path / "file", [b"first"])
    with pytest.raises(FileExistsError, match="file"):
        written(tmp_path / "file", [b"second"])
    assert (tmp_path / "file").read_bytes() == b"first"


def test_an_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(digesting.os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: .*file"):
        written(tmp_path / "file", [NOISE])
