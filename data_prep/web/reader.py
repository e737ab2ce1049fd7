"""Pages of a part of an archive, read in a process of their own: a page that crashes or hangs it costs that page alone.

The process says which record it begins. When it is lost, that record is to blame: it is dropped, and another process
goes on behind it.
"""

import functools
import resource
from collections.abc import Iterator
from multiprocessing.connection import Connection

from data_prep.helper import Helper, LostHelperError
from data_prep.web.archive import Part, Position
from data_prep.web.pages import Begun, Dropped, Page, pages_of
from data_prep.web.settings import WebConfig
from data_prep.web.site import site_of

_START_TIMEOUT_S = 600.0  # for imports from a slow disk


def read_pages(part: Part, config: WebConfig) -> Iterator[Page | Dropped]:
    """What becomes of each record of a part, in their order."""
    after: Position | None = None
    is_lost = False
    while True:
        begun: Begun | None = None
        try:
            for found in _ask(part, config, after, is_lost):
                if isinstance(found, Begun):
                    begun = found
                else:
                    yield found
            return
        except LostHelperError as lost:
            _helper.cache_clear()
            reason, said = "timed_out" if lost.timed_out else "crashed", str(lost)
        if begun is not None:
            yield Dropped(begun.position, reason, begun.url, said)
            after, is_lost = begun.position, False
        elif is_lost:
            yield Dropped(after, reason, said=f"{said}, between records; the rest of its part is not read")
            return
        else:  # within the member of the last record, or before the first one
            after, is_lost = after or Position(part.start, 0), True


def _ask(part: Part, config: WebConfig, after: Position | None, is_lost: bool) -> Iterator[Begun | Page | Dropped]:
    helper = _helper(config.records.memory_bytes)
    done = False
    try:
        helper.send((part, config, after, is_lost))
        while not done:
            messages = helper.receive(config.records.timeout_s)
            done = messages[-1] is None
            yield from messages[:-1] if done else messages
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
    """The life of the process: parts in; their pages out, each with the next record that is begun."""
    memory_bytes = connection.recv()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, most))
    site_of("example.org")  # reads the list of public suffixes, which no page should be charged with
    connection.send("ready")
    while True:
        outcomes: list[Begun | Page | Dropped | None] = []
        for found in pages_of(*connection.recv()):
            outcomes.append(found)
            if isinstance(found, Begun):
                connection.send(outcomes)
                outcomes = []
        connection.send([*outcomes, None])
