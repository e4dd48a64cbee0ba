"""Who may ask the dashboard, and how long a request may take to arrive.

A page in somebody's browser whose own name was pointed at this machine (DNS rebinding) asks by that name:
only names that are ours are answered. A client that sends half a request gives its place to others.
"""

import re
import socket
from asyncio import BaseTransport, TimerHandle
from collections.abc import Collection

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

# The page asks each second, a request comes at once, and is answered in milliseconds; over a bad line a lost
# packet comes again within 3 s. Double would hold those longer who never send the rest.
_SECONDS = 10.0
# Connections, of some KB each and a file of the usual 1,024. A browser opens six.
_MOST_CONNECTIONS = 256
# A request of a browser is below 2 KB. The default is 64.
HEADER_BYTES = 16 << 10
HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
]
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+?)\.?(?::[0-9]*)?")
# Of any name: kubelet asks by the pod's address, and all that is said is that the process answers.
_FOR_ALL = "/health"


class KnownHosts:
    """Answers 421 unless the Host is localhost, this machine's name, the address asked, or of `names`."""

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app = app
        self._names = {"localhost", "127.0.0.1", "[::1]", socket.gethostname().lower(), *names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != _FOR_ALL and not self._is_ours(scope):
            text = "No such name here: ask for localhost, or start `tinylm dashboard` with --names NAME.\n"
            return await PlainTextResponse(text, 421)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        given = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        host = _HOST.fullmatch(given[0]) if len(given) == 1 else None
        if not host:
            return False
        address = scope["server"][0]
        return host[1] in self._names or host[1] == (f"[{address}]" if ":" in address else address)


class PromptRequests(H11Protocol):
    """A connection that is cut `_SECONDS` after its beginning or last answer: by then it has had the next.

    So nobody holds it by half a request, or by not reading. Of too many the one that waits longest goes.
    """

    _late: TimerHandle

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._late = self.loop.call_later(_SECONDS, self.transport.abort)
        if len(self.connections) > _MOST_CONNECTIONS:
            oldest = min(self.connections, key=lambda each: each._late.when())  # type: ignore[union-attr]
            self.connections.discard(oldest)  # at once: it hears of its end a turn of the loop later
            oldest.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._late.cancel()
        self._late = self.loop.call_later(_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._late.cancel()
