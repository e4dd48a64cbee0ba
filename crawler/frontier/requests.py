"""`RequestFrontier`: a frontier of whole requests, for spiders that have no walker behind them."""

from collections.abc import Iterable

from crawler.frontier.batch import End
from crawler.frontier.frontier import Frontier
from crawler.frontier.records import SEED, Discovered, Lease
from crawler.frontier.store import Call


class RequestFrontier(Frontier):
    """Beside each queued URL its request, as bytes that only the spider understands; gone when it is done."""

    has_scope = False  # a spider follows what it chooses

    def put_request(self, url: str, request: bytes, priority: float) -> bool:
        """Queue `url` with its request; False if it was before. Fragments tell requests of a URL apart."""
        host, member = self.locate(url)
        if not self._run("keep", self.partition_of(host), f"{host} {member}", request, *self._seen(url)):
            return False
        return self.put([Discovered(url, priority, SEED)]) == 1

    def requests(self, leases: Iterable[Lease]) -> list[bytes | None]:
        """What was queued with each of `leases`; None for a URL that was put without."""
        calls = [
            Call("HGET", self.prefixes[lease.partition], ("requests", _field(lease))) for lease in leases
        ]
        return self._store.run_all(calls) if calls else []

    def refuse(self, lease: Lease, reason: str) -> None:
        """Not wanted: `skip`, and it is forgotten with its request. Raises LeaseLost."""
        self._finish(End("skip", lease, {"reason": reason, "wait": 0, "forget": 1}))
        self._run("HDEL", lease.partition, "requests", _field(lease))


def _field(lease: Lease) -> str:
    return f"{lease.host} {lease.member}"
