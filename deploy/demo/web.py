"""`python -m deploy.demo.web`: serve the documentation on this machine as a web on loopback, until SIGTERM.

Real HTTP, virtual hosts by the Host header, a log. One process, one event loop; pages are rendered in a
thread beside it, one after the other. On Linux the hosts are spread over 127.0.0.2 to 127.0.0.9, so that
limits by address can be seen to work; elsewhere only 127.0.0.1 exists.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
_LOOPBACK = [f"127.0.0.{last}" for last in range(2, 10)] if sys.platform == "linux" else ["127.0.0.1"]
# A request in work at the end may take so long: a page is rendered in milliseconds, slow.test waits for two.
_SHUTDOWN_SECONDS = 3.0
# Objects until the youngest generation is collected (Python's default: 700): syntax trees are many small
# objects and no cycles, and looking for some in them is time lost.
_GC_THRESHOLD = 50_000
_UNKNOWN_HOST = Reply(421, b"No such host here.\n", TEXT)

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
        self._addresses = [config.bind] if config.bind else _LOOPBACK
        self._config = config
        self._log = config.access_log.open("a") if config.access_log else None
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="render")
        server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)

    async def start(self) -> None:
        """Listen. Raises LocalWebError if the port is taken or the address is not one of this machine's."""
        await self._runner.setup()
        for address in self._addresses:
            try:
                await web.TCPSite(self._runner, address, self.port).start()
            except OSError as error:
                why = os.strerror(error.errno) if error.errno else error
                found = f"cannot listen on {address} port {self.port}: {why}"
                raise LocalWebError(f"{found}; give another --port or --bind") from error
            # The first address decides the port if it is 0.
            self.port = self._runner.addresses[0][1]
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
            name: {"address": self._addresses[crc32(name.encode()) % len(self._addresses)], "kind": host.kind}
            for name, host in self.hosts.items()
        }
        resolve = [f"{name}={host['address']}:{self.port}" for name, host in sorted(found.items())]
        return {"port": self.port, "resolve": resolve, "hosts": found}

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        arrival, begun = time.time(), time.perf_counter()
        name = request.headers.get("Host", "").partition(":")[0].rstrip(".").lower()
        host = self.hosts.get(name)
        reply = _UNKNOWN_HOST
        if host:
            reply = await asyncio.get_running_loop().run_in_executor(
                self._renderer, host.reply, request.path, request.rel_url.raw_query_string
            )
            await asyncio.sleep(host.delay)
        headers = {"Content-Type": reply.content_type, **reply.headers}
        if self._log:
            entry = {
                "t": round(arrival, 6),
                "address": request.remote,
                "host": name,
                "method": request.method,
                "path": request.raw_path,
                "status": reply.status,
                "agent": request.headers.get("User-Agent", ""),
                "seconds": round(time.perf_counter() - begun, 6),
            }
            if "Retry-After" in headers:
                entry["retry_after"] = int(headers["Retry-After"])
            self._log.write(json.dumps(entry) + "\n")
            self._log.flush()
        return web.Response(status=reply.status, body=reply.body, headers=headers)


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
