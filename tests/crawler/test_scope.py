"""Which URLs belong to a crawl: of links before they are kept, of leases before anything is asked."""

import re
from dataclasses import replace

import pytest

from crawler.config import FrontierConfig, own
from crawler.frontier import SEED, Discovered, Limits
from crawler.frontier.spill import Spill
from crawler.scope import scope_of
from tests.conftest import open_frontier
from tests.crawler.driving import EVERYWHERE, ack, drain, lease_one, put
from tinylm.errors import ConfigError

SEEDS = ("https://docs.a.test/guide/start.html", "http://b.test/")
NEAR = {
    "https://docs.a.test/guide/more/x.html": {"prefix", "hosts", "domains"},
    "http://docs.a.test:8080/guide/": {"prefix", "hosts", "domains"},
    "https://docs.a.test/guide": {"hosts", "domains"},
    "https://docs.a.test/guidebook": {"hosts", "domains"},
    "https://docs.a.test/": {"hosts", "domains"},
    "https://blog.a.test/guide/x": {"domains"},
    "https://a.test/guide/x": {"domains"},
    "https://b.test/any/where?x=1": {"prefix", "hosts", "domains"},
    "https://nota.test/guide/x": set(),
    "https://a.test.evil.test/guide/x": set(),
    "https://evil.test/docs.a.test/guide/x": set(),
    f"https://docs.a.test/{'guide/' * 300}": {"prefix", "hosts", "domains"},
    f"https://docs.a.test/x/{'guide/' * 300}": {"hosts", "domains"},
}


def begun(open_it, *seeds, **settings):
    frontier = open_it(delay=0, **settings)
    frontier.put(Discovered(url, 0.5, SEED) for url in seeds)
    return frontier


def narrowed(frontier, **rules):
    frontier.set_rules(replace(frontier.config, **rules))
    frontier.set_limits(Limits(pages=1000, bytes=1 << 40, until=2e9))
    return frontier


@EVERYWHERE
@pytest.mark.parametrize("scope", ["prefix", "hosts", "domains"])
def test_what_is_in_scope_is_where_the_seeds_are(store, scope):
    frontier = begun(store.open, *SEEDS, scope=scope, partitions=store.partitions)
    out = {url: f"scope_{scope}" for url, scopes in NEAR.items() if scope not in scopes}
    assert frontier.out_of_scope([*NEAR, *SEEDS]) == out


def test_a_seed_given_later_widens_the_scope_for_all(store):
    first = begun(store.open, "https://a.test/", scope="hosts", crawl_id="widened")
    second = store.open(scope="hosts", crawl_id="widened")
    assert second.out_of_scope(["https://c.test/x"]) == {"https://c.test/x": "scope_hosts"}
    first.put([Discovered("https://c.test/", 0.5, SEED)])
    second.reap()
    assert second.out_of_scope(["https://c.test/x"]) == first.out_of_scope(["https://c.test/x"]) == {}


