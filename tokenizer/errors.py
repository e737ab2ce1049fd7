"""The one error of this package that is meant for the user."""

from collections.abc import Sequence


class TokenizerError(ValueError):
    """Something about a tokenizer or its texts is wrong; one line: what, where, and what would be right."""


def require_unicode(texts: Sequence[str], first_index: int = 0) -> None:
    """Raises `TokenizerError` naming the first text, and the place in it, that holds a lone surrogate."""
    for index, text in enumerate(texts, first_index):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"text {index}, character {error.start}: lone surrogate U+{ord(text[error.start]):04X} is not Unicode "
                "text; decode the file with errors='replace', or leave it out"
            ) from None
