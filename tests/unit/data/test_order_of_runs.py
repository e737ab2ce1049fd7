"""The samples of whole runs: the same however a run is laid out, stopped and continued, and each token once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_order import in_memory, naive_stream

from megatron_seed.checkpoint.state import Progress
from megatron_seed.config.load import parse_recipe
from megatron_seed.config.schema import PhaseConfig, Recipe
from megatron_seed.data import blend as blending
from megatron_seed.data.blend import Blend
from megatron_seed.data.loader import PhaseData, cursors_after
from megatron_seed.data.stream import TokenStream
from megatron_seed.train.loop import _enter
from megatron_seed.train.standing import by_the_recipe_now, phases_left

# Ids of each source are its own, so that a sample tells where it comes from.
LENGTHS = {"a": [[7, 1, 30, 12, 3], [9, 40]], "b": [[5] * 30], "c": [[2, 90, 1]]}
SOURCES = {
    name: TokenStream(name, [in_memory(build, 100_000 * s + 1000 * b) for b, build in enumerate(builds)], seed=1)
    for s, (name, builds) in enumerate(LENGTHS.items())
}


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """So that short runs cross borders of what a blend computes at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blending, "_BLOCK", 32)
        yield


def source_of(sample: np.ndarray) -> str:
    return list(SOURCES)[int(sample[0]) // 100_000]


@st.composite
def mixtures(draw: st.DrawFn) -> dict:
    """What decides the order of a phase's samples."""
    names = draw(st.lists(st.sampled_from(list(SOURCES)), min_size=1, unique=True))
    return {
        "blend": [{"name": name, "builds": "x", "weight": draw(st.floats(0.1, 10))} for name in names],
        "sequence_length": draw(st.integers(1, 13)),
        "shuffle_block": draw(st.integers(1, 6)),
    }


@st.composite
def phases(draw: st.DrawFn) -> list[dict]:
    """One to three phases of a few steps, some with a growing batch; any size divides among 1, 2 or 4."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        phase = {"name": f"p{number}", "learning_rate": 1e-3, "global_batch_size": 8, **draw(mixtures())}
        phase["tokens"] = draw(st.integers(1, 12)) * 8 * phase["sequence_length"]
        if draw(st.booleans()):
            phase["batch_ramp"] = {"start": 4, "increment": 4, "tokens": draw(st.integers(1, 200))}
        found.append(phase)
    return found


def recipe_of(phases: list[dict]) -> Recipe:
    values = {"name": "n", "run_dir": "/nowhere", "seed": 1, "model": {"preset": "seed_coder_tiny"}, "phases": phases}
    return parse_recipe(values, "test")


@dataclass
class Job:
    """One process start of a run: how it is laid out, and after how many steps it is stopped."""

    data_size: int
    micro_batch_size: int
    steps: int = 10**6


@dataclass
class Simulated:
    """A run without a model."""

    progress: Progress = field(default_factory=Progress)
    samples: list[np.ndarray] = field(default_factory=list)
    recipe: Recipe | None = None

    def start(self, recipe: Recipe, job: Job) -> None:
        """Go on from what a checkpoint would hold, until the budget is spent or the job is stopped."""
        self.progress = Progress.model_validate(json.loads(self.progress.model_dump_json()))
        if self.recipe:
            self.progress = by_the_recipe_now(self.progress, self.recipe, recipe, lambda *_: None)
        self.recipe, last = recipe, self.progress.step + job.steps
        for phase in phases_left(recipe, recipe.phases, self.progress):
            self.progress = _enter(recipe, phase, self.progress)
            data = self._open(phase.model_copy(update={"micro_batch_size": job.micro_batch_size}))
            begun, first = self.progress.segment_samples, len(self.samples)
            while self.progress.phase_tokens < phase.tokens and self.progress.step < last:
                self._step(data, job.data_size)
                if not begun:
                    self.check_shares(phase, first)
            if self.progress.phase_tokens < phase.tokens:
                return

    def _open(self, phase: PhaseConfig) -> PhaseData:
        streams = tuple(SOURCES[source.name] for source in phase.blend)
        blend = Blend([source.weight for source in phase.blend], self.progress.blend)
        return PhaseData(phase, streams, blend, self.progress.cursors)

    def _step(self, data: PhaseData, data_size: int) -> None:
        progress, size = self.progress, data.phase.batch_size_at(self.progress.phase_tokens)
        ranks = [list(data.micro_batches(progress.segment_samples, size, r, data_size)) for r in range(data_size)]
        assert len({len(batches) for batches in ranks}) == 1
        self.samples += [row.numpy() for turn in zip(*ranks, strict=True) for batch in turn for row in batch["tokens"]]
        done = {
            "step": progress.step + 1,
            "phase_tokens": progress.phase_tokens + size * data.phase.sequence_length,
            "segment_samples": progress.segment_samples + size,
            "blend": data.blend.memo(progress.segment_samples + size),
        }
        self.progress = progress.model_copy(update=done)

    def check_shares(self, phase: PhaseConfig, first: int) -> None:
        """Each source has given its share of a segment's samples so far, to within one."""
        given_by = [source_of(sample) for sample in self.samples[first:]]
        whole = sum(source.weight for source in phase.blend)
        for source in phase.blend:
            assert abs(given_by.count(source.name) - len(given_by) * source.weight / whole) < 1


jobs = st.builds(Job, st.sampled_from([1, 2, 4]), st.just(1), st.integers(1, 9)) | st.builds(
    Job, st.sampled_from([1, 2]), st.just(2), st.integers(1, 9)
)


@settings(max_examples=100)
@given(phases=phases(), stopped=st.lists(jobs, max_size=4), raised=st.integers(0, 5))
def test_a_run_is_the_same_however_it_is_laid_out_stopped_and_continued(
    phases: list[dict], stopped: list[Job], raised: int
) -> None:
    """Also when the budget of its last phase is raised on the way."""
    longer = [*phases[:-1], {**phases[-1], "tokens": phases[-1]["tokens"] + raised * 8}]
    whole = Simulated()
    whole.start(recipe_of(longer), Job(1, 1))
    parts = Simulated()
    for job in stopped:
        parts.start(recipe_of(phases), job)
    parts.start(recipe_of(longer), Job(2, 2))
    assert [sample.tolist() for sample in parts.samples] == [sample.tolist() for sample in whole.samples]
    assert parts.progress == whole.progress


@settings(max_examples=100)
@given(phases=phases(), changes=st.lists(st.tuples(jobs, mixtures()), max_size=4))
def test_a_blend_changed_on_the_way_repeats_and_skips_nothing(
    phases: list[dict], changes: list[tuple[Job, dict]]
) -> None:
    """Whatever is changed when, each source gives each place of its stream, epoch after epoch, once."""
    run = Simulated()
    for job, change in changes:
        run.start(recipe_of(phases), job)
        current = run.progress.phase
        phases = [{**phase, **change} if phase["name"] == current else phase for phase in phases]
    run.start(recipe_of(phases), Job(1, 1))
    last = next(phase for phase in run.recipe.phases if phase.name == run.progress.phase)
    progress = run.progress
    cursors = cursors_after(last, 1, progress.cursors, progress.blend, progress.segment_samples)
    for name, stream in SOURCES.items():
        found = [sample for sample in run.samples if source_of(sample) == name]
        cursor = cursors.get(name)
        if cursor is None:
            assert not found
            continue
        taken = np.ones(cursor.frontier, bool)
        for start, stop in cursor.leftovers:
            taken[start:stop] = False
        epochs = 2 * (1 + cursor.frontier // stream._round_tokens[-1])
        expected = naive_stream(stream, int(epochs))[: cursor.frontier][taken]
        assert sorted(np.concatenate([*found, []]).tolist()) == sorted(expected.tolist())


def test_threads_that_come_to_the_end_of_what_is_known_see_one_order() -> None:
    weights, places = [3.0, 1.0, 0.7], range(30, 1000)
    known = Blend(weights)
    expected = [known.source(place) for place in places]
    for _ in range(20):
        blend, found, start = Blend(weights), [], threading.Barrier(4)

        def read(blend: Blend = blend, found: list = found, start: threading.Barrier = start) -> None:
            start.wait()
            found.append([blend.source(place) for place in places])

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [expected] * 4