PATTERNS = {
    "docs.a.test/guide/*": (
        ["https://docs.a.test/guide/", "http://docs.a.test:8080/guide/x?y/z"],
        ["https://docs.a.test/guide", "https://x.docs.a.test/guide/", "https://b.test/docs.a.test/guide/"],
    ),
    "*.a.test/*": (
        ["https://a.test/", "https://x.y.a.test/z"],
        ["https://nota.test/", "https://b.test/x.a.test/", "https://a.test.b.test/"],
    ),
    "*.a.test": (["https://a.test/", "https://x.a.test/z"], ["https://nota.test/", "https://b.test/x.a.test/"]),
    "DOCS.a.test": (["https://docs.a.test/", "https://docs.a.test/x"], ["https://a.test/docs.a.test"]),
    "https://a.test/": (["https://a.test/"], ["http://a.test/", "https://a.test/x"]),
    "*://a.test/x": (["https://a.test/x", "http://a.test/x"], ["https://a.test/x/"]),
    "/tag/*": (["https://a.test/tag/", "https://b.test/tag/x"], ["https://a.test/x/tag/y", "https://a.test/tag"]),
    "*/tag/*": (["https://a.test/tag/", "https://a.test/x/tag/y"], ["https://a.test/tags/x"]),
    "*.pdf": (["https://a.test/x.pdf", "https://pdf/"], ["https://a.test/x.pdf?y", "https://a.test/xpdf"]),
    "*?reply=*": (["https://a.test/x?reply=1"], ["https://a.test/x?a=1&reply=1", "https://a.test/xreply=1"]),
    "*[?&]x": (["https://a.test/[?&]x"], ["https://a.test/?x"]),
    "/a*b*c": (["https://a.test/abc", "https://a.test/a/b/bc/c"], ["https://a.test/abcd", "https://a.test/acb"]),
    "/~me/*": (["https://a.test/~me/", "https://a.test/%7Eme/x", "https://a.test/%7eme/x"], ["https://a.test/me/"]),
    "/wiki/Ü*": (["https://a.test/wiki/%C3%9Cx", "https://a.test/wiki/%c3%9c"], ["https://a.test/wiki/U"]),
    "bücher.test/*": (["https://xn--bcher-kva.test/x"], ["https://b%C3%BCcher.test/x"]),
    "[::1]/x*": (["http://[::1]/x", "http://[::1]:8080/xy"], ["http://[::1]/"]),
}  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_is_a_url_in_which_a_star_is_any_characters(pattern):
    inside, outside = PATTERNS[pattern]
    included = scope_of("any", (pattern,), ())
    excluded = scope_of("any", (), ("nothing.test", pattern))
    for url in inside + outside:
        assert included.why_not(url, lambda _: False) == ("" if url in inside else "scope_include"), url
        assert excluded.why_not(url, lambda _: False) == ("scope_exclude" if url in inside else ""), url


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("scope", "host"),
        *(("include", (pattern,)) for pattern in ("a test", "/x#y", "ftp://a.test/*", "me@a.test/")),
        ("include", ("a..b/*",)),
        ("exclude", ("/fine", "https://")),
        *(("delay_of", (entry,)) for entry in ("a.test", "a.test=", "a.test=x", "a.test=-1", "a.test=nan")),
        *(("delay_of", (entry,)) for entry in ("a.test/x=1", "https://a.test=1", "a.test:80=1", "*=1", "=1")),
        ("pages_of", ("a.test=1e16",)),
    ],
)  # fmt: skip
def test_what_is_no_scope_no_pattern_and_no_host_is_refused_by_its_name(setting, value):
    wrong = value if isinstance(value, str) else value[-1]
    with pytest.raises(ConfigError, match=rf"{setting}\b.*{re.escape(repr(wrong))}"):
        FrontierConfig(**{setting: value})


def test_a_host_of_a_setting_is_written_as_in_urls():
    config = FrontierConfig(delay_of=("*.BÜCHER.test.=0.50",), pages_of=("Docs.a.test=200, b.test=1",))
    assert config.delay_of == ("*.xn--bcher-kva.test=0.5",)
    assert config.pages_of == ("docs.a.test=200", "b.test=1")
    assert replace(config).delay_of == config.delay_of


def test_the_entry_that_names_a_host_most_closely_is_its_own():
    entries = FrontierConfig(delay_of=("*.a.test=1", "x.a.test=2", "*.y.a.test=3")).delay_of
    hosts = ("a.test", "x.a.test", "z.x.a.test", "y.a.test", "z.y.a.test", "nota.test", "test")
    assert [own(entries, host) for host in hosts] == [1, 2, 1, 3, 3, None, None]


def test_a_seed_and_the_sitemaps_near_seeds_are_in_scope_whatever_patterns_say(server):
    frontier = begun(lambda **to: open_frontier(server, **to), *SEEDS, include=("/guide/*",), scope="hosts")
    maps = ["https://docs.a.test/map.xml", "https://cdn.test/map.xml"]
    found = frontier.out_of_scope({*SEEDS, *maps, "https://docs.a.test/map.html"}, {*maps})
    assert found == {"https://docs.a.test/map.html": "scope_include", maps[1]: "scope_hosts"}
    # And when it is leased, nobody knows any more that it is one.
    put(frontier, maps[0])
    assert sorted(drain(frontier)) == sorted([maps[0], *SEEDS])


