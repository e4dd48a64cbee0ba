"""The address guard: a table of addresses, and what no rule "public" may ever let through; name lookups."""

import asyncio
import resource
import socket
import threading
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import AddressBusy, NetworkForbidden, OwnFault
from crawler.fetch.addresses import AddressGuard, Resolver, is_public, unwrap
from crawler.fetch.failures import no_such_name, own_fault
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
    "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::168.63.129.16", "2002:a83f:8110::1", "100.100.100.200",
    "192.0.0.192", "fd00:ec2::23", "fd20:ce::254",
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


@pytest.mark.parametrize("port", [0, 22, 25, 81, 6379, 8079, 8081, 11211])
def test_public_without_a_port_is_the_web(port):
    assert not PUBLIC.allows("8.8.8.8", port)
    assert AddressGuard(("public", "8.8.8.0/24")).allows("8.8.8.8", port) is (port > 0)
    assert not AddressGuard(("public:8000-8080",)).allows("8.8.8.8", port) or port == 8079


def test_public_with_a_port_is_public_still():
    guard = AddressGuard(("public:8000-8100",))
    assert guard.allows("8.8.8.8", 8000)
    assert guard.allows("8.8.8.8", 8100)
    assert not guard.allows("8.8.8.8", 443)
    assert not any(guard.allows(address, 8000) for address in INSIDE)


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
     "10.0.0.0/8:80:90", "10.0.0.0/8:80-", "10.0.0.0/8:+80", "10.0.0.0/8:８０", "public:", "public:0",
     "public:65536", "public/8", "public:80:90"],
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


NOT_NOW, NO_NAME = socket.EAI_AGAIN, socket.EAI_NONAME


@contextmanager
def name_servers(monkeypatch, **answers):
    """Instead of the system's resolver: by a name's first label an address, an error, or None for a hang."""
    released, asked = threading.Event(), []

    def getaddrinfo(name, port, **_):
        asked.append(name)
        answer = answers[name.partition(".")[0].rstrip("0123456789")]
        if answer is None:
            released.wait(60)
            answer = NOT_NOW
        if isinstance(answer, int):
            raise socket.gaierror(answer, "said the test")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        yield Resolver((), AddressGuard(("127.0.0.0/8",))), answers, released, asked
    finally:
        released.set()


async def outcome(resolver, name):
    try:
        [found] = await resolver.resolve(name, 80)
    except Exception as error:
        return error
    return found["host"]


def test_names_that_hang_hold_up_no_others(monkeypatch):
    async def look_up():
        with name_servers(monkeypatch, bad=None, good="127.0.0.1", known="127.0.0.2") as (
            resolver,
            *_,
            asked,
        ):
            assert await outcome(resolver, "known.one") == "127.0.0.2"
            for step in range(0, 600, 60):
                bad = [outcome(resolver, f"bad{n}.domain{n}.test") for n in range(step, step + 60)]
                assert {type(error) for error in await asyncio.gather(*bad)} == {AddressBusy}
                if step <= 300:
                    assert await outcome(resolver, f"good{step}.test") == "127.0.0.1"
            # All threads that are for new names hang, and those of the names that are known are not.
            assert len([name for name in asked if name.startswith("bad")]) < 600
            assert isinstance(await outcome(resolver, "good.later.test"), AddressBusy)
            resolver._known["known.one"].until = 0.0
            assert await outcome(resolver, "known.one") == "127.0.0.2"
            await resolver.close()

    asyncio.run(look_up())


def test_a_domain_whose_names_hang_has_few_threads_and_turns_of_their_own(monkeypatch):
    async def look_up():
        with name_servers(monkeypatch, bad=None, good="127.0.0.1") as (resolver, _, _, asked):
            for n in range(4):
                assert isinstance(await outcome(resolver, f"bad{n}.evil.com"), AddressBusy)
            waits = [(await outcome(resolver, f"bad{n}.evil.com")).seconds for n in range(4, 300)]
            assert len(asked) == 4
            assert waits[:3] == pytest.approx([2.5, 5, 7.5], abs=0.5)
            assert waits == sorted(waits)
            assert waits[-1] == 300
            assert await outcome(resolver, "good.evil.net") == "127.0.0.1"
            await resolver.close()

    asyncio.run(look_up())


