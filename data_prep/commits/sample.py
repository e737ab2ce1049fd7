"""One sample: context and target within a number of tokens.

What does not fit is cut in this order: the files, the least relevant first, then the tree, then the README. A part is
cut at the end of a line. The message is cut only where it is longer than its own limit, the target never: a commit
whose message and target do not fit, or whose message starts with a line over the limit, gives no sample.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from data_prep.commits.settings import SampleSettings
from data_prep.commits.target import CHANGES
from data_prep.structure import Heading

Count = Callable[[str], int]

HEADINGS = {
    "commit_message": "## message\n",
    "commit_readme": "## readme ",
    "commit_tree": "## tree\n",
    "commit_file": "## file ",
    "commit_paths": "## paths\n",
    "commit_changes": CHANGES,
}
"""Role of the special token that may stand for it -> heading of a part, as text."""


@dataclass(frozen=True)
class Context:
    """What is shown, whole."""

    message: str
    readme: tuple[str, str] | None
    tree: str
    files: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Sample:
    """`text[target_start:]` is the target; `cut` says which parts are shorter than they were, or not there."""

    text: str
    headings: tuple[Heading, ...]
    target_start: int
    tokens: int
    cut: tuple[str, ...]


class _Part(NamedTuple):
    role: str
    text: str
    """What follows the heading."""


def bytes_counter(bytes_per_token: float) -> Count:
    return lambda text: math.ceil(len(text.encode()) / bytes_per_token)


def write_sample(context: Context, target: str, settings: SampleSettings, count: Count) -> Sample | None:
    """None where message and target do not fit."""
    budget = settings.max_tokens
    while True:
        sample = _within(budget, context, target, settings, count)
        # Tokens of the parts may be fewer than those of the whole, with some tokenizers.
        if sample is None or sample.tokens <= settings.max_tokens:
            return sample
        budget -= sample.tokens - settings.max_tokens


def _within(budget: int, context: Context, target: str, settings: SampleSettings, count: Count) -> Sample | None:
    cut: list[str] = []
    tokens_of = partial(_tokens, settings.markers, count)
    message = _shortened("message", context.message, settings.message_tokens, count, cut)
    parts = [_Part("commit_message", _line(message))]
    end = _target_parts(target)
    left = budget - tokens_of(parts) - tokens_of(end)
    if left < 0 or not message:
        return None
    for name, title, text, most in _parts(context, settings):
        title_tokens = tokens_of([title])
        shown = _shortened(name, text, min(most, left - title_tokens), count, cut)
        if shown:
            parts.append(title._replace(text=f"{title.text}{_line(shown)}"))
            left -= title_tokens + count(_line(shown))
    return _joined([*parts, *end], tokens_of([*parts, *end]), tuple(cut))


def _tokens(markers: str, count: Count, parts: Sequence[_Part]) -> int:
    """A special token is one, and a border that no other token crosses."""
    if markers == "special":
        return sum(1 + count(text) for _, text in parts)
    return count("".join(HEADINGS[role] + text for role, text in parts))


def _target_parts(target: str) -> list[_Part]:
    start = target.index(f"\n{CHANGES}") + 1  # no path has a line end
    return [_Part("commit_paths", target[:start]), _Part("commit_changes", target[start + len(CHANGES) :])]


def _joined(parts: Sequence[_Part], tokens: int, cut: tuple[str, ...]) -> Sample:
    texts, headings, length = [], [], 0
    for role, text in parts:
        headings.append(Heading(role, length, length + len(HEADINGS[role])))
        texts += [HEADINGS[role], text]
        length += len(HEADINGS[role]) + len(text)
    (target_start,) = (heading.end for heading in headings if heading.role == "commit_paths")
    return Sample("".join(texts), tuple(headings), target_start, tokens, cut)


def _parts(context: Context, settings: SampleSettings) -> list[tuple[str, _Part, str, int]]:
    """(name, title, text, most tokens) in the order in which they are granted room."""
    parts = []
    if context.readme:
        path, text = context.readme
        parts.append(("readme", _Part("commit_readme", f"{path}\n"), text, settings.readme_tokens))
    parts.append(("tree", _Part("commit_tree", ""), context.tree, settings.tree_tokens))
    for number, (path, text) in enumerate(context.files, 1):
        parts.append((f"file {number}", _Part("commit_file", f"{path}\n"), text, settings.file_tokens))
    return parts


def _shortened(name: str, text: str, tokens: int, count: Count, cut: list[str]) -> str:
    """As many whole lines of `text` from its start as `tokens` allow, the end of the last counted."""
    shown = _line(text)
    have = count(shown)
    while shown and have > tokens:
        keep = max(0, len(shown) * max(tokens, 0) * 19 // (have * 20))
        shown = shown[: shown.rfind("\n", 0, keep) + 1]
        have = count(shown)
    if shown != _line(text):
        cut.append(name)
        return shown
    return text


def _line(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"
