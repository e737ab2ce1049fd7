"""Text that is not UTF-8: which encoding it is in, where that can be told with confidence, else nothing.

Taken are only answers that hold up from several sides. Every byte must decode, without control characters. For the
multi-byte encodings of East Asia, nearly all characters must be among those that a writer of that language uses (the
first level of the national standard, which lists characters by frequency; kana for Japanese, Hangul for Korean), under
one encoding only. For single-byte encodings, where any bytes decode to something, nearly all characters must be those
of one language's alphabet, no other encoding may give another text of which that is true, and charset-normalizer must
find no mess in it. UTF-16 counts with its byte order mark only.
"""

import codecs
import re
from collections.abc import Callable

UTF8 = "utf-8"
LEAST_CHARACTERS = 8
"""Characters that are not ASCII, below which nothing is concluded."""
_LEAST_LETTERS = 12
"""The same, in single-byte encodings."""
_COMMON_SHARE = 0.95
_KANA_SHARE = 0.15  # of Japanese text; Chinese text has none
_HANGUL_SHARE = 0.8
_ASCII_END_SHARE = 0.15
_OWN_SHARE = 0.7
_VOWEL_SHARE = 0.32
_ALPHABET_SHARE = 0.99
_MOST_CHAOS = 0.1
_SAMPLE_BYTES = 32 << 10
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffe\uffff]|[\ue000-\uf8ff]")
_PUNCTUATION = frozenset(
    "\u00a0\u00ab\u00bb\u2018\u2019\u201a\u201c\u201d\u201e\u2022\u2013\u2014\u2026\u00b0\u00a9\u00ae\u20ac\u00a7\u2122\u00b7"
)
# Letters that are not ASCII, by language.
_WESTERN = (
    "éèàêâîïôùûüçœëæ", "äöüß", "áéíóúñü¿¡ªº", "àèéìòùî", "ãáâàçéêíóôõúªº", "ëéïèöüóêáç", "åäöé", "æøåéòó",
)  # fmt: skip
_CENTRAL = ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíľňóôšťúýž", "áéíóöőúüű", "čšžćđ", "ăâîşţ", "äöüß")
_CYRILLIC = ("абвгдежзийклмнопрстуфхцчшщъыьэюяё№", "абвгдежзийклмнопрстуфхцчшщьюяєіїґ№")
_ALPHABETS = {
    "cp1252": _WESTERN,
    "cp1250": _CENTRAL,
    "iso8859_2": _CENTRAL,
    "cp1254": ("çğıöşüi̇âî",),
    "cp1251": _CYRILLIC,
    "koi8_r": _CYRILLIC[:1],
}
_VOWELS = dict.fromkeys(("cp1251", "koi8_r"), frozenset("аеиоуыэюяёіїє"))
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_OWN_WORD = re.compile(r"(?<![A-Za-z])[^\W\d_a-zA-Z]{2,}(?![A-Za-z])")
_KANA = re.compile(r"[\u3041-\u30fe]")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")


