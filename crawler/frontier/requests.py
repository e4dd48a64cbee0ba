"""`RequestFrontier`: a frontier of whole requests, for spiders that have no walker behind them."""

import time
from collections.abc import Iterable
from typing import Any

from crawler.config import FrontierConfig
from crawler.frontier.frontier import (
    _SEEN_SHARDS,
    Client,
    Discovered,
    Frontier,
    Lease,
    _ms,
    _source,
)
from crawler.urls import fingerprint, locate


class RequestFrontier(Frontier):
    """Beside each queued URL its request, as bytes that only the spider understands; gone when it is done."""

    def __init__(self, client: Client, config: FrontierConfig) -> None:
        super().__init__(client, config)
        self._scripts |= {name: client.register_script(_source(name)) for name in ("keep", "done")}

    def put_request(self, url: str, request: bytes, priority: float) -> bool:
        """Queue `url` with its request; False if it was before. Fragments tell requests of a URL apart."""
        host, member = locate(url)
        shard, low = divmod(fingerprint(url), 1 << 32)
        field = f"{host} {member}"
        if not self._run("keep", self._partition(host), field, request, shard % _SEEN_SHARDS, low):
            return False
        return self.put([Discovered(url, priority)]) == 1

    def requests(self, leases: Iterable[Lease]) -> list[bytes | None]:
        """What was queued with each of `leases`; None for a URL that was put without."""
        wanted = [(f"{self.prefixes[lease.partition]}requests", _field(lease)) for lease in leases]

        def read() -> Any:
            pipe = self._client.pipeline(transaction=False)
            for key, field in wanted:
                pipe.hget(key, field)
            return pipe.execute()

        return list(self._attempt(read))

    def done(
        self,
        lease: Lease,
        *,
        latency: float,
        size: int,
        retry_at: float | None = None,
        back_off: bool = False,
    ) -> None:
        """Fetched and processed; the host rests, as long as it asked for if it did. Raises LeaseLost."""
        base = _ms(self._config.backoff) if back_off else 0
        asked = max(1, _ms(retry_at - time.time())) if retry_at else 0
        self._finish("done", lease, _ms(self._rest(latency)), asked, base, size)

    def refuse(self, lease: Lease, reason: str) -> None:
        """Not wanted: `skip`, and its request is forgotten. Raises LeaseLost."""
        self.skip(lease, reason)
        key = f"{self.prefixes[lease.partition]}requests"
        self._attempt(lambda: self._client.hdel(key, _field(lease)))


def _field(lease: Lease) -> str:
    return " ".join(locate(lease.url))
