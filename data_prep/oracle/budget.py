"""What is spent, and that it stays below what may be spent, with any number of requests under way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from data_prep.oracle.settings import CostSettings

# Tokens that a chat template adds around messages, at most.
TEMPLATE_TOKENS = 128


class BudgetSpent(Exception):
    """The next request could cost more than is left."""


class Reservation:
    """The most that one request can cost, set aside until it is known what it did cost."""

    def __init__(self, most: float):
        self.most = most
        self.cost: float | None = None


class Budget:
    """Reserves before each request the most that it can cost, so the limit holds whatever comes back.

    No tokenizer makes more tokens than a text has UTF-8 bytes, and an answer has `max_tokens` at most. A request that
    broke off, so that nobody knows whether it is billed, counts as the most it could cost.
    """

    def __init__(self, settings: CostSettings, max_output_tokens: int, spent: float = 0.0):
        self._settings = settings
        self._max_output_tokens = max_output_tokens
        self._reserved: list[float] = []
        self._changed = asyncio.Condition()
        self.spent = spent
        self.lost_requests = 0

    def most(self, input_bytes: int) -> float:
        """The most that a request of so many bytes can cost."""
        return self._settings.of(input_bytes + TEMPLATE_TOKENS, self._max_output_tokens)

    def actual(self, input_bytes: int, input_tokens: int | None, output_tokens: int | None) -> float:
        """What an answer cost: at the counts of the endpoint, and the most possible where it gives none."""
        if input_tokens is None or output_tokens is None:
            return self.most(input_bytes)
        return self._settings.of(input_tokens, output_tokens)

    @asynccontextmanager
    async def reserve(self, input_bytes: int) -> AsyncIterator[Reservation]:
        """Sets the most of a request aside; its `cost` is to be set, else the most counts as spent.

        Waits while requests under way may leave enough; raises `BudgetSpent` when they cannot.
        """
        reservation = Reservation(self.most(input_bytes))
        limit = self._settings.max_cost
        async with self._changed:
            while limit is not None and self.spent + sum(self._reserved) + reservation.most > limit:
                if self.spent + reservation.most > limit or not self._reserved:
                    raise BudgetSpent
                await self._changed.wait()
            self._reserved.append(reservation.most)
        try:
            yield reservation
        finally:
            self._reserved.remove(reservation.most)
            if reservation.cost is None:
                self.lost_requests += 1
            self.spent += reservation.most if reservation.cost is None else reservation.cost
            async with self._changed:
                self._changed.notify_all()