def transcode(data: bytes) -> tuple[str, str] | None:
    """(text, name of its encoding as Python calls it), or None where there is no answer to be sure of."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            text = _decoded(data, encoding)
            return None if text is None else (text, encoding)
    found = [
        (text, name) for name, is_plausible in _EAST_ASIAN.items() if (text := _east_asian(data, name, is_plausible))
    ]
    if found:
        return found[0] if len({text for text, _ in found}) == 1 else None
    return _single_byte(data)


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _east_asian(data: bytes, encoding: str, is_plausible: Callable[[list[str]], bool]) -> str | None:
    text = _decoded(data, encoding)
    foreign = _NOT_ASCII.findall(text) if text else []
    return text if len(foreign) >= LEAST_CHARACTERS and is_plausible(foreign) else None


def _share(pattern: re.Pattern[str], characters: list[str]) -> float:
    return sum(pattern.match(character) is not None for character in characters) / len(characters)


def _common(characters: list[str], standard: str, rows: tuple[tuple[int, int], ...]) -> bool:
    """Whether nearly all characters are in these rows (first bytes) of a standard."""
    known = 0
    for character in characters:
        code = character.encode(standard, "ignore")
        known += len(code) == 2 and any(first <= code[0] <= last for first, last in rows)
    return known >= _COMMON_SHARE * len(characters)


def _is_chinese(characters: list[str]) -> bool:
    """Simplified: punctuation and level 1 of GB 2312. Korean text decodes to its first rows alone."""
    later = sum(character.encode("gb2312", "ignore") >= b"\xc9\xa1" for character in characters)
    return (
        _common(characters, "gb2312", ((0xA1, 0xA3), (0xB0, 0xD7)))
        and _share(_KANA, characters) < 0.01
        and later >= 0.1 * len(characters)
    )


def _is_traditional_chinese(characters: list[str]) -> bool:
    """Punctuation and level 1 of Big5, two fifths of which end in an ASCII byte, as nothing does elsewhere."""
    ascii_ends = sum(character.encode("big5", "ignore")[1:] < b"\x80" for character in characters)
    return _common(characters, "big5", ((0xA1, 0xA2), (0xA4, 0xC6))) and ascii_ends >= _ASCII_END_SHARE * len(
        characters
    )


def _is_japanese(characters: list[str]) -> bool:
    """Punctuation, kana and level 1 of JIS X 0208."""
    return _common(characters, "euc_jp", ((0xA1, 0xA5), (0xB0, 0xCF))) and _share(_KANA, characters) >= _KANA_SHARE


def _is_korean(characters: list[str]) -> bool:
    return _common(characters, "euc_kr", ((0xA1, 0xA3), (0xB0, 0xC8))) and _share(_HANGUL, characters) >= _HANGUL_SHARE


_EAST_ASIAN = {
    "gb18030": _is_chinese,
    "big5": _is_traditional_chinese,
    "cp932": _is_japanese,
    "euc_jp": _is_japanese,
    "cp949": _is_korean,
}


def _single_byte(data: bytes) -> tuple[str, str] | None:
    found: dict[str, str] = {}  # text -> the first encoding that gives it
    for encoding, alphabets in _ALPHABETS.items():
        text = _decoded(data, encoding)
        if text is not None and _is_written(text, alphabets, encoding):
            found.setdefault(text, encoding)
    if len(found) != 1:
        return None
    ((text, encoding),) = found.items()
    return (text, encoding) if _is_clean(_foreign_lines(data), encoding) else None


def _is_written(text: str, alphabets: tuple[str, ...], encoding: str) -> bool:
    """Whether the text can be in one of the languages.

    A script of its own must come in words of its own, mostly in lower case and with as many vowels as these languages
    have; letters of Latin alphabets stand in words with ASCII letters.
    """
    letters = [character for character in _NOT_ASCII.findall(text) if character not in _PUNCTUATION]
    if len(letters) < _LEAST_LETTERS:
        return False
    lower = [letter.lower() for letter in letters]
    if vowels := _VOWELS.get(encoding):
        small = sum(map(str.__eq__, letters, lower))
        in_words = sum(len(word) for word in _OWN_WORD.findall(text))
        if min(in_words, small) < _OWN_SHARE * len(letters):
            return False
        if sum(letter in vowels for letter in lower) < _VOWEL_SHARE * len(lower):
            return False
    return any(sum(letter in alphabet for letter in lower) >= _ALPHABET_SHARE * len(lower) for alphabet in alphabets)


def _is_clean(sample: bytes, encoding: str) -> bool:
    import charset_normalizer

    expected = sample.decode(encoding)
    matches = charset_normalizer.from_bytes(sample, cp_isolation=list(_ALPHABETS))
    return any(match.chaos <= _MOST_CHAOS and str(match) == expected for match in matches)


def _foreign_lines(data: bytes) -> bytes:
    """The lines that are not all ASCII, up to some thousand bytes of them."""
    lines, size = [], 0
    for line in data.splitlines(keepends=True):
        if not line.isascii():
            lines.append(line[:1000])
            size += len(lines[-1])
            if size >= _SAMPLE_BYTES:
                break
    return b"".join(lines)
