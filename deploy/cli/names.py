"""Hosts and URLs as people write them, in the form in which the frontier and the corpus know them."""

import re

from crawler.urls import canonicalize, locate
from tinylm.errors import ConfigError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def urls_named(what: str) -> tuple[str, ...]:
    """The canonical URL that `what` is, or those over https and http if it names no scheme.

    Raises ConfigError for what is neither a URL nor a host, such as a path, two words, or `*.example.com`.
    """
    text = what.strip()
    scheme = _SCHEME.match(text)
    rest = text[scheme.end() :] if scheme else text
    place = re.split(r"[/\\?#]", rest, maxsplit=1)[0]
    # The parser of URLs, made for browsers, skips slashes, tabs and what stands before an @: a typing error.
    found = []
    if place and not re.search(r"\s|:$", place) and (scheme or "@" not in place):
        found = [canonicalize(text)] if scheme else [canonicalize(f"{s}://{text}") for s in ("https", "http")]
    urls = tuple(dict.fromkeys(url for url in found if url))
    if not urls:
        raise ConfigError(
            f"{what!r} names no host and no http or https URL: give one such as example.com or "
            "https://example.com/page"
        )
    return urls


def host_named(what: str) -> str:
    """The host that `what` is, or is a URL of; with all its ports. Raises ConfigError."""
    return locate(urls_named(what)[0]).host


def names_of(what: str) -> tuple[str, ...]:
    """What `what` stands for: a host if it is no more than a name or a name with a port, else URLs.

    Raises ConfigError.
    """
    urls = urls_named(what)
    alone = not _SCHEME.match(what.strip()) and urls[0].count("/") == 3 and urls[0].endswith("/")
    return (locate(urls[0]).host,) if alone else urls
