"""The address guard: a table of addresses, and what no rule "public" may ever let through."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import NetworkForbidden
from crawler.fetch.addresses import AddressGuard, is_public, unwrap
from tinylm.errors import ConfigError

PUBLIC = AddressGuard(("public",))
INSIDE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.127.255.255", "0.0.0.0", "0.1.2.3", "192.0.0.8",  # noqa: S104
    "192.0.0.170",
    "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
    "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::",
    "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:0:53aa:64c::1", "2001:db8::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1",
    "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip
OUTSIDE = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1",
    "223.255.255.255", "2606:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "::ffff:8.8.8.8",
    "2002:808:808::1", "64:ff9b::8.8.8.8",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_public_keeps_out_of(address):
    assert not PUBLIC.allows(address, 80)


@pytest.mark.parametrize("address", OUTSIDE)
def test_public_lets_through(address):
    assert PUBLIC.allows(address, 80)
    assert PUBLIC.allows(address, 443)


PRIVATE = [
    ip_network(text)
    for text in ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
                 "100.64.0.0/10", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4")
]  # fmt: skip
private_ipv4 = st.sampled_from(PRIVATE).flatmap(
    lambda network: st.integers(int(network[0]), int(network[-1])).map(IPv4Address)
)
WRAPPERS = {
    "bare": lambda ipv4, low: ipv4,
    "mapped": lambda ipv4, low: IPv6Address(0xFFFF << 32 | int(ipv4)),
    "compatible": lambda ipv4, low: IPv6Address(int(ipv4)),
    "6to4": lambda ipv4, low: IPv6Address(0x2002 << 112 | int(ipv4) << 80 | low),
    "nat64": lambda ipv4, low: IPv6Address(0x64FF9B << 96 | int(ipv4)),
}


@given(private_ipv4, st.sampled_from(sorted(WRAPPERS)), st.integers(0, (1 << 80) - 1))
def test_no_private_address_is_public_in_whatever_form(ipv4, form, low):
    wrapped = WRAPPERS[form](ipv4, low)
    assert not PUBLIC.allows(str(wrapped), 80)
    if form != "compatible":
        assert unwrap(wrapped) == ipv4


@given(st.ip_addresses())
def test_what_is_public_is_global_once_unwrapped(address):
    judged = unwrap(address)
    if PUBLIC.allows(str(address), 80):
        assert is_public(judged)
        assert judged.is_global
        assert not judged.is_private
        assert not judged.is_multicast


@pytest.mark.parametrize(
    "address", ["0x7f.1", "2130706433", "127.1", "0177.0.0.1", "localhost", "", "1.2.3.4:80"]
)
def test_what_is_no_numeric_address_is_no_address(address):
    """Names and shorthands never come here: getaddrinfo has made addresses of them."""
    with pytest.raises(ValueError, match="does not appear to be"):
        PUBLIC.allows(address, 80)


@pytest.mark.parametrize(
    ("rule", "address", "port", "allowed"),
    [
        ("10.8.0.0/16", "10.8.3.4", 1, True),
        ("10.8.0.0/16", "10.9.0.1", 80, False),
        ("10.8.0.0/16:80", "10.8.0.1", 80, True),
        ("10.8.0.0/16:80", "10.8.0.1", 81, False),
        ("10.8.0.0/16:8000-8099", "10.8.0.1", 8000, True),
        ("10.8.0.0/16:8000-8099", "10.8.0.1", 8099, True),
        ("10.8.0.0/16:8000-8099", "10.8.0.1", 8100, False),
        ("10.8.0.0/16:8000-8099", "10.8.0.1", 7999, False),
        ("127.0.0.1", "127.0.0.1", 65535, True),
        ("127.0.0.1:6379", "127.0.0.1", 80, False),
        ("127.0.0.0/8", "::ffff:127.0.0.1", 80, True),
        ("127.0.0.0/8", "::1", 80, False),
        ("fd00::/8", "fd12::1", 80, True),
        ("fd00::/8:443", "fd12::1", 443, True),
        ("fd00::/8:443", "fd12::1", 80, False),
        ("::1/128", "::1", 80, True),
        ("10.8.0.0/16", "8.8.8.8", 80, False),
    ],
)
def test_a_rule_allows_its_network_and_ports_and_nothing_else(rule, address, port, allowed):
    assert AddressGuard((rule,)).allows(address, port) is allowed
    assert AddressGuard((rule, "public")).allows(address, port) is (allowed or address == "8.8.8.8")


def test_without_rules_nothing_is_allowed():
    assert not AddressGuard(()).allows("8.8.8.8", 80)


@pytest.mark.parametrize(
    "rule",
    ["", "all", "Public", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/8:", "10.0.0.0/8:a", "10.0.0.0/8:0",
     "10.0.0.0/8:65536", "10.0.0.0/8:90-80", "10.0.0.0/8:-80", "example.com", "::1",
     "10.0.0.0/8:80:90"],
)  # fmt: skip
def test_a_rule_that_is_none_is_refused_with_its_text(rule):
    with pytest.raises(ConfigError, match="allowed_networks"):
        AddressGuard((rule,))


def test_no_socket_is_made_for_a_forbidden_address():
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80))
    with pytest.raises(NetworkForbidden, match=r"127\.0\.0\.1:80"):
        PUBLIC.make_socket(info)
    with pytest.raises(OSError, match="outside the allowed networks"):
        PUBLIC.make_socket(info)
    made = AddressGuard(("127.0.0.0/8:80",)).make_socket(info)
    assert (made.family, made.getblocking()) == (socket.AF_INET, False)
    made.close()


def test_zones_do_not_change_the_judgement():
    guard = AddressGuard(("fe80::/10",))
    assert guard.allows("fe80::1%eth0", 80)
    assert ip_address("fe80::1%eth0") != ip_address("fe80::1")
