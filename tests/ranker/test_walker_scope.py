"""Links out of scope are counted, teach nothing and leave nothing behind; what moved stays what it was."""

from collections import Counter
from dataclasses import replace

import pytest

from crawler.page import Link
from crawler.seeds.seed import Seed
from ranker.walker import Walker
from shards.writer import ShardWriter
from tests.conftest import full, open_frontier
from tests.ranker.conftest import prose
from tests.ranker.test_walker import CONFIG, fetch, take

HOME = "https://a.test/docs/"


def link(url, tag_path="html/body/p"):
    return Link(url, "text", tag_path, False)


@pytest.fixture
def walking(server, tmp_path):
    """A walker of a crawl of `HOME` with the given rules, and its frontier: `walking(scope="hosts")`."""
    writers = []

    def begin(*seeds, **rules):
        frontier = open_frontier(server, delay=0, **rules)
        walker = Walker(frontier, ShardWriter(tmp_path, crawl_id="c"), CONFIG)
        writers.append(walker._writer)
        frontier.put_seeds([Seed(url, 1.0, "test") for url in seeds or [HOME]])
        walker.step()
        return walker, frontier

    yield begin
    for writer in writers:
        writer.close()


def state_of(walker):
    """What the walker holds of URLs, hosts and learned weights."""
    arrays = {**walker.graph.state(), **walker.policy.state(), **walker.traps.state()}
    return {name: array.tolist() for name, array in arrays.items()}


LINKS = [link(f"{HOME}{name}") for name in ("x", "y")]
OUT = [
    link("https://b.test/1"),
    link("https://www.a.test/2"),
    link("https://b.test/3"),
    link("https://a.test/tag/z"),
]


def test_links_out_of_scope_change_nothing_but_their_count(walking, tmp_path):
    states, counts = [], []
    for links in (LINKS, [OUT[0], LINKS[0], *OUT[1:], LINKS[1]]):
        walker, frontier = walking(scope="hosts", exclude=("/tag/*",))
        fetch(frontier, take(frontier), prose(1), links=links)
        walker.step()
        states.append(state_of(walker))
        counts.append((frontier.counts()["discovered"], frontier.counts()["hosts"], walker.dropped))
        walker._writer.close()
    assert states[0] == states[1]
    assert counts == [(3, 1, Counter()), (3, 1, Counter(scope_hosts=3, scope_exclude=1))]


def test_links_out_of_scope_are_not_kept_for_a_server_that_is_full(server, walking):
    walker, frontier = walking(scope="hosts")
    lease = take(frontier)
    with full(server):
        fetch(frontier, lease, prose(1), links=[*LINKS, *OUT[:3]])
        walker.step()
        assert len(walker._refused) == 2


def test_the_scope_is_the_crawls_own_and_changes_with_it(server, walking, tmp_path):
    walker, frontier = walking(scope="hosts")
    fetch(frontier, take(frontier), prose(1), links=[*LINKS, *OUT[:3]])
    walker.step()
    walker.commit()
    walker._writer.close()
    # Killed here. What begins again says nothing of a scope, and goes by the stored one.
    again = open_frontier(server, delay=0, crawl_id=frontier.config.crawl_id)
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(again, writer, CONFIG)
        fetch(again, take(again), prose(2), links=[link("https://b.test/1"), link(f"{HOME}z")])
        walker.step()
        queued = again.best_queued(["a.test", "b.test"], 9)
        assert len(queued) == 2
        assert set(queued) < {f"{HOME}{name}" for name in "xyz"}
        assert walker.dropped["scope_hosts"] == 4
        # The walker heeds what another says; what it left out before comes back when it is linked again.
        frontier.set_rules(replace(again.config, scope="any"))
        fetch(again, take(again), prose(3), links=[link("https://b.test/1")])
        walker.step()
        assert again.best_queued(["b.test"], 9) == ["https://b.test/1"]


def test_where_a_seed_moved_to_is_a_seed_too(walking):
    walker, frontier = walking("http://a.test/", scope="hosts", pages_per_found_host=1)
    for there in ("https://a.test/", "https://www.a.test/"):
        fetch(frontier, take(frontier), "", reason="redirect", links=[link(there)])
        walker.step()
    home = take(frontier)
    assert home.url == "https://www.a.test/"
    fetch(frontier, home, prose(1), links=[link("https://www.a.test/1"), link("https://a.test/2"), OUT[0]])
    walker.step()
    assert walker.dropped == Counter(redirect=2, scope_hosts=1)
    # Of a host that nobody chose nothing but its robots.txt would have been asked for.
    page = take(frontier)
    assert page.url in ("https://www.a.test/1", "https://a.test/2")
    # Another page that moves leads nowhere outside.
    fetch(frontier, page, "", reason="redirect", links=[link("https://c.test/")])
    walker.step()
    assert walker.dropped == Counter(redirect=3, scope_hosts=2)


def test_where_a_seed_refreshes_to_is_a_seed_and_where_its_other_links_lead_is_not(walking):
    walker, frontier = walking(scope="hosts")
    onward = [*(link(f"https://{host}.test/", "html/head/meta") for host in "bc"), link("https://c.test/")]
    fetch(frontier, take(frontier), prose(1), links=onward)
    walker.step()
    page = take(frontier)
    assert page.url == "https://b.test/"
    fetch(frontier, page, prose(2), links=[link("https://b.test/1"), link("https://c.test/")])
    walker.step()
    page = take(frontier)
    fetch(frontier, page, prose(3), links=[link("https://c.test/", "html/head/meta")])
    walker.step()
    assert (page.url, walker.dropped["scope_hosts"]) == ("https://b.test/1", 4)


def test_a_seed_that_moves_on_and_on_ends_as_a_seed(walking):
    walker, frontier = walking("https://h0.test/", scope="hosts")
    for hop in range(1, 7):
        fetch(frontier, take(frontier), "", reason="redirect", links=[link(f"https://h{hop}.test/")])
        walker.step()
        if frontier.finished():
            break
    assert hop == 6
    assert walker.dropped["scope_hosts"] == 1


def test_sitemaps_are_read_wherever_the_seeds_host_has_them_and_of_what_they_list_what_is_in_scope(walking):
    walker, frontier = walking(scope="prefix", exclude=("*.xml",))
    named = [
        link("https://a.test/map.xml", "robots/sitemap"),
        link("https://cdn.test/map.xml", "robots/sitemap"),
    ]
    fetch(frontier, take(frontier), "", reason="robots", links=named)
    walker.step()
    moved = take(frontier)
    assert moved.url == "https://a.test/map.xml"
    fetch(frontier, moved, "", reason="redirect", links=[link("https://a.test/maps/index.xml")])
    walker.step()
    index = take(frontier)
    listed = [link("https://a.test/maps/1.xml", "sitemapindex/sitemap/loc")]
    fetch(frontier, index, "", reason="sitemap", links=listed)
    walker.step()
    listed = [link("https://a.test/blog/", "urlset/url/loc"), link(f"{HOME}x", "urlset/url/loc")]
    fetch(frontier, take(frontier), "", reason="sitemap", links=listed)
    walker.step()
    assert take(frontier).url == f"{HOME}x"
    assert frontier.counts()["discovered"] == 5
    assert walker.dropped == Counter(robots=1, redirect=1, sitemap=2, scope_prefix=2)
