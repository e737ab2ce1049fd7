"""Documents as they are shown, in a terminal and on a page: each with where it came from, and its stretches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from data_prep.inspect.parts import Stretch
from data_prep.inspect.reader import Place
from data_prep.report.environment import environment
from data_prep.report.formats import visible
from data_prep.shards import write_atomic

KINDS = {
    "suffix": ("cyan", "suffix of a document split for infilling"),
    "prefix": ("green", "its prefix"),
    "middle": ("bold magenta", "its middle, which is to be filled in"),
    "special": ("reverse", "token that is no text"),
}
"""Kind of stretch -> its style in a terminal, and what it is. Plain text has none."""
CONTEXT = ("dim", "only given: no loss on it")


@dataclass(frozen=True)
class Shown:
    """A document, or a piece of one."""

    title: str
    place: Place | None
    facts: Sequence[str]
    """Such as its number of tokens."""
    stretches: Sequence[Stretch]
    is_new_sequence: bool = False
    """Whether a sequence of the batch begins here."""

    @property
    def where(self) -> str:
        if self.place is None:
            return "made elsewhere: nothing says from what"
        return f"{self.place.source}: {self.place.repository}/{self.place.path}"


def print_shown(console: Console, shown: Sequence[Shown], with_ids: bool = False) -> None:
    """Prints a legend and the documents, each below a line that says what it is; no text can act on the terminal."""
    if console.is_terminal:  # elsewhere there are no colours
        console.print(_legend(shown))
    for one in shown:
        if one.is_new_sequence:
            console.print(Rule(characters="═", style="bold"))
        title = visible(f"{one.title} · {one.where} · {' · '.join(one.facts)}")
        console.print(Text(f"── {title} ", style="bold"), soft_wrap=True)
        console.print(_text_of(one.stretches, with_ids), soft_wrap=True)


def _legend(shown: Sequence[Shown]) -> Text:
    text = Text("colours: ")
    for name, (style, meaning) in _met(shown).items():
        text.append(name, style=style).append(f" ({meaning}); ")
    text.append("⋯ tokens left out ⋯", style="italic")
    return text


def _met(shown: Sequence[Shown]) -> dict[str, tuple[str, str]]:
    """What of the legend occurs."""
    kinds = {stretch.kind for one in shown for stretch in one.stretches}
    met = {kind: entry for kind, entry in KINDS.items() if kind in kinds}
    if any(not stretch.has_loss for one in shown for stretch in one.stretches):
        met["context"] = CONTEXT
    return met


def _text_of(stretches: Sequence[Stretch], with_ids: bool) -> Text:
    text = Text(tab_size=8, end="")
    for stretch in stretches:
        if stretch.kind == "gap":
            text.append(_gap(stretch), style="italic")
            continue
        style, _ = KINDS.get(stretch.kind, ("", ""))
        style = style if stretch.has_loss else f"{style} {CONTEXT[0]}".strip()
        text.append(visible(stretch.text), style=style)
        if with_ids:
            text.append(f"⟨{' '.join(map(str, stretch.ids))}⟩", style="dim")
    if not text.plain.endswith("\n"):
        text.append("\n")
    return text


def _gap(stretch: Stretch) -> str:
    return (
        f"\n⋯ {len(stretch.ids):,} tokens left out, {stretch.first:,} to {stretch.first + len(stretch.ids) - 1:,} ⋯\n"
    )


def write_page(path: Path, heading: str, facts: Sequence[tuple[str, str, str]], shown: Sequence[Shown]) -> None:
    """Writes the documents as an HTML page that loads nothing; equal documents give equal bytes.

    `facts`: (name, value, meaning) of what they were taken from.
    """
    page = environment(Path(__file__).parent).get_template("documents.html.j2")
    html = page.render(heading=heading, facts=facts, shown=list(_as_rows(shown)), legend=_met(shown))
    write_atomic(path, lambda stream: stream.write((html.strip() + "\n").encode()))


def _as_rows(shown: Sequence[Shown]) -> Iterator[dict[str, Any]]:
    for one in shown:
        spans = Markup("").join(_span(stretch) for stretch in one.stretches)
        yield {
            "title": one.title,
            "where": one.where,
            "facts": " · ".join(one.facts),
            "text": spans,
            "new": one.is_new_sequence,
        }


def _span(stretch: Stretch) -> Markup:
    if stretch.kind == "gap":
        return Markup('<span class="gap">{}</span>').format(_gap(stretch))
    classes = stretch.kind if stretch.has_loss else f"{stretch.kind} context"
    place = f"tokens {stretch.first:,} to {stretch.first + len(stretch.ids) - 1:,}"
    return Markup('<span class="{}" title="{}">{}</span>').format(classes, place, visible(stretch.text))
