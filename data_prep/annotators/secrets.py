"""Secrets and e-mail addresses: where they stand in a text, and how a selection has them replaced.

Fast because nothing is searched for by pattern before a plain string that every match must hold has been found, and
patterns look only at the surroundings of those. Spans are in characters (code points), sorted, and do not overlap. They
are recorded; texts change only when tokens are built from a selection that says so.
"""

import bisect
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
from pydantic import Field

from data_prep.annotators.base import Annotator

SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())]))
KINDS = ("email", "private_key", "key", "password")


class Span(NamedTuple):
    """text[start:end] is a secret of this kind."""

    start: int
    end: int
    kind: str


class _Pattern(NamedTuple):
    kind: str
    anchor: str  # what a match begins with; looked for as a plain string
    regex: re.Pattern[str]  # matched at the anchor; its group `secret` is what is replaced
    entropy: float  # bits per character that a secret has at least
    before: re.Pattern[str] | None = None  # what must stand before the anchor
    assigned: bool = False  # a value given to a name that says it is secret, in any case


_ALONE = r"(?:^|[^A-Za-z0-9_\-])"


def _key(anchor: str, rest: str, entropy: float = 3.0, before: str | None = None) -> _Pattern:
    regex = re.compile(rf"(?P<secret>{re.escape(anchor)}{rest})(?![A-Za-z0-9_\-])")
    return _Pattern("key", anchor, regex, entropy, re.compile(before + r"\Z") if before else None)


def _assigned(kind: str, name: str, entropy: float) -> _Pattern:
    value = r"[A-Za-z0-9_\-]{0,20}[\"']?\]?\s{0,4}(?:=>?|:=?)\s{0,4}[\"'](?P<secret>[^\s\"'<>{}$%()]{8,256})[\"']"
    return _Pattern(kind, name, re.compile(name + value, re.IGNORECASE), entropy, assigned=True)


# What the vendors publish about the shape of their keys; the shapes that gitleaks and detect-secrets look for too.
_PATTERNS = (
    _key("AKIA", "[0-9A-Z]{16}"),
    _key("ASIA", "[0-9A-Z]{16}"),
    _key("AIza", r"[0-9A-Za-z_\-]{35}"),
    *(_key(f"gh{letter}_", "[0-9A-Za-z]{36,255}") for letter in "pousr"),
    _key("github_pat_", "[0-9A-Za-z_]{22,255}"),
    _key("glpat-", r"[0-9A-Za-z_\-]{20,64}"),
    _key("xox", r"[abposr]-[0-9A-Za-z\-]{10,250}", 2.5),
    _key("hooks.slack.com/services/", "[A-Za-z0-9/]{20,60}"),
    _key("_live_", "[0-9A-Za-z]{16,255}", before="[srp]k"),
    _key("sk-", r"[A-Za-z0-9_\-]{20,200}", 3.8, before=_ALONE),
    _key("hf_", "[A-Za-z0-9]{34,40}", 3.5),
    _key("npm_", "[A-Za-z0-9]{36}", 3.5),
    _key("pypi-AgE", r"[A-Za-z0-9_\-]{50,255}"),
    _key("SG.", r"[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}"),
    _key("eyJ", r"[A-Za-z0-9_\-]{10,2000}\.eyJ[A-Za-z0-9_\-]{10,4000}\.[A-Za-z0-9_\-]{10,2000}", before=_ALONE),
    _Pattern(
        "password",
        "://",
        re.compile(r"://[^\s:/@\"'<>]{1,64}:(?P<secret>[^\s:/@\"'<>{}$%*()\[\]]{3,128})@[A-Za-z0-9]"),
        1.5,
        before=re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{1,20}\Z"),
    ),
    *(_assigned("password", name, 2.75) for name in ("password", "passwd")),
    *(
        _assigned("key", name, 3.25)
        for name in ("secret", "token", "apikey", "api_key", "api-key", "access_key", "auth_key", "credential")
    ),
)
_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_END = "-----END "
_MOST_KEY_CHARACTERS = 16_384
_LOCAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}\Z")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9\-_@(])")
# Not a person's: documentation (RFC 2606), and paths such as git@github.com:owner/name that name a service.
_NOBODY = re.compile(r"(?i)(^|\.)(example(\.(com|org|net|edu))?|test|invalid|localhost|local)$")
_SERVICES = frozenset({"git", "hg", "svn", "noreply", "no-reply"})
_WORDS = re.compile(r"[a-z_.\-/:]*|[A-Z_.\-/:]*|[A-Za-z]*")  # names and plain words rather than something random
_DUMMY = re.compile(
    r"(?i)x{4}|\*{3}|\.{3}|example|changeme|placeholder|your[_\-]|dummy|1234567|abcdefg|password|secret"
)


