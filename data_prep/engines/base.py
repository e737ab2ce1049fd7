"""What an engine is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Call:
    """One call to make: `function(*args, *common)`, known to the user as `label`.

    `function` is a module-level callable and its arguments are picklable, so that a call can cross a process or a
    machine. It may be made twice (a worker died, a job was requeued), so it must be safe to repeat.

    `common` is one and the same object in many calls of a run, such as the paths of all shards: engines send it to a
    worker once, and not with each call.
    """

    label: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    common: tuple[Any, ...] = ()


class Engine(Protocol):
    """Runs calls somewhere, in any order."""

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """Yields (position in `calls`, result) as calls finish.

        Raises `DataError` when a call fails, or when its worker dies twice. What other calls have finished by then is
        kept.
        """
        ...
