"""`tinylm crawl --scope`: what servers see of it over two runs of one crawl, and what is said of it."""

import pytest

from crawler.frontier import SEED, Discovered
from deploy.cli.app import app
from deploy.summary import NothingKept, Summary
from tests.conftest import article, open_frontier, reply


@pytest.mark.long
def test_a_crawl_stays_in_its_scope_once_that_is_said_and_says_what_it_left_out(site, tmp_path, capsys):
    site.on("a.test", "/", reply(301, Location="http://www.a.test/"))
    links = [f"/{n}" for n in range(6)] + [f"http://b.test/{n}" for n in range(6)]
    site.on("www.a.test", "/", reply(200, article("front page", *links)))
    for number in range(6):
        page = article(f"page {number}", f"/tag/{number}", f"http://b.test/from/{number}")
        site.on("www.a.test", f"/{number}", reply(200, page))
    for host in ("www.a.test", "b.test"):
        site.on(host, "/robots.txt", reply(200, ""))
        site.on(host, "*", reply(200, article(f"page of {host}")))
    words = ["--data", str(tmp_path / "data"), "--allowed-networks", f"127.0.0.1/32:{site.port}"]
    words += [word for host in site.hosts for word in ("--resolve", f"{host}=127.0.0.1:{site.port}")]
    words += ["--workers", "1", "--delay", "0.01", "--latency-factor", "0", "--ip-delay", "0"]
    words += ["--disk-reserve-gigabytes", "0"]

    def run(*options):
        with pytest.raises(NothingKept):  # such pages are not worth it
            app(["crawl", *options, *words])
        return Summary.load(tmp_path / "data"), capsys.readouterr().out

    # Whatever is linked is followed at first: of the other host some is fetched, and some waits.
    first, said = run("http://a.test/", "--pages", "7", "--pages-of", "b.test=3")
    assert first.fetched_elsewhere == len(site.asked("b.test")) > 0
    assert f"elsewhere  {first.fetched_elsewhere / 7:.0%} of it from hosts that no seed named" in said
    # Then it is not any more, nor what waits.
    second, said = run("--pages", "100", "--scope", "hosts", "--exclude", "/tag/*")
    assert {hit.host for hit in site.hits[7:]} <= {"a.test", "www.a.test"}
    paths = {hit.path for hit in site.asked("www.a.test")}
    assert paths - {f"/tag/{n}" for n in range(6)} == {"/robots.txt", "/", *links[:6]}
    assert second.queued == 0
    assert second.skipped["scope_hosts"] >= 1
    assert second.not_followed["scope_exclude"] >= 1
    assert "unfollowed scope_" in said


def test_a_crawl_elsewhere_is_told_its_scope_by_begin_and_says_what_it_goes_by(
    server, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    frontier = open_frontier(server)
    crawl = ["--redis-url", server.url, "--crawl-id", frontier.config.crawl_id]

    def tell(*words):
        with pytest.raises(SystemExit) as ended:
            app([*words, *crawl])
        assert not ended.value.code
        frontier.reap()
        return capsys.readouterr().out

    begin = ["begin", "--user-agent", "t (t@a.test)"]
    own = ["--delay-of", "A.test=3,b.test=0.5", "--pages-of", "*.test=20"]
    tell(*begin, "https://a.test/", "--scope", "domains", "--exclude", "/tag/*", "--exclude", "*.pdf", *own)
    assert (frontier.config.scope, frontier.config.exclude) == ("domains", ("/tag/*", "*.pdf"))
    frontier.put([Discovered("https://a.test/", 0.5, SEED), Discovered("https://c.test/", 0.5)])
    assert "out of the crawl's scope: scope_domains" in tell("why", "https://b.test/x")
    assert "out of the crawl's scope: scope_exclude" in tell("why", "https://a.test/x.pdf")
    said = tell("why", "a.test")
    assert "delay_of gives it 3 of its own" in said
    assert "pages_of gives it 20 of its own" in said
    rows = [[cell.strip() for cell in line.split("│")] for line in tell("frontier", "hosts").splitlines()]
    delays = {row[1]: row[6] for row in rows if len(row) == 9}
    assert delays == {"a.test": "3 s", "c.test": "0.03 s"}
    tell(*begin, "--scope", "any")
    assert (frontier.config.scope, frontier.config.exclude) == ("any", ("/tag/*", "*.pdf"))
