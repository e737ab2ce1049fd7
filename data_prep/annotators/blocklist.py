"""Blocklists: pages whose address is on a list that the user gives.

A list is a text file with an entry a line, as lists are published: `example.org` (and all that is under it),
`example.org/path` (and what is below), `*` for anything in an address, `/a regular expression/`, lines of hosts files,
comments after `#`. Domains and paths are looked up by 64-bit hashes in a sorted array, so millions of them take 8 bytes
each and cost a page some dozens of look-ups; patterns are tried on every page, one after the other.

An entry that is a public suffix, such as `github.io`, means that host alone: what is under it belongs to others. To
mean all of it, write `*.github.io`.
"""

import functools
import gzip
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import pyarrow as pa
import tldextract

from data_prep.annotators.base import Annotator
from data_prep.errors import DataError
from data_prep.shards import sha256_of
from data_prep.web.site import Address, address_of, public_suffixes

_DOMAIN = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)+")
_LABELS = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_HOSTS_FILE = re.compile(r"(?:0\.0\.0\.0|127\.0\.0\.1|::1?)\s+")
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_COMMENT = re.compile(r"(?:^|\s)#.*")
_ANY_HOST = r"^(?:[^/?]*\.)?"
_URL_BYTES = 8192
_MOST_SEGMENTS = 32  # of a path, that are looked up
_BLOCK_LINES = 1 << 17


class Blocklist(Annotator):
    """`entry`: the one that blocks the page, as it would be written without a scheme. Null where a path is no URL."""

    lists: tuple[str, ...] = ()
    """Text files, .gz too."""

    version = 1
    columns: ClassVar = {"blocked": pa.bool_(), "entry": pa.string()}
    reads = ("path",)

    def prepare(self) -> None:
        _ = self.entries

    def inputs(self) -> Any:
        """Digests of the lists, and the version of the public suffix list that tells sites apart."""
        return [[(path.name, sha256_of(path)) for path in self.files()], tldextract.__version__]

    def files(self) -> list[Path]:
        """The lists. Raises `DataError` where there are none."""
        if not self.lists:
            raise DataError("blocklist needs a list: --set blocklist.lists=[PATH]")
        if missing := [name for name in self.lists if not Path(name).is_file()]:
            raise DataError(f"lists: there is no file {missing[0]}")
        return [Path(name).resolve() for name in self.lists]

    @functools.cached_property
    def entries(self) -> "Entries":
        """Of all lists. Raises `DataError` for a line that is no entry, and where there are none."""
        found = Entries()
        for path in self.files():
            for names, others in _blocks(path):
                found.add(names, others)
        if not (found.finish() or found.patterns):
            raise DataError(f"{', '.join(self.lists)}: no entry in it")
        return found

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        addresses = [address_of(document["path"], _URL_BYTES) for document in documents]
        found = [self.entries.match(address) if address else None for address in addresses]
        blocked = [
            None if address is None else entry is not None for address, entry in zip(addresses, found, strict=True)
        ]
        return {"blocked": blocked, "entry": found}


@dataclass
class Entries:
    """What the lists hold. `hashes`: of domains and paths, sorted once `finish` was called."""

    hashes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    patterns: dict[str, re.Pattern[str]] = field(default_factory=dict)
    _single: set[str] = field(default_factory=set)  # public suffixes that mean one host
    _wide: set[str] = field(default_factory=set)  # and that mean all of it
    _parts: list[np.ndarray] = field(default_factory=list)

    def add(self, names: Sequence[str], others: Sequence[tuple[str, str]] = ()) -> None:
        """Domains and paths; and what is not that plain, as (kind, text)."""
        wide = [text for kind, text in others if kind == "wide"]
        self._parts.append(np.fromiter(map(hash, [*names, *wide]), np.int64, len(names) + len(wide)))
        self._single |= _suffixes().intersection(names)
        self._wide.update(wide)
        self.patterns |= {text: _compiled(text) for kind, text in others if kind == "pattern"}

    def finish(self) -> int:
        """How many domains and paths there are."""
        every = np.concatenate([self.hashes, *self._parts])
        self._parts.clear()
        every.sort()
        new = np.ones(every.size, bool)
        np.not_equal(every[1:], every[:-1], out=new[1:])
        self.hashes = every[new]
        self._single -= self._wide
        return self.hashes.size

    def match(self, address: Address) -> str | None:
        """The entry that blocks an address: the widest of its domains, then of its paths, then the first pattern."""
        after = address.url.partition("://")[2].partition("/")[2]
        candidates = list(_candidates(address.host, after))
        keys = np.fromiter(map(hash, candidates), np.int64, len(candidates))
        at = np.minimum(np.searchsorted(self.hashes, keys), max(0, self.hashes.size - 1))
        for index in np.flatnonzero(self.hashes[at] == keys) if self.hashes.size else ():
            entry = candidates[index]
            if entry not in self._single or entry == address.host:
                return entry
        text = f"{address.host}/{after}"
        return next((entry for entry, pattern in self.patterns.items() if pattern.search(text)), None)


