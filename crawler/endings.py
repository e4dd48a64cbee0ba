"""`Endings`: ends of leases, said to the frontier together.

What ends while a round trip is under way is said in the next one. So a worker makes as many as the server
answers, whether it has four pages in flight or four hundred, and waits for none of them longer than for one.
"""

import asyncio
from contextlib import suppress
from typing import Any

from crawler.errors import LeaseLost, ServerError
from crawler.frontier import Frontier, Lease
from crawler.frontier.ends import Batch
from tinylm.errors import TinylmError
from tinylm.heartbeat import beat

Key = tuple[int, int]


class Endings:
    """For one event loop; `fatal` is set once the server stayed away, and then nothing is waited for."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier
        self._batch = frontier.batch()
        self._said: asyncio.Future[set[Key]] | None = None
        self._talking: asyncio.Task[None] | None = None
        self.fatal: TinylmError | None = None

    async def say(self, lease: Lease, verb: str, *args: Any, **kwargs: Any) -> None:
        """`frontier.VERB(lease, ...)`, with others. Raises LeaseLost; ServerError if the server is away."""
        getattr(self._batch, verb)(lease, *args, **kwargs)
        if self._said is None:
            self._said = asyncio.get_running_loop().create_future()
        said = self._said
        if self._talking is None or self._talking.done():
            self._talking = asyncio.create_task(self._talk())
        if lease.key in await asyncio.shield(said):
            raise LeaseLost(f"{lease.url}: lease {lease.token} is no longer ours")

    async def _talk(self) -> None:
        while self._said is not None:
            batch, said = self._batch, self._said
            self._batch, self._said = self._frontier.batch(), None
            try:
                lost = await asyncio.to_thread(self._send, batch)
            except TinylmError as error:
                said.set_exception(error)
            else:
                said.set_result({lease.key for lease in lost})

    def _send(self, batch: Batch) -> list[Lease]:
        """A server that stayed away is waited for once, not once a batch: the leases left expire."""
        if self.fatal:
            raise self.fatal
        try:
            lost = batch.send()
        except ServerError as error:
            self.fatal = error
            raise
        beat()
        return lost

    def give_back(self, leases: list[Lease]) -> None:
        """The last word: `leases` were not begun. What cannot be said any more expires."""
        batch = self._frontier.batch()
        for lease in leases:
            batch.give_back(lease)
        with suppress(TinylmError):
            self._send(batch)
