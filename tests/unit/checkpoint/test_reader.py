"""Reading torch_dist checkpoints: any chunks, only known classes, clear words about damage."""

import io
import itertools
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_seed.checkpoint.reader import CheckpointReader, read_model_config, read_state
from megatron_seed.config.load import dump_recipe
from megatron_seed.config.presets import PRESETS
from megatron_seed.config.schema import ModelConfig
from megatron_seed.errors import SeedError
from megatron_seed.hf.torch_dist import Part, write_torch_dist

KEY = "decoder.layers.mlp.linear_fc2.weight"


def cut(size: int, borders: list[int]) -> list[tuple[int, int]]:
    """(offset, size) of the stretches between borders."""
    places = sorted({0, size, *(border % size for border in borders)})
    return [(start, stop - start) for start, stop in itertools.pairwise(places)]


def write(directory: Path, tensors: dict[str, torch.Tensor], borders: dict[str, list[list[int]]] | None = None) -> None:
    """Write tensors as grids of chunks, cut at the given borders of each dimension."""
    parts = []
    for key, tensor in tensors.items():
        places = (borders or {}).get(key, [[]] * tensor.dim())
        for box in itertools.product(*map(cut, tensor.shape, places)):
            offsets, sizes = zip(*box, strict=True)
            parts.append(Part(key, tuple(tensor.shape), offsets, sizes))
    directory.mkdir(parents=True, exist_ok=True)

    def make(part: Part) -> torch.Tensor:
        where = tuple(slice(start, start + size) for start, size in zip(part.offsets, part.sizes, strict=True))
        return tensors[part.key][where].clone()

    write_torch_dist(
        directory, parts, next(iter(tensors.values())).dtype, make, {f"{KEY}._extra_state/shard_0_1": [None]}
    )


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {KEY: (3, 8, 6), "output_layer.weight": (16, 8), f"optimizer.state.exp_avg.{KEY}": (3, 8, 6)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def test_tells_model_and_optimizer_tensors_apart(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write(tmp_path, tensors)
    reader = CheckpointReader(tmp_path)
    assert dict(reader.tensors) == {
        KEY: ((3, 8, 6), torch.float32),
        "output_layer.weight": ((16, 8), torch.float32),
    }
    assert list(reader.optimizer_tensors) == [f"optimizer.state.exp_avg.{KEY}"]
    assert all(torch.equal(reader.read(key), tensor) for key, tensor in tensors.items())


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_reads_any_box_of_any_chunks(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3), label="shape"))
    borders = [data.draw(st.lists(st.integers(0, 5), max_size=3), label="borders") for _ in shape]
    tensor = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    directory = tmp_path_factory.mktemp("chunks")
    write(directory, {KEY: tensor}, {KEY: borders})
    offsets = [data.draw(st.integers(0, size - 1)) for size in shape]
    sizes = [data.draw(st.integers(1, size - offset)) for size, offset in zip(shape, offsets, strict=True)]
    box = tuple(slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))
    reader = CheckpointReader(directory)
    assert torch.equal(reader.read_slice(KEY, offsets, sizes), tensor[box])


