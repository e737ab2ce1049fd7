"""Score models train alike at every layout, take over a pretrained backbone, and predict what they were trained on."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import yaml

from data_prep.scorer.rows import write_rows
from megatron_seed.checkpoint.layout import finished
from megatron_seed.checkpoint.reader import CheckpointReader
from megatron_seed.train import metrics
from tokenizer.encode import Encoder
from tokenizer.train import TrainSettings, train

LAYOUTS = {
    "TP2": (2, {"tensor_parallel": 2}),
    "TP2+SP": (2, {"tensor_parallel": 2, "sequence_parallel": True}),
    "PP2": (2, {"pipeline_parallel": 2}),
    "DP2": (2, {}),
}
SLOW = ("TP2+SP", "PP2", "DP2")
MODEL = {"preset": "seed_coder_tiny"}
ROW_TOKENS, STEPS = 64, 8


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = tmp_path_factory.mktemp("tokenizer") / "bytes"
    texts = [path.read_text() for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-c]*.py"))]
    train(texts, folder, TrainSettings(512, "byte_bpe"))
    return Encoder.load(folder)


@pytest.fixture(scope="module")
def build(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of random ids, the share of the ids below 300 being the score."""
    generator = np.random.default_rng(0)
    files = []
    for length in generator.integers(5, ROW_TOKENS, 120):
        ids = generator.integers(200, 500, length).astype(encoder.dtype)
        ids[-1] = encoder.special.eos
        files.append((ids, float((ids < 300).mean())))
    prefix = tmp_path_factory.mktemp("build") / "train"
    assert write_rows(prefix, files, ROW_TOKENS, 8, encoder) % 8 == 0
    return prefix


@pytest.fixture
def recipe(build: Path, encoder: Encoder, tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, phase: Mapping[str, object] = MappingProxyType({}), **changes: object) -> Path:
        scores = {
            "name": "scores",
            "tokens": STEPS * 8 * ROW_TOKENS,
            "learning_rate": 1e-3,
            "blend": [{"name": "scores", "builds": str(build)}],
            "sequence_length": ROW_TOKENS,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "shuffle_block": 1,
            "document_mask": True,
            **phase,
        }
        content = {
            "name": name,
            "run_dir": str(tmp_path / name),
            "model": {**MODEL, "vocab_size": encoder.vocab_size, "head": "score"},
            "precision": "fp32",
            "phases": [scores],
            "logging": {"tensorboard": False, "wandb": "off"},
            **changes,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def losses(run_dir: Path) -> list[float]:
    return [row["loss"] for row in metrics.read(run_dir) if row["kind"] == "train"]


def tensors(run_dir: Path) -> dict[str, np.ndarray]:
    reader = CheckpointReader(finished(run_dir)[-1])
    return {key: reader.read(key).numpy() for key in reader.tensors}


@pytest.fixture(scope="module")
def reference() -> dict[str, Path]:
    return {}


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in LAYOUTS]
)
def test_every_layout_trains_the_score_model_of_one_process(
    layout: str, recipe: Callable[..., Path], start: Callable, reference: dict[str, Path], tmp_path: Path
) -> None:
    if not reference:
        start("-m", "megatron_seed.train", recipe("one"))
        reference["one"] = tmp_path / "one"
    processes, settings = LAYOUTS[layout]
    start("-m", "megatron_seed.train", recipe("other", layout=settings), processes=processes)
    expected, found = losses(reference["one"]), losses(tmp_path / "other")
    assert len(found) == STEPS and expected[-1] < expected[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    ours, theirs = tensors(reference["one"]), tensors(tmp_path / "other")
    assert ours.keys() == theirs.keys() and ours["score_head.weight"].any()
    assert "output_layer.weight" not in ours
    for key, tensor in ours.items():
        np.testing.assert_allclose(theirs[key], tensor, rtol=0, atol=1e-5, err_msg=key)


def test_a_pretrained_backbone_is_taken_over_and_the_head_begins_anew(
    recipe: Callable[..., Path], tiny_recipe: Callable[..., Path], encoder: Encoder, start: Callable, tmp_path: Path
) -> None:
    start("-m", "megatron_seed.train", tiny_recipe("pretrained", model=MODEL | {"vocab_size": encoder.vocab_size}))
    pretrained = finished(tmp_path / "pretrained")[-1]
    origin = {"checkpoint": str(pretrained), "load": "backbone", "cursors": "fresh"}
    still = {"learning_rate": 1e-30}
    start("-m", "megatron_seed.train", recipe("scorer", phase=still, start_from=origin))
    before, after = tensors(tmp_path / "pretrained"), tensors(tmp_path / "scorer")
    shared = before.keys() & after.keys()
    assert before.keys() - shared == {"output_layer.weight"}
    assert after.keys() - shared == {"score_head.weight", "score_head.bias"}
    for key in shared:
        np.testing.assert_array_equal(after[key], before[key], err_msg=key)
    assert after["score_head.weight"].any()


def test_a_checkpoint_with_another_head_is_refused_unless_the_backbone_is_asked_for(
    recipe: Callable[..., Path], tiny_recipe: Callable[..., Path], encoder: Encoder, start: Callable, tmp_path: Path
) -> None:
    start("-m", "megatron_seed.train", tiny_recipe("pretrained", model=MODEL | {"vocab_size": encoder.vocab_size}))
    origin = {"checkpoint": str(finished(tmp_path / "pretrained")[-1]), "load": "weights"}
    result = start("-m", "megatron_seed.train", recipe("scorer", start_from=origin), check=False)
    assert result.returncode != 0
    assert "head next_token instead of score" in result.stderr
