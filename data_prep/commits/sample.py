"""One sample: context and target within a number of tokens.

What does not fit is cut in this order: the files, the least relevant first, then the tree, then the README. A part is
cut at the end of a line. The message is cut only where it is longer than its own limit, the target never: a commit
whose message and target do not fit, or whose message starts with a line over the limit, gives no sample.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_prep.commits.settings import SampleSettings

Count = Callable[[str], int]

TARGET = "## paths\n"


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
    target_start: int
    tokens: int
    cut: tuple[str, ...]


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
    message = _shortened("message", context.message, settings.message_tokens, count, cut)
    head, end = f"## message\n{_line(message)}", f"{TARGET}{target}"
    left = budget - count(head) - count(end)
    if left < 0 or not message:
        return None
    parts = [head]
    for name, title, text, most in _parts(context, settings):
        title_tokens = count(title)
        shown = _shortened(name, text, min(most, left - title_tokens), count, cut)
        if shown:
            part = f"{title}{_line(shown)}"
            parts.append(part)
            left -= title_tokens + count(_line(shown))
    text = "".join(parts)
    whole = text + end
    return Sample(whole, len(text) + len(TARGET), count(whole), tuple(cut))


def _parts(context: Context, settings: SampleSettings) -> list[tuple[str, str, str, int]]:
    """(name, title, text, most tokens) in the order in which they are granted room."""
    parts = []
    if context.readme:
        path, text = context.readme
        parts.append(("readme", f"## readme {path}\n", text, settings.readme_tokens))
    parts.append(("tree", "## tree\n", context.tree, settings.tree_tokens))
    for number, (path, text) in enumerate(context.files, 1):
        parts.append((f"file {number}", f"## file {path}\n", text, settings.file_tokens))
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
