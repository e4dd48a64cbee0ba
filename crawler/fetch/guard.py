"""The address guard: no packet of a crawl leaves for an address outside the allowed networks.

A page must not be able to steer the crawler into the cluster it runs in: its own Redis, a cloud's metadata
service, a router. So the check is at the last moment, on the resolved address of every connection, and the
socket is not made if it fails. IPv6 forms that carry an IPv4 address (mapped, 6to4, NAT64) are judged by it.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from crawler.config import parse_network
from crawler.errors import NetworkForbidden

Address = IPv4Address | IPv6Address

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
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not any(
        address in network for network in _NEVER_PUBLIC if network.version == address.version
    )


class AddressGuard:
    """Judges (address, port) pairs by `allowed_networks`: "public" and CIDR[:PORT[-PORT]].

    Raises ConfigError for an entry that is neither.
    """

    def __init__(self, allowed_networks: tuple[str, ...]) -> None:
        self._public = "public" in allowed_networks
        self._rules = [parse_network(entry) for entry in allowed_networks if entry != "public"]

    def allows(self, address: str, port: int) -> bool:
        """Whether a connection to `address` (numeric, with or without zone) and `port` may be made."""
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
            raise _Refused(f"{address}:{port} is outside the allowed networks")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


class _Refused(NetworkForbidden, OSError):
    """`NetworkForbidden` as an OSError, so that a client goes on to the name's next address."""
