"""A checkpoint is data: code in any of its files is refused and not run, also when its digests are right."""

from __future__ import annotations

import argparse
import enum
import io
import os
import pickle
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import SmallRun
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from megatron_seed.checkpoint import layout, manifest
from megatron_seed.checkpoint.pickles import check_extra_state, read_common
from megatron_seed.checkpoint.state import Progress
from megatron_seed.errors import SeedError


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def hidden_in_a_tensor(payload: Payload) -> torch.Tensor:
    """The way TransformerEngine keeps a module's state; it unpickles it without looking."""
    return torch.frombuffer(bytearray(pickle.dumps({"scale_fwd": payload})), dtype=torch.uint8)


def hidden_in_a_storage(payload: Payload) -> torch.Tensor:
    """torch pickles a storage as a call of its own load."""

    class Storage:
        def __reduce__(self) -> tuple:
            return torch.storage._load_from_bytes, (saved([payload]),)

    return torch.frombuffer(bytearray(pickle.dumps({"scale_fwd": Storage()})), dtype=torch.uint8)


def in_metadata(checkpoint: Path, payload: Payload) -> None:
    (checkpoint / ".metadata").write_bytes(pickle.dumps(payload))


def in_a_part_of_metadata(checkpoint: Path, payload: Payload) -> None:
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    metadata.planner_data = {"more": payload}
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def in_common(checkpoint: Path, payload: Payload) -> None:
    common = torch.load(checkpoint / "common.pt", weights_only=False)
    (checkpoint / "common.pt").write_bytes(saved({**common, "args": payload}))


def in_common_of_the_old_format(checkpoint: Path, payload: Payload) -> None:
    (checkpoint / "common.pt").write_bytes(saved({"args": payload}, _use_new_zipfile_serialization=False))


def in_common_as_a_mere_pickle(checkpoint: Path, payload: Payload) -> None:
    (checkpoint / "common.pt").write_bytes(pickle.dumps({"args": payload}))


def in_a_record(checkpoint: Path, data: bytes, *, of_an_object: bool) -> None:
    """Replace one record of the data file, by putting another at its end and changing the table of contents."""
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    for index, info in metadata.storage_data.items():
        is_object = isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata)
        if is_object == of_an_object and not index.fqn.startswith("generators."):
            path = checkpoint / info.relative_path
            info.offset, info.length = path.stat().st_size, len(data)
            path.write_bytes(path.read_bytes() + data)
            break
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def in_yaml(checkpoint: Path, payload: Payload) -> None:
    (checkpoint / "model.yaml").write_text(f"num_layers: !!python/object/apply:os.mkdir ['{payload.marker}']\n")


