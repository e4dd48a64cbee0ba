"""`Resolver`: names to the one allowed address that is connected to, looked up in `resolve` before DNS.

One address a name, so that the address whose cap is held is the address that gets the connection; after a
failure the name's next one. IPv4 comes first: it works from everywhere.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

from crawler.errors import NetworkForbidden
from crawler.fetch.guard import AddressGuard
from tinylm.errors import ConfigError

_VALID_SECONDS = 60.0
_MOST_NAMES = 10_000
# Threads of its own: names that hang must not hold up the frontier's calls, which use the loop's.
_LOOKUPS = 32


class NameForbidden(NetworkForbidden, OSError):
    """`NetworkForbidden` as the OSError that a resolver may raise."""


class _Known(NamedTuple):
    until: float
    addresses: list[ResolveResult]


class Resolver(AbstractResolver):
    """HOST=ADDRESS:PORT entries before the system's resolver; of a name's addresses, those allowed.

    Raises ConfigError for an entry that is none.
    """

    def __init__(self, entries: tuple[str, ...], guard: AddressGuard) -> None:
        self._entries = dict(map(_parse, entries))
        self._guard = guard
        self._known: OrderedDict[tuple[str, int], _Known] = OrderedDict()
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        known = self._known.get((host, port))
        if not known or known.until < time.monotonic():
            known = _Known(time.monotonic() + _VALID_SECONDS, await self._look_up(host, port, family))
            self._known[host, port] = known
            if len(self._known) > _MOST_NAMES:
                self._known.popitem(last=False)
        return known.addresses[:1]

    def next_address(self, host: str, port: int) -> None:
        """The one in use failed: the name's next one is due."""
        if known := self._known.get((host, port)):
            known.addresses.append(known.addresses.pop(0))

    async def _look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        if host in self._entries:
            address, port = self._entries[host]
            found = [_result(host, address, port, socket.AF_INET6 if ":" in address else socket.AF_INET)]
        else:
            look_up = partial(socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM)
            infos = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
            found = [_result(host, str(info[4][0]), port, info[0]) for info in infos]
        allowed = [result for result in found if self._guard.allows(result["host"], result["port"])]
        if not allowed:
            raise NameForbidden(f"{host}: no address of it is in the allowed networks")
        return sorted(allowed, key=lambda result: result["family"] != socket.AF_INET)

    async def close(self) -> None:
        """Who still waits for a name need not."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _result(host: str, address: str, port: int, family: int) -> ResolveResult:
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
    )


def _parse(entry: str) -> tuple[str, tuple[str, int]]:
    host, equals, target = entry.partition("=")
    address, colon, port = target.rpartition(":")
    if not (host and equals and colon and port.isdigit()):
        raise ConfigError(f"resolve: {entry!r} is not HOST=ADDRESS:PORT")
    return host.lower(), (address.strip("[]"), int(port))
