"""What makes bytes a document: the checks that every source applies to every file or record."""

from data_prep.languages import UNKNOWN, by_alias, detect

_LFS = "version https://git-lfs.github.com/spec/v1"
_BOM = "\ufeff"


def text_of(data: bytes) -> tuple[str, str | None]:
    """(text, None), or ("", the reason why these bytes are no text).

    A UTF-8 byte order mark is no part of the text. Line ends are kept as they are: CRLF is how some of the code people
    write looks, and a model that reads it should have seen it.
    """
    if b"\0" in data:
        return "", "binary"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "", "not_utf8"
    return checked_text(text)


def checked_text(text: str) -> tuple[str, str | None]:
    """Like `text_of`, for what has been decoded already."""
    text = text.removeprefix(_BOM)
    if not text or text.isspace():
        return "", "empty"
    if "\0" in text:
        return "", "binary"
    if text.startswith(_LFS):
        return "", "lfs_pointer"
    return text, None


def language_of(path: str, text: str, said: str | None = None) -> str:
    """The language a table says the record is in, where that is one we know; otherwise what path and text say."""
    language = by_alias(said) if said else UNKNOWN
    return detect(path, text) if language == UNKNOWN else language


def printable(name: str) -> str:
    """`name` as valid Unicode: bytes of a file name that are not UTF-8 are shown as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
