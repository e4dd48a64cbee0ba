"""`RoundTrips`: what a worker's fetches tell the frontier and ask of it, together.

What comes while a round trip is under way goes with the next one. So a worker makes as many as the server
answers, whether it has four pages in flight or four hundred, and nobody waits longer than for two.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec

from crawler.errors import LeaseLost, ServerError
from crawler.frontier import Frontier, Lease
from crawler.frontier.batch import Batch
from tinylm.errors import TinylmError
from tinylm.processes import beat

P = ParamSpec("P")
Ending = Callable[Concatenate[Batch, Lease, P], None]
# The keys of leases that were no longer ours, and for how long each holder has to wait.
_Answer = tuple[set[tuple[int, int]], dict[str, float]]


class RoundTrips:
    """For one event loop; `fatal` is set once the server stayed away: the leases left expire."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier
        self._batch = frontier.batch()
        self._answer: asyncio.Future[_Answer] | None = None
        self._talking: asyncio.Task[None] | None = None
        self.fatal: TinylmError | None = None

    async def end(self, lease: Lease, how: Ending[P], *args: P.args, **kwargs: P.kwargs) -> None:
        """End a lease `how`: `Batch.ack`, and so on. Raises LeaseLost; ServerError if the server is away."""
        how(self._batch, lease, *args, **kwargs)
        lost, _ = await self._answered()
        if lease.key in lost:
            raise LeaseLost(f"{lease.url}: lease {lease.token} is no longer ours")

    async def hold(self, address: str, holder: str, **limits: Any) -> float:
        """`Batch.hold_ip`: 0 if it is held, or the seconds to wait. Raises ServerError."""
        self._batch.hold_ip(address, holder, **limits)
        _, waits = await self._answered()
        return waits[holder]

    def release(self, address: str, holder: str) -> None:
        """The hold ends with the next round trip; nobody has to wait for that."""
        self._batch.release_ip(address, holder)
        self._answered()

    def _answered(self) -> "asyncio.Future[_Answer]":
        """The answer to what is in the batch now; who gives up waiting for it does so alone."""
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
        if self._talking is None or self._talking.done():
            self._talking = asyncio.create_task(self._talk())
        return asyncio.shield(self._answer)

    async def _talk(self) -> None:
        while self._answer is not None:
            batch, answer = self._batch, self._answer
            self._batch, self._answer = self._frontier.batch(), None
            try:
                lost = await asyncio.to_thread(self._send, batch)
            except Exception as error:  # whatever it is, nobody may wait for ever
                answer.set_exception(error)
                answer.exception()  # seen: if nobody waits for the answer, asyncio does not complain
            else:
                answer.set_result(({lease.key for lease in lost}, batch.waits))

    def _send(self, batch: Batch) -> list[Lease]:
        try:
            lost = batch.send()
        except ServerError as error:
            self.fatal = error
            raise
        beat()
        return lost

    def give_back(self, leases: list[Lease]) -> None:
        """Give `leases` back at shutdown: they were not begun. If the server is away they expire."""
        batch = self._frontier.batch()
        for lease in leases:
            batch.give_back(lease)
        with suppress(TinylmError):
            self._send(batch)
