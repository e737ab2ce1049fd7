"""`data inspect` of builds: what a folder holds, and documents of one build."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from data_prep.errors import DataError
from data_prep.inspect.choose import choose
from data_prep.inspect.parts import stretches
from data_prep.inspect.reader import BuildReader, builds_in, read_manifest
from data_prep.inspect.show import Shown
from data_prep.report.terminal import add_row, literal
from tokenizer.encode import Encoder
from tokenizer.special import FIM_ROLES


@dataclass(frozen=True)
class Choice:
    """Which documents, and how much of them."""

    documents: int = 5
    numbers: Sequence[int] = ()
    """These, instead of some that are drawn."""
    tokens: int = 600
    """Shown of each; 0: all."""
    seed: int = 1
    only_infilling: bool = False
    separate: bool = False
    """Whether each token is a stretch of its own."""


def show_build(
    prefix: Path, tokenizer: Path, choice: Choice, roles: Mapping[str, str] | None = None
) -> tuple[list[Shown], list[tuple[str, str, str]]]:
    """Documents of a build, and facts about it. Raises `DataError` for a build that another tokenizer made."""
    encoder = Encoder.load(tokenizer, roles)
    with ExitStack() as stack:
        build = BuildReader.open(prefix, stack)
        _check_tokenizer(build, encoder)
        marker = encoder.special.fim_suffix

        def wanted(number: int) -> bool:
            return not choice.only_infilling or bool((build.document(number) == marker).any())

        numbers = choice.numbers or list(choose(build, choice.documents, choice.seed, wanted))
        if not numbers:
            raise DataError(f"{prefix}: no document that was split for infilling was found; it may have none")
        shown = [_shown(build, number, encoder, choice) for number in numbers]
        return shown, _facts(build)


def _check_tokenizer(build: BuildReader, encoder: Encoder) -> None:
    digest = build.manifest.get("tokenizer", {}).get("digest")
    if digest and digest != encoder.digest:
        raise DataError(
            f"{build.prefix} was made with another tokenizer than {encoder.path}: {digest[:12]}, not "
            f"{encoder.digest[:12]}"
        )


def _shown(build: BuildReader, number: int, encoder: Encoder, choice: Choice) -> Shown:
    ids = build.document(number)
    start = build.loss_start(number)
    facts = [f"{len(ids):,} tokens"]
    special = set(ids.tolist()) & {getattr(encoder.special, role) for role in FIM_ROLES}
    if len(special) == len(FIM_ROLES):
        facts.append("split for infilling")
    if start:
        facts.append(f"loss from token {start:,} on")
    parts = stretches(ids, encoder, choice.tokens, start, choice.separate)
    return Shown(f"document {number:,}", build.place(number), facts, parts)


def _facts(build: BuildReader) -> list[tuple[str, str, str]]:
    manifest = build.manifest
    facts = [("documents", f"{build.documents:,}", "")]
    if "tokens" in manifest:
        facts.append(("tokens", f"{manifest['tokens']:,}", ""))
    if "fim" in manifest:
        facts.append(("infilling rate", f"{manifest['fim']['rate']:g}", f"epoch {manifest['fim'].get('epoch', '–')}"))
    if "loss" in manifest:
        facts.append(("tokens with loss", f"{manifest['loss']['tokens']:,}", "the others are only given"))
    return facts


def table_of_builds(folder: Path) -> Table:
    """The builds in a folder."""
    table = Table(title=literal(f"Builds in {folder}", "bold"), title_justify="left")
    table.add_column("build", overflow="fold")
    manifests = {prefix.name: read_manifest(prefix) for prefix in builds_in(folder)}
    on_target = any("loss" in manifest for manifest in manifests.values())
    for name in ("split", "documents", "tokens", *(["with loss"] if on_target else []), "infilling", "epoch"):
        table.add_column(name, justify="right")
    for name, manifest in manifests.items():
        fim = manifest.get("fim", {})
        counts = [manifest.get("documents"), manifest.get("tokens")]
        if on_target:
            counts.append(manifest.get("loss", manifest).get("tokens"))
        cells = ["" if count is None else f"{count:,}" for count in counts]
        rate = f"{fim['rate']:g}" if fim else "not declared"
        add_row(table, name, manifest.get("split", ""), *cells, rate, str(fim.get("epoch", "")))
    return table