# Leases, after the scope was narrowed


@EVERYWHERE
def test_nothing_is_asked_of_what_a_narrower_scope_leaves_out_and_it_may_come_back(store):
    urls = [f"https://{host}.test/{n}" for host in ("b", "c", "d") for n in range(5)]
    frontier = begun(store.open, "https://a.test/", partitions=store.partitions)
    put(frontier, *urls)
    narrowed(frontier, scope="hosts")
    asked = []
    while not frontier.finished():
        for lease in frontier.lease(10):
            asked.append(lease.url)
            ack(frontier, lease)
    assert asked == ["https://a.test/robots.txt", "https://a.test/"]
    counts = frontier.counts()
    assert (counts["skipped:scope_hosts"], counts["queued"], counts["leased"]) == (15, 0, 0)
    narrowed(frontier, scope="any")
    assert put(frontier, *urls) == 15
    assert sorted(drain(frontier)) == sorted(urls)


@pytest.mark.parametrize("spilled", [False, True], ids=["in lists", "on disk"])
def test_of_a_host_only_what_is_in_scope_is_asked_for_however_much_waits_before_it(store, tmp_path, spilled):
    frontier = begun(store.open, hot_per_host=4)
    spill = Spill(frontier, tmp_path / "db") if spilled else None
    put(frontier, *(f"https://a.test/tag/{n}" for n in range(100)), promise=0.9)
    put(frontier, "https://a.test/x", promise=0.05)
    narrowed(frontier, exclude=("/tag/*",))
    asked = []
    while not frontier.finished():
        if spill:
            spill.turn()
        for lease in frontier.lease(10):
            asked.append(lease.url)
            ack(frontier, lease)
    assert asked == ["https://a.test/robots.txt", "https://a.test/x"]
    assert frontier.counts()["skipped:scope_exclude"] == 100
    assert frontier.counts()["queued"] == 0


def test_another_hosts_robots_txt_is_asked_for_outside_the_scope_if_one_inside_moved_there(server):
    frontier = begun(lambda **to: open_frontier(server, **to), "https://a.test/", scope="hosts")
    put(frontier, "https://other.test/page")
    robots = lease_one(frontier)
    assert robots.host == "a.test"
    assert frontier.errand("https://other.test/robots.txt", [robots.robots_of]) is None
    frontier.moved(robots, "", latency=0, size=0)
    assert lease_one(frontier).url == "https://other.test/robots.txt"
    assert frontier.counts()["skipped:scope_hosts"] == 1


def test_what_was_fetched_of_hosts_that_no_seed_named_is_counted(store):
    frontier = begun(store.open, "https://a.test/")
    put(frontier, "https://a.test/1", "https://b.test/1", "https://b.test/2")
    drain(frontier)
    counts = frontier.counts()
    assert (counts["fetched"], counts["fetched_elsewhere"]) == (6, 3)


# A budget of one's own


def test_a_host_with_a_budget_of_its_own_has_that_whoever_refers_to_it_and_another_later(store):
    own = ("*.a.test=9", "x.a.test=4", "b.test=1")
    frontier = begun(store.open, pages_of=own, pages_per_found_host=3)
    hosts = ("x.a.test", "y.a.test", "b.test", "c.test")
    put(frontier, *(f"https://{host}/{n}" for host in hosts for n in range(20)))
    drain(frontier)

    def fetched():
        keys = [(frontier.prefixes[frontier.partition_of(host)], f"h:{host}") for host in hosts]
        return [int(frontier.client.hget(prefix + key, "fetched")) for prefix, key in keys]

    assert fetched() == [4, 9, 1, 3]
    narrowed(frontier, pages_of=("b.test=5",))
    drain(frontier)
    assert fetched() == [4, 9, 5, 3]