def _candidates(host: str, after: str) -> Iterator[str]:
    """Every name that would block a page of this host, with this path and query."""
    labels = host.split(".")
    domains = [".".join(labels[start:]) for start in range(len(labels) - 1, -1, -1)]
    yield from domains
    segments = after.partition("?")[0].strip("/").split("/")[:_MOST_SEGMENTS]
    paths = dict.fromkeys("/".join(segments[:stop]) for stop in range(1, len(segments) + 1))
    for path in (*paths, after):
        if path:
            yield from (f"{domain}/{path}" for domain in domains)


def _blocks(path: Path) -> Iterator[tuple[list[str], list[tuple[str, str]]]]:
    """The entries of a list, a bounded number at a time: domains and paths, and others as (kind, text).

    Raises `DataError` naming a line.
    """
    try:
        with _opened(path) as stream:
            numbered = enumerate(stream, 1)
            while lines := list(islice(numbered, _BLOCK_LINES)):
                names, others = [], []
                for number, line in lines:
                    name = line.rstrip("\n")
                    if _DOMAIN.fullmatch(name):
                        names.append(name)
                    elif entry := _entry(line.strip(), f"{path}, line {number}"):
                        names.append(entry[1]) if entry[0] == "name" else others.append(entry)
                yield names, others
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no text that can be read: {error}") from None


def _entry(line: str, where: str) -> tuple[str, str] | None:
    if len(line) > 2 and line[0] == line[-1] == "/":
        try:
            re.compile(line[1:-1])
        except re.error as error:
            raise DataError(f"{where}: {line} is no regular expression: {error}") from None
        return "pattern", line
    if not (text := _COMMENT.sub("", line).strip()):
        return None
    if hosts := _HOSTS_FILE.match(text):
        text = text[hosts.end() :].strip()
        if "." not in text:
            return None  # such as localhost
    text = _SCHEME.sub("", text)
    host, slash, path = text.partition("/")
    try:
        host = host.lower().rstrip(".") if host.isascii() else host.lower().encode("idna").decode()
    except UnicodeError:
        host = ""
    if host.startswith("*.") and not path and _LABELS.fullmatch(host[2:]):
        return "wide", host[2:]
    if "*" in text and not re.search(r"\s", text):
        return "pattern", f"{host}{slash}{path}"
    if not _DOMAIN.fullmatch(host) or re.search(r"\s", path):
        raise DataError(f"{where}: {line[:100]!r} is no domain, address, pattern with * or /regular expression/")
    return "name", f"{host}/{path}".rstrip("/")


def _compiled(pattern: str) -> re.Pattern[str]:
    """Searched for in host, path and query. A pattern with `*` is one of the whole, below any subdomain."""
    if pattern[0] == "/":
        return re.compile(pattern[1:-1])
    return re.compile(_ANY_HOST + ".*".join(map(re.escape, pattern.split("*"))) + "$")


def _opened(path: Path) -> IO[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    return opened(path, "rt", encoding="utf-8")


@functools.cache
def _suffixes() -> frozenset[str]:
    return frozenset(suffix.removeprefix("*.") for suffix in public_suffixes().tlds if not suffix.startswith("!"))
