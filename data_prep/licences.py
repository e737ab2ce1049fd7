"""Licences by their words: a notice in a file's header or a licence's text -> an SPDX identifier.

Each licence has phrases that all copies of it share; the one whose phrases come first in the text is the answer, since
licences name others further down (GPL-3.0 the AGPL and the LGPL). What no row knows is None, never a guess.
"""

import re

_NOISE = re.compile(r"[\s*#/;%!|<>\-]+(?:rem |dnl )?")
_QUOTE = "\0"  # stands for any quote while noise is removed; text holds no other
_TELLING = (
    "licen",
    "permission",
    "redistribution",
    "general public",
    "attribution",
    "unencumbered",
    "universal",
    "altered",
)
_VERSION = re.compile(r"(?:version|v\.?|gplv?|lgplv?|agplv?)[ ]?([123](?:\.[0-9])?)")
_LATER = re.compile(r"or \(?at your option\)? any later|or any later version|or later|later version")
_GNU = {
    "gnu affero general public": "AGPL",
    "gnu lesser general public": "LGPL",
    "gnu library general public": "LGPL",
    "gnu general public": "GPL",
}
# (phrase that names it, further phrases that must follow) -> identifier; the first row that fits of equal places wins.
_ROWS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("apache license, version 2.0", (), "Apache-2.0"),
    ("apache license version 2.0", (), "Apache-2.0"),
    ("permission is hereby granted, free of charge, to any person obtaining", ("this permission notice",), "MIT"),
    ("permission is hereby granted, free of charge, to any person obtaining", (), "MIT-0"),
    ("released under the mit license", (), "MIT"),
    ("licensed under the mit license", (), "MIT"),
    ("redistribution and use in source and binary forms", ("advertising materials",), "BSD-4-Clause"),
    ("redistribution and use in source and binary forms", ("endorse or promote products",), "BSD-3-Clause"),
    ("redistribution and use in source and binary forms", ("binary form must reproduce",), "BSD-2-Clause"),
    ("governed by a bsd style license", (), "BSD-3-Clause"),
    ("mozilla public license, v. 2.0", (), "MPL-2.0"),
    ("mozilla public license version 2.0", (), "MPL-2.0"),
    ("mozilla public license version 1.1", (), "MPL-1.1"),
    ("this is free and unencumbered software released into the public domain", (), "Unlicense"),
    ("permission to use, copy, modify, and/or distribute this software", ("copyright notice and this",), "ISC"),
    ("permission to use, copy, modify, and distribute this software", ("copyright notice and this",), "ISC"),
    ("permission to use, copy, modify, and or distribute this software", ("copyright notice and this",), "ISC"),
    ("permission to use, copy, modify, and or distribute this software", (), "0BSD"),
    ("boost software license", (), "BSL-1.0"),
    ("cc0 1.0 universal", (), "CC0-1.0"),
    ("altered source versions must be plainly marked", (), "Zlib"),
    ("eclipse public license v. 2.0", (), "EPL-2.0"),
    ("eclipse public license v 2.0", (), "EPL-2.0"),
    ("eclipse public license v1.0", (), "EPL-1.0"),
    ("eclipse public license v 1.0", (), "EPL-1.0"),
    ("do what the fuck you want to public license", (), "WTFPL"),
    ("python software foundation license version 2", (), "PSF-2.0"),
    ("european union public licence", (), "EUPL-1.2"),
    ("the artistic license 2.0", (), "Artistic-2.0"),
    ("attribution sharealike 4.0 international", (), "CC-BY-SA-4.0"),
    ("attribution 4.0 international", (), "CC-BY-4.0"),
)
# fmt: off
_PERMISSIVE = frozenset((
    "0BSD", "Apache-2.0", "Artistic-2.0", "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause", "BSD-4-Clause", "BSL-1.0",
    "CC-BY-4.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-0", "NCSA", "PostgreSQL", "PSF-2.0", "Python-2.0", "TCL",
    "Unlicense", "Unicode-DFS-2016", "WTFPL", "X11", "Zlib",
))
# fmt: on
_FILE_NAMES = (
    (r"unlicense", "Unlicense"),
    (r"apache", "Apache-2.0"),
    (r"\bmit\b", "MIT"),
    (r"copying\.lesser|lgpl[\-_.]?(v?3|$)", "LGPL-3.0-only"),
    (r"lgpl[\-_.]?v?2\.?1", "LGPL-2.1-only"),
    (r"agpl", "AGPL-3.0-only"),
    (r"gpl[\-_.]?v?3", "GPL-3.0-only"),
    (r"gpl[\-_.]?v?2", "GPL-2.0-only"),
    (r"bsd[\-_.]?3|3[\-_.]clause", "BSD-3-Clause"),
    (r"bsd[\-_.]?2|2[\-_.]clause", "BSD-2-Clause"),
    (r"mpl[\-_.]?2", "MPL-2.0"),
    (r"\bcc0\b", "CC0-1.0"),
    (r"\bisc\b", "ISC"),
    (r"boost|bsl[\-_.]?1", "BSL-1.0"),
    (r"zlib", "Zlib"),
)
_BY_FILE_NAME = tuple((re.compile(pattern), identifier) for pattern, identifier in _FILE_NAMES)


def recognise(text: str) -> str | None:
    """The SPDX identifier of the licence whose notice or text comes first, or None."""
    lower = text.lower().replace('"', _QUOTE).replace("'", _QUOTE).replace("`", _QUOTE)
    bare = lower.replace(_QUOTE, "")
    if not any(word in bare for word in _TELLING):
        return None
    plain = _NOISE.sub(" ", lower).replace(_QUOTE, "")
    found = [(plain.find(phrase), row) for row, (phrase, further, _) in enumerate(_ROWS)
             if phrase in plain and all(word in plain for word in further)]  # fmt: skip
    place, row = min(found, default=(len(plain), -1))
    gnu = min(((plain.find(name), name) for name in _GNU if name in plain), default=(len(plain), ""))
    if gnu[0] < place:
        return _gnu(plain[max(0, gnu[0] - 200) : gnu[0] + 600], gnu[1], gnu[0])
    return _ROWS[row][2] if row >= 0 else None


def _gnu(around: str, name: str, place: int) -> str | None:
    """GPL and its relatives, which are told apart by version; without one nothing is known."""
    after = around[min(place, 200) :]
    version = _VERSION.search(after) or _VERSION.search(around)
    if version is None:
        return None
    number = version[1] if "." in version[1] else f"{version[1]}.0"
    return f"{_GNU[name]}-{number}-{'or-later' if _LATER.search(around) else 'only'}"


def by_file_name(path: str) -> str | None:
    """What a licence file's name alone says, such as `LICENSE-MIT`; `LICENSE` says nothing."""
    name = path.rpartition("/")[2].lower()
    return next((identifier for pattern, identifier in _BY_FILE_NAME if pattern.search(name)), None)


def is_permissive(expression: str) -> bool:
    """Whether an SPDX expression leaves a permissive choice: one side of an OR, every side of an AND."""
    choices = re.split(r"\bOR\b", expression.replace("(", " ").replace(")", " "))
    return any(all(part.split()[:1] and part.split()[0] in _PERMISSIVE for part in choice.split(" AND "))
               for choice in choices)  # fmt: skip
