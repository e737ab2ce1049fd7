"""Loss on targets alone: every layout trains and evaluates as one process does, and as torch does by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_seed.checkpoint.layout import finished
from megatron_seed.checkpoint.reader import CheckpointReader
from megatron_seed.config.load import load_recipe
from megatron_seed.data.held_out import held_out_of
from megatron_seed.data.loader import PhaseData
from megatron_seed.train import metrics

VOCABULARY, LENGTH, BATCH, STEPS = 120, 32, 8, 10
EPSILON = 1e-6
"""Of Adam: where little counts, some gradients are nothing but rounding, and with 1e-8 each would be a whole step."""
LAYOUTS = {
    "TP2": (2, {"tensor_parallel": 2}),
    "TP2+SP": (2, {"tensor_parallel": 2, "sequence_parallel": True}),
    "PP2": (2, {"pipeline_parallel": 2}),
    "PP2xVPP2": (2, {"pipeline_parallel": 2, "virtual_pipeline": 2}),
    "CP2": (2, {"context_parallel": 2}),
    "DP2": (2, {}),
    "DP2+distributed optimizer": (2, {"distributed_optimizer": True}),
}
QUICK = (("TP2", False), ("CP2", True), ("DP2", False))


def write_build(prefix: Path, seed: int, given: Callable[[int], int]) -> str:
    """Documents of 2 to 120 tokens, of each of which the first `given(length)` are context."""
    builder, draw = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16), np.random.default_rng(seed)
    starts, total = [], 0
    for _ in range(150):
        tokens = draw.integers(0, VOCABULARY, draw.integers(2, 120))
        tokens[1::2] = (tokens[::2][: len(tokens[1::2])] * 3 + 1) % VOCABULARY
        builder.add_item(torch.from_numpy(tokens))
        builder.end_document()
        starts.append(given(len(tokens)))
        total += len(tokens)
    builder.finalize(f"{prefix}.idx")
    np.save(f"{prefix}.loss_starts.npy", np.asarray(starts, np.int32))
    names = [f"{prefix.name}{suffix}" for suffix in (".bin", ".idx", ".loss_starts.npy")]
    files = {name: {"sha256": hashlib.sha256(prefix.with_name(name).read_bytes()).hexdigest()} for name in names}
    manifest = {
        "tokenizer": {"digest": None, "vocab_size": VOCABULARY},
        "fim": {"rate": 0.0},
        "loss": {"on": "target", "starts": names[2], "tokens": total - sum(starts)},
        "documents": 150,
        "tokens": total,
        "files": files,
    }
    Path(f"{prefix}.manifest.json").write_text(json.dumps(manifest))
    return str(prefix)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Most of a document is context, as of a commit: many sequences have no label that counts, or few."""
    folder = tmp_path_factory.mktemp("builds")
    return {
        "train": write_build(folder / "train", 0, lambda length: length * 4 // 5),
        "held_out": write_build(folder / "held_out", 1, lambda length: length * 4 // 5),
        "nothing": write_build(folder / "nothing", 2, lambda length: length),
    }


@pytest.fixture
def recipe(tiny_recipe: Callable[..., Path], builds: Mapping[str, str]) -> Callable[..., Path]:
    def write(name: str, train: str = "train", layout: Mapping[str, Any] | None = None, **changes: Any) -> Path:
        phase = {
            "name": "main",
            "tokens": STEPS * BATCH * LENGTH,
            "learning_rate": 3e-3,
            "blend": [{"name": "a", "builds": builds[train], "loss": "target"}],
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
            **changes,
        }
        held_out = {"held_out": [{"name": "h", "builds": builds["held_out"]}], "max_sequences": 25}
        return tiny_recipe(
            name,
            phases=[phase],
            evaluation=held_out,
            layout={"distributed_optimizer": False, **(layout or {})},
            optimizer={"epsilon": EPSILON},
        )

    return write


def losses(run_dir: Path, kind: str = "train") -> list[float]:
    return [row["loss"] for row in metrics.read(run_dir) if row["kind"] == kind]


def parameters(run_dir: Path) -> dict[str, torch.Tensor]:
    reader = CheckpointReader(finished(run_dir)[-1])
    return {key: reader.read(key) for key in reader.tensors}


@pytest.fixture(scope="module")
def runs() -> dict[bool, Path]:
    """Run folders of one process, by document mask."""
    return {}


@pytest.fixture
def alone(runs: dict[bool, Path], recipe: Callable[..., Path], start: Callable) -> Callable[[bool], Path]:
    def of(document_mask: bool) -> Path:
        if document_mask not in runs:
            written = recipe(f"alone{document_mask}", document_mask=document_mask)
            start("-m", "megatron_seed.train", written)
            runs[document_mask] = written.with_suffix("")
        return runs[document_mask]

    return of


@pytest.mark.parametrize(
    ("name", "document_mask"),
    [
        pytest.param(name, mask, marks=() if (name, mask) in QUICK else pytest.mark.slow)
        for name in LAYOUTS
        for mask in (False, True)
    ],
)
def test_a_layout_agrees_with_one_process(
    name: str, document_mask: bool, alone: Callable[[bool], Path], recipe: Callable[..., Path], start: Callable
) -> None:
    expected = alone(document_mask)
    processes, layout = LAYOUTS[name]
    written = recipe("layout", layout=layout, document_mask=document_mask)
    start("-m", "megatron_seed.train", written, processes=processes)
    run_dir = written.with_suffix("")
    assert len(losses(expected)) == STEPS
    assert losses(run_dir) == pytest.approx(losses(expected), abs=1e-5)
    (first, last), (own_first, own_last) = losses(expected, "evaluation"), losses(run_dir, "evaluation")
    assert own_first == pytest.approx(first, abs=1e-5)
    assert own_last == pytest.approx(last, abs=1e-4), "of parameters that rounding has moved apart"
    found, wanted = parameters(run_dir), parameters(expected)
    assert max((found[key] - wanted[key]).abs().max().item() for key in wanted) < 1e-4


def test_micro_batches_change_nothing(
    alone: Callable[[bool], Path], recipe: Callable[..., Path], start: Callable
) -> None:
    """The loss is divided by the labels that count in the whole batch, however few a micro-batch has of them."""
    written = recipe("larger", micro_batch_size=4)
    start("-m", "megatron_seed.train", written)
    assert losses(written.with_suffix("")) == pytest.approx(losses(alone(False)), abs=1e-5)


def test_one_process_agrees_with_torch(
    alone: Callable[[bool], Path], recipe: Callable[..., Path], start: Callable, tmp_path: Path
) -> None:
    """The mask is made here from documents alone: which token of which document each label is."""
    from transformers import LlamaForCausalLM

    from megatron_seed.hf.export import export_hf

    unmoved = recipe("unmoved", learning_rate=1e-30, tokens=BATCH * LENGTH)
    start("-m", "megatron_seed.train", unmoved)
    export_hf(finished(unmoved.with_suffix(""))[0], tmp_path / "hf")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).train()
    config = load_recipe(alone(False) / "config.yaml")
    data = PhaseData.open(config.phases[0], config.seed, VOCABULARY, {})
    starts = np.load(f"{data.streams[0].builds[0].prefix}.loss_starts.npy")
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    norms = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}],
        lr=3e-3,
        betas=(0.9, 0.95),
        eps=EPSILON,
    )
    theirs, without = [], 0
    for step in range(STEPS):
        numbers = range(step * BATCH, (step + 1) * BATCH)
        rows = torch.from_numpy(np.stack([data.sample(number) for number in numbers]))
        counts = torch.stack([torch.from_numpy(counted(data, starts, number)) for number in numbers])
        without += int((~counts.any(dim=1)).sum())
        optimizer.zero_grad()
        logits = model(rows[:, :-1]).logits
        every = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        loss = every[counts.flatten()].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        theirs.append(loss.item())
    assert without > 3, "sequences of context alone are among them"
    assert losses(alone(False)) == pytest.approx(theirs, abs=1e-5)


