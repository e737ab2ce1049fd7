"""The client of an OpenAI-compatible endpoint: one question, retried until there is an answer or no hope of one."""

import asyncio
import email.utils
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import BaseModel, Field, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from data_prep.errors import DataError
from data_prep.oracle.budget import Budget
from data_prep.oracle.prompt import Request
from data_prep.oracle.settings import EndpointSettings, RequestSettings

MAX_RESPONSE_BYTES = 8 << 20
_SHOWN_CHARACTERS = 200
_PASSING = frozenset({408, 409, 425, 429})  # and all from 500 on: worth another try
_HOPELESS = frozenset({401, 402, 403, 404, 405})  # wrong for every file: key, balance, address, model


class NoAnswer(Exception):
    """There is no answer to this file: `problem` as in `scores.PROBLEMS`, and why."""

    def __init__(self, problem: str, why: str):
        super().__init__(why)
        self.problem = problem


class _Passing(NoAnswer):
    """Worth another try, after `retry_after_s` where the endpoint says so."""

    def __init__(self, problem: str, why: str, retry_after_s: float = 0.0):
        super().__init__(problem, why)
        self.retry_after_s = retry_after_s


class Unreachable(_Passing):
    """Nothing was asked: there is no connection to the endpoint."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Completion(BaseModel):
    """What is read of a chat completion."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None
    model: str | None = None


@dataclass(frozen=True)
class Completion:
    """An answer as it came."""

    text: str | None
    refusal: str | None
    finish_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    model: str | None


def api_key(settings: EndpointSettings) -> str | None:
    """The key from the environment, None where none is asked for. Raises `DataError` where it is not there."""
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise DataError(f"the environment variable {settings.api_key_env} holds no key (printable, without spaces)")
    return key


class OracleClient:
    """Asks an endpoint. Use as an async context manager; `concurrency` of `ask` may be under way."""

    def __init__(self, endpoint: EndpointSettings, settings: RequestSettings, budget: Budget):
        self._endpoint, self._settings, self._budget = endpoint, settings, budget
        self._key = api_key(endpoint)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = httpx.Timeout(endpoint.timeout_s, connect=endpoint.connect_timeout_s)
        # One connection each: a pool of httpx looks at all of its connections for every request.
        context = httpx.create_ssl_context()
        self._idle = [
            httpx.AsyncClient(headers=headers, timeout=timeout, verify=context, limits=httpx.Limits(max_connections=1))
            for _ in range(endpoint.concurrency)
        ]
        self._places = asyncio.Semaphore(endpoint.concurrency)
        self._quiet_until = 0.0
        self._backoff = wait_random_exponential(multiplier=endpoint.backoff_s, max=endpoint.max_backoff_s)
        self.retries = 0

    async def __aenter__(self) -> "OracleClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        for http in self._idle:
            await http.aclose()

    async def ask(self, request: Request) -> Completion:
        """The answer. Raises `NoAnswer` for this file, `BudgetSpent`, or `DataError` where no file will be answered."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(self._endpoint.attempts),
            wait=self._pause,
            retry=retry_if_exception_type(_Passing),
            before_sleep=self._count,
            reraise=True,
        )
        return await attempts(self._once, request)

    def _count(self, _: RetryCallState) -> None:
        self.retries += 1

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception()
        return max(self._backoff(state), error.retry_after_s if isinstance(error, _Passing) else 0.0)

    async def _once(self, request: Request) -> Completion:
        while (wait_s := self._quiet_until - time.monotonic()) > 0:  # the endpoint has asked all of us for a pause
            await asyncio.sleep(wait_s)
        async with self._budget.reserve(request.size_bytes) as reservation:
            try:
                async with asyncio.timeout(self._endpoint.timeout_s):
                    status, headers, data = await self._post(self._settings.body(request.messages))
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                reservation.cost = 0.0
                raise Unreachable("failed", f"no connection ({type(error).__name__})") from None
            except (TimeoutError, httpx.TimeoutException):
                raise _Passing("failed", f"no answer within {self._endpoint.timeout_s:g} s") from None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise _Passing("failed", f"the connection broke ({type(error).__name__})") from None
            if status != 200:
                reservation.cost = 0.0
                raise self._error(status, headers, data)
            completion = self._read(data)
            reservation.cost = self._budget.actual(
                request.size_bytes, completion.input_tokens, completion.output_tokens
            )
            return completion

    async def _post(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        async with self._places:
            http = self._idle.pop()
            try:
                return await self._read_response(http, body)
            finally:
                self._idle.append(http)

    async def _read_response(
        self, http: httpx.AsyncClient, body: dict[str, Any]
    ) -> tuple[int, Mapping[str, str], bytes]:
        data = bytearray()
        async with http.stream("POST", f"{self._endpoint.url}/chat/completions", json=body) as response:
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > MAX_RESPONSE_BYTES:
                    raise _Passing("malformed", f"the response is longer than {MAX_RESPONSE_BYTES} bytes")
            return response.status_code, response.headers, bytes(data)

    def _error(self, status: int, headers: Mapping[str, str], data: bytes) -> Exception:
        why = f"HTTP {status}: {self._shown(data.decode(errors='replace'))}"
        if status in _PASSING or status >= 500:
            pause_s = min(retry_after_s(headers), self._endpoint.max_retry_after_s)
            self._quiet_until = max(self._quiet_until, time.monotonic() + pause_s)
            return _Passing("failed", why, pause_s)
        if status in _HOPELESS or status < 400:
            return DataError(f"{self._endpoint.url}: {why}; check address, model, key and balance")
        return NoAnswer("rejected", why)

    def _read(self, data: bytes) -> Completion:
        try:
            found = _Completion.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the response"
            raise _Passing("malformed", f"no chat completion: {where}: {self._shown(first['msg'])}") from None
        choice, usage = found.choices[0], found.usage
        return Completion(
            text=self._without_key(choice.message.content),
            refusal=self._without_key(choice.message.refusal),
            finish_reason=choice.finish_reason,
            input_tokens=usage.prompt_tokens if usage else None,
            output_tokens=usage.completion_tokens if usage else None,
            model=self._without_key(found.model),
        )

    def _shown(self, text: str) -> str:
        return " ".join(self._without_key(text).split())[:_SHOWN_CHARACTERS] or "(nothing)"

    def _without_key(self, text: str | None) -> str | None:
        """Some endpoints repeat the key that they were given."""
        return text.replace(self._key, "***") if text and self._key else text


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that `Retry-After` asks for, as a number or a date; 0 where it does not."""
    value = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
