"""What makes bytes a document: the checks that every source applies to every file or record."""

from dataclasses import dataclass

from data_prep.languages import UNKNOWN, by_alias, detect, is_notebook
from data_prep.sources.encodings import UTF8, transcode
from data_prep.sources.notebooks import NotebookError, as_script

_LFS = "version https://git-lfs.github.com/spec/v1"
_BOM = "\ufeff"


@dataclass(frozen=True)
class Content:
    """A text, the encoding it was in and its language; or the `reason` why there is none."""

    text: str = ""
    encoding: str = UTF8
    language: str = UNKNOWN
    reason: str | None = None


def content_of(path: str, data: bytes | str, max_bytes: int, said: str | None = None) -> Content:
    """The content of a file of this name, or of a record: `data` is text already where a table holds text.

    A UTF-8 byte order mark is no part of the text. Line ends are kept as they are: CRLF is how some of the code people
    write looks, and a model that reads it should have seen it. A notebook becomes a script, of at most `max_bytes`.
    `said` is the language that a table says the record is in; it counts where that is one we know.
    """
    text, encoding, reason = decoded(data) if isinstance(data, bytes) else (data, UTF8, None)
    text = text.removeprefix(_BOM)
    reason = reason or _problem(text)
    if reason:
        return Content(encoding=encoding, reason=reason)
    if is_notebook(path):
        return _notebook(text, encoding, max_bytes)
    language = by_alias(said) if said else UNKNOWN
    if language == UNKNOWN:
        language = detect(path, text)
    if language == UNKNOWN:
        return Content(encoding=encoding, reason="unknown_language")
    return Content(text, encoding, language)


def decoded(data: bytes) -> tuple[str, str, str | None]:
    """(text, encoding, None), or ("", "", the reason why these bytes are no text)."""
    try:
        if b"\0" not in data:
            return data.decode(UTF8), UTF8, None
    except UnicodeDecodeError:
        pass
    if found := transcode(data):
        return *found, None
    return "", "", "binary" if b"\0" in data else "not_utf8"


def _problem(text: str) -> str | None:
    if not text or text.isspace():
        return "empty"
    if "\0" in text:
        return "binary"
    return "lfs_pointer" if text.startswith(_LFS) else None


def _notebook(text: str, encoding: str, max_bytes: int) -> Content:
    try:
        script, language = as_script(text)
    except NotebookError:
        return Content(encoding=encoding, reason="malformed_notebook")
    if language == UNKNOWN:
        return Content(encoding=encoding, reason="unknown_language")
    if reason := _problem(script):
        return Content(encoding=encoding, reason=reason)
    if len(script.encode()) > max_bytes:
        return Content(encoding=encoding, reason="too_large")
    return Content(script, encoding, language)


def printable(name: str) -> str:
    """`name` as valid Unicode: bytes of a file name that are not UTF-8 are shown as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
