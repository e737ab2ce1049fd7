"""The text of a page: in the encoding it is really in, whatever it says."""

import codecs
import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{2,40})", re.IGNORECASE)
_HTTP = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_META_BYTES = 4096
# Encodings whose bytes may all be valid UTF-8, too.
_LIKE_UTF8 = frozenset(("iso2022_jp", "utf-16-le", "utf-16-be"))
_SEVERAL_BYTES = frozenset(
    ("utf-8", "gb18030", "big5", "cp950", "cp932", "euc_jp", "iso2022_jp", "cp949", "utf-16-le", "utf-16-be")
)
# A page that declares nothing else says it is Latin; these are what else it often is, in scripts of their own.
_LATIN = "cp1252"
# fmt: off
_OTHER_SCRIPTS = frozenset((
    "cp1251", "koi8-r", "koi8-u", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "iso8859-11", "cp1253", "cp1255",
    "cp1256", "cp866", "mac-cyrillic",
))
# fmt: on
_HIGH = re.compile(rb"[\x80-\xff]+")
_OWN_SCRIPT_SHARE = 0.5
_WIDER = {
    "ascii": "cp1252", "iso8859-1": "cp1252", "euc_kr": "cp949", "shift_jis": "cp932", "gbk": "gb18030",
    "gb2312": "gb18030", "utf-16": "utf-16-le",
}  # fmt: skip
_ESCAPE = b"\x1b$"
_WHAT_NOT = "\ufffd"


def decode(data: bytes, content_type: str, min_decoded: float) -> tuple[str, str] | None:
    """(text, name of its encoding as Python calls it), or None where less than `min_decoded` of it can be decoded.

    A byte order mark counts first. Then UTF-8, where all bytes are: text in another encoding practically never is. Then
    what the header says, what the page says, and what is detected: the first that decodes every byte, or else enough.
    Any bytes decode in a single-byte encoding, so before one that is declared, one of several bytes is tried where that
    is detected; and before Latin, one of another script.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], name, min_decoded)
    if _ESCAPE not in data and (found := _decoded(data, "utf-8", 1)):
        return found
    said = _declared(data, content_type)
    detected = _known(detect_encoding(data, html5_compatible=False)) or "utf-8"
    order = [*said, detected, "utf-8"]
    several = detected in _SEVERAL_BYTES and order[0] not in _SEVERAL_BYTES
    if several or detected in _LIKE_UTF8 or (order[0] == _LATIN and detected in _OTHER_SCRIPTS and _in_words(data)):
        order.insert(0, detected)
    for least in (1.0, min_decoded):
        for name in dict.fromkeys(order):
            if found := _decoded(data, name, least):
                return found
    return None


def _declared(data: bytes, content_type: str) -> list[str]:
    """Encodings that the header and the page name, those that exist."""
    head = data[:_META_BYTES]
    found = [match[1] for match in [_HTTP.search(content_type)] if match]
    found += [match[1].decode("ascii") for match in (_META.search(head), _XML.match(head)) if match]
    if head[:1] == b"\0" or head[1:2] == b"\0":  # no byte order mark, and every other byte of ASCII is zero
        found.insert(0, "utf-16-be" if head[:1] == b"\0" else "utf-16-le")
    labels = [map_encoding_to_html5(label, fallback_utf8=False) for label in found]
    return [name for name in map(_known, labels) if name]


def _in_words(data: bytes) -> bool:
    """Whether bytes that are not ASCII stand together, as letters of another script do and accented ones do not."""
    runs = [len(run) for run in _HIGH.findall(data)]
    return sum(run for run in runs if run > 2) >= _OWN_SCRIPT_SHARE * sum(runs)


def _known(name: str | None) -> str | None:
    """Python's name of an encoding, or of the larger one that takes its place on the web."""
    try:
        known = codecs.lookup(name).name if name else None
    except LookupError:
        return None
    return _WIDER.get(known, known)


def _decoded(data: bytes, name: str, least: float) -> tuple[str, str] | None:
    """The text, where at least this share of its characters can be decoded and it has no zeros."""
    try:
        text = data.decode(name, "strict" if least == 1 else "replace")
    except (UnicodeError, LookupError):
        return None
    if "\0" in text or (least < 1 and text.count(_WHAT_NOT) > (1 - least) * len(text)):
        return None
    return text, name
