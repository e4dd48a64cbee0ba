"""The last gate of a request: nothing is sent under a lease that has run out, and never twice."""

import asyncio
import socket
import threading
from contextlib import asynccontextmanager, contextmanager
from types import MethodType, SimpleNamespace

import pytest
from scrapy import Request
from scrapy.utils.test import get_crawler

from crawler.errors import LeaseLost
from crawler.fetch.failures import classify
from crawler.fetch.handler import AddressCap, GuardedDownloadHandler, Permit
from crawler.frontier.records import uptime
from tests.conftest import eventually, reply


def download(handler, url, permit):
    return handler.download_request(Request(url, meta={"permit": permit, "download_timeout": 5.0}))


@asynccontextmanager
async def downloading():
    """Gives a function that fetches from loopback, by the worker's own handler."""
    settings = {"TWISTED_REACTOR_ENABLED": False, "TINYLM_ALLOWED_NETWORKS": ["127.0.0.0/8"]}
    crawler = get_crawler(settings_dict=settings)
    crawler.spider = SimpleNamespace(cap=AddressCap(None, 0, 0), warc=None)
    handler = GuardedDownloadHandler(crawler)
    try:
        yield MethodType(download, handler)
    finally:
        await handler.close()


def permit(seconds=60.0):
    return Permit(uptime() + seconds)


def fetch(*steps):
    """What each (URL, permit) came to, over kept connections."""

    async def run():
        found = []
        async with downloading() as get:
            for url, allowed in steps:
                try:
                    found.append((await get(url, allowed)).status)
                except Exception as error:
                    found.append(error)
        return found

    return asyncio.run(run())


@contextmanager
def raw_server(serve):
    """A loopback server that hands each connection to `serve`; gives its port and what came in."""
    came, server = [], socket.create_server(("127.0.0.1", 0))

    def accept():
        with server:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:
                    return
                with connection:
                    serve(connection, came)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[1], came
    finally:
        server.shutdown(socket.SHUT_RDWR)


def test_no_socket_is_made_and_nothing_sent_on_a_kept_one_once_the_lease_is_over(site):
    site.on("127.0.0.1", "*", reply(200, "kept"))
    url, over, good = f"http://127.0.0.1:{site.port}/", permit(0), permit()
    connected = []
    site._server.verify_request = lambda *_: connected.append(1) or True
    first, kept, second = fetch((url, over), (url, good), (url, permit(-1)))
    assert isinstance(first, LeaseLost)
    assert kept == 200
    assert isinstance(second, LeaseLost)
    assert (len(connected), len(site.hits)) == (1, 1)
    assert (over.sent, good.sent) == (False, True)


def test_a_lease_that_runs_out_while_it_connects_is_not_used():
    def listen(connection, came):
        came.append(connection.recv(1 << 16))

    async def run(url, allowed):
        async with downloading() as get:
            guard = get.__self__._guard
            make = guard.make_socket

            def make_late(info):
                allowed.deadline = 0.0  # between the socket and the request
                return make(info)

            guard.make_socket = make_late
            with pytest.raises(LeaseLost):
                await get(url, allowed)

    allowed = permit()
    with raw_server(listen) as (port, came):
        asyncio.run(run(f"http://127.0.0.1:{port}/", allowed))
        eventually(lambda: came)
        assert came == [b""]
    assert not allowed.sent


def test_a_refused_connection_is_no_request_sent():
    unused = socket.create_server(("127.0.0.1", 0))
    port = unused.getsockname()[1]
    unused.close()
    allowed = permit()
    [error] = fetch((f"http://127.0.0.1:{port}/", allowed))
    assert (classify(error, sent=allowed.sent), allowed.sent) == ("refused", False)


def test_a_host_that_only_hangs_up_is_asked_once():
    """It is the frontier's to try again, when the host has rested."""

    def hang_up(connection, came):
        came.append(connection.recv(1 << 16))

    allowed = permit()
    with raw_server(hang_up) as (port, came):
        [error] = fetch((f"http://127.0.0.1:{port}/", allowed))
        assert classify(error, sent=allowed.sent) == "closed"
        assert len(came) == 1
    assert allowed.sent
