"""A folder is trusted only when every byte is as its manifest says."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_seed.checkpoint.manifest import NAME, digest_file, find_damage, list_files, write_manifest, write_text

FILES = {
    "common.pt": b"common",
    "__0_0.distcp": bytes(range(256)) * 20,
    "tokenizer/tokenizer.json": b"{}",
    "empty": b"",
}


def make(folder: Path) -> Path:
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("manifest") / "folder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "folder")


def test_what_was_written_is_good_and_described_file_by_file(folder: Path) -> None:
    assert find_damage(folder) is None
    files = json.loads((folder / NAME).read_text())["files"]
    assert list(files) == sorted(FILES)
    for name, content in FILES.items():
        assert files[name] == {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert list_files(folder) == sorted(FILES)


def test_a_moved_folder_stays_good(folder: Path) -> None:
    assert find_damage(folder.rename(folder.with_name("elsewhere"))) is None


@given(place=st.integers(0, sum(map(len, FILES.values())) - 1), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_found(original: Path, place: int, bit: int) -> None:
    name, place = [(name, byte) for name, content in FILES.items() for byte in range(len(content))][place]
    content = FILES[name]
    damaged = bytearray(content)
    damaged[place] ^= 1 << bit
    (original / name).write_bytes(damaged)
    try:
        damage = find_damage(original)
    finally:
        (original / name).write_bytes(content)
    assert damage is not None and name in damage and "digest" in damage
    assert find_damage(original) is None


@given(size=st.integers(0, 2 * len(FILES["__0_0.distcp"])))
def test_another_length_is_found(original: Path, size: int) -> None:
    path = original / "__0_0.distcp"
    os.truncate(path, size)
    try:
        damage = find_damage(original)
    finally:
        path.write_bytes(FILES[path.name])
    if size == len(FILES[path.name]):
        assert damage is None
    else:
        assert damage == f"{path} has {size} bytes instead of {len(FILES[path.name])}"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert find_damage(folder) == f"{folder / name} is missing"


def test_a_folder_in_the_place_of_a_file_is_found(folder: Path) -> None:
    (folder / "common.pt").unlink()
    (folder / "common.pt").mkdir()
    assert find_damage(folder) == f"{folder / 'common.pt'} is missing"


def test_a_file_that_nobody_described_does_no_harm(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert find_damage(folder) is None


def test_a_folder_without_manifest_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    (folder / NAME).unlink()
    assert find_damage(folder) == f"{folder / NAME} is missing"
    assert "is missing" in find_damage(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"files": {"common.pt": {"size_by',
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {"common.pt": 3}}',
        '{"files": {"common.pt": {"size_bytes": 6}}}',
        "\udcff",
    ],
    ids=["empty", "cut", "list", "no files", "files a list", "entry a number", "no digest", "not text"],
)
def test_a_manifest_that_makes_no_sense_is_damage_not_a_crash(folder: Path, text: str) -> None:
    (folder / NAME).write_bytes(text.encode(errors="surrogateescape"))
    assert "cannot be read" in find_damage(folder)


def test_a_file_that_the_disk_cannot_give_is_damage_not_a_crash(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path) -> dict:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("megatron_seed.checkpoint.manifest.digest_file", fails)
    assert "Input/output error" in find_damage(folder)


@given(content=st.binary(max_size=300))
def test_digests_are_sha256_of_the_content(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "digested"
    path.write_bytes(content)
    assert digest_file(path) == {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_texts_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_text(path, "old")

    def killed(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new, but never forced to disk")
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_copies_keep_their_manifest(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert find_damage(copy) is None
