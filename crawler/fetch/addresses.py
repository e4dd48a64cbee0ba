"""Which addresses a crawl may contact: the guard at the socket, and the resolver that picks one of a name's.

No packet of a crawl leaves for an address outside the allowed networks. A page must not be able to steer the
crawler into the cluster it runs in: its own Redis, a cloud's metadata service, a router. So the check is at
the last moment, on the resolved address of every connection, and the socket is not made if it fails. IPv6
forms that carry an IPv4 address (mapped, 6to4, NAT64) are judged by it.

A name server that hangs, whose ever it is, must not hold up the others' names. The system's resolver cannot
be told to stop, so each lookup has a thread that is left behind if it hangs. A fetch waits for one only as
long as most take; after that its lease is given back and finds the answer when its turn comes again. How
many may hang is bounded, for one domain and for all, and less for domains that did before.
"""

import asyncio
import random
import resource
import socket
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult

from crawler.config import parse_address, parse_network
from crawler.errors import AddressBusy, NetworkForbidden, OwnFault
from crawler.fetch.failures import without_descriptors
from crawler.urls import domain

Address = IPv4Address | IPv6Address

# That an answer of DNS is used for: `getaddrinfo` tells no TTL.
_VALID_SECONDS = 60.0
# Names are 253 characters at most, and of one's addresses so many are kept: some MB in all.
_MOST_NAMES, _MOST_ADDRESSES = 10_000, 8
# Seconds that a fetch waits for a name: more than most take. Half would cost more of them a second turn,
# double let names that hang hold slots of `concurrency` longer.
_PATIENCE = 0.2
# Seconds after which a name has no address: the system's resolver asks a second time after 5.
_LONGEST_LOOKUP = 10.0
# Lookups that may hang at once, each a thread of 27 KB and a socket: in all, unless a quarter of the
# descriptors is less; shares of it for names of which nothing is known, and for domains that hung before; of
# one domain. By half or double as many domains must hang to delay new names.
_MOST_HANGING, _OF_NEW, _OF_SLOW, _MOST_OF_A_DOMAIN = 512, 0.9, 0.5, 4
# Seconds between the turns of a domain's further names, and the longest that one is told to wait for its own.
_TURN, _LONGEST_TURN = _LONGEST_LOOKUP / _MOST_OF_A_DOMAIN, 300.0
# Known names of others that are asked for when a name server does not answer, and for how many seconds.
_CANARIES, _CANARY_SECONDS = 3, 5.0
# What the system's resolver says if it got no answer, or none that it could use.
_NO_ANSWER = (socket.EAI_AGAIN, socket.EAI_FAIL)

