"""`Client`: what sources of seeds ask people's APIs and servers, behind the crawl's own address guard.

Workers fetch pages, by lease. This is for all else: an API, a file by parts, a probe. Pacing, Retry-After and
quotas are the caller's, who knows what the server asks for.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Self
from urllib.parse import urljoin, urlsplit

import aiohttp
from multidict import CIMultiDictProxy

from crawler.config import CrawlConfig
from crawler.errors import AddressBusy, CrawlError, NetworkForbidden
from crawler.fetch.addresses import AddressGuard, Resolver
from crawler.fetch.robots import retry_at

# Of an answer, unless the caller says otherwise: an API's have some hundred KB.
_MOST_BYTES = 16 << 20


class AskError(CrawlError):
    """A server could not be asked, or its answer could not be read: the message names it and says why."""


class Answered(NamedTuple):
    """An answer, whatever its status."""

    url: str
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def retry_after(self) -> float:
        """Seconds that it asks to be left alone (RFC 9110, section 10.2.3); 0 if it does not say."""
        at = retry_at(self.headers.get("Retry-After", ""))
        return max(0.0, round(at - time.time(), 1)) if at else 0.0


class Client:
    """An asynchronous context manager; `sync` is for callers that ask one thing after the other.

    Raises ConfigError if the crawl's `user_agent` has no contact, and strangers may be asked.
    """

    def __init__(self, config: CrawlConfig) -> None:
        config.check_user_agent()
        self._config = config

    async def __aenter__(self) -> Self:
        self._guard = AddressGuard(self._config.allowed_networks)
        self._resolver = Resolver(self._config.resolve, self._guard)
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, socket_factory=self._make_socket, use_dns_cache=False
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._config.user_agent or "tinylm"},
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._resolver.close()

    def _make_socket(self, info: Any) -> socket.socket:
        return self._guard.make_socket(info)

    async def get(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        data: bytes | Mapping[str, str] | None = None,
        timeout: float | None = None,
        most_bytes: int = _MOST_BYTES,
        redirects: int = 0,
        into: Callable[[int, bytes], object] | None = None,
        cut: bool = False,
    ) -> Answered:
        """Ask `url`; at most `most_bytes` of the answer, within `timeout` seconds (the crawl's, if None).

        So many `redirects` are followed, each through the guard. What comes goes `into` a function of the
        status and the bytes, if there is one, instead of the answer's body: as far as it came, also if that
        is not all. A longer answer is an error, unless it may be `cut`. Raises AskError, and NetworkForbidden
        for an address outside the allowed networks.
        """
        seconds = timeout or self._config.timeout
        try:
            async with asyncio.timeout(seconds):
                return await self._get(
                    url,
                    most_bytes,
                    redirects,
                    into,
                    cut,
                    method=method,
                    headers=headers,
                    params=params,
                    data=data,
                )
        except NetworkForbidden:
            raise
        except TimeoutError as error:
            raise AskError(f"{_place(url)}: no whole answer in {seconds:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error.__cause__, NetworkForbidden):
                raise error.__cause__ from None
            raise AskError(f"{_place(url)}: {error}") from error

    async def _get(
        self,
        url: str,
        most_bytes: int,
        redirects: int,
        into: Callable[[int, bytes], object] | None,
        cut: bool,
        **how: Any,
    ) -> Answered:
        await self.address_of(url)
        async with self._session.request(url=url, allow_redirects=False, **how) as response:
            location = response.headers.get("Location", "")
            if not (300 <= response.status < 400 and location and redirects):
                body, came = bytearray(), 0
                async for chunk in response.content.iter_any():
                    came += len(chunk)
                    if came > most_bytes and not cut:
                        raise AskError(f"{_place(url)}: its answer has more than {most_bytes:,} bytes")
                    if into:
                        into(response.status, chunk)
                    else:
                        body += chunk
                    if came > most_bytes:
                        break
                return Answered(url, response.status, response.headers, bytes(body[:most_bytes]))
        to = urljoin(url, location)
        if urlsplit(to)[:2] != urlsplit(url)[:2]:
            how |= {"headers": None}  # a key is for whom it was meant
        return await self._get(to, most_bytes, redirects - 1, into, cut, **how | {"params": None})

    async def address_of(self, url: str) -> str:
        """The address that `url` will be asked at; waits for its name's, as long as that takes.

        Raises AskError for no URL, NetworkForbidden, or what the system's resolver raises.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise AskError(f"{url[:200]!r} is not an http or https URL")
        if parts.hostname.replace(".", "").isdigit() or ":" in parts.hostname:
            return parts.hostname  # the socket's guard sees it
        port = parts.port or (443 if parts.scheme == "https" else 80)
        while True:
            try:
                # The resolver itself sends who has waited a moment away.
                return (await self._resolver.choices(parts.hostname, port))[0]["host"]
            except AddressBusy as busy:
                await asyncio.sleep(min(1.0, busy.seconds))

    @classmethod
    @contextmanager
    def sync(cls, config: CrawlConfig) -> "Iterator[Callable[..., Answered]]":
        """`get` as a function that waits; Ctrl-C ends it."""
        with asyncio.Runner() as runner:
            client = runner.run(cls(config).__aenter__())
            try:
                yield lambda url, **how: runner.run(client.get(url, **how))
            finally:
                runner.run(client.__aexit__())


def _place(url: str) -> str:
    """A URL for messages: what follows its path may hold a key."""
    return url.partition("?")[0][:300]
