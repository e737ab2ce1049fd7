"""Making a call somewhere else: what it gives or what went wrong, in a form that any process can be told."""

import traceback
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from data_prep.engines.base import Call
from data_prep.errors import DataError


class RemoteTraceback(Exception):
    """The traceback of a failure in a worker, as text; the cause of the `DataError` that reports it."""


@dataclass(frozen=True)
class Failure:
    """An exception, as text."""

    message: str
    trace: str


@dataclass(frozen=True)
class Answer:
    """What a call gave, or why it failed."""

    result: Any = None
    failure: Failure | None = None


def alone(call: Call) -> Call:
    """A call without its common arguments, which travel on their own."""
    return replace(call, common=())


def answer(call: Call, common: tuple[Any, ...] | None = None) -> Answer:
    """Make a call here and now; `common` takes the place of its own. An engine that sends this away tells a failing
    call from a dying worker."""
    try:
        return Answer(call.function(*call.args, *(call.common if common is None else common)))
    except Exception as error:
        message = f"{error}" if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        return Answer(failure=Failure(message, traceback.format_exc()))


def result_of(call: Call, given: Answer) -> Any:
    """The result of a call; raises `DataError` naming it when it failed."""
    if given.failure is not None:
        raise DataError(f"{call.label}: {given.failure.message}") from RemoteTraceback(given.failure.trace)
    return given.result


def died(call: Call, times: int, how: str) -> NoReturn:
    raise DataError(
        f"{call.label}: the worker died {times} times ({how}); everything else that was finished is kept: if memory "
        "ran out, give a worker more of it, and run again"
    )