def counted(data: PhaseData, starts: np.ndarray, number: int) -> np.ndarray:
    """[length] which labels of a sample are of targets."""
    stream, pieces = data.pieces(number)
    found = [place >= starts[p.document] for p in pieces for place in range(p.first, p.first + p.tokens)]
    last = data._windows(stream).ranges(number)[-1][1] - 1  # of which place of the stream the last label is
    (after,) = stream.documents(last, 1)
    return np.asarray([*found[1:], after.first >= starts[after.document]])


def test_held_out_loss_is_that_of_targets(alone: Callable[[bool], Path], tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    from megatron_seed.hf.export import export_hf

    config = load_recipe(alone(False) / "config.yaml")
    export_hf(finished(alone(False))[-1], tmp_path / "final")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "final", dtype=torch.float32).eval()
    (source,) = held_out_of(config, config.phases[0])
    starts, total, tokens = np.load(f"{source.build.prefix}.loss_starts.npy"), 0.0, 0
    lengths = source.build.document_lengths
    places = np.concatenate([np.arange(length) >= given for length, given in zip(lengths, starts, strict=True)])
    for number in range(source.sequences):
        first = source._start(number)
        row, counts = torch.from_numpy(source.window(number)), torch.from_numpy(places[first + 1 : first + LENGTH + 1])
        with torch.no_grad():
            every = torch.nn.functional.cross_entropy(model(row[None, :-1]).logits[0], row[1:], reduction="none")
        total, tokens = total + every[counts].sum().item(), tokens + int(counts.sum())
    assert 0 < tokens < source.sequences * LENGTH // 2
    assert losses(alone(False), "evaluation")[-1] == pytest.approx(total / tokens, abs=1e-5)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    alone: Callable[[bool], Path], recipe: Callable[..., Path], start: Callable
) -> None:
    written = recipe("halves")
    start("-m", "megatron_seed.train", written, f"phases.0.tokens={STEPS // 2 * BATCH * LENGTH}")
    start("-m", "megatron_seed.train", written)
    run_dir = written.with_suffix("")
    assert losses(run_dir) == losses(alone(False))
    found, wanted = parameters(run_dir), parameters(alone(False))
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_steps_in_which_nothing_counts_do_no_harm(recipe: Callable[..., Path], start: Callable) -> None:
    written = recipe("nothing", train="nothing")
    start("-m", "megatron_seed.train", written)
    run_dir = written.with_suffix("")
    assert losses(run_dir) == [0.0] * STEPS
    assert all(torch.isfinite(tensor.float()).all() for tensor in parameters(run_dir).values())
