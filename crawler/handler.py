"""Scrapy's aiohttp download handler behind the address guard, with names looked up in `resolve` first."""

import asyncio
import socket
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from scrapy.core.downloader.handlers._aiohttp import AiohttpDownloadHandler, _ClientResponse

from crawler.errors import NetworkForbidden
from crawler.guard import AddressGuard
from tinylm.errors import ConfigError

if TYPE_CHECKING:
    from scrapy.crawler import Crawler


class NameForbidden(NetworkForbidden, OSError):
    """`NetworkForbidden` as the OSError that a resolver may raise."""


class Resolver(AbstractResolver):
    """HOST=ADDRESS:PORT entries before the system's resolver; of a name's addresses, those allowed.

    Raises ConfigError for an entry that is none.
    """

    def __init__(self, entries: tuple[str, ...], guard: AddressGuard) -> None:
        self._known = dict(map(_parse, entries))
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host in self._known:
            address, port = self._known[host]
            found = [_result(host, address, port, socket.AF_INET6 if ":" in address else socket.AF_INET)]
        else:
            loop = asyncio.get_running_loop()
            infos = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            found = [_result(host, str(info[4][0]), port, info[0]) for info in infos]
        allowed = [result for result in found if self._guard.allows(result["host"], port)]
        if not allowed:
            raise NameForbidden(f"{host}: no address of it is in the allowed networks")
        return allowed

    async def close(self) -> None:
        """Nothing is held."""


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


class GuardedDownloadHandler(AiohttpDownloadHandler):
    """Every connection's address is checked as its socket is made; no proxy, no cookies, no redirects."""

    experimental = False

    def __init__(self, crawler: "Crawler") -> None:
        super().__init__(crawler)
        guard = AddressGuard(tuple(crawler.settings.getlist("TINYLM_ALLOWED_NETWORKS")))
        unguarded, self._session = (
            self._session,
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=Resolver(tuple(crawler.settings.getlist("TINYLM_RESOLVE")), guard),
                    socket_factory=guard.make_socket,
                    limit=self._pool_size_total,
                    ttl_dns_cache=60,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                response_class=_ClientResponse,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                trust_env=False,
            ),
        )
        unguarded.detach()
