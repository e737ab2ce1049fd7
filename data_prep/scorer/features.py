"""What the linear scorer sees of a file: hashed n-grams of its tokens, and plain numbers ("signs").

A text is read once, byte by byte, as tokens: words, numbers (all one), punctuation, and line ends with the next line's
indentation. Counted are tokens, pairs of tokens, and runs of four token *shapes* (how a word is written and how long it
is, not which word it is), hashed into one table. Counts are taken as log(1 + count), scaled to length one. The
beginning of a file, where it says what it is and who made it, is counted once more for itself: in a long file a line
that says "generated" would weigh nothing.
"""

from collections.abc import Sequence

import numba
import numpy as np

from data_prep.annotators.signs import is_generated

SIGNS = (
    "bytes",
    "lines",
    "mean_line",
    "longest_line",
    "blank_lines",
    "comment_lines",
    "comment_bytes",
    "indentation",
    "deep_lines",
    "words",
    "word_length",
    "single_letters",
    "long_words",
    "capitals",
    "underscores",
    "numbers",
    "digits",
    "quotes",
    "punctuation",
    "brackets",
    "non_ascii",
    "repeated_lines",
    "distinct_words",
    "calls",
    "assignments",
    "comment_runs",
    "definitions",
    "documented",
    "literals",
    "generated",
)
_AT_ONCE = 512  # texts
_SLOTS = 1 << 12  # of the tables in which lines and words of a file are seen again
_OTHER, _WORD, _SPACE, _LINE_END = range(4)
# What is known of the line that is being read.
_START, _HASH, _BLANK, _COMMENT, _DEFINES, _COMMENT_BEFORE, _DEFINES_BEFORE, _QUOTED = range(8)
_HEAD_BYTES = 2048  # of the beginning
_DEFINITIONS = ("def", "function", "func", "fn", "sub", "class", "struct", "interface", "proc", "public", "void")


