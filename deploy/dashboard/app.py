"""The dashboard: one page, one JSON address, no state but the last ten minutes of speed.

It only reads, and may be started and stopped at any time, beside a crawl or without one. The page is one file
that loads nothing from elsewhere. Its Content-Security-Policy lets the browser run the script in that file
and no other, so that names of hosts and reasons, which strangers choose, stay text.
"""

import base64
import hashlib
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

import tinylm
from crawler.config import CrawlPlace
from crawler.frontier import Frontier
from deploy.crawl import sigterm_as_interrupt
from deploy.dashboard.server import HEADER_BYTES, HEADERS, KnownHosts, PromptRequests
from deploy.dashboard.stats import CorpusReader, CrawlReader, RunReader, Sampled, SourcesReader
from tinylm.errors import ConfigError
from tinylm.terminal import say

# At SIGTERM, for answers on their way; a page asks again a second later.
_SHUTDOWN_SECONDS = 3


def create_app(
    attach: Callable[[], Frontier], shards: Path, runs: Sequence[Path], names: Collection[str] = ()
) -> FastAPI:
    """The application that shows the frontier `attach` returns, the corpus in `shards` and training `runs`.

    `/` is the page, `/api/status` what it shows as JSON, `/health` whether this process answers. By `names`
    browsers may ask for it, besides this machine's own.
    """
    crawl = Sampled(CrawlReader(attach, shards.parent).read)
    corpus, readers = CorpusReader(shards), [RunReader(run) for run in runs]
    disk = Sampled(lambda: {"corpus": corpus.read(), "runs": [reader.read() for reader in readers]})
    # By itself: of a large corpus the first reading takes a while.
    sources = Sampled(SourcesReader(CrawlPlace(data=shards.parent)).read)

    @asynccontextmanager
    async def sampling(_: FastAPI) -> AsyncIterator[None]:
        with crawl, disk, sources:
            yield

    # No redirect of /api/status/: it would lead to whatever host was asked for.
    app = FastAPI(lifespan=sampling, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(KnownHosts, names=names)
    page = (Path(__file__).parent / "index.html").read_text()
    headers = {"Content-Security-Policy": content_policy(page), "Cache-Control": "no-store"}

    @app.get("/")
    def index() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    @app.get("/api/status")
    def status() -> dict[str, Any]:
        return {
            "version": tinylm.__version__,
            "time": time.time(),
            "crawl": crawl.latest(),
            "disk": disk.latest(),
            "sources": sources.latest(),
        }

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def content_policy(page: str) -> str:
    """A Content-Security-Policy that allows the script and style written in `page`, by their hashes."""
    sources = ""
    for tag in ("script", "style"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        sources += f"{tag}-src 'sha256-{digest}'; "
    return f"default-src 'none'; {sources}connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError for a port that is none or is taken."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port = {port}: a port is between 0 (any free one) and 65535")
    try:
        # Of an IPv6 address (host, port, flow, scope) create_server takes the first two.
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # the latter of a host that no name server could know
        # Python adds "(while attempting to bind on address …)", which the message says in its own words.
        why = str(error.strerror if isinstance(error, OSError) else error).partition(" (")[0]
        raise ConfigError(
            f"cannot listen on {host} port {port} ({why}): stop what does, or give another --port"
        ) from error


def serve(
    attach: Callable[[], Frontier],
    shards: Path,
    runs: Sequence[Path],
    *,
    host: str,
    port: int,
    names: Collection[str] = (),
) -> None:
    """Serve the page until SIGTERM or SIGINT. Raises ConfigError if the port is taken."""
    # Bound before uvicorn starts: of a taken port it would say so in its log and exit by itself.
    with listen(host, port) as listener:
        say(f"dashboard on http://{host}:{listener.getsockname()[1]}/")
        config = uvicorn.Config(
            create_app(attach, shards, runs, {host.lower(), *names}),
            http=PromptRequests,
            ws="none",
            h11_max_incomplete_event_size=HEADER_BYTES,
            headers=HEADERS,
            server_header=False,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        with sigterm_as_interrupt(), suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
