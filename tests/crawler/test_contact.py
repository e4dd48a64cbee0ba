"""Who a worker talks to, by its own system calls: its server and what is allowed, whatever the pages say."""

import pytest

from crawler.frontier import Discovered
from tests.conftest import Site, article, eventually, open_frontier, reply, worker
from tests.crawler.spy import contacts, spied


@pytest.fixture
def site():
    made = Site("127.8.0.1")
    yield made
    made.stop()


@pytest.mark.parametrize(
    "where", ["redirect", "link", "robots", "name", "literal", "metadata", "dns", "mixed-dns"]
)
def test_nothing_forbidden_is_contacted(server, site, forbidden, tmp_path, where):
    """The listener stands for Redis, for a metadata service, and for a proxy that the environment names."""
    frontier = open_frontier(server)
    target = f"http://127.0.0.1:{forbidden.port}/secret"
    pages = {"/page": reply(200, article("page")), "/robots.txt": reply(404)}
    urls = ["http://a.test/page"]
    options = ["--allowed-networks", f"127.8.0.0/16:{site.port}"]
    names = {}
    match where:
        case "redirect":
            pages["/page"] = reply(302, Location=target)
            urls.append(target)
        case "link":
            pages["/page"] = reply(200, article("page", target))
            urls.append(target)
        case "robots":
            pages["/robots.txt"] = reply(302, Location=target)
        case "name":
            options += ["--resolve", f"inner.test=127.0.0.1:{forbidden.port}"]
            urls.append("http://inner.test/page")
        case "literal":
            urls += [f"http://[::ffff:127.0.0.1]:{forbidden.port}/", f"http://127.8.0.1:{forbidden.port}/"]
        case "metadata":
            urls += ["http://169.254.169.254/latest/meta-data", "http://[fd00:ec2::254]/latest"]
        case "dns":
            names = {"inner.test": ["127.0.0.1", "10.0.0.1", "::1"]}
            urls.append(f"http://inner.test:{forbidden.port}/page")
        case "mixed-dns":
            names = {"mixed.test": ["127.0.0.1", "::1", "127.8.0.1"]}
            site.on("mixed.test", "/page", reply(200, article("mixed")))
            urls.append(f"http://mixed.test:{site.port}/page")
    for path, answer in pages.items():
        site.on("a.test", path, answer)
    options += ["--resolve", f"a.test=127.8.0.1:{site.port}"]
    frontier.put(Discovered(url, 0.5) for url in urls)
    proxy = f"http://127.0.0.1:{forbidden.port}"
    variables = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    environment = dict.fromkeys((*variables, *map(str.lower, variables)), proxy)
    site.answers, answers = {}, site.answers  # no --resolve for mixed.test: DNS is asked
    with worker(
        server, frontier, site, tmp_path / "log", *options, **environment, **spied(tmp_path, **names)
    ):
        site.answers = answers
        eventually(frontier.finished)
    allowed = 1 if where != "mixed-dns" else 2
    assert forbidden.connections == 0
    assert {address for address in contacts(tmp_path) if not address.startswith("/")} == {
        f"('127.8.0.1', {site.port})"
    }
    assert frontier.counts()["skipped:forbidden_network"] == len(urls) - allowed
    assert frontier.counts()["pages"] == allowed
