"""Why a fetch failed, in words that are counted, and whose failure it is."""

import socket
import ssl

import aiohttp
from aiohttp.http_exceptions import ContentLengthError
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    UnsupportedURLSchemeError,
)

from crawler.errors import NetworkForbidden

# Reasons that say more about the host than about the URL: all of it rests longer each time.
OF_THE_HOST = frozenset({"dns", "refused", "unreachable", "tls"})

# The first that is found anywhere in the chain of causes names the reason.
_REASONS: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("forbidden_network", (NetworkForbidden,)),
    ("too_large", (DownloadCancelledError, IgnoreRequest)),
    ("dns", (CannotResolveHostError, socket.gaierror)),
    ("tls", (ssl.SSLError, ssl.CertificateError, aiohttp.ClientSSLError)),
    ("timeout", (DownloadTimeoutError, TimeoutError)),
    ("refused", (ConnectionRefusedError,)),
    ("reset", (ConnectionResetError, BrokenPipeError)),
    ("closed", (aiohttp.ServerDisconnectedError,)),
    ("truncated", (ContentLengthError, aiohttp.http_exceptions.TransferEncodingError)),
    ("bad_url", (UnsupportedURLSchemeError,)),
    ("unreachable", (aiohttp.ClientConnectorError,)),
    ("bad_response", (ResponseDataLossError,)),
)


def classify(error: BaseException | None) -> str:
    """The reason under which `error` is counted; `bad_response` for what is no HTTP."""
    chain: list[BaseException] = []
    while error is not None:
        chain.append(error)
        # aiohttp keeps what the system said beside the cause.
        if isinstance(inner := getattr(error, "os_error", None), BaseException):
            chain.append(inner)
        error = error.__cause__
    for reason, kinds in _REASONS:
        if any(isinstance(link, kinds) for link in chain):
            return reason
    return "bad_response"
