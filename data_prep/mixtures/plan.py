"""From wanted epochs and shares to tokens, weights and builds; what does not add up is a problem, said in a line."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from data_prep.mixtures.builds import Build, command
from data_prep.mixtures.settings import Amount, MixtureConfig, Phase

TOLERANCE = 1e-3
"""Part of a budget, or of an epoch, by which numbers may differ: less than what the last step of a phase overshoots."""


@dataclass
class Entry:
    """A category in a phase."""

    category: str
    wanted: Amount
    rate: float
    """Of fill-in-the-middle."""
    epoch_tokens: float = 0.0
    """Tokens of one pass over the category at this rate: the mean over its builds."""
    tokens: int = 0
    before: float = 0.0
    """Epochs of the category that the phases before have read."""
    share: float = 0.0
    builds: list[Build] = field(default_factory=list)
    """One for each epoch, in their order; as many as all phases need."""
    missing: int = 0
    """Builds that are needed besides."""

    @property
    def epochs(self) -> float:
        return self.tokens / self.epoch_tokens if self.epoch_tokens else 0.0


@dataclass
class PhasePlan:
    name: str
    tokens: int
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)
    """What gave way to what."""


@dataclass
class Plan:
    phases: list[PhasePlan]
    problems: list[str]


def plan(config: MixtureConfig, found: Mapping[str, Sequence[Build]]) -> Plan:
    """What every phase reads. `found`: category -> the builds that are there (see `find_builds`)."""
    problems: list[str] = []
    phases = [_phase(phase, config, found, problems) for phase in config.phases]
    _choose_builds(phases, found, problems)
    _count_passes(phases, config, problems)
    problems += _other_tokenizers(phases)
    for phase in phases:
        problems += _same_documents(phase)
    return Plan(phases, problems)


def _phase(phase: Phase, config: MixtureConfig, found: Mapping[str, Sequence[Build]], problems: list[str]) -> PhasePlan:
    entries = []
    for name, wanted in phase.blend.items():
        entry = Entry(name, wanted, config.rate(phase, name))
        own = _at_rate(found[name], entry.rate)
        if own:
            entry.epoch_tokens = sum(build.tokens for build in own) / len(own)
        else:
            rates = ", ".join(f"{rate:g}" for rate in sorted({build.rate for build in found[name]}))
            problems.append(
                f"phase {phase.name}: {name} is wanted with fill-in-the-middle at rate {entry.rate:g}, and its builds "
                f"have {rates}; {_way_out(name, found[name], entry.rate, math.ceil(wanted.epochs or 1))}"
            )
        entries.append(entry)
    planned = PhasePlan(phase.name, phase.tokens or 0, entries)
    if all(entry.epoch_tokens for entry in entries):
        _share_out(planned, phase, problems)
    return planned


def _way_out(name: str, builds: Sequence[Build], rate: float, epochs: int) -> str:
    """What to do where no build has the rate."""
    if any(build.on_target for build in builds):
        return f"documents with targets are not split: say fim: 0 for category {name}"
    return f"make some: {_command(builds, rate, epochs)}"


def _share_out(planned: PhasePlan, phase: Phase, problems: list[str]) -> None:
    """Gives every entry its tokens. Shares are of the budget, epochs of the builds, and `fill` takes what is left."""
    by_epochs = sum((e.wanted.epochs or 0) * e.epoch_tokens for e in planned.entries if e.category != phase.fill)
    shares = sum(e.wanted.share or 0 for e in planned.entries if e.category != phase.fill)
    if phase.tokens is None:
        if shares >= 1 or not by_epochs:
            problems.append(f"phase {phase.name}: give tokens, since nothing but shares says how long it is")
            return
        planned.tokens = round(by_epochs / (1 - shares))
    for entry in planned.entries:
        share, epochs = entry.wanted.share or 0.0, entry.wanted.epochs or 0.0
        entry.tokens = round(share * planned.tokens + epochs * entry.epoch_tokens)
    _balance(planned, phase, problems)
    whole = sum(entry.tokens for entry in planned.entries)
    for entry in planned.entries:
        entry.share = entry.tokens / whole if whole else 0.0


def _balance(planned: PhasePlan, phase: Phase, problems: list[str]) -> None:
    filling = next((entry for entry in planned.entries if entry.category == phase.fill), None)
    whole = sum(entry.tokens for entry in planned.entries)
    if filling:
        wanted, left = filling.tokens, planned.tokens - (whole - filling.tokens)
        if left <= 0:
            problems.append(
                f"phase {phase.name}: the others take {whole - wanted:,} of {planned.tokens:,} tokens, and leave none "
                f"for {filling.category}, which was to fill it up"
            )
            return
        filling.tokens = left
        if wanted and abs(left - wanted) > TOLERANCE * planned.tokens:
            planned.notes.append(
                f"{filling.category} fills the phase up: {left:,} tokens, {filling.epochs:.3g} epochs, where "
                f"{wanted:,}, {wanted / filling.epoch_tokens:.3g} epochs, were wanted"
            )
    elif abs(whole - planned.tokens) > TOLERANCE * planned.tokens:
        each = ", ".join(f"{entry.category} {entry.tokens:,}" for entry in planned.entries)
        largest = max(planned.entries, key=lambda entry: entry.tokens).category
        or_else = ", or leave tokens out" if any(entry.wanted.epochs for entry in planned.entries) else ""
        problems.append(
            f"phase {phase.name}: its categories come to {whole:,} of {planned.tokens:,} tokens ({each}); say which "
            f"gives way (fill: {largest}){or_else}"
        )


def _choose_builds(phases: Sequence[PhasePlan], found: Mapping[str, Sequence[Build]], problems: list[str]) -> None:
    """One build for each epoch that all phases read at a rate: a source goes on in a phase where it stood in the last.

    At rate 0 builds of all epochs are alike, so one is enough.
    """
    readers: dict[tuple[str, float], list[tuple[str, Entry]]] = {}
    for phase in phases:
        for entry in phase.entries:
            readers.setdefault((entry.category, entry.rate), []).append((phase.name, entry))
    for (name, rate), entries in readers.items():
        epochs = sum(entry.epochs for _, entry in entries)
        needed = max(1, math.ceil(epochs - TOLERANCE)) if rate else 1
        own = _at_rate(found[name], rate)
        for _, entry in entries:
            entry.builds, entry.missing = own[:needed], max(0, needed - len(own))
        if own and len(own) < needed:
            problems.append(
                f"{name}: {epochs:.3g} epochs at fill-in-the-middle rate {rate:g} (phase "
                f"{', '.join(phase for phase, _ in entries)}) need {needed} builds, each split for an epoch of its "
                f"own, and {len(own)} are there; make them: {_command(own, rate, needed)}"
            )


def _count_passes(phases: Sequence[PhasePlan], config: MixtureConfig, problems: list[str]) -> None:
    passes = dict.fromkeys(config.categories, 0.0)
    for phase in phases:
        for entry in phase.entries:
            entry.before = passes[entry.category]
            passes[entry.category] += entry.epochs
    for name, epochs in passes.items():
        most = config.categories[name].max_epochs
        if most is not None and epochs > most + TOLERANCE:
            problems.append(f"{name}: all phases together read it {epochs:.3g} times, and max_epochs is {most:g}")


def _at_rate(builds: Sequence[Build], rate: float) -> list[Build]:
    return sorted((build for build in builds if build.rate == rate), key=lambda build: build.order)


def _command(builds: Sequence[Build], rate: float, epochs: int) -> str:
    return command(builds[0].prefix.rpartition("/")[0] or ".", rate, epochs if rate else 1)


def _other_tokenizers(phases: Sequence[PhasePlan]) -> Iterator[str]:
    builds = [build for phase in phases for entry in phase.entries for build in entry.builds]
    other = next((build for build in builds if build.tokenizer != builds[0].tokenizer), None)
    if other:
        digests = [(build.tokenizer[0] or "none that was declared")[:12] for build in (builds[0], other)]
        yield (
            f"{builds[0].prefix} and {other.prefix} were made with different tokenizers ({digests[0]} and "
            f"{digests[1]}); build one of them again"
        )


def _same_documents(phase: PhasePlan) -> Iterator[str]:
    """Two categories of a phase that are the same selection of the same corpus, or the same tokens."""
    seen: dict[str, str] = {}
    for entry in phase.entries:
        contents = {b.content for b in entry.builds} | {b.selection for b in entry.builds}
        for content in sorted(filter(None, contents)):
            if content in seen:
                yield (
                    f"phase {phase.name}: {seen[content]} and {entry.category} are builds of the same documents; name "
                    "them once, with the epochs of both"
                )
                break
        seen |= dict.fromkeys(filter(None, contents), entry.category)
