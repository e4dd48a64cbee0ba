"""`RedisStore`: runs the frontier's scripts on a Redis (>= 7) or Valkey server, or on a cluster of them.

A server that went away is waited for. One that came back as another run may have lost its last second: that
is noticed and counted in `restarts`, so that who said something in that second can say it again.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, OutOfMemoryError, RedisClusterException
from redis.retry import Retry

from crawler.errors import FrontierFull, ServerError, WalkerLost
from crawler.page import MOST_BYTES
from tinylm.config import without_password
from tinylm.errors import ConfigError

# A server that restarts and reads a log of some GB is back within this; longer means that someone must look.
_RECONNECT_SECONDS = 20.0
# How long the bytes of pages wait for their ack, which is sent with them.
_BESIDE_MS = 60_000
_CLUSTER = "redis+cluster://"
_MOST_BYTES = MOST_BYTES + (MOST_BYTES >> 8)  # of a page: what cannot be compressed grows a little
# Of a page's bytes: the name of the string they are in, the first one, how many.
_PART = re.compile(rb"([\w-]{1,64}) (\d{1,8}) (\d{1,8})")

log = logging.getLogger(__name__)
T = TypeVar("T")
# A `redis.Redis` or `RedisCluster`; their type hints cannot say that replies are bytes.
Client = Any


class Call(NamedTuple):
    """A script and its arguments, or a Redis command, in capitals, on the key that its first argument names.

    Not every command: on a server at its memory limit those that may take memory (HSET, XADD) are refused,
    while a script that says `allow-oom` goes on.
    """

    name: str
    prefix: str
    """That the keys begin with: of a partition, or of an address."""
    args: tuple[Any, ...] = ()
    beside: bytes | None = None
    """Bytes for the key `b:` and the first argument, which expires unless the script keeps it.

    Through Lua they would be copied four times. The script has them as its second argument only if the key
    could not be set, or had expired; it says so by an empty answer.
    """

    def argv(self, *, sent_beside: bool = False) -> tuple[Any, ...]:
        """What the script gets."""
        if self.beside is None:
            return self.args
        return self.args[0], b"" if sent_beside else self.beside, *self.args[1:]


@cache
def source(name: str) -> str:
    """The text of a script as the server gets it."""
    folder = Path(__file__).parent / "lua"
    shebang, body = (folder / f"{name}.lua").read_text().split("\n", 1)
    return f"{shebang}\n{(folder / 'common.lua').read_text()}\n{body}"


def connect(url: str, **options: Any) -> "RedisStore":
    """The store at `url`: redis://, rediss://, unix:// or, for a cluster, redis+cluster://.

    `options` are for redis.Redis, such as the `connection_class` OwnSocket. Raises ConfigError if it is none
    of these, ServerError if a cluster does not answer.
    """
    try:
        if url.startswith(_CLUSTER):
            return RedisStore(RedisCluster.from_url(url.replace(_CLUSTER, "redis://", 1)))
        # No silent retries: the frontier must notice when the server was restarted.
        retry = Retry(NoBackoff(), 0)
        return RedisStore(redis.Redis.from_url(url, retry=retry, health_check_interval=0, **options))
    except ValueError as error:
        raise ConfigError(f"redis_url = {without_password(url)!r}: {error}") from error
    except (redis.ConnectionError, RedisClusterException) as error:
        raise ServerError(f"redis_url = {without_password(url)!r}: {error}") from error


class RedisStore:
    """Runs scripts by name and Redis commands, and reads streams with the pages beside them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._cluster = isinstance(client, RedisCluster)
        self._scripts = {
            path.stem: client.register_script(source(path.stem))
            for path in (Path(__file__).parent / "lua").glob("*.lua")
            if path.stem != "common"
        }
        self._runs: frozenset[str] = frozenset()
        self._give_up = math.inf  # when a server that is away is no longer waited for
        self.walker: int | str = ""
        """Number of the walker's claim by which scripts run here; "" while none holds one."""
        self.restarts = 0
        """How often a server was seen to have been restarted."""
        self.after_restart: Callable[[], None] = lambda: None
        """Called then, before anything else is said."""

    def check(self) -> None:
        """Raise ServerError if there is no server that will do."""
        for info in self._attempt(self._infos):
            version = str(info.get("valkey_version", info["redis_version"]))
            if int(version.split(".")[0]) < 7:
                raise ServerError(f"the server is version {version}; Redis >= 7 or Valkey is needed")
        self._heed_restarts()

    def _infos(self) -> list[Mapping[str, Any]]:
        if not self._cluster:
            return [self.client.info("server")]
        return [self.client.info("server", target_nodes=node) for node in self.client.get_primaries()]

    def _heed_restarts(self) -> bool:
        """Count a restart since last time; returns whether there was one."""
        runs = frozenset(str(info["run_id"]) for info in self._infos())
        restarted = bool(self._runs) and not runs <= self._runs
        self.restarts += restarted
        self._runs = runs
        return restarted

    def close(self) -> None:
        self.client.close()
        if self._cluster:  # whose `close` leaves its nodes' connections to the garbage collector
            for node in self.client.get_nodes():
                if node.redis_connection:
                    node.redis_connection.connection_pool.disconnect()

    def _attempt(self, action: Callable[[], T]) -> T:
        """Do `action`; wait for a server that went away, then do it again.

        One that stayed away is waited for once, not once a call, whichever thread's: a worker that stops
        makes dozens. From then on each call is tried, until one is answered.
        """
        lost = False
        while True:
            try:
                if lost and self._heed_restarts():
                    self.after_restart()
                answer = action()
                self._give_up = math.inf
                return answer
            except OutOfMemoryError as error:
                raise FrontierFull("the frontier's server is at its memory limit; it drains first") from error
            except redis.AuthenticationError as error:  # which waiting does not mend
                raise ServerError(f"the frontier's server wants another password: {error}") from error
            # OSError: without a descriptor left the client fails before it connects.
            except (redis.ConnectionError, redis.TimeoutError, RedisClusterException, OSError) as error:
                if self._waited():
                    raise ServerError(f"the frontier's server does not answer: {error}") from error
                if not lost:
                    log.warning("the frontier's server is away, and waited for: %s", error)
                lost = True
                time.sleep(0.2)
            except redis.ResponseError as error:
                # In the middle of a long script of somebody's, a stranger's on a shared server at the least.
                if str(error).startswith("BUSY") and not self._waited():
                    time.sleep(0.2)
                    continue
                if str(error).startswith("WALKERLOST"):
                    raise WalkerLost("another walker has claimed this crawl") from error
                raise ServerError(f"the frontier's server refuses: {error}") from error

    def _waited(self) -> bool:
        """Whether the server has been away for longer than is waited; begins to count when it is met so."""
        now = time.monotonic()
        self._give_up = min(self._give_up, now + _RECONNECT_SECONDS)
        return now > self._give_up

    def run(self, call: Call) -> Any:
        """What `call` returns.

        Raises FrontierFull if the server is at its memory limit, ServerError if it stays away or refuses.
        """
        return self._attempt(lambda: self._alone(call))

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """The results of many calls; one round trip, or many on a cluster."""
        if self._cluster:
            return [self.run(call) for call in calls]
        return self._attempt(lambda: self._pipelined(calls))

    def _alone(self, call: Call) -> Any:
        if call.name.isupper():
            return self.client.execute_command(call.name, call.prefix + call.args[0], *call.args[1:])
        if call.beside:
            # A full server takes the bytes with the script.
            with suppress(OutOfMemoryError):
                self.client.set(*_beside(call), px=_BESIDE_MS, nx=True)
        argv = *call.argv(sent_beside=True), self.walker
        return self._answer(call, self._scripts[call.name]([call.prefix], argv))

    def _pipelined(self, calls: Sequence[Call]) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        at = []
        for call in calls:
            if call.beside:
                # NX: an ack said again, because its answer was lost, must not let expire what it has kept.
                pipe.set(*_beside(call), px=_BESIDE_MS, nx=True)
            at.append(len(pipe))
            if call.name.isupper():
                pipe.execute_command(call.name, call.prefix + call.args[0], *call.args[1:])
            else:
                argv = *call.argv(sent_beside=True), self.walker
                pipe.evalsha(self._scripts[call.name].sha, 1, call.prefix, *argv)
        answers = pipe.execute(raise_on_error=False)
        return [self._answer(call, answers[place]) for call, place in zip(calls, at, strict=True)]

    def _answer(self, call: Call, answer: Any) -> Any:
        """What a call returned; sent again, complete, if the server had not the script or not the bytes."""
        if isinstance(answer, NoScriptError) or (call.beside and answer == []):
            return self._scripts[call.name]([call.prefix], (*call.argv(), self.walker))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def read(
        self, prefixes: Mapping[str, str], n: int, wait: float, most: float = math.inf
    ) -> list[tuple[str, str, dict[bytes, bytes]]]:
        """Up to `n` stream entries (prefix, id, fields) a partition after the id given for its prefix.

        Fewer if they have `most` bytes before: the one that reaches them is the last.
        """
        block = int(wait * 1000) or None
        streams = [{f"{prefix}pages": after} for prefix, after in prefixes.items()]
        if not self._cluster:
            streams = [{name: after for stream in streams for name, after in stream.items()}]
        elif len(streams) > 1:
            block = None
        found: list[Any] = []
        for stream in streams:
            found += self._attempt(lambda stream=stream: self.client.xread(stream, n, block)) or []  # type: ignore[misc]
        complete: list[tuple[str, str, dict[bytes, bytes]]] = []
        for stream, entries in found:
            fitting: list[tuple[bytes, dict[bytes, bytes]]] = []
            while most > 0 and len(fitting) < len(entries):
                fitting.append(entries[len(fitting)])
                most -= _size(fitting[-1][1])
            complete += self._complete(stream.decode(), fitting)
        return complete

    def _complete(
        self, stream: str, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]
    ) -> Iterator[tuple[str, str, dict[bytes, bytes]]]:
        """Entries of a stream, with the bytes of their pages; less what was trimmed meanwhile."""
        prefix = stream.removesuffix("pages")
        parts: dict[bytes, tuple[str, int, int]] = {}
        spans: dict[str, tuple[int, int]] = {}
        for entry_id, fields in entries:
            if part := _part(fields):
                name, first, length = part
                parts[entry_id] = name, first, first + length
                before = spans.get(name, (first, 0))
                spans[name] = min(before[0], first), max(before[1], first + length)
        read = {name: self._bytes(f"{prefix}b:{name}", *span) for name, span in spans.items()}
        for entry_id, fields in entries:
            if entry_id not in parts:
                yield prefix, entry_id.decode(), fields
                continue
            name, first, end = parts[entry_id]
            offset = first - spans[name][0]
            page = read[name][offset : offset + end - first]
            if len(page) == end - first:
                yield prefix, entry_id.decode(), {b"page": page}
            elif read[name]:
                yield prefix, entry_id.decode(), fields  # it never had these bytes
            elif self._is_there(stream, entry_id):
                raise ServerError(
                    f"{stream}: the page of entry {entry_id.decode()} is gone: "
                    "does the server evict? Its maxmemory-policy must be noeviction"
                )

    def _bytes(self, key: str, first: int, end: int) -> bytes:
        return bytes(self._attempt(lambda: self.client.getrange(key, first, end - 1)))

    def _is_there(self, stream: str, entry_id: bytes) -> bool:
        return bool(self._attempt(lambda: self.client.xrange(stream, entry_id, entry_id)))


def _part(fields: Mapping[bytes, bytes]) -> tuple[str, int, int] | None:
    """Where an entry's page is: name of the bytes, first one, how many. None if none, or too many."""
    found = _PART.fullmatch(fields.get(b"at", b""))
    if found is None or int(found[3]) > _MOST_BYTES:
        return None
    return found[1].decode(), int(found[2]), int(found[3])


def _size(fields: Mapping[bytes, bytes]) -> int:
    part = _part(fields)
    return part[2] if part else sum(map(len, fields.values()))


def _beside(call: Call) -> tuple[str, bytes]:
    return f"{call.prefix}b:{call.args[0]}", call.beside or b""
