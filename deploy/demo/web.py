"""`python -m deploy.demo.web`: serve the documentation on this machine as a web on loopback, until SIGTERM.

Real HTTP, virtual hosts by the Host header, a log. One process, one event loop; pages are rendered one after
the other in a thread beside it, so that a slow host's two seconds or a large page delay nobody's headers. On
Linux the hosts are spread over 127.0.0.2 to 127.0.0.9, so that limits by address can be seen to work;
elsewhere only 127.0.0.1 exists.
"""

import asyncio
import errno
import gc
import json
import signal
import socket
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from zlib import crc32

from aiohttp import web
from cyclopts import App, Parameter

from deploy.demo.hosts import TEXT, Reply, build_hosts
from deploy.demo.sites import Web, discover
from tinylm.config import require
from tinylm.errors import TinylmError, exit_on_error
from tinylm.files import write_json

# Eight: limits by address can be seen to work, and about twenty hosts share one, as on a real hoster.
_ADDRESSES = tuple(f"127.0.0.{last}" for last in range(2, 10))
_FALLBACK = ("127.0.0.1",)
_BACKLOG = 512
_SHUTDOWN_SECONDS = 3.0
# A port that is free on the first address may be taken on another: then the next free one is tried.
_PORT_ATTEMPTS = 20
# Objects until the youngest generation is collected (Python's default: 700): syntax trees are many small
# objects and no cycles, and looking for some in them is time lost.
_GC_THRESHOLD = 50_000
_UNKNOWN_HOST = Reply(421, b"No such host here.\n", TEXT)
_NOT_ALLOWED = Reply(405, b"Only GET and HEAD.\n", TEXT, {"Allow": "GET, HEAD"})

app = App(
    name="python -m deploy.demo.web", help="Serve the documentation on this machine as a web on loopback."
)


class LocalWebError(TinylmError):
    """The local web cannot be served here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalWebConfig:
    """How the local web is served."""

    port: int = 0
    """Port on every loopback address used; 0 takes a free one."""
    access_log: Path | None = None
    """File that gets one JSON line a request, appended."""
    ready_file: Path | None = None
    """File written once the sockets listen: port, and which host is where."""
    bind: str = ""
    """One address to listen on instead of the loopback ones, for a web in a network of containers."""
    packages: str = ""
    """Distributions to serve, separated by commas ("python" is the standard library); empty: all."""

    def __post_init__(self) -> None:
        require(self, "port", 0 <= self.port <= 65535, "a port is between 0 (any free one) and 65535")


class LocalWeb:
    """The hosts of `config.packages` between `start()` and `stop()`, within a running event loop.

    Raises ConfigError for a package that is not there.
    """

    def __init__(self, config: LocalWebConfig) -> None:
        names = [name.strip() for name in config.packages.split(",") if name.strip()]
        self.hosts = build_hosts(Web(discover(names)))
        self.port = config.port
        self.addresses: tuple[str, ...] = ()
        self._config = config
        self._log = config.access_log.open("a") if config.access_log else None
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="render")
        server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)

    async def start(self) -> None:
        """Listen. Raises LocalWebError if the port is taken or the address is not one of this machine's."""
        sockets = listen(self.port, self._config.bind)
        self.addresses = tuple(listener.getsockname()[0] for listener in sockets)
        self.port = sockets[0].getsockname()[1]
        await self._runner.setup()
        for listener in sockets:
            await web.SockSite(self._runner, listener, backlog=_BACKLOG).start()
        if self._config.ready_file:
            write_json(self._config.ready_file, self.directory())

    async def stop(self) -> None:
        """Close the sockets, what is open on them, and the log."""
        await self._runner.cleanup()
        self._renderer.shutdown(cancel_futures=True)
        if self._log:
            self._log.close()

    def directory(self) -> dict[str, Any]:
        """What a crawler needs to find the hosts without DNS: `resolve` lines and what each host is."""
        found = {
            name: {"address": self.addresses[crc32(name.encode()) % len(self.addresses)], "kind": host.kind}
            for name, host in self.hosts.items()
        }
        resolve = [f"{name}={host['address']}:{self.port}" for name, host in sorted(found.items())]
        return {"port": self.port, "resolve": resolve, "hosts": found}

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        arrival, begun = time.time(), time.perf_counter()
        name = request.headers.get("Host", "").partition(":")[0].rstrip(".").lower()
        host = self.hosts.get(name)
        if host is None:
            reply = _UNKNOWN_HOST
        elif request.method not in ("GET", "HEAD"):
            reply = _NOT_ALLOWED
        else:
            reply = await asyncio.get_running_loop().run_in_executor(
                self._renderer, host.reply, request.path, request.rel_url.raw_query_string
            )
            await asyncio.sleep(host.delay)
        response = _response(request, reply)
        if self._log:
            entry = {
                "t": round(arrival, 6),
                "address": request.remote,
                "host": name,
                "method": request.method,
                "path": request.raw_path,
                "status": response.status,
                "agent": request.headers.get("User-Agent", ""),
                "seconds": round(time.perf_counter() - begun, 6),
            }
            if "Retry-After" in response.headers:
                entry["retry_after"] = int(response.headers["Retry-After"])
            self._log.write(json.dumps(entry) + "\n")
            self._log.flush()
        return response


def _response(request: web.BaseRequest, reply: Reply) -> web.Response:
    headers = {"Content-Type": reply.content_type, **reply.headers}
    response = web.Response(status=reply.status, body=reply.body, headers=headers)
    if reply.modified is not None:
        modified = datetime.fromtimestamp(int(reply.modified), UTC)
        # Whole seconds above: that is all that the header can say, and a page would never be unchanged.
        if request.if_modified_since and modified <= request.if_modified_since:
            response = web.Response(status=304)
        response.last_modified = modified
    return response


def listen(port: int, bind: str = "") -> list[socket.socket]:
    """Listening sockets on one port of `bind`, or of 127.0.0.2 to .9, of 127.0.0.1 where those do not exist.

    Raises LocalWebError if the port is taken or forbidden, or if `bind` is not an address of this machine.
    """
    choices = ((bind,),) if bind else (_ADDRESSES, _FALLBACK)
    for _ in range(1 if port else _PORT_ATTEMPTS):
        for addresses in choices:
            try:
                return _bind(addresses, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    break
                if bind or error.errno != errno.EADDRNOTAVAIL:
                    where = f"{addresses[0]} port {port}"
                    raise LocalWebError(f"cannot listen on {where}: {error.strerror}") from error
    taken = bind or _ADDRESSES[0]
    raise LocalWebError(f"port {port} is taken on {taken}: stop what listens there, or give --port 0")


def _bind(addresses: Iterable[str], port: int) -> list[socket.socket]:
    """One socket an address; the first decides the port if it is 0."""
    with ExitStack() as opened:
        sockets = []
        for address in addresses:
            listener = opened.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(_BACKLOG)
            port = listener.getsockname()[1]
            sockets.append(listener)
        # All of them are bound: the block shall not close them.
        opened.pop_all()
        return sockets


async def serve(config: LocalWebConfig) -> None:
    """Serve until SIGTERM or SIGINT; raises what LocalWeb does."""
    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
    local = LocalWeb(config)
    try:
        await local.start()
        await stopping.wait()
    finally:
        await local.stop()


@app.default
def main(config: Annotated[LocalWebConfig, Parameter(name="*")] = LocalWebConfig()) -> None:
    """Serve the documentation on this machine as a web on loopback."""
    gc.set_threshold(_GC_THRESHOLD)
    with exit_on_error():
        asyncio.run(serve(config))


if __name__ == "__main__":
    app()
