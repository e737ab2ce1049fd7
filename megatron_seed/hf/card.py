"""The README.md of an exported model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_seed.checkpoint.reader import read_state
from megatron_seed.config.load import load_recipe
from megatron_seed.config.schema import ModelConfig, Recipe
from megatron_seed.config.sources import SourceConfig
from megatron_seed.data.manifest import read_manifest
from megatron_seed.errors import SeedError

_FRONT = ("---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [code, megatron-seed]", "---")


def model_card(checkpoint: Path, config: ModelConfig, architecture: str) -> str:
    """Markdown: what the model is, how much and on what it was trained, and the recipe that made it."""
    checkpoint = checkpoint.resolve()  # "." has no name
    state = read_state(checkpoint)
    recipe = _read_recipe(checkpoint)
    shape = [
        ("Layers", config.num_layers),
        ("Hidden size", config.hidden_size),
        ("Feed-forward size", config.ffn_hidden_size),
        ("Attention heads / key-value groups", f"{config.num_attention_heads} / {config.num_query_groups}"),
        ("Vocabulary", config.vocab_size),
        ("Context", config.max_sequence_length),
        ("Embeddings", "tied" if config.tied_embeddings else "untied"),
        *_training(state),
    ]
    lines = [
        *_FRONT,
        "",
        f"# {checkpoint.parent.parent.name if _in_run(checkpoint) else checkpoint.name}",
        "",
        f"A `{architecture}` exported by megatron-seed from checkpoint `{checkpoint.name}`.",
        "",
        *_table(("", ""), shape),
        "",
    ]
    if recipe is not None:
        columns = ("Phase", "Source", "Share", "Fill-in-the-middle", "Documents", "Tokens in its builds")
        lines += ["## Data", "", *_phases(recipe, state), "", *_table(columns, _sources(recipe)), ""]
    if (checkpoint / "recipe.yaml").is_file():
        text = (checkpoint / "recipe.yaml").read_text(encoding="utf-8").rstrip()
        lines += ["## Training recipe", "", "```yaml", text, "```", ""]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    written = (" | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) for row in rows)
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}", *(f"| {row} |" for row in written)]


def _in_run(checkpoint: Path) -> bool:
    """Checkpoints of a run lie in RUN/checkpoints."""
    return checkpoint.parent.name == "checkpoints"


def _training(state: Mapping[str, Any]) -> list[tuple[str, Any]]:
    named = (("Training step", "step"), ("Training tokens", "consumed_tokens"), ("Imported from", "imported_from"))
    return [(label, state[key]) for label, key in named if state.get(key) is not None]


def _read_recipe(checkpoint: Path) -> Recipe | None:
    """None without one, or with one of another version: the card then shows it as it is."""
    path = checkpoint / "recipe.yaml"
    try:
        return load_recipe(path) if path.is_file() else None
    except SeedError:
        return None


def _phases(recipe: Recipe, state: Mapping[str, Any]) -> list[str]:
    names = [phase.name for phase in recipe.phases]
    reached = names.index(state["phase"]) if state.get("phase") in names else -1
    rows = []
    for number, phase in enumerate(recipe.phases):
        if number == reached:
            seen: Any = int(state.get("phase_tokens", 0))
        else:
            seen = phase.tokens if number < reached else 0
        rows.append((phase.name, seen, phase.tokens, phase.sequence_length, phase.global_batch_size))
    return _table(("Phase", "Tokens seen", "of", "Sequence length", "Sequences per batch"), rows)


def _sources(recipe: Recipe) -> list[tuple[Any, ...]]:
    rows = []
    for phase in recipe.phases:
        total = sum(source.weight for source in phase.blend)
        for source in phase.blend:
            rate = source.fim if source.fim is not None else phase.fim
            told = "any" if rate is None else f"{rate:g}"
            rows.append((phase.name, source.name, f"{source.weight / total:.1%}", told, *_counts(source)))
    return rows


def _counts(source: SourceConfig) -> tuple[Any, Any]:
    """Documents and tokens of a source's builds, where these lie on this machine."""
    manifests = list(_manifests(source))
    if None in manifests:
        return "", ""
    return sum(manifest.documents for manifest in manifests), sum(manifest.tokens for manifest in manifests)


def _manifests(source: SourceConfig) -> Iterator[Any]:
    for build in source.builds:
        try:
            yield read_manifest(build)
        except (SeedError, OSError):
            yield None
