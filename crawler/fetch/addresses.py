"""Which addresses a crawl may contact: the guard at the socket, and the resolver that picks one of a name's.

No packet of a crawl leaves for an address outside the allowed networks. A page must not be able to steer the
crawler into the cluster it runs in: its own Redis, a cloud's metadata service, a router. So the check is at
the last moment, on the resolved address of every connection, and the socket is not made if it fails. IPv6
forms that carry an IPv4 address (mapped, 6to4, NAT64) are judged by it.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from aiohttp.abc import AbstractResolver, ResolveResult

from crawler.config import parse_network
from crawler.errors import NetworkForbidden
from tinylm.errors import ConfigError

Address = IPv4Address | IPv6Address

# That an answer of DNS is used for: `getaddrinfo` tells no TTL.
_VALID_SECONDS = 60.0
_MOST_NAMES = 10_000
# Threads of its own: names that hang must not hold up the frontier's calls, which use the loop's.
_LOOKUPS = 32

# What "public" never is, beside all that Python's is_global denies; it lets these pass (IANA registries).
_NEVER_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "2001::/23", "2001:db8::/32", "3fff::/20",
    )
)  # fmt: skip
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64, _6TO4 = IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16")


def unwrap(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _6TO4:
        return IPv4Address(int(address) >> 80 & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether `address` is a unicast address of the public internet."""
    # All that is assigned so far: what IANA has not given out is nobody's, and is_global lets it pass.
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not any(
        address in network for network in _NEVER_PUBLIC if network.version == address.version
    )


class ForbiddenAddress(NetworkForbidden, OSError):
    """`NetworkForbidden` as the OSError that a resolver or a socket may raise."""


class AddressGuard:
    """Judges (address, port) pairs by `allowed_networks`: "public" and CIDR[:PORT[-PORT]].

    Raises ConfigError for an entry that is neither.
    """

    def __init__(self, allowed_networks: tuple[str, ...]) -> None:
        self._public = "public" in allowed_networks
        self._rules = [parse_network(entry) for entry in allowed_networks if entry != "public"]

    def allows(self, address: str, port: int) -> bool:
        """Whether a connection to `address` (numeric, with or without zone) and `port` may be made."""
        # Behind a % stands the zone, which is no part of the address.
        judged = unwrap(ip_address(address.partition("%")[0]))
        if self._public and is_public(judged):
            return True
        return any(
            network.version == judged.version and judged in network and port in ports
            for network, ports in self._rules
        )

    def make_socket(self, info: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
        """The socket for one `getaddrinfo` result, if it may be used. Raises NetworkForbidden."""
        family, kind, protocol, _, (address, port, *_) = info
        if not self.allows(str(address), int(str(port))):
            raise ForbiddenAddress(f"{address}:{port} is outside the allowed networks")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)  # asyncio's condition
        return made


class _Known(NamedTuple):
    until: float
    addresses: list[ResolveResult]


class Resolver(AbstractResolver):
    """HOST=ADDRESS:PORT entries before the system's resolver; of a name's addresses, those allowed.

    One address a name, so that the address whose cap is held is the address that gets the connection; after a
    failure the name's next one. IPv4 comes first: it works from everywhere.

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
            # Concurrent lookups of a name are not joined: a host has one lease at a time.
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
            raise ForbiddenAddress(f"{host}: no address of it is in the allowed networks")
        return sorted(allowed, key=lambda result: result["family"] != socket.AF_INET)

    async def close(self) -> None:
        """Let nobody wait for a name any more."""
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
