"""The README.md of an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_seed.checkpoint.reader import read_state
from megatron_seed.config.schema import ModelConfig


def model_card(checkpoint: Path, config: ModelConfig, architecture: str) -> str:
    """Markdown: what the model is, how much it was trained, and the recipe that made it."""
    shape = (
        ("Layers", config.num_layers),
        ("Hidden size", config.hidden_size),
        ("Feed-forward size", config.ffn_hidden_size),
        ("Attention heads / key-value groups", f"{config.num_attention_heads} / {config.num_query_groups}"),
        ("Vocabulary", config.vocab_size),
        ("Context", config.max_sequence_length),
        ("Embeddings", "tied" if config.tied_embeddings else "untied"),
        *_training(read_state(checkpoint)),
    )
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [code, megatron-seed]",
        "---",
        "",
        f"# {checkpoint.resolve().parent.parent.name if _in_run(checkpoint) else checkpoint.name}",
        "",
        f"A `{architecture}` exported by megatron-seed from checkpoint `{checkpoint.name}`.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |" for name, value in shape),
        "",
    ]
    recipe = checkpoint / "recipe.yaml"
    if recipe.is_file():
        lines += ["## Training recipe", "", "```yaml", recipe.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


def _in_run(checkpoint: Path) -> bool:
    """Checkpoints of a run lie in RUN/checkpoints."""
    return checkpoint.resolve().parent.name == "checkpoints"


def _training(state: Mapping[str, Any]) -> list[tuple[str, Any]]:
    named = (("Training step", "step"), ("Training tokens", "consumed_tokens"), ("Imported from", "imported_from"))
    return [(label, state[key]) for label, key in named if state.get(key) is not None]
