"""Pages of a part of an archive, read in a process of their own: a page that crashes or hangs it costs that page alone.

The process notes in a file which record it begins, and sends what became of records in batches. When it is lost, the
record of the note is to blame: it is dropped, and another process goes on behind what was received.
"""

import functools
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

from data_prep.helper import Helper, LostHelperError
from data_prep.web.archive import Part, Position
from data_prep.web.pages import Begun, Blame, Dropped, Page, pages_of
from data_prep.web.settings import WebConfig
from data_prep.web.site import site_of

_START_TIMEOUT_S = 600.0  # for imports from a slow disk
_BATCH_PAGES, _BATCH_CHARACTERS, _BATCH_S = 256, 1 << 20, 1.0


@dataclass(frozen=True)
class _Question:
    """What to read: records behind `after`, those of `blamed` unread; each answer at once where `is_careful`."""

    part: Part
    config: WebConfig
    note: str
    after: Position | None = None
    is_lost: bool = False
    is_careful: bool = False
    blamed: Mapping[Position, Blame] | None = None


def read_pages(part: Part, config: WebConfig) -> Iterator[Page | Dropped]:
    """What becomes of each record of a part, in their order."""
    after: Position | None = None
    blamed: dict[Position, Blame] = {}
    is_lost = is_careful = False
    with tempfile.NamedTemporaryFile(prefix="megatron-seed-") as note:
        while True:
            note.truncate(0)
            before = after
            try:
                for outcomes, position in _ask(_Question(part, config, note.name, after, is_lost, is_careful, blamed)):
                    yield from outcomes
                    after = position
                return
            except LostHelperError as lost:
                blame = ("timed_out" if lost.timed_out else "crashed", str(lost))
            begun = _noted(note.fileno())
            if begun is not None and (after is None or begun > after):
                blamed[begun] = blame
            elif after != before or not is_careful:  # between records: which, is known when each is sent at once
                is_careful, is_lost = True, False
            elif not is_lost:
                is_lost = True
            else:
                yield Dropped(after or Position(part.start, 0), blame[0], said=f"{blame[1]}; the rest is not read")
                return


def _noted(descriptor: int) -> Position | None:
    line = os.pread(descriptor, 64, 0).partition(b"\n")[0]
    return Position(*json.loads(line)) if line else None


def _ask(question: _Question) -> Iterator[tuple[list[Page | Dropped], Position | None]]:
    """Outcomes, and the record up to which they are all there."""
    helper = _helper(question.config.records.memory_bytes)
    done = False
    try:
        helper.send(question)
        while not done:
            outcomes, position, done = helper.receive(question.config.records.timeout_s + _BATCH_S)
            yield outcomes, position
    finally:
        if not done:  # what it still sends would be taken for another answer
            helper.close()
            _helper.cache_clear()


@functools.lru_cache(maxsize=1)
def _helper(memory_bytes: int) -> Helper:
    """One process for all parts that a worker reads."""
    helper = Helper("data_prep.web.reader:serve")
    helper.send(memory_bytes)
    helper.receive(_START_TIMEOUT_S)
    return helper


def end_helper() -> None:
    """Ends the process that reads pages for this one, if there is one."""
    _helper.cache_clear()


def serve(connection: Connection) -> None:
    """The life of the process: questions in, outcomes out."""
    memory_bytes = connection.recv()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, most))
    site_of("example.org")  # reads the list of public suffixes, which no page should be charged with
    connection.send("ready")
    while True:
        _answer(connection, connection.recv())


def _answer(connection: Connection, question: _Question) -> None:
    outcomes: list[Page | Dropped] = []
    characters, sent_s = 0, time.monotonic()
    begun = question.after
    with open(question.note, "r+b", buffering=0) as note:
        found_all = pages_of(question.part, question.config, question.after, question.is_lost, question.blamed)
        for found in found_all:
            if isinstance(found, Begun):
                begun = found.position
                os.pwrite(note.fileno(), b"[%d,%d]\n" % begun, 0)
                continue
            outcomes.append(found)
            note.truncate(0)
            if found.position != begun:  # damage: sent with the record behind it
                continue
            characters += len(found.extracted.text) if isinstance(found, Page) else 0
            is_full = len(outcomes) >= _BATCH_PAGES or characters >= _BATCH_CHARACTERS
            if is_full or question.is_careful or time.monotonic() - sent_s > _BATCH_S:
                connection.send((outcomes, begun, False))
                outcomes, characters, sent_s = [], 0, time.monotonic()
    connection.send((outcomes, begun, True))
