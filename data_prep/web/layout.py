"""Text that came out of a page with marks around its code: blocks are put back as they were laid out, and counted."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK, BLOCK_END, INLINE, INLINE_END = "\x01", "\x02", "\x03", "\x04"
MARKS = BLOCK + BLOCK_END + INLINE + INLINE_END
_BLOCK_MARK = re.compile(f"([{BLOCK}{BLOCK_END}])")
_INLINE_TEXT = re.compile(f"{INLINE}([^{INLINE}{INLINE_END}]+)")
_LINE_END_SPACE = re.compile(r"[ \t]+\n")
_BLANK_LINES = re.compile(r"\n{3,}")


@dataclass
class LaidOut:
    """Text without marks. `code_characters`: of its blocks and of code within lines."""

    text: str = ""
    code_blocks: int = 0
    code_characters: int = 0

    @property
    def code_share(self) -> float:
        return min(1.0, self.code_characters / len(self.text)) if self.text else 0.0


def lay_out(marked: str) -> LaidOut:
    """The text with its blocks on lines of their own; prose has no space at line ends and one blank line at most.

    Marks need not be in pairs: a page can hold anything.
    """
    laid, parts = LaidOut(), []
    for text, is_block in _runs(marked.replace("\xa0", " ")):
        plain = text.replace(INLINE, "").replace(INLINE_END, "")
        if is_block:
            plain = plain.strip("\n\r").rstrip()
            laid.code_blocks += bool(plain)
            laid.code_characters += len(plain)
        else:
            if len(plain) < len(text):
                laid.code_characters += sum(map(len, _INLINE_TEXT.findall(text)))
            plain = _tidy(plain)
        if plain:
            starts_line = not parts or parts[-1].endswith("\n") or plain.startswith("\n")
            parts.append(plain if starts_line else "\n" + plain)
    laid.text = "".join(parts).strip("\n\r").rstrip()
    return laid


def _runs(marked: str) -> Iterator[tuple[str, bool]]:
    """The text in turns: outside of blocks, and within one; a block in a block is part of it."""
    if BLOCK not in marked:
        yield marked.replace(BLOCK_END, ""), False
        return
    depth, run = 0, []
    for piece in _BLOCK_MARK.split(marked):
        was = depth
        depth = max(0, depth + (1 if piece == BLOCK else -1 if piece == BLOCK_END else 0))
        if piece not in (BLOCK, BLOCK_END):
            run.append(piece)
        elif bool(was) != bool(depth):
            yield "".join(run), bool(was)
            run.clear()
    yield "".join(run), depth > 0


def _tidy(prose: str) -> str:
    """Without space at line ends and more than one blank line. The patterns are slow, and seldom needed."""
    prose = prose.replace(" \n", "\n")
    if " \n" in prose or "\t\n" in prose:
        prose = _LINE_END_SPACE.sub("\n", prose)
    return (_BLANK_LINES.sub("\n\n", prose) if "\n\n\n" in prose else prose).rstrip(" \t")
