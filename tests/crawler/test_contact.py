"""Who a worker talks to, by its own system calls: its server and what is allowed, whatever the pages say."""

import pytest

from crawler.frontier import Discovered
from tests.conftest import Listener, Site, article, eventually, fetched_pages, open_frontier, reply, worker
from tests.crawler.spy import contacts, spied

NAMES = {
    "inner-dns.test": ["127.0.0.1", "10.0.0.1", "::1"],
    "mixed-dns.test": ["127.0.0.1", "::1", "127.8.0.1"],
}


@pytest.fixture(scope="module")
def tempted(server, tmp_path_factory):
    """One worker that every way to a forbidden address was shown, and those that were allowed.

    The listener stands for Redis, for a metadata service, and for a proxy that the environment names.
    """
    folder, frontier, site, forbidden = (
        tmp_path_factory.mktemp("spy"),
        open_frontier(server),
        Site("127.8.0.1"),
        Listener(),
    )
    target = f"http://127.0.0.1:{forbidden.port}/secret"
    answers = {
        "page": {"/page": reply(200, article("page")), "/robots.txt": reply(404)},
        "redirect": {"/page": reply(302, Location=f"{target}/redirect")},
        "link": {"/page": reply(200, article("link", f"{target}/link"))},
        "robots": {"/page": reply(200, article("robots")), "/robots.txt": reply(302, Location=target)},
    }
    options = ["--resolve", f"inner.test=127.0.0.1:{forbidden.port}"]
    allowed = {f"http://{host}.test/page" for host in answers}
    for host, pages in answers.items():
        options += ["--resolve", f"{host}.test=127.8.0.1:{site.port}"]
        for path, answer in pages.items():
            site.on(f"{host}.test", path, answer)
    allowed.add(f"http://mixed-dns.test:{site.port}/page")
    site.on("mixed-dns.test", "/page", reply(200, article("mixed")))
    refused = {
        "where a redirect leads": f"{target}/redirect",
        "where a link leads": f"{target}/link",
        "a name in the settings": "http://inner.test/page",
        "a name in DNS": f"http://inner-dns.test:{forbidden.port}/page",
        "an IPv4 address as IPv6": f"http://[::ffff:127.0.0.1]:{forbidden.port}/",
        "an allowed address, another port": f"http://127.8.0.1:{forbidden.port}/",
        "a metadata service": "http://169.254.169.254/latest/meta-data",
        "a metadata service on IPv6": "http://[fd00:ec2::254]/latest",
    }
    frontier.put(Discovered(url, 0.5) for url in (*allowed, *refused.values()))
    variables = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    proxies = dict.fromkeys((*variables, *map(str.lower, variables)), f"http://127.0.0.1:{forbidden.port}")
    options += ["--allowed-networks", f"127.8.0.0/16:{site.port}"]
    site.answers, known = {}, site.answers  # no --resolve for mixed-dns.test: DNS is asked
    with worker(server, frontier, site, folder / "log", *options, **proxies, **spied(folder, **NAMES)):
        site.answers = known
        eventually(frontier.finished)
    yield site, frontier, forbidden, contacts(folder), allowed, refused
    forbidden.stop()
    site.stop()


def test_nothing_forbidden_is_contacted(tempted):
    site, _, forbidden, contacted, *_ = tempted
    assert forbidden.connections == 0
    assert {address for address in contacted if not address.startswith("/")} == {
        f"('127.8.0.1', {site.port})"
    }


def test_what_is_forbidden_is_counted_and_what_is_allowed_was_fetched(tempted):
    _, frontier, _, _, allowed, refused = tempted
    assert fetched_pages(frontier).keys() == allowed
    assert frontier.counts()["skipped:forbidden_network"] == len(refused)
    assert dict(frontier.dead_letters()) == dict.fromkeys(refused.values(), "forbidden_network")
