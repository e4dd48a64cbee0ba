"""Settings of the crawl: what cannot work is refused by name and value."""

import math
from pathlib import Path

import pytest

from crawler.config import CrawlConfig, FrontierConfig, parse_address, parse_network
from tinylm.errors import ConfigError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crawl_id", ""),
        ("crawl_id", "a b"),
        ("crawl_id", "a/b"),
        ("crawl_id", "main\n"),
        ("data", Path("caf\udce9")),  # a byte that is not UTF-8, as Python hands it over
        ("redis_url", "localhost:6379"),
        ("redis_url", "http://localhost:6379"),
        ("redis_url", "redis://localhost:no"),
        ("redis_url", "cluster://localhost:6379"),
        ("redis_url", "redis+cluster://localhost:0"),
        ("memory", "a lot"),
        ("memory", "1.5gb"),
        ("partitions", 0),
        ("partitions", 4097),
        ("delay", -1.0),
        ("delay", math.nan),
        ("delay", math.inf),
        ("latency_factor", -1.0),
        ("longest_delay", math.nan),
        ("backoff", -0.1),
        ("lease_seconds", 4.9),
        ("exploration", 1.0),
        ("exploration", -0.1),
        ("attempts", 0),
        ("pages_per_host", 0),
        ("backlog", 0),
        ("backoff", 1e300),
        ("delay", 1e300),
        ("lease_seconds", 1e300),
        ("pages_per_host", 10**300),
    ],
)
def test_a_frontier_setting_that_cannot_work_is_refused(field, value):
    with pytest.raises(ConfigError, match=rf"^{field} = "):
        FrontierConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pages", 0),
        ("workers", 0),
        ("concurrency", 0),
        ("extractors", 0),
        ("timeout", 0.0),
        ("timeout", math.inf),
        ("extract_timeout", 0.0),
        ("extract_timeout", math.nan),
        ("gigabytes", 0.0),
        ("gigabytes", math.inf),
        ("hours", -1.0),
        ("hours", math.inf),
        ("megabytes_per_page", 0.0),
        ("megabytes_per_page", math.inf),
        ("disk_reserve_gigabytes", -1.0),
        ("disk_reserve_gigabytes", math.inf),
        ("allowed_networks", ("public", "10.0.0.0/33")),
        ("allowed_networks", ("127.0.0.0/1",)),
        ("allowed_networks", ("nonsense",)),
        ("gigabytes", 1e300),
        ("hours", 1e300),
        ("ip_delay", 1e300),
        ("ip_concurrency", 10**300),
        ("pages", 10**300),
        ("concurrency", 10**9),
        ("user_agent", "lab (+https://lab.example)\r\nX-Evil: 1"),
        ("user_agent", "lab (+https://lab.example)\x00"),
        ("user_agent", "lab (+https://lab.example)\x85"),
        ("user_agent", "lab (+https://lab.example)\u2028"),
        ("user_agent", "lab (+https://lab.example)\ud83d"),
        ("resolve", ("a=name:80",)),
        ("resolve", ("a=127.0.0.1/x:80",)),
        ("resolve", ("a=127.0.0.1:80/x",)),
        ("resolve", ("a=127.0.0.1:0",)),
        ("resolve", ("a=127.0.0.1:99999",)),
        ("resolve", ("a=127.0.0.1:²",)),
        ("resolve", ("a=127.0.0.1:+80",)),
        ("resolve", ("a=127.0.0.1",)),
        ("resolve", ("=127.0.0.1:80",)),
        ("resolve", ("a=:80",)),
        ("resolve", ("a=[127.0.0.1:80",)),
        ("resolve", ("nonsense",)),
    ],
)
def test_a_crawl_setting_that_cannot_work_is_refused(field, value):
    with pytest.raises(ConfigError, match=rf"^{field}( = |: )"):
        CrawlConfig(**{field: value})


def test_a_lease_that_may_run_out_before_its_request_is_refused_by_all_names():
    config = CrawlConfig(timeout=15, extract_timeout=5)
    config.check_lease(36)
    with pytest.raises(
        ConfigError, match=r"^lease_seconds = 35: must be above 35: timeout = 15, extract_timeout = 5"
    ):
        config.check_lease(35)


def test_the_defaults_work():
    CrawlConfig().check_lease(FrontierConfig().lease_seconds)
    assert FrontierConfig().shards == FrontierConfig().data / "shards"
    assert CrawlConfig().allowed_networks == ("public",)


@pytest.mark.parametrize(
    ("agent", "networks", "fine"),
    [
        ("", ("public",), False),
        ("mybot", ("public",), False),
        ("mybot (+https://lab.example/bot)", ("public",), True),
        ("mybot (me@lab.example)", ("public",), True),
        ("Mozilla/5.0 (compatible; mybot/1.0; +https://lab.example)", ("public",), True),
        ("Mozilla/5.0 (X11; Linux x86_64; +https://lab.example)", ("public",), False),
        ("+https://lab.example", ("public",), False),
        ("Mozilla/5.0 (X11; Linux x86_64)", ("127.0.0.1",), True),
        ("", ("127.0.0.0/8",), True),
        ("", ("127.0.0.1",), True),
        ("", ("127.0.0.1:8000-8010", "::1/128"), True),
        ("", ("127.0.0.0/8", "public"), False),
        ("", ("10.0.0.0/8",), False),
        ("", ("0.0.0.0/0",), False),
        ("", ("::/0",), False),
    ],
)
def test_only_a_crawl_of_loopback_needs_no_name_and_contact(agent, networks, fine):
    config = CrawlConfig(user_agent=agent, allowed_networks=networks)
    if fine:
        config.check_user_agent()
    else:
        with pytest.raises(ConfigError, match="user_agent"):
            config.check_user_agent()


def test_a_network_without_ports_has_all_of_them():
    network, ports = parse_network("fd00::/8")
    assert str(network) == "fd00::/8"
    assert ports == range(1, 65536)
    assert parse_network("10.0.0.0/8:80")[1] == range(80, 81)


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ("A.test=127.0.0.1:80", ("a.test", ("127.0.0.1", 80))),
        ("a=[::1]:65535", ("a", ("::1", 65535))),
        ("a=::1:443", ("a", ("::1", 443))),
    ],
)
def test_a_name_is_given_an_address_and_a_port(entry, found):
    assert parse_address(entry) == found


@pytest.mark.parametrize(
    "url",
    ["", "redis://h:6379/0", "rediss://h", "unix:///run/redis.sock", "redis+cluster://127.0.0.1:7000"],
)
def test_every_kind_of_server_that_is_documented_can_be_named(url):
    assert FrontierConfig(redis_url=url).redis_url == url