def test_agrees_with_torchs_own_reader(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write(tmp_path, tensors, {KEY: [[1, 2], [4], []], "output_layer.weight": [[8], []]})
    theirs = {key: torch.empty_like(tensor) for key, tensor in tensors.items()}
    dcp.load(theirs, checkpoint_id=tmp_path, no_dist=True)
    reader = CheckpointReader(tmp_path)
    assert all(torch.equal(reader.read(key), tensor) for key, tensor in theirs.items())


def test_a_layer_is_read_without_the_files_of_others(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write(tmp_path, tensors, {KEY: [[1, 2], [], []]})
    (data,) = tmp_path.glob("*.distcp")
    with data.open("r+b") as file:  # the last chunk of KEY ends the model's tensors; what follows is the optimizer's
        reader = CheckpointReader(tmp_path)
        ends = [chunk.start + chunk.length for chunk in reader._chunks[KEY] if chunk.box.offsets[0] == 0]
        file.truncate(max(ends))
    layer = (1, *tensors[KEY].shape[1:])
    assert torch.equal(reader.read_slice(KEY, (0, 0, 0), layer), tensors[KEY][:1])
    with pytest.raises(SeedError, match=r"__0_0\.distcp: truncated: decoder"):
        reader.read_slice(KEY, (2, 0, 0), layer)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_a_metadata_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": Payload(tmp_path / "executed")}))
    with pytest.raises(SeedError, match=r"names (posix|os)\.mkdir"):
        CheckpointReader(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_tensor_that_runs_code_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write(tmp_path, {KEY: tensors[KEY]})
    (data,) = tmp_path.glob("*.distcp")
    reader = CheckpointReader(tmp_path)
    (chunk,) = reader._chunks[KEY]
    content = bytearray(data.read_bytes())
    payload = pickle.dumps(Payload(tmp_path / "executed"))
    content[chunk.start : chunk.start + chunk.length] = payload.ljust(chunk.length, b"\0")
    data.write_bytes(content)
    with pytest.raises(SeedError, match="damaged: decoder"):
        reader.read(KEY)
    assert not (tmp_path / "executed").exists()


def rewrite_metadata(directory: Path, change) -> None:
    path = directory / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))


def test_damage_is_named(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    write(tmp_path, tensors, {KEY: [[1, 2], [], []]})
    good = (tmp_path / ".metadata").read_bytes()

    rewrite_metadata(tmp_path, lambda metadata: metadata.state_dict_metadata[KEY].chunks.pop())
    with pytest.raises(SeedError, match="leave a part of it out"):
        CheckpointReader(tmp_path).read(KEY)

    (tmp_path / ".metadata").write_bytes(good)
    rewrite_metadata(tmp_path, lambda metadata: metadata.storage_data.clear())
    with pytest.raises(SeedError, match=r"\.metadata: damaged"):
        CheckpointReader(tmp_path)

    def outside(metadata) -> None:
        for info in metadata.storage_data.values():
            info.relative_path = "../elsewhere.distcp"

    (tmp_path / ".metadata").write_bytes(good)
    rewrite_metadata(tmp_path, outside)
    with pytest.raises(SeedError, match="outside of the checkpoint"):
        CheckpointReader(tmp_path)

    (tmp_path / ".metadata").write_bytes(good[: len(good) // 2])
    with pytest.raises(SeedError, match="damaged or not"):
        CheckpointReader(tmp_path)

    (tmp_path / ".metadata").write_bytes(good)
    (tmp_path / "__0_0.distcp").unlink()
    with pytest.raises(SeedError, match=r"__0_0\.distcp: cannot read"):
        CheckpointReader(tmp_path).read(KEY)


LENGTH = (2**60).to_bytes(8, "little")


@pytest.mark.parametrize("claim", [b"\x8e" + LENGTH, b"\x8d" + LENGTH, b"\x95" + LENGTH, b"\x95" + b"\xff" * 8])
def test_metadata_that_claims_to_be_huge_is_damaged(tmp_path: Path, claim: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(b"\x80\x04" + claim + b"x.")
    with pytest.raises(SeedError, match=r"\.metadata: damaged or not a checkpoint's metadata"):
        CheckpointReader(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("offset", -1, "damaged"),
        ("offset", "a", "damaged"),
        ("offset", 2**70, "truncated"),
        ("length", None, "damaged"),
        ("length", -5, "damaged"),
        ("length", 2**60, "truncated"),
        ("relative_path", "a\0b", "outside of the checkpoint"),
        ("size", (-3, 8, 6), "damaged"),
        ("size", (3, "a", 6), "damaged"),
        ("dtype", "x", "damaged"),
        ("dtype", None, "damaged"),
    ],
)
def test_numbers_that_cannot_be_are_damage(
    tmp_path: Path, tensors: dict[str, torch.Tensor], name: str, value: object, told: str
) -> None:
    write(tmp_path, tensors)

    def change(metadata) -> None:
        entry = metadata.state_dict_metadata[KEY]
        targets = {"size": entry, "dtype": entry.properties}
        for place in [targets[name]] if name in targets else metadata.storage_data.values():
            setattr(place, name, value)

    rewrite_metadata(tmp_path, change)
    with pytest.raises(SeedError, match=told):
        CheckpointReader(tmp_path).read(KEY)


@pytest.mark.parametrize("pickled", [b"\x80\x02.", b"\x80\x02)R.", b"\x80\x02}}s."])
def test_a_record_that_is_half_a_pickle_is_damaged(
    tmp_path: Path, tensors: dict[str, torch.Tensor], pickled: bytes
) -> None:
    write(tmp_path, tensors)
    stream = io.BytesIO()
    torch.save(tensors[KEY], stream)
    with zipfile.ZipFile(stream) as whole, zipfile.ZipFile(tmp_path / "half", "w") as half:
        for record in whole.infolist():
            half.writestr(record.filename, pickled if record.filename.endswith("data.pkl") else whole.read(record))
    (tmp_path / "__0_0.distcp").write_bytes((tmp_path / "half").read_bytes())

    def change(metadata) -> None:
        for place in metadata.storage_data.values():
            place.offset, place.length = 0, (tmp_path / "half").stat().st_size

    rewrite_metadata(tmp_path, change)
    with pytest.raises(SeedError, match="damaged: decoder"):
        CheckpointReader(tmp_path).read(KEY)


def test_what_is_not_there_is_named(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(SeedError, match=r"no \.metadata"):
        CheckpointReader(tmp_path)
    write(tmp_path, tensors)
    reader = CheckpointReader(tmp_path)
    with pytest.raises(SeedError, match="no tensor lm_head; model tensors: decoder"):
        reader.read("lm_head")
    with pytest.raises(SeedError, match=r"no \[1, 9, 6\]"):
        reader.read_slice(KEY, (0, 0, 0), (1, 9, 6))


def test_model_config_and_state(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match=r"neither model\.yaml nor recipe\.yaml"):
        read_model_config(tmp_path)
    config = ModelConfig(**PRESETS["seed_coder_8b"])
    (tmp_path / "model.yaml").write_text(dump_recipe(config))
    assert read_model_config(tmp_path) == config
    (tmp_path / "model.yaml").write_text(dump_recipe(config) + "colour: red\n")
    with pytest.raises(SeedError, match=r"model\.yaml: colour"):
        read_model_config(tmp_path)
    assert read_state(tmp_path) == {}
    (tmp_path / "state.json").write_text('{"step": 3}')
    assert read_state(tmp_path) == {"step": 3}
    (tmp_path / "state.json").write_text("[1]")
    with pytest.raises(SeedError, match=r"state\.json: not a JSON object"):
        read_state(tmp_path)
