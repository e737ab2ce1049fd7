"""The files of a checkpoint: each rank's share of the tensors, and what one rank writes beside them."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from megatron_seed.checkpoint import manifest
from megatron_seed.checkpoint.digesting import DigestingFile, Entry
from megatron_seed.checkpoint.pieces import Piece
from megatron_seed.checkpoint.state import Progress
from megatron_seed.checkpoint.table import Record
from megatron_seed.config.load import dump_recipe
from megatron_seed.config.schema import Recipe
from megatron_seed.errors import SeedError
from megatron_seed.runtime import device
from megatron_seed.runtime.priority import lower_priority

_ALIGNMENT = 64
# megatron-core's name for the form, by which it loads a checkpoint of ours.
CONTENT = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True,
           "singleton_local_shards": False}  # fmt: skip


@dataclass(frozen=True)
class Share:
    """What one rank writes: tensors on any device, objects as bytes."""

    pieces: Sequence[Piece]
    objects: Mapping[str, bytes]


@dataclass(frozen=True)
class Written:
    """What one rank has written."""

    records: Sequence[Record]
    files: Mapping[str, Entry]


class Staging:
    """Room for one private copy of a rank's share, made once and used for every save.

    On a GPU it is pinned, so that all copies run at once.
    """

    def __init__(self) -> None:
        self._room = torch.empty(0, dtype=torch.uint8)
        self._touching: threading.Thread | None = None

    def reserve(self, pieces: Sequence[Piece]) -> None:
        """Have the room for these from now on: where there is too little memory, it shows before any work is lost."""
        size = sum(_room_of(piece) for piece in _distinct(pieces).values())
        if self._room.numel() == size:
            return
        self._room = torch.empty(0, dtype=torch.uint8)
        self._room = torch.empty(size, dtype=torch.uint8, pin_memory=device.has_gpu())
        if not device.has_gpu():
            # The system hands out memory where it is first written to; the first save need not wait for that.
            self._touching = threading.Thread(target=_touch, args=(self._room,), name="touch")
            self._touching.start()

    def copy(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The pieces as they are now, in memory that nothing else writes to until the next call."""
        self.reserve(pieces)
        if self._touching is not None:
            self._touching.join()
            self._touching = None
        distinct, start, copies = _distinct(pieces), 0, {}
        for identity, piece in distinct.items():
            copies[identity] = self._copy(piece, start)
            start += _room_of(piece)
        device.synchronize()
        return [replace(piece, tensor=copies[_identity(piece)]) for piece in pieces]

    def _copy(self, piece: Piece, start: int) -> torch.Tensor:
        # A storage of its own for each: torch.save writes the whole storage of what it is given.
        own = torch.from_numpy(self._room.numpy()[start : start + piece.size_bytes])
        tensor = own.view(piece.tensor.dtype).view(piece.tensor.shape)
        return tensor.copy_(piece.tensor, non_blocking=True)


def _distinct(pieces: Sequence[Piece]) -> dict[tuple, Piece]:
    """In fp32 the optimizer works on the model's own parameters: what is the same memory is copied and written once."""
    return {_identity(piece): piece for piece in pieces}


def _identity(piece: Piece) -> tuple:
    return piece.tensor.data_ptr(), piece.tensor.shape, piece.tensor.dtype


def _room_of(piece: Piece) -> int:
    return -(-piece.size_bytes // _ALIGNMENT) * _ALIGNMENT


def _touch(room: torch.Tensor) -> None:
    lower_priority()
    memory = room.numpy()
    for start in range(0, len(memory), 1 << 20):
        if not threading.main_thread().is_alive():
            return
        memory[start : start + (1 << 20)] = 0


def write_share(folder: Path, rank: int, share: Share) -> Written:
    """Write one rank's file and force it to disk. Nothing is written for a rank without a share."""
    if not share.pieces and not share.objects:
        return Written([], {})
    name, records = f"__{rank}_0.distcp", []
    written: dict[tuple, tuple[int, int]] = {}
    with DigestingFile(folder / name) as file:
        for piece in share.pieces:
            if not threading.main_thread().is_alive():  # the run has ended with an error, and waits for this thread
                raise SeedError("the run ended")
            if _identity(piece) not in written:
                start = file.tell()
                _save_without_crc(_alone(piece.tensor), file)
                written[_identity(piece)] = start, file.tell() - start
            sizes, dtype = tuple(piece.tensor.shape), piece.tensor.dtype
            place = name, *written[_identity(piece)]
            records.append(Record(piece.key, piece.shape, dtype, piece.offsets, sizes, *place))
        for key, data in share.objects.items():
            records.append(Record(key, None, None, (), (), name, file.tell(), len(data)))
            file.write(data)
    manifest.sync_folder(folder)
    return Written(records, {name: file.entry})


def _save_without_crc(tensor: torch.Tensor, file: DigestingFile) -> None:
    """torch.save; its CRC-32, which no reader of torch looks at, takes as long as the SHA-256 of the file."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensor, file)
    finally:
        torch.serialization.set_crc32_options(before)


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, in a storage that holds nothing else."""
    tensor = tensor.cpu()
    return tensor if tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() else tensor.clone()


def as_bytes(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def write_beside(folder: Path, recipe: Recipe, progress: Progress, common: Mapping[str, Any]) -> dict[str, Entry]:
    """What a reader needs to make sense of the tensors, and a resumed run to go on."""
    state = {**progress.model_dump(mode="json"), "versions": device.versions()}
    backends = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    phase = next((phase for phase in recipe.phases if phase.name == progress.phase), None)
    texts = {
        "recipe.yaml": dump_recipe(recipe),
        "model.yaml": dump_recipe(recipe.model_of(phase) if phase else recipe.model),
        "state.json": json.dumps(state, indent=1),
        "metadata.json": json.dumps(backends | {"common_backend": "torch", "common_backend_version": 1}),
    }
    files = {name: manifest.write_bytes(folder / name, text.encode()) for name, text in texts.items()}
    files["common.pt"] = manifest.write_bytes(folder / "common.pt", as_bytes(dict(common)))
    if recipe.tokenizer:
        shutil.copytree(recipe.tokenizer, folder / "tokenizer")
        names = (f"tokenizer/{name}" for name in manifest.list_files(folder / "tokenizer"))
        files |= manifest.digest_files(folder, names)
    return files


def check_files(folder: Path, files: Mapping[str, Entry]) -> None:
    """Raise OSError for a file that this rank does not see as its writer left it."""
    for name, entry in files.items():
        size = (folder / name).stat().st_size
        if size != entry["size_bytes"]:
            raise OSError(f"{folder / name} has {size} bytes instead of {entry['size_bytes']}")


def move_into_place(temporary: Path, target: Path, latest: str) -> None:
    """Rename a finished folder, then move `latest`; what had the name (a copy cut short, say) goes afterwards."""
    former = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(former, ignore_errors=True)
        target.rename(former)
    temporary.rename(target)
    manifest.sync_folder(target.parent)
    manifest.write_text(target.parent / latest, target.name + "\n")
    shutil.rmtree(former, ignore_errors=True)
