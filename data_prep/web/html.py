"""HTML to text: the main content of a page, code blocks with their indentation, and how much of it is code.

Code elements are marked by control characters before the page is parsed. Those come out at the places where the code
is, so blocks can be put back as they were laid out (a list indents their first line), and counted.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree, traverse_dom

from data_prep.web.layout import BLOCK, BLOCK_END, INLINE, INLINE_END, MARKS, LaidOut, lay_out
from data_prep.web.settings import ExtractionSettings

_TITLE_CHARACTERS = 512
_WITHOUT_MARKS = {ord(mark): None for mark in MARKS}
# Written out for both cases: a pattern that ignores case is searched for much more slowly.
_PRE = re.compile(r"(<[pP][rR][eE](?:\s[^>]*)?>)(?:\r?\n)?")
_PRE_END = re.compile(r"<(?=/[pP][rR][eE][\s>])")
_CODE = re.compile(r"<(?=(?:[cC][oO][dD][eE]|[sS][aA][mM][pP]|[kK][bB][dD])[\s>])")
_CODE_END = re.compile(r"<(?=/(?:[cC][oO][dD][eE]|[sS][aA][mM][pP]|[kK][bB][dD])[\s>])")
# Each of Doxygen's lines is an element and ends like one; the line end behind it would be a blank line.
_DOXYGEN_LINES = ('</div>\n<div class="line">', '</div><div class="line">')
_MAIN = "main, [role=main]"
_MAIN_HINTS = ("<main", "<MAIN", 'role="main"')
# Not the content of a page, and around it, where the heuristics of the library are not asked.
_BESIDE = ("nav", "footer", "aside", "[role=navigation]", "[role=contentinfo]")
_AROUND = ("header", "[role=banner]")


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
    if _may_be_deeper(marked, settings.max_depth):
        _check_depth(tree, settings.max_depth)
    blocks += _wrap(tree, marked, settings.preformatted)
    title = " ".join((tree.title or "").translate(_WITHOUT_MARKS).split())[:_TITLE_CHARACTERS]
    found = _content(tree, marked, blocks, settings)
    return Extracted(found.text, title, found.code_characters > 0, found.code_share, found.code_blocks)


def _content(tree: HTMLTree, marked: str, blocks: int, settings: ExtractionSettings) -> LaidOut:
    """The main content: of the element that says so, else as the library finds it, unless it loses code by that."""
    if not settings.main_content:
        return lay_out(_plain(tree, settings.skip, False))
    if _keep_main(tree, marked):
        found = lay_out(_plain(tree, (*settings.skip, *_BESIDE), False))
        if found.text:
            return found
        tree = HTMLTree.parse(marked)  # a page that is filled by a script, or elsewhere
    found = lay_out(_plain(tree, settings.skip, True))
    if found.text and found.code_blocks >= settings.min_code_kept * blocks:
        return found
    whole = lay_out(_plain(tree, (*settings.skip, *_BESIDE, *_AROUND), False))
    return whole if not found.text or whole.code_blocks > found.code_blocks else found


def _keep_main(tree: HTMLTree, html: str) -> bool:
    """Takes everything out of the body but the one element that says it is the main content, where there is one."""
    if not any(hint in html for hint in _MAIN_HINTS):
        return False
    found = tree.document.query_selector_all(_MAIN)
    if len(found) != 1 or tree.body is None or not tree.body.contains(found[0]):
        return False
    tree.body.replace_children(found[0])
    return True


def _mark(html: str) -> tuple[str, int]:
    """The page with marks around what is in its code elements, and how many `pre` elements it starts."""
    if any(mark in html for mark in MARKS):
        html = html.translate(_WITHOUT_MARKS)
    html, blocks = _PRE.subn(rf"\1{BLOCK}", html)
    if blocks:
        html = _PRE_END.sub(BLOCK_END + "<", html)
    html, inlines = _CODE.subn(INLINE + "<", html)
    return (_CODE_END.sub(INLINE_END + "<", html) if inlines else html).replace(*_DOXYGEN_LINES), blocks


def _may_be_deeper(html: str, most: int) -> bool:
    """Whether more elements can be open at a time, if every end tag ends one; those that need none count, too.

    A page that hides its depth behind end tags of nothing is left to the time limit.
    """
    if html.count("<") - html.count("</") <= most:
        return False
    data = np.frombuffer(html.encode("utf-8", "replace"), np.uint8)
    at = np.flatnonzero(data[:-1] == ord("<"))
    after = data[at + 1]
    steps = ((after | 0x20) - ord("a") < 26).astype(np.int8)  # unsigned: what is no letter wraps around
    steps -= after == ord("/")
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0)) > most


def _check_depth(tree: HTMLTree, most: int) -> None:
    def enter(context) -> None:
        if context.depth > most:
            raise TooDeepError(f"elements are nested more than {most} deep")

    traverse_dom(tree.document.document_element, enter, elements_only=True)


def _wrap(tree: HTMLTree, html: str, selectors: Sequence[str]) -> int:
    """Puts elements that a style sheet lays out like `pre` into one; returns how many."""
    wanted = [selector for selector in selectors if _last_name(selector) in html]
    if not wanted:
        return 0
    elements = list(tree.document.query_selector_all(", ".join(wanted)))
    for element in elements:
        wrapper = tree.create_element("pre")
        element.parent.insert_before(wrapper, element)
        for node in (tree.create_text_node(BLOCK), element, tree.create_text_node(BLOCK_END)):
            wrapper.append_child(node)
    return len(elements)


@functools.lru_cache
def _last_name(selector: str) -> str:
    """What a page must hold for a CSS selector to select something in it."""
    return re.split(r"[^\w-]", selector)[-1]


def _plain(tree: HTMLTree, skip: Sequence[str], main_content: bool) -> str:
    return extract_plain_text(tree, preserve_formatting=True, main_content=main_content, skip_elements=list(skip))