ATTACKS: dict[str, tuple[str, Callable[[Path, Payload], None]]] = {
    "metadata": (".metadata", in_metadata),
    "a part of metadata": (".metadata", in_a_part_of_metadata),
    "common": ("common.pt", in_common),
    "common, old format": ("common.pt", in_common_of_the_old_format),
    "common, mere pickle": ("common.pt", in_common_as_a_mere_pickle),
    "tensor": ("__0_0.distcp", lambda path, payload: in_a_record(path, saved(payload), of_an_object=False)),
    "tensor, mere pickle": (
        "__0_0.distcp",
        lambda path, payload: in_a_record(path, pickle.dumps(payload), of_an_object=False),
    ),
    "object": ("__0_0.distcp", lambda path, payload: in_a_record(path, saved([payload]), of_an_object=True)),
    "extra state": (
        "_extra_state",
        lambda path, payload: in_a_record(path, saved([hidden_in_a_tensor(payload)]), of_an_object=True),
    ),
    "a storage of extra state": (
        "_extra_state",
        lambda path, payload: in_a_record(path, saved([hidden_in_a_storage(payload)]), of_an_object=True),
    ),
    "yaml": ("model.yaml", in_yaml),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_code_is_refused_and_not_run(small_run: Callable[..., SmallRun], attack: str, tmp_path: Path) -> None:
    from megatron_seed.train.resume import find_start, load_start

    run, marker = small_run(), tmp_path / "executed"
    saver = run.saver()
    saver.save(Progress(step=5))
    saver.finish()
    checkpoint = layout.step_dir(run.recipe.run_dir, 5)
    file, put = ATTACKS[attack]
    put(checkpoint, Payload(marker))
    manifest.write_manifest(checkpoint)  # the attacker can compute digests too
    where = find_start(run.recipe, run.groups)
    assert where.checkpoint == checkpoint
    with pytest.raises(SeedError) as refused:
        load_start(where, run.recipe, run.models, run.optimizer, run.groups)
    assert file in str(refused.value) and "\n" not in str(refused.value)
    assert not marker.exists()


def test_no_file_is_run_whatever_stands_in_it(small_run: Callable[..., SmallRun], tmp_path: Path) -> None:
    """Each file in turn is nothing but a payload, as a pickle and as torch writes it, under a manifest that says so."""
    from megatron_seed.train.resume import find_start, load_start

    run, marker = small_run(), tmp_path / "executed"
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    made = run.recipe.model_copy(update={"tokenizer": tmp_path / "tokenizer"})
    run.recipe = made
    saver = run.saver()
    saver.save(Progress(step=5))
    saver.finish()
    checkpoint = layout.step_dir(run.recipe.run_dir, 5)
    shutil.copytree(checkpoint, tmp_path / "whole")
    refused = []
    for name in [*manifest.list_files(checkpoint), manifest.NAME]:
        for content in (pickle.dumps(Payload(marker)), saved(Payload(marker))):
            shutil.rmtree(checkpoint)
            shutil.copytree(tmp_path / "whole", checkpoint)
            (checkpoint / name).write_bytes(content)
            if name != manifest.NAME:
                manifest.write_manifest(checkpoint)
            try:
                where = find_start(run.recipe, run.groups)
                load_start(where, run.recipe, run.models, run.optimizer, run.groups)
            except SeedError as error:
                refused.append(name)
                assert "\n" not in str(error)
            assert not marker.exists()
    read = {".metadata", "__0_0.distcp", "common.pt", "model.yaml", "recipe.yaml", "state.json", "manifest.json"}
    assert set(refused) == read, "what is not refused is not read"


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()
    marker.rmdir()
    torch.load(io.BytesIO(saved(Payload(marker))), weights_only=False)
    assert marker.exists()
    marker.rmdir()
    for hidden in (hidden_in_a_tensor, hidden_in_a_storage):
        pickle.loads(hidden(Payload(marker)).numpy().tobytes())
        assert marker.exists()
        marker.rmdir()


def test_what_transformer_engine_keeps_passes() -> None:
    state = {"scale_fwd": torch.ones(3), "amax_history_fwd": torch.zeros(4, 3), "extra_fp8_variables": {"a": 1}}
    check_extra_state("here", torch.frombuffer(bytearray(pickle.dumps(state)), dtype=torch.uint8))
    check_extra_state("here", torch.empty(0, dtype=torch.uint8))
    check_extra_state("here", None)
    with pytest.raises(SeedError, match="here: refused: extra state of type BytesIO"):
        check_extra_state("here", io.BytesIO(b"x"))


def test_megatron_lms_own_classes_need_not_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = types.ModuleType("megatron.training.kinds")
    theirs.Kind = enum.Enum("Kind", "local fused", module=theirs.__name__)
    with monkeypatch.context() as installed:
        installed.setitem(sys.modules, theirs.__name__, theirs)
        args = argparse.Namespace(num_layers=3, kind=theirs.Kind.fused, params_dtype=torch.bfloat16)
        (tmp_path / "common.pt").write_bytes(saved({"args": args, "iteration": 7}))
    common = read_common(tmp_path / "common.pt")
    assert common["iteration"] == 7
    assert (common["args"].num_layers, common["args"].params_dtype) == (3, torch.bfloat16)
    assert common["args"].kind.values == (2,)


def test_no_copy_of_the_checkpoint_is_needed_to_be_safe(small_run: Callable[..., SmallRun], tmp_path: Path) -> None:
    """Looking at a checkpoint does not run it either."""
    from typer.testing import CliRunner

    from megatron_seed.cli import app

    run, marker = small_run(), tmp_path / "executed"
    saver = run.saver()
    saver.save(Progress(step=5))
    saver.finish()
    checkpoint = layout.step_dir(run.recipe.run_dir, 5)
    shutil.copytree(checkpoint, tmp_path / "copy")
    good = CliRunner().invoke(app, ["ckpt", "inspect", str(tmp_path / "copy")])
    assert good.exit_code == 0 and "step             5" in good.stdout
    in_metadata(tmp_path / "copy", Payload(marker))
    bad = CliRunner().invoke(app, ["ckpt", "inspect", str(tmp_path / "copy")])
    assert isinstance(bad.exception, SeedError)
    assert not marker.exists()