# What "public" never is, beside all that Python's is_global denies; it lets these pass (IANA registries).
_NEVER_PUBLIC = tuple(
    ip_network(text)
    for text in (
        "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "2001::/23", "2001:db8::/32", "3fff::/20",
        # Clouds' metadata services, which hand out credentials. Azure's address is public; those of AWS and
        # most others, Alibaba, Oracle, AWS and Google by IPv6 are not, and are named all the same.
        "168.63.129.16/32",
        "169.254.0.0/16", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::/32", "fd20:ce::254/128",
    )
)  # fmt: skip
# Names of the same, which are not even looked up unless `resolve` has them.
_METADATA_NAMES = frozenset(
    (
        "metadata", "metadata.google.internal", "metadata.goog", "instance-data", "metadata.packet.net",
        "instance-data.ec2.internal", "metadata.tencentyun.com", "metadata.platformequinix.com",
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


def family_of(address: str) -> int:
    """AF_INET6 or AF_INET."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class ForbiddenAddress(NetworkForbidden, OSError):
    """`NetworkForbidden` as the OSError that a resolver or a socket may raise."""


class AddressGuard:
    """Judges (address, port) pairs by `allowed_networks`, see `crawler.config.parse_network`.

    Raises ConfigError for an entry that is none.
    """

    def __init__(self, allowed_networks: tuple[str, ...]) -> None:
        self._rules = [parse_network(entry) for entry in allowed_networks]

    def allows(self, address: str, port: int) -> bool:
        """Whether a connection to `address` (numeric, with or without zone) and `port` may be made."""
        # Behind a % stands the zone, which is no part of the address.
        judged = unwrap(ip_address(address.partition("%")[0]))
        return any(
            port in ports
            and (
                is_public(judged)
                if network is None
                else network.version == judged.version and judged in network
            )
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

    def has_route(self, address: str, port: int) -> bool:
        """Whether this machine knows a way to `address`; no packet is sent to find out."""
        with self.make_socket((family_of(address), socket.SOCK_DGRAM, 0, "", (address, port))) as probe:
            try:
                probe.connect((address, port))
            except OSError:
                return False
        return True


@dataclass(eq=False)
class _Known:
    """What the last lookup of a name found, or the one before if that failed."""

    until: float
    addresses: list[tuple[int, str]]
    """Family and address, IPv4 first."""
    error: Exception | None = None
    """Why there are none now: told once, and then they are looked up again."""
    failed: dict[str, float] = field(default_factory=dict)
    """When an address last gave no answer, whatever the name servers say of it since."""


@dataclass(eq=False)
class _Lookup:
    """One that is under way, in a thread of its own."""

    domain: str
    begun: float = field(default_factory=time.monotonic)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def age(self) -> float:
        return time.monotonic() - self.begun


class Resolver(AbstractResolver):
    """HOST=ADDRESS:PORT entries before the system's resolver; of a name's addresses, those allowed.

    One address a name, so that the address whose cap is held is the address that gets the connection; after a
    request that got no answer the name's next one, also if it is looked up again. IPv4 comes first: it works
    from everywhere.

    Raises ConfigError for an entry that is none.
    """

    def __init__(self, entries: tuple[str, ...], guard: AddressGuard) -> None:
        self._entries = dict(map(parse_address, entries))
        self._guard = guard
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lookups: dict[str, _Lookup] = {}
        # By domain that hung: when the next of its names has its turn.
        self._turns: OrderedDict[str, float] = OrderedDict()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # -1 if there is no limit
        self._most_hanging = min(_MOST_HANGING, descriptors // 4) if descriptors > 0 else _MOST_HANGING
        self._answered = self._away = 0.0  # when a name server last said anything; when none did
        self._check: asyncio.Task[bool] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 (both are wanted)
    ) -> list[ResolveResult]:
        """The address to use: the first of `choices`."""
        return (await self.choices(host, port))[:1]

    async def choices(self, host: str, port: int) -> list[ResolveResult]:
        """Addresses that may be used, the one to use first.

        Raises AddressBusy if its turn is later, OwnFault if no name server answers us, ForbiddenAddress, or
        what the system's resolver raised.
        """
        if entry := self._entries.get(host):
            address, port = entry
            addresses: list[tuple[int, str]] = [(family_of(address), address)]
        elif host.rstrip(".") in _METADATA_NAMES:
            raise ForbiddenAddress(f"{host}: a cloud's metadata service is none of the allowed networks")
        else:
            addresses = await self._addresses(host, port)
        allowed = [found for found in addresses if self._guard.allows(found[1], port)]
        if not allowed:
            raise ForbiddenAddress(f"{host}: no address of it is in the allowed networks")
        if len(allowed) > 1 and (known := self._known.get(host)) and (failed := known.failed):
            # IPv6 where there is none would be tried, and fail, each time that IPv4 did.
            allowed.sort(key=lambda at: (not self._guard.has_route(at[1], port), failed.get(at[1], 0.0)))
        flags = socket.AI_NUMERICHOST
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=flags)
            for kind, address in allowed
        ]

    def next_address(self, host: str, address: str) -> None:
        """`address` gave no answer: the name's next one is due, then the one that failed longest ago."""
        if known := self._known.get(host):
            still = [found for _, found in known.addresses if found in known.failed]
            known.failed = {found: known.failed[found] for found in still} | {address: time.monotonic()}

    async def _addresses(self, host: str, port: int) -> list[tuple[int, str]]:
        if not self._is_known(host):
            self._refuse_while_away()
            lookup, patience = self._lookups.get(host), 0.0
            if lookup is None:
                lookup, patience = self._begin(host, port), _PATIENCE
            with suppress(TimeoutError):
                await asyncio.wait_for(lookup.ended.wait(), patience)
            if not lookup.ended.is_set():
                self._turns.setdefault(lookup.domain, 0.0)
                if lookup.age < _LONGEST_LOOKUP:
                    # Each time as long again as it has taken: a second, two, four.
                    raise AddressBusy(host, max(1.0, lookup.age))
                if not await self._is_away(lookup):
                    raise socket.gaierror(socket.EAI_AGAIN, f"no answer for {lookup.age:.0f} s")
            self._refuse_while_away()
        if not self._is_known(host):  # it failed, and somebody else was told
            raise AddressBusy(host, 1.0)
        known = self._known[host]
        if error := known.error:
            known.until, known.error = 0.0, None
            raise error
        return known.addresses

    def _is_known(self, host: str) -> bool:
        return host in self._known and self._known[host].until > time.monotonic()

    def _refuse_while_away(self) -> None:
        """Raise OwnFault if nobody answered a moment ago."""
        if self._away > max(self._answered, time.monotonic() - _CANARY_SECONDS):
            raise OwnFault("no name server answers: see to this machine's network and its /etc/resolv.conf")

    def _begin(self, host: str, port: int) -> _Lookup:
        """Start to look `host` up. Raises AddressBusy if too many lookups hang."""
        lookup = _Lookup(domain(host))
        hanging = [other.domain for other in self._lookups.values() if other.age > _PATIENCE]
        of_the_domain = hanging.count(lookup.domain)
        share = 1.0 if host in self._known else _OF_SLOW if lookup.domain in self._turns else _OF_NEW
        if of_the_domain >= _MOST_OF_A_DOMAIN:
            # Each a turn of its own, or thousands of names would come back together, and again.
            turn = max(lookup.begun, self._turns.get(lookup.domain, 0.0)) + _TURN
            self._turns[lookup.domain] = min(turn, lookup.begun + _LONGEST_TURN)
            raise AddressBusy(host, self._turns[lookup.domain] - lookup.begun)
        if len(hanging) >= share * self._most_hanging:
            raise AddressBusy(host, _TURN)
        self._lookups[host] = lookup
        task = asyncio.create_task(self._look_up(host, port, lookup))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return lookup

    async def _look_up(self, host: str, port: int, lookup: _Lookup) -> None:
        """Bring a lookup to its end, and keep what it found for who asks next."""
        known = self._known.get(host) or _Known(0.0, [])
        try:
            known.addresses, known.error = await _getaddrinfo(host, port), None
            self._answered = time.monotonic()
            if lookup.age < _PATIENCE:
                self._turns.pop(lookup.domain, None)
        except Exception as error:
            if _is_answer(error):
                self._answered = time.monotonic()
            elif isinstance(error, socket.gaierror) and await self._is_away(lookup):
                return  # and nothing is known of this name
            known.error = error
        finally:
            self._lookups.pop(host)
            lookup.ended.set()
        known.until = time.monotonic() + _VALID_SECONDS
        self._known[host] = known
        self._known.move_to_end(host)
        for kept in (self._known, self._turns):
            while len(kept) > _MOST_NAMES:
                kept.popitem(last=False)

    async def _is_away(self, lookup: _Lookup) -> bool:
        """Whether it is not that name's server that is away, but all are.

        They are not if any answered meanwhile, or if one of a few names does that were known before: of other
        domains and drawn at random, so that ours looks away only to who holds most of them.
        """
        if self._answered > lookup.begun:
            return False
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._anybody_answers(lookup.domain))
        if await asyncio.shield(self._check):
            return False
        self._away = time.monotonic()
        return True

    async def _anybody_answers(self, but: str) -> bool:
        known = [name for name, found in self._known.items() if found.addresses]
        names = [name for name in known if domain(name) != but] or known
        asked = [
            asyncio.create_task(_is_answered(name))
            for name in random.sample(names, min(_CANARIES, len(names)))
        ]
        try:
            for answer in asyncio.as_completed(asked, timeout=_CANARY_SECONDS):
                if await answer:
                    self._answered = time.monotonic()
                    return True
        except TimeoutError:
            pass
        finally:
            for task in asked:
                task.cancel()
        return False

    async def close(self) -> None:
        """Let nobody wait for a name any more."""
        for task in self._tasks:
            task.cancel()


def _is_answer(error: Exception) -> bool:
    """Whether a name server said so: that there is no such name, say."""
    return isinstance(error, socket.gaierror) and error.errno not in _NO_ANSWER


async def _is_answered(name: str) -> bool:
    """Whether a name server says anything of `name`."""
    try:
        await _getaddrinfo(name, 0)
    except Exception as error:
        return _is_answer(error)
    return True


async def _getaddrinfo(host: str, port: int) -> list[tuple[int, str]]:
    """Addresses as the system's resolver has them, looked up in a thread that nobody waits for at the end."""
    answer: Future[list[tuple[int, str]]] = Future()
    answer.set_running_or_notify_cancel()  # so that who waits no longer does not cancel it

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            distinct = dict.fromkeys((int(info[0]), str(info[4][0])) for info in infos)
            found = sorted(distinct, key=lambda of: of[0] != socket.AF_INET)[:_MOST_ADDRESSES]
        except Exception as error:
            answer.set_exception(without_descriptors() or error)
        else:
            answer.set_result(found)

    threading.Thread(target=look_up, daemon=True, name="dns").start()
    return await asyncio.wrap_future(answer)
