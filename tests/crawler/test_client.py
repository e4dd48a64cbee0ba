"""What sources ask goes through the crawl's resolver and address guard, and is bounded."""

import asyncio
import time

import pytest

from crawler.config import CrawlConfig
from crawler.errors import NetworkForbidden
from crawler.fetch.client import AskError, Client
from tests.conftest import reply
from tinylm.errors import ConfigError


def config_of(site, **others):
    resolve = (f"api.test=127.0.0.1:{site.port}", f"elsewhere.test=127.0.0.1:{site.port}")
    return CrawlConfig(allowed_networks=(f"127.0.0.1/32:{site.port}",), resolve=resolve, **others)


def test_an_answer_comes_with_its_status_headers_and_body(site):
    def told(handler):
        said = f"{handler.path} {handler.headers['User-Agent']} {handler.headers['X-Key']}"
        reply(418, said, X_Left="3")(handler)

    site.on("api.test", "*", told)
    with Client.sync(config_of(site, user_agent="lab/1.0 (+http://lab.test)")) as ask:
        answer = ask("http://api.test/find", params={"q": "sea otters"}, headers={"X-Key": "k"})
    assert (answer.status, answer.headers["x-left"]) == (418, "3")
    assert answer.body == b"/find?q=sea+otters lab/1.0 (+http://lab.test) k"


def test_nothing_outside_the_allowed_networks_is_asked_by_whatever_way(site, forbidden):
    there = f"http://127.0.0.1:{forbidden.port}/"
    site.on("api.test", "/moved", reply(302, Location=there))
    site.on("api.test", "/named", reply(302, Location=f"http://localhost:{forbidden.port}/"))
    with Client.sync(config_of(site)) as ask:
        for url in (
            there,
            f"http://localhost:{forbidden.port}/",
            "http://api.test/moved",
            "http://api.test/named",
        ):
            with pytest.raises(NetworkForbidden):
                ask(url, redirects=1)
        assert ask("http://api.test/moved").status == 302
    assert forbidden.connections == 0


def test_a_key_is_not_told_to_whom_a_redirect_leads(site):
    keys = []

    def note(handler):
        keys.append((handler.path, handler.headers["X-Key"]))
        reply(200, "ok")(handler)

    site.on("api.test", "/there", note)
    site.on("api.test", "/here", reply(302, Location="/there"))
    site.on("api.test", "/away", reply(302, Location="http://elsewhere.test/x"))
    site.on("elsewhere.test", "/x", note)
    with Client.sync(config_of(site)) as ask:
        assert ask("http://api.test/here", headers={"X-Key": "k"}, redirects=1).body == b"ok"
        assert ask("http://api.test/away", headers={"X-Key": "k"}, redirects=1).body == b"ok"
        assert ask("http://api.test/here", headers={"X-Key": "k"}).status == 302
    assert keys == [("/there", "k"), ("/x", None)]


def test_what_is_too_large_too_slow_or_no_answer_is_one_error_without_the_query(site):
    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"half")

    def slow(handler):
        time.sleep(1)
        reply(200)(handler)

    site.on("api.test", "/large?key=secret", reply(200, b"x" * 2000))
    site.on("api.test", "/cut?key=secret", cut)
    site.on("api.test", "/slow?key=secret", slow)
    with Client.sync(config_of(site)) as ask:
        for path, says in (
            ("large", "more than 1,000 bytes"),
            ("cut", ""),
            ("slow", "no whole answer in 0.2 s"),
        ):
            with pytest.raises(AskError, match=rf"^http://api\.test/{path}: .*{says}") as told:
                ask(f"http://api.test/{path}?key=secret", most_bytes=1000, timeout=0.2)
            assert "secret" not in str(told.value)
        with pytest.raises(AskError, match="is not an http or https URL"):
            ask("file:///etc/passwd")


def test_what_came_before_a_connection_broke_is_handed_over(site):
    def cut(handler):
        handler.send_response(206)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"half")

    site.on("api.test", "*", cut)
    came = []
    with Client.sync(config_of(site)) as ask, pytest.raises(AskError):
        ask("http://api.test/", into=lambda status, chunk: came.append((status, chunk)))
    assert came == [(206, b"half")]


def test_many_are_asked_at_once(site):
    site.on("api.test", "*", reply(200, "ok"))

    async def main():
        async with Client(config_of(site)) as client:
            return await asyncio.gather(*(client.get(f"http://api.test/{n}") for n in range(20)))

    assert [answer.body for answer in asyncio.run(main())] == [b"ok"] * 20


def test_strangers_are_asked_by_somebody_with_a_name():
    with pytest.raises(ConfigError, match="user_agent"):
        Client(CrawlConfig())
