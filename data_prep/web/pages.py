"""From the records of an archive to pages: what is taken, and why the rest is not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from data_prep.web.archive import Damage, LostBodyError, Part, Position, Record, records_of
from data_prep.web.charset import decode
from data_prep.web.html import Extracted, TooDeepError, extract
from data_prep.web.http import BodyError, BodyLimits, can_be_html, decoded_body, is_html
from data_prep.web.settings import WebConfig
from data_prep.web.site import Address, address_of

_RESPONSE, _RESOURCE = "response", "resource"
_OK = 200


@dataclass(frozen=True)
class Page:
    """A page that is taken. `html_bytes`: of its body, without what it was sent in."""

    position: Position
    address: Address
    date: datetime | None
    content_type: str
    charset: str
    is_truncated: bool
    html_bytes: int
    extracted: Extracted


@dataclass(frozen=True)
class Dropped:
    """A record that is not taken; `said` says more about it than the reason."""

    position: Position
    reason: str
    url: str = ""
    said: str = ""
    size_bytes: int | None = None
    """None where it is not known."""


@dataclass(frozen=True)
class Begun:
    """The record that is being read now, so that it is known should it never end."""

    position: Position


Blame = tuple[str, str]  # reason, and what is said of it


def pages_of(
    part: Part,
    config: WebConfig,
    after: Position | None = None,
    is_lost: bool = False,
    blamed: Mapping[Position, Blame] | None = None,
) -> Iterator[Begun | Page | Dropped]:
    """What becomes of each record of a part, in their order; each that is read is begun first.

    `after` and `is_lost` as in `records_of`; records of `blamed` are dropped unread.
    """
    try:
        for found in records_of(part, after, is_lost):
            if isinstance(found, Damage):
                yield Dropped(found.position, found.reason, said=found.said)
                continue
            blame = (blamed or {}).get(found.position)
            if not blame:
                yield Begun(found.position)
            outcome = _outcome(found, config) if not blame else _dropped(found, *blame)
            if outcome:
                yield outcome
    except OSError as error:
        yield Dropped(Position(part.start, 0), "unreadable", said=" ".join(str(error).split()))


def _dropped(record: Record, reason: str, said: str) -> Dropped:
    return Dropped(record.position, reason, record.url, said, record.size_bytes)


def _outcome(record: Record, config: WebConfig) -> Page | Dropped | None:
    """None where the archive itself says what is wrong."""
    try:
        return _page(record, config)
    except LostBodyError:
        return None
    except BodyError as error:
        reason, said = error.reason, str(error)
    except TooDeepError as error:
        reason, said = "too_deep", str(error)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of a native library is no Exception
        reason, said = "failed", f"{type(error).__name__}: {' '.join(str(error).split())}"
    return _dropped(record, reason, said)


def _page(record: Record, config: WebConfig) -> Page | Dropped:
    address = address_of(record.url, config.records.max_url_bytes)
    if refusal := _refusal(record, address):
        return _dropped(record, *refusal)
    limits = BodyLimits(config.records.max_html_bytes, config.records.max_ratio)
    sent = record.read(limits.max_bytes + 1)
    if len(sent) > limits.max_bytes:
        raise BodyError("too_large", f"{record.size_bytes:,} bytes")
    data = decoded_body(sent, record.transfer_encoding, record.content_encoding, limits)
    if not data or data.isspace():
        raise BodyError("empty")
    if not is_html(record.content_type, data):
        raise BodyError("not_html", record.content_type)
    decoded = decode(data, record.content_type, config.extraction.min_decoded)
    if decoded is None:
        raise BodyError("not_text", record.content_type)
    text, charset = decoded
    extracted = extract(text, config.extraction)
    if not extracted.text:
        raise BodyError("empty", "no text in its HTML")
    return Page(
        record.position, address, record.date, record.content_type, charset, record.is_truncated, len(data), extracted
    )


def _refusal(record: Record, address: Address | None) -> Blame | None:
    """What is known before the body is read."""
    if record.kind not in (_RESPONSE, _RESOURCE):
        return "other_record", record.kind
    if address is None:
        return "bad_url", ""
    if record.kind == _RESPONSE:
        if record.status is None:
            return "bad_http", ""
        if record.status != _OK:
            return "status", str(record.status)
    return None if can_be_html(record.content_type) else ("not_html", record.content_type)
