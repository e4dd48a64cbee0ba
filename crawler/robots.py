"""What a server asks of crawlers: robots.txt (RFC 9309) by protego, and Retry-After (RFC 9110)."""

import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime

from protego import Protego

VALID_SECONDS = 24 * 3600.0
MOST_BYTES = 512 * 1024
"""RFC 9309 asks for at least 500 KiB; what is longer is cut there."""
_SECONDS = re.compile(r"^[0-9]{1,9}$")


class Rules:
    """One host's robots.txt, as one crawler must read it."""

    def __init__(self, text: str, user_agent: str) -> None:
        self._parsed = Protego.parse(text)
        self._agent = product_token(user_agent)

    def allow(self, url: str) -> bool:
        """Whether `url` may be fetched."""
        return bool(self._parsed.can_fetch(url, self._agent))

    @property
    def crawl_delay(self) -> float:
        """Seconds between requests that the host asks for; 0 if it does not."""
        return float(self._parsed.crawl_delay(self._agent) or 0.0)


def interpret(status: int, body: bytes) -> str | None:
    """The rules an answer to robots.txt stands for (RFC 9309, section 2.3.1).

    2xx is the rules, 4xx allows all; None (5xx, 429): nothing may be fetched until the host answers.
    """
    if 200 <= status < 300:
        return _whole_lines(body).decode("utf-8-sig", "replace")
    if 400 <= status < 500 and status != 429:
        return ""
    return None


def _whole_lines(body: bytes) -> bytes:
    """At most `MOST_BYTES` of `body`; a rule cut in half could allow what the whole one does not."""
    return body if len(body) <= MOST_BYTES else body[:MOST_BYTES].rpartition(b"\n")[0]


def product_token(user_agent: str) -> str:
    """The name by which robots.txt addresses a crawler: the first word of its User-Agent, without version."""
    return "".join(user_agent.partition("/")[0].split()[:1]) or "*"


def retry_at(header: str) -> float | None:
    """Epoch seconds that a Retry-After header names, in seconds or as a date; None if it names none."""
    text = header.strip()
    if _SECONDS.match(text):
        return time.time() + int(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
