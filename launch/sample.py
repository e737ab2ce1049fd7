"""`megatron-seed data sample`: the very sequences that a recipe's training reads, decoded."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_prep.arguments import wide_console
from megatron_seed.errors import SeedError

if TYPE_CHECKING:
    from data_prep.inspect.show import Shown
    from megatron_seed.config.schema import PhaseConfig, Recipe
    from megatron_seed.data.cursor import Cursor


def sample(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a shipped one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    phase: Annotated[str, typer.Option(help="Its name, or its number from 0.")] = "0",
    number: Annotated[
        list[int] | None, typer.Option("--sample", min=0, help="Its number in the phase, from 0; may be given again.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=0, help="Shown of each document in it; 0 for all.")] = 600,
    ids: Annotated[bool, typer.Option("--ids", help="Every token by itself, with its id.")] = False,
    out: Annotated[Path | None, typer.Option(help="Page to write; default: shown here.", dir_okay=False)] = None,
) -> None:
    """Show samples of a recipe as training packs them: documents with their borders, infilling parts, where from."""
    from data_prep.inspect.show import print_shown, write_page
    from megatron_seed.config.load import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    numbers = number or [0]
    chosen = _phase_of(loaded, phase)
    shown = list(show_samples(loaded, chosen, numbers, tokens, ids))
    if out:
        facts = [("phase", chosen.name, ""), ("tokens", f"{chosen.sequence_length:,}", "of a sample")]
        write_page(out, f"Samples of {loaded.name}", facts, shown)
        typer.echo(f"{out}: {len(numbers)} samples of {loaded.name}, phase {chosen.name}")
        return
    print_shown(wide_console(), shown, ids)


def show_samples(
    recipe: Recipe, phase: PhaseConfig, numbers: Sequence[int], most_tokens: int = 0, separate: bool = False
) -> Iterator[Shown]:
    """The documents of samples, numbered in the phase as a run counts them that starts with this recipe.

    Raises SeedError for a recipe without a tokenizer, and where a build is missing or does not fit.
    """
    from data_prep.inspect.parts import stretches
    from data_prep.inspect.reader import BuildReader
    from data_prep.inspect.show import Shown
    from megatron_seed.data.scored import phase_data
    from tokenizer.encode import Encoder

    if recipe.tokenizer is None:
        raise SeedError(f"{recipe.name}: names no tokenizer to decode its builds with: tokenizer=DIRECTORY")
    encoder = Encoder.load(recipe.tokenizer)
    if max(numbers) >= (samples := _samples(phase, 0)):
        raise SeedError(f"{recipe.name}: phase {phase.name} has samples 0 to {samples - 1:,}, and no {max(numbers):,}")
    cursors, size = _cursors_at(recipe, phase), recipe.model.vocab_size
    data = phase_data(recipe).open(phase, recipe.seed, size, cursors, order_cache=recipe.order_cache)
    with ExitStack() as stack:
        opened = functools.cache(lambda prefix: BuildReader.open(prefix, stack))
        for number in numbers:
            stream, pieces = data.pieces(number)
            for place, piece in enumerate(pieces):
                tokens = stream.builds[piece.epoch % len(stream.builds)]
                loss_start = 0 if tokens.loss_starts is None else int(tokens.loss_starts[piece.document])
                build = opened(tokens.prefix)
                ids, end = build.document(piece.document), piece.first + piece.tokens
                parts = stretches(ids, encoder, most_tokens, loss_start, separate, slice(piece.first, end))
                title = f"sample {number:,}, {stream.name}, epoch {piece.epoch}, document {piece.document:,}"
                facts = [f"tokens {piece.first:,} to {end - 1:,} of {len(ids):,}"]
                yield Shown(title, build.place(piece.document), facts, parts, is_new_sequence=place == 0)


def _phase_of(recipe: Recipe, name: str) -> PhaseConfig:
    named = {phase.name: phase for phase in recipe.phases}
    named |= {str(number): phase for number, phase in enumerate(recipe.phases) if str(number) not in named}
    if name not in named:
        raise SeedError(f"{recipe.name}: no phase {name!r}; its phases: {', '.join(p.name for p in recipe.phases)}")
    return named[name]


def _cursors_at(recipe: Recipe, phase: PhaseConfig) -> Mapping[str, Cursor]:
    """Where the sources of a phase stand when it begins, of a run that starts with this recipe."""
    from megatron_seed.checkpoint import layout
    from megatron_seed.checkpoint.state import Progress
    from megatron_seed.data.loader import cursors_after
    from megatron_seed.train.standing import phases_left, sources_now, stands

    progress = Progress()
    if recipe.start_from:
        progress = stands(layout.resolve(recipe.start_from.checkpoint), recipe.start_from, recipe)
    cursors: Mapping[str, Cursor] = sources_now(progress, recipe)
    names = {source.name for source in phase.blend}
    for earlier in phases_left(recipe, recipe.phases[: recipe.phases.index(phase)], progress):
        if names & {source.name for source in earlier.blend}:  # others would only take time
            consumed = progress.phase_tokens if earlier.name == progress.phase else 0
            cursors = cursors_after(earlier, recipe.seed, cursors, None, _samples(earlier, consumed))
    return cursors


def _samples(phase: PhaseConfig, consumed: int) -> int:
    """Samples of the steps of a phase that are left."""
    samples = 0
    while consumed < phase.tokens and (size := phase.batch_size_at(consumed)) < phase.global_batch_size:
        samples, consumed = samples + size, consumed + size * phase.sequence_length
    return samples + phase.steps_after(consumed) * phase.global_batch_size