class Secrets(Annotator):
    """Spans of keys, passwords, private keys and e-mail addresses."""

    emails: bool = True
    """Whether e-mail addresses are looked for."""
    minimum_entropy: float = Field(0.0, ge=0, le=8)
    """Bits per character that any secret but an e-mail or private key has at least, over each pattern's own minimum."""

    version = 1
    columns: ClassVar = {"spans": SPANS, "secrets": pa.int32(), "emails": pa.int32()}
    reads = ("text",)

    def annotate(self, documents: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Any]]:
        found = [self.find(document["text"]) for document in documents]
        emails = [sum(span.kind == "email" for span in spans) for spans in found]
        return {
            "spans": [[span._asdict() for span in spans] for spans in found],
            "secrets": [len(spans) - count for spans, count in zip(found, emails, strict=True)],
            "emails": emails,
        }

    def find(self, text: str) -> list[Span]:
        """The spans of one text, in order, without overlaps.

        Of two that overlap a secret goes before an e-mail address, then the first, then the longer.
        """
        spans = _apart([*self._secrets(text), *_private_keys(text)])
        if self.emails and "@" in text:
            emails = [span for span in _emails(text) if not _overlaps(span, spans)]
            spans = _apart([*spans, *emails])
        return spans

    def _secrets(self, text: str) -> Iterator[Span]:
        lower = text.lower()
        if len(lower) != len(text):  # a few letters grow in lower case, and places would move
            lower = "".join(c.lower() if c.isascii() else c for c in text)
        for pattern in _PATTERNS:
            haystack = lower if pattern.assigned else text
            at = haystack.find(pattern.anchor)
            while at >= 0:
                match = pattern.regex.match(text, at) if _stands_right(pattern, text, at) else None
                if match and self._is_secret(pattern, match["secret"]):
                    yield Span(*match.span("secret"), pattern.kind)
                at = haystack.find(pattern.anchor, match.end() if match else at + len(pattern.anchor))

    def _is_secret(self, pattern: _Pattern, secret: str) -> bool:
        if pattern.assigned and (_DUMMY.search(secret) or _WORDS.fullmatch(secret)):
            return False
        return entropy(secret) >= max(pattern.entropy, self.minimum_entropy)


def _apart(spans: list[Span]) -> list[Span]:
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def _overlaps(span: Span, others: Sequence[Span]) -> bool:
    """Whether a span overlaps any of `others`, which are in order and apart."""
    after = bisect.bisect_left(others, span.end, key=lambda other: other.start)
    return after > 0 and others[after - 1].end > span.start


def _stands_right(pattern: _Pattern, text: str, at: int) -> bool:
    return pattern.before is None or pattern.before.search(text, max(0, at - 24), at) is not None


def _private_keys(text: str) -> Iterator[Span]:
    begin = _BEGIN.search(text)
    while begin:
        end = text.find(_END, begin.end(), begin.end() + _MOST_KEY_CHARACTERS)
        following = _BEGIN.search(text, begin.end())
        if end - begin.end() >= 40 and (not following or following.start() > end):
            yield Span(begin.end(), end, "private_key")
        begin = following


def entropy(text: str) -> float:
    """Shannon entropy of a text's characters, in bits per character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values()) if text else 0.0


def _emails(text: str) -> Iterator[Span]:
    at = text.find("@")
    while at >= 0:
        local = _LOCAL.search(text, max(0, at - 64), at)
        domain = _DOMAIN.match(text, at + 1, at + 256) if local else None
        if domain and local[0].lower() not in _SERVICES and not _NOBODY.search(domain[0]):
            yield Span(local.start(), domain.end(), "email")
        at = text.find("@", at + 1)
