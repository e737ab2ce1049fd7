"""Going back to the last checkpoint, and past the data that training could not get over."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from megatron_seed.checkpoint.load import newest_good
from megatron_seed.checkpoint.manifest import write_text
from megatron_seed.checkpoint.state import Jump, Progress
from megatron_seed.data.lineage import documents_of
from megatron_seed.data.loader import PhaseData
from megatron_seed.errors import SeedError
from megatron_seed.train.resume import Start, load_start
from megatron_seed.train.state import Run


def roll_back(run: Run, progress: Progress) -> Progress:
    """Load the newest good checkpoint; the samples of the updates that were left out last will be jumped over.

    Which documents they were is written to the run folder, where that can be told. Raises SeedError when there is no
    checkpoint.
    """
    bad = Jump(phase=progress.phase, first=progress.first_skipped, stop=progress.segment_samples)
    checkpoint = newest_good(run.recipe.run_dir, run.groups)
    if checkpoint is None:
        raise SeedError(
            f"step {progress.step}: {progress.skips} updates left out in a row, and no checkpoint to go back to; lower "
            "the learning rate, or look at the data"
        )
    back = load_start(Start(checkpoint), run.recipe, run.models, run.optimizer, run.groups)
    if run.groups.is_main:
        _report(run, progress, bad, back)
    run.recorder.rewind(back.step)
    jumps = dict.fromkeys((*back.jumps, *progress.jumps, bad))
    return back.model_copy(update={"jumps": tuple(jumps), "skips": 0})


def _report(run: Run, progress: Progress, bad: Jump, back: Progress) -> None:
    try:
        told = _list_documents(run, progress, bad, back)
    except (SeedError, OSError) as error:  # no reason to end here, and at the same place when started again
        told = {"documents": None, "why_not": str(error)}
    run.recorder.event(
        progress.step,
        "rolled_back",
        to_step=back.step,
        skipped_updates=progress.skips,
        phase=bad.phase,
        first_sample=bad.first,
        samples=bad.stop - bad.first,
        **told,
    )


def _list_documents(run: Run, progress: Progress, bad: Jump, back: Progress) -> dict[str, Any]:
    path = run.recipe.run_dir / f"left-out-step-{progress.step:08d}.jsonl"
    phase = next(phase for phase in run.recipe.phases if phase.name == bad.phase)
    # A memo of the blend knows nothing of the samples before it.
    memo = back.blend if back.phase == bad.phase and back.segment_samples <= bad.first else None
    data = PhaseData.open(phase, run.recipe.seed, None, progress.cursors, memo, order_cache=run.recipe.order_cache)
    documents = [asdict(piece) for piece in documents_of(data, range(bad.first, bad.stop))]
    write_text(path, "".join(json.dumps(document) + "\n" for document in documents))
    return {"documents": str(path), "first_documents": list(_names(documents))[:5]}


def _names(documents: Iterable[dict]) -> Iterable[str]:
    for piece in documents:
        place = f"{piece['repository']}/{piece['path']}" if piece["path"] else f"document {piece['document']}"
        yield f"{piece['blend_source']}: {place}"


def jumped(progress: Progress, size: int) -> Progress:
    """Past every range that is to be left out and that the next `size` samples would touch."""
    first = progress.segment_samples
    for jump in sorted(progress.jumps, key=lambda jump: jump.first):
        if jump.phase == progress.phase and jump.first < first + size and first < jump.stop:
            first = jump.stop
    return progress.model_copy(update={"segment_samples": first})