def test_an_answer_that_came_late_is_there_when_it_is_asked_for_again(monkeypatch):
    async def look_up():
        with name_servers(monkeypatch, bad=None, good="127.0.0.1") as (resolver, answers, released, asked):
            assert await outcome(resolver, "good.test") == "127.0.0.1"
            assert isinstance(await outcome(resolver, "bad.test"), AddressBusy)
            assert isinstance(await outcome(resolver, "bad.test"), AddressBusy)
            released.set()
            while resolver._lookups:
                await asyncio.sleep(0.01)
            assert (await outcome(resolver, "bad.test")).errno == NOT_NOW
            answers["bad"] = "127.0.0.3"
            assert await outcome(resolver, "bad.test") == "127.0.0.3"
            assert [name for name in asked if name.startswith("bad")] == ["bad.test"] * 2

    asyncio.run(look_up())


def test_a_name_server_that_is_away_is_told_from_all_of_them(monkeypatch):
    async def look_up():
        with name_servers(monkeypatch, bad=NOT_NOW, good="127.0.0.1", none=NO_NAME) as (
            resolver,
            answers,
            *_,
        ):
            assert isinstance(await outcome(resolver, "bad.one"), OwnFault)  # nobody ever answered
            assert isinstance(
                await outcome(resolver, "good.one"), OwnFault
            )  # so for a moment nobody is asked
            resolver._away = 0.0
            assert await outcome(resolver, "good.one") == "127.0.0.1"
            error = await outcome(resolver, "bad.one")
            assert error.errno == NOT_NOW
            assert own_fault(error) is None
            assert not no_such_name(error)
            answers["good"] = NOT_NOW
            assert isinstance(await outcome(resolver, "bad.two"), OwnFault)
            assert await outcome(resolver, "good.one") == "127.0.0.1"  # known still
            answers["good"] = NO_NAME  # an answer too
            resolver._away = 0.0
            assert (await outcome(resolver, "bad.three")).errno == NOT_NOW
            assert no_such_name(await outcome(resolver, "none.one"))

    asyncio.run(look_up())


def test_names_of_one_domain_alone_never_say_that_all_name_servers_are_away(monkeypatch):
    """One domain's names, however many, are not asked whether all name servers are away."""

    async def look_up():
        with name_servers(monkeypatch, bad="127.0.0.9", good="127.0.0.1") as (resolver, answers, *_):
            for n in range(50):
                await outcome(resolver, f"bad{n}.evil.com")
            await outcome(resolver, "good.one")
            answers["bad"] = NOT_NOW
            assert (await outcome(resolver, "bad99.evil.com")).errno == NOT_NOW

    asyncio.run(look_up())


def test_without_a_descriptor_no_name_is_said_not_to_exist(monkeypatch):
    async def look_up():
        resolver = Resolver((), AddressGuard(("127.0.0.0/8",)))
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            return await outcome(resolver, "no-such-name.test")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert "Too many open files" in str(own_fault(asyncio.run(look_up())))


def test_an_address_that_gave_no_answer_stays_behind_the_others_when_it_is_looked_up_again(monkeypatch):
    found = ["127.0.0.1", "127.0.0.2", "10.0.0.1", "127.0.0.3"]

    def getaddrinfo(_, port, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    async def ask():
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        resolver = Resolver((), AddressGuard(("127.0.0.0/8",)))
        used = []
        for _ in range(7):
            used.append(await outcome(resolver, "four.test"))
            resolver.next_address("four.test", used[-1])
            resolver._known["four.test"].until = 0.0
        found[:] = ["127.0.0.1", "127.0.0.9"]
        used.append(await outcome(resolver, "four.test"))
        await resolver.close()
        return [address.rpartition(".")[2] for address in used]

    assert asyncio.run(ask()) == ["1", "2", "3", "1", "2", "3", "1", "9"]


def test_metadata_services_are_not_even_looked_up(monkeypatch):
    async def look_up():
        with name_servers(monkeypatch) as (resolver, *_, asked):
            for name in (
                "metadata.google.internal",
                "metadata",
                "instance-data.",
                "metadata.google.internal.",
            ):
                assert isinstance(await outcome(resolver, name), NetworkForbidden)
            assert asked == []
        entry = Resolver(("metadata=127.0.0.1:80",), AddressGuard(("127.0.0.0/8",)))
        assert await outcome(entry, "metadata") == "127.0.0.1"  # somebody said so

    asyncio.run(look_up())