def features(
    texts: Sequence[bytes], read_bytes: int, buckets: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each text, up to `read_bytes` of it: (columns int32, values fp32, offsets int64 [texts + 1], signs fp32).

    Text i has values[offsets[i]:offsets[i + 1]] in those columns, which are below `buckets`, a power of two; its signs
    are signs[i], in the order of `SIGNS`.
    """
    parts = [
        _features(texts[start : start + _AT_ONCE], read_bytes, buckets) for start in range(0, len(texts), _AT_ONCE)
    ]
    columns, values, counts, signs = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return columns, values, np.cumsum(np.append(0, counts)), signs


def _features(texts: Sequence[bytes], read_bytes: int, buckets: int) -> tuple[np.ndarray, ...]:
    flat, bounds, sizes = _joined(texts, read_bytes)
    most = int(4 * len(flat) + (4 * _HEAD_BYTES + 16) * len(texts))  # a token has a byte at least, and four features
    columns, values = np.empty(most, np.int32), np.empty(most, np.float32)
    offsets, signs = np.zeros(len(texts) + 1, np.int64), np.zeros((len(texts), len(SIGNS)), np.float32)
    _extract(flat, bounds, sizes, _kinds(), _definitions(), buckets, columns, values, offsets, signs)
    signs[:, -1] = _generated(texts)
    return columns[: offsets[-1]].copy(), values[: offsets[-1]].copy(), np.diff(offsets), signs


def products(texts: Sequence[bytes], read_bytes: int, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each text: the product of its hashed features with `weights` (fp32 [buckets]), fp32, and its signs."""
    flat, bounds, sizes = _joined(texts, read_bytes)
    sums, signs = np.empty(len(texts), np.float32), np.zeros((len(texts), len(SIGNS)), np.float32)
    _multiply(flat, bounds, sizes, _kinds(), _definitions(), weights, sums, signs)
    signs[:, -1] = _generated(texts)
    return sums, signs


def _joined(texts: Sequence[bytes], read_bytes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cut = [text[:read_bytes] for text in texts]
    flat = np.frombuffer(b"".join(cut), np.uint8)
    return flat, np.cumsum([0, *map(len, cut)], dtype=np.int64), np.array([len(text) for text in texts], np.int64)


def _generated(texts: Sequence[bytes]) -> list[bool]:
    return [is_generated(text[: 2 * _HEAD_BYTES].decode("utf-8", "replace")) for text in texts]


def _kinds() -> np.ndarray:
    """[256] uint8: what each byte is."""
    kinds = np.zeros(256, np.uint8)
    kinds[[ord(letter) for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"]] = _WORD
    kinds[128:] = _WORD
    kinds[[ord(" "), ord("\t"), ord("\r"), 11, 12]] = _SPACE
    kinds[ord("\n")] = _LINE_END
    return kinds


def _definitions() -> np.ndarray:
    """uint64, the tokens of words that begin the definition of a function or type in some language."""
    with np.errstate(over="ignore"):
        tokens = np.full(len(_DEFINITIONS), 7, np.uint64)
        for place, word in enumerate(_DEFINITIONS):
            for letter in word.encode():
                tokens[place] = tokens[place] * np.uint64(0x100000001B3) + np.uint64(letter)
    return tokens


@numba.njit(nogil=True, cache=True)
def _mixed(value):
    value = np.uint64(value)
    value = (value ^ (value >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return value ^ (value >> np.uint64(32))


@numba.njit(nogil=True, cache=True)
def _extract(flat, bounds, sizes, kinds, definitions, buckets, columns, values, offsets, signs):
    counts, touched = np.zeros(buckets, np.int32), np.empty(buckets, np.int32)
    seen, unused = np.full((2, _SLOTS), -1, np.int64), np.zeros(signs.shape[1], np.float32)
    for index in range(len(bounds) - 1):
        text, end = flat[bounds[index] : bounds[index + 1]], offsets[index]
        for part in range(2):
            own = text if part else text[:_HEAD_BYTES]
            into = signs[index] if part else unused
            number = _count(own, kinds, definitions, counts, touched, seen, 2 * index + part, part, into)
            start, total = end, 0.0
            for place in range(number):
                value = np.log1p(np.float64(counts[touched[place]]))
                total += value * value
                columns[start + place], values[start + place] = touched[place], value
                counts[touched[place]] = 0
            end = start + number
            if number:
                values[start:end] *= np.float32(1.0 / np.sqrt(total))
        _finish(signs[index], sizes[index])
        offsets[index + 1] = end


@numba.njit(nogil=True, cache=True)
def _multiply(flat, bounds, sizes, kinds, definitions, weights, sums, signs):
    counts, touched = np.zeros(len(weights), np.int32), np.empty(len(weights), np.int32)
    seen, unused = np.full((2, _SLOTS), -1, np.int64), np.zeros(signs.shape[1], np.float32)
    logs = np.log1p(np.arange(256).astype(np.float64))
    for index in range(len(bounds) - 1):
        text = flat[bounds[index] : bounds[index + 1]]
        sums[index] = 0.0
        for part in range(2):
            own = text if part else text[:_HEAD_BYTES]
            into = signs[index] if part else unused
            number = _count(own, kinds, definitions, counts, touched, seen, 2 * index + part, part, into)
            product, total = 0.0, 0.0
            for place in range(number):
                bucket = touched[place]
                count = counts[bucket]
                value = logs[count] if count < 256 else np.log1p(np.float64(count))
                total += value * value
                product += value * weights[bucket]
                counts[bucket] = 0
            if number:
                sums[index] += product / np.sqrt(total)
        _finish(signs[index], sizes[index])


@numba.njit(nogil=True, cache=True)
def _count(text, kinds, definitions, counts, touched, seen, index, part, signs):
    """Adds up one text's hashed features and raw signs; gives how many buckets it touched.

    `index` is another number each time, and `part` tells a beginning (0) from a whole.
    """
    salt = np.uint64(part) * np.uint64(0x8EBC6AF09C88C6E3)
    shift = np.uint64(64 - int(np.log2(len(counts)) + 0.5))
    number, place, size = 0, 0, len(text)
    before, shapes, line_first = np.uint64(0), np.uint64(0), np.uint64(0)
    line = np.zeros(8, np.uint64)
    line[_BLANK] = 1
    while place < size:
        kind = kinds[text[place]]
        if kind == _SPACE:
            place += 1
            continue
        if kind == _LINE_END:
            _end_line(place, line, seen, index, signs)
            place, token, shape = _indentation(text, place + 1, signs)
        else:
            begin = place
            if kind == _WORD:
                place, token, shape = _word(text, place, kinds, definitions, line, seen, index, signs)
            else:
                place, token, shape = _punctuation(text, place, line, signs)
            if line[_BLANK]:
                line[_BLANK], line[_COMMENT] = 0, _begins_comment(text, begin)
                feature = _mixed(
                    line_first * np.uint64(0xD6E8FEB86659FD93) + token * np.uint64(0xA0761D6478BD642F) + salt
                )
                number = _add(feature, shift, counts, touched, number)
                line_first = token
            line[_HASH] = line[_HASH] * np.uint64(0x9E3779B97F4A7C15) + token
        shapes = ((shapes << np.uint64(9)) | shape) & np.uint64((1 << 36) - 1)
        single = _mixed(token * np.uint64(0x9E3779B97F4A7C15) + salt + np.uint64(1))
        pair = _mixed(before * np.uint64(0xC2B2AE3D27D4EB4F) + token * np.uint64(0x165667B19E3779F9) + salt)
        number = _add(single, shift, counts, touched, number)
        number = _add(pair, shift, counts, touched, number)
        number = _add(
            _mixed(shapes * np.uint64(0x27D4EB2F165667C5) + salt + np.uint64(3)), shift, counts, touched, number
        )
        before = token
    if size > line[_START]:
        _end_line(size, line, seen, index, signs)
    signs[0] = size
    return number


@numba.njit(nogil=True, cache=True, inline="always")
def _add(feature, shift, counts, touched, number):
    bucket = (feature * np.uint64(0x9E3779B97F4A7C15)) >> shift
    if counts[bucket] == 0:
        touched[number] = bucket
        number += 1
    counts[bucket] += 1
    return number


@numba.njit(nogil=True, cache=True)
def _word(text, place, kinds, definitions, line, seen, index, signs):
    """A run of letters, digits, underscores and bytes above 127: where it ends, its token and its shape."""
    begin, first = place, text[place]
    token = np.uint64(7)
    upper = lower = digits = underscores = 0
    while place < len(text) and kinds[text[place]] == _WORD:
        letter = text[place]
        token = token * np.uint64(0x100000001B3) + np.uint64(letter)
        upper += 65 <= letter <= 90
        lower += 97 <= letter <= 122
        digits += 48 <= letter <= 57
        underscores += letter == 95
        signs[20] += letter > 127
        place += 1
    length = place - begin
    signs[16] += digits
    if 48 <= first <= 57:
        signs[15] += 1
        return place, np.uint64(3), np.uint64(39)
    signs[9] += 1
    signs[10] += length
    signs[11] += length == 1
    signs[12] += length > 20
    signs[13] += upper
    signs[14] += underscores
    slot = _mixed(token) >> np.uint64(52)
    if seen[1, slot] != index:
        seen[1, slot] = index
        signs[22] += 1
    if lower == length and length < 10:
        for known in definitions:
            if token == known:
                line[_DEFINES] = 1
    bucket = 0 if length == 1 else 1 if length < 4 else 2 if length < 9 else 3
    shape = np.uint64(1 + bucket * 8 + (upper > 0) + 2 * (lower > 0) + 4 * (underscores > 0))
    return place, token, shape


@numba.njit(nogil=True, cache=True)
def _punctuation(text, place, line, signs):
    byte = text[place]
    if byte == 34 or byte == 39:
        signs[17] += 1
        if place >= line[_QUOTED]:
            end = place + 1
            while end < len(text) and text[end] != byte and text[end] != 10:
                end += 1
            if end < len(text) and text[end] == byte:
                signs[28] += end - place
            line[_QUOTED] = end + 1
    signs[18] += 1
    signs[19] += byte == 123 or byte == 91
    signs[23] += byte == 40
    signs[24] += byte == 61
    return place + 1, np.uint64(byte) + np.uint64(2000), np.uint64(64) + np.uint64(byte)


@numba.njit(nogil=True, cache=True)
def _indentation(text, place, signs):
    """The white space that a line begins with."""
    width = 0
    while place < len(text) and (text[place] == 32 or text[place] == 9):
        width += 1 if text[place] == 32 else 4
        place += 1
    signs[7] += width
    signs[8] += width >= 16
    return place, np.uint64(1000 + min(width // 2, 12)), np.uint64(40 + min(width // 4, 4))


@numba.njit(nogil=True, cache=True)
def _begins_comment(text, place):
    """A line that begins here is a comment, or a docstring, in some language."""
    byte = text[place]
    following = text[place + 1] if place + 1 < len(text) else 0
    if byte == 47:  # a slash, before another or a star
        return following == 47 or following == 42
    if byte == 45 or byte == 39:  # two hyphens, two quotes
        return following == byte
    return byte == 35 or byte == 42 or byte == 37 or byte == 59 or byte == 34


@numba.njit(nogil=True, cache=True)
def _end_line(end, line, seen, index, signs):
    """Takes a line into the signs, and begins the next."""
    length = end - np.int64(line[_START])
    signs[1] += 1
    signs[2] += length
    signs[3] = max(signs[3], length)
    if line[_BLANK]:
        signs[4] += 1
    else:
        comment = line[_COMMENT]
        defines = line[_DEFINES] and not comment
        signs[5] += comment
        signs[6] += length * comment
        signs[25] += comment and not line[_COMMENT_BEFORE]
        signs[26] += defines
        signs[27] += (defines and line[_COMMENT_BEFORE]) or (comment and line[_DEFINES_BEFORE])
        slot = _mixed(line[_HASH]) >> np.uint64(52)
        signs[21] += seen[0, slot] == index and length > 4
        seen[0, slot] = index
        line[_COMMENT_BEFORE], line[_DEFINES_BEFORE] = comment, defines
    line[_START], line[_BLANK] = end + 1, 1
    line[_HASH] = line[_COMMENT] = line[_DEFINES] = 0


@numba.njit(nogil=True, cache=True)
def _finish(signs, size):
    """From sums to shares, means and logarithms."""
    dense = max(signs[10] + signs[16] + signs[18], 1.0)  # white space left out
    signs[28] = min(1.0, (signs[28] + signs[16]) / dense)
    read, lines, words = max(signs[0], 1.0), max(signs[1], 1.0), max(signs[9], 1.0)
    signs[0] = np.log1p(size)
    signs[1] = np.log1p(lines * max(size, 1) / read)
    signs[2] = signs[2] / lines
    signs[3] = np.log1p(signs[3])
    for place in (4, 5, 7, 8, 21, 23, 24, 25):
        signs[place] = signs[place] / lines
    signs[27] = min(1.0, signs[27] / max(signs[26], 1.0))
    signs[26] = signs[26] / lines
    for place in (6, 13, 14, 16, 17, 18, 19, 20):
        signs[place] = signs[place] / read
    for place in (10, 11, 12):
        signs[place] = signs[place] / words
    signs[15] = signs[15] / (words + signs[15])
    signs[22] = signs[22] / np.sqrt(words)
    signs[9] = words / read
