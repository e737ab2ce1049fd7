"""HTML to text: the main content of a page, code blocks with their indentation, and how much of it is code.

Code elements are marked by control characters before the page is parsed. They come out at the places where the code is,
so blocks can be put back as they were laid out (a list indents their first line), and counted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree, traverse_dom

from data_prep.web.settings import ExtractionSettings

BLOCK, BLOCK_END, INLINE, INLINE_END = "\x01", "\x02", "\x03", "\x04"
MARKS = BLOCK + BLOCK_END + INLINE + INLINE_END
_TITLE_CHARACTERS = 512
_MARK = re.compile(f"([{MARKS}])")
_MARKED = {ord(mark): None for mark in MARKS}
# Written out for both cases: a pattern that ignores case is searched for much more slowly.
_START = {
    BLOCK: re.compile(r"(<[pP][rR][eE](?:\s[^>]*)?>)(?:\r?\n)?"),
    INLINE: re.compile(r"(<(?:[cC][oO][dD][eE]|[sS][aA][mM][pP]|[kK][bB][dD])(?:\s[^>]*)?>)"),
}
_END = {
    BLOCK_END: re.compile(r"(</[pP][rR][eE]\s*>)"),
    INLINE_END: re.compile(r"(</(?:[cC][oO][dD][eE]|[sS][aA][mM][pP]|[kK][bB][dD])\s*>)"),
}
_LINE_END_SPACE = re.compile(r"[ \t]+(?=\n)")
_BLANK_LINES = re.compile(r"\n{3,}")
# Around the main content, where it has to be found without the heuristics of the library.
_AROUND = ("nav", "header", "footer", "aside", "[role=navigation]", "[role=banner]", "[role=contentinfo]")


class TooDeepError(ValueError):
    """Elements are nested deeper than is looked at."""


@dataclass(frozen=True)
class Extracted:
    """`code_blocks` counts `pre` elements (and what is laid out like one) in the text; `has_code`: there is text in one
    of them, or in a `code`, `samp` or `kbd`. `code_share`: characters in them over all."""

    text: str
    title: str
    has_code: bool
    code_share: float
    code_blocks: int


def extract(html: str, settings: ExtractionSettings) -> Extracted:
    """The text of a page. Raises `TooDeepError`."""
    marked, blocks = _mark(html)
    tree = HTMLTree.parse(marked)
    if _depth_bound(marked) > settings.max_depth:
        _check_depth(tree, settings.max_depth)
    blocks += _wrap(tree, marked, settings.preformatted)
    found = _laid_out(_plain(tree, settings.skip, settings.main_content))
    if settings.main_content and (not found.text or found.code_blocks < settings.min_code_kept * blocks):
        whole = _laid_out(_plain(tree, (*settings.skip, *_AROUND), False))
        if not found.text or whole.code_blocks > found.code_blocks:
            found = whole
    title = " ".join((tree.title or "").translate(_MARKED).split())[:_TITLE_CHARACTERS]
    return Extracted(found.text, title, found.code_characters > 0, found.code_share, found.code_blocks)


def _mark(html: str) -> tuple[str, int]:
    """The page with marks inside its code elements, and how many `pre` elements it starts."""
    if _MARK.search(html):
        html = html.translate(_MARKED)
    blocks = 0
    for mark, pattern in _START.items():
        html, count = pattern.subn(rf"\1{mark}", html)
        blocks += count if mark == BLOCK else 0
    for mark, pattern in _END.items():
        html = pattern.sub(rf"{mark}\1", html)
    return html, blocks


def _depth_bound(html: str) -> int:
    """Most elements that can be open at a time, if every end tag ends one; those that need no end tag count, too."""
    data = np.frombuffer(html.encode("utf-8", "replace"), np.uint8)
    at = np.flatnonzero(data[:-1] == ord("<"))
    if not len(at):
        return 0
    after = data[at + 1]
    letters = after | 0x20
    opens = (letters >= ord("a")) & (letters <= ord("z"))
    return int(np.cumsum(opens.astype(np.int64) - (after == ord("/"))).max())


def _check_depth(tree: HTMLTree, most: int) -> None:
    def enter(context) -> None:
        if context.depth > most:
            raise TooDeepError(f"elements are nested more than {most} deep")

    traverse_dom(tree.document, enter, elements_only=True)


def _wrap(tree: HTMLTree, html: str, selectors: Sequence[str]) -> int:
    """Puts elements that a style sheet lays out like `pre` into one; returns how many."""
    wanted = [selector for selector in selectors if re.split(r"[^\w-]", selector)[-1] in html]
    if not wanted:
        return 0
    elements = list(tree.document.query_selector_all(", ".join(wanted)))
    for element in elements:
        child = element.first_child
        while child is not None:
            following = child.next_sibling
            if child.tag == "#text" and not child.value.strip():  # between lines that are elements
                child.decompose()
            child = following
        wrapper = tree.create_element("pre")
        element.parent.insert_before(wrapper, element)
        for node in (tree.create_text_node(BLOCK), element, tree.create_text_node(BLOCK_END)):
            wrapper.append_child(node)
    return len(elements)


def _plain(tree: HTMLTree, skip: Sequence[str], main_content: bool) -> str:
    return extract_plain_text(tree, preserve_formatting=True, main_content=main_content, skip_elements=list(skip))


@dataclass
class _Laid:
    """Text without marks, as it is put together."""

    text: str = ""
    code_blocks: int = 0
    code_characters: int = 0

    @property
    def code_share(self) -> float:
        return min(1.0, self.code_characters / len(self.text)) if self.text else 0.0


def _laid_out(marked: str) -> _Laid:
    """The text with its blocks on lines of their own; prose has no space at line ends and one blank line at most."""
    laid, parts, run = _Laid(), [], []
    block = inline = 0

    def close(is_block: bool) -> None:
        text = "".join(run)
        run.clear()
        if is_block:
            text = text.replace("\xa0", " ").strip("\n\r").rstrip()
            laid.code_blocks += bool(text.strip())
            laid.code_characters += len(text)
        else:
            text = _BLANK_LINES.sub("\n\n", _LINE_END_SPACE.sub("", text)).rstrip(" \t")
        if text:
            if parts and not (parts[-1].endswith("\n") or text.startswith("\n")):
                parts.append("\n")
            parts.append(text)

    for piece in _MARK.split(marked):
        if piece == BLOCK:
            if block == 0:
                close(False)
            block += 1
        elif piece == BLOCK_END:
            if block == 1:
                close(True)
            block = max(0, block - 1)
        elif piece in (INLINE, INLINE_END):
            inline = inline + 1 if piece == INLINE else max(0, inline - 1)
        elif piece:
            run.append(piece)
            laid.code_characters += len(piece.strip()) if inline and not block else 0
    close(block > 0)
    laid.text = "".join(parts).strip("\n\r").rstrip()
    return laid
