"""What a URL asks for, which page it means, and where in the frontier that lives.

Its address is what a browser makes of it (the WHATWG URL standard, by Ada), less credentials, fragment and
the dot after a host: it is asked for as it was linked, and robots rules speak of that. Its canonical form
tells pages apart. It lacks what says nothing about the page: escapes of characters that need none, the order
of the query and its tracking parameters.
"""

import hashlib
import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ada_url import join_url, normalize_url

if TYPE_CHECKING:
    from tldextract import TLDExtract

# The limit of sitemaps.org for a URL.
MOST_CHARACTERS = 2048
# Characters of a name in DNS; Ada lets longer ones pass.
_LONGEST_HOST = 253
_DOMAINS_REMEMBERED = 100_000
# A page of docs.python.org has 210, six in seven of them seen before.
_LINKS_REMEMBERED = 1 << 15
_TRACKING = re.compile(
    r"(utm_\w+|fbclid|gclid|dclid|msclkid|yclid|igshid|mc_[ce]id|_hs(enc|mi)|ref_src|ref_url)(=|$)",
    re.IGNORECASE,
)
# DNS takes any bytes (RFC 2181, section 11), browsers a hyphen at either end.
_LABEL = r"[a-z0-9_-]{1,63}"
# Of what the parser returns: a name that DNS could know or an address, and a port that somebody can have.
_PARSED = re.compile(
    rf"(https?://)(?:[^/?#]*@)?((?:{_LABEL}\.)*{_LABEL}|\[[0-9a-f:]+\])\.?(:[1-9][0-9]*)?"
    r"(/[^?#]*(?:\?[^#]*)?)(?:#.*)?"
)
# An escape, a % that is none, and what the standard leaves as it is but other parsers choke on.
_ODD = re.compile(r"%(?:([0-9A-Fa-f]{2})|)|[\[\\\]^`{|}]")
# Without any of these an address is canonical.
_NOT_CANONICAL = re.compile(r"[?#%\[\\\]^`{|}]")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_PLAIN_PATH = r"[A-Za-z0-9._~!$&'()*+,=@/-]*"
_PLAIN = re.compile(
    rf"https?://((?:{_LABEL}\.)*[a-z][a-z0-9_-]{{0,62}})/{_PLAIN_PATH}(?:\?[A-Za-z0-9._~!$&()*+,;=:@/?%-]*)?"
)
_PLAIN_LINK = re.compile(rf"(/|(?:\.\./)*)([A-Za-z0-9_~-]{_PLAIN_PATH})")


class Address(NamedTuple):
    """Where a URL lives in the frontier."""

    host: str
    """Host name or address, without port: the unit of politeness, whatever its ports serve."""
    member: str
    """Origin, path and query; the origin is scheme:port less what is usual: nothing, `http:`, `http:8080`."""


def address(url: str, base: str | None = None) -> str | None:
    """What to ask for at `url`, relative to `base`; None if it is no http(s) URL a crawler can use."""
    if len(url) > MOST_CHARACTERS:
        return None
    plain = _PLAIN.fullmatch(url)
    # So are most. To see that takes 2 µs, to parse and check them 8.
    if plain and len(plain[1]) <= _LONGEST_HOST and "/." not in url and "xn--" not in url:
        return url
    if not url.isascii():
        url = _SURROGATES.sub("\ufffd", url)
    try:
        parsed = _PARSED.fullmatch(normalize_url(url) if base is None else join_url(base, url))
    except ValueError:
        return None
    if parsed is None or len(parsed[2]) > _LONGEST_HOST:
        return None
    found = "".join(parsed.groups(""))
    return found if len(found) <= MOST_CHARACTERS else None


def canonical(address: str) -> str:
    """What all addresses of a page have in common. What follows a `#`, a spider's, stays."""
    if not _NOT_CANONICAL.search(address):
        return address
    page, mark, ours = address.partition("#")
    place, _, query = page.partition("?")
    path = place.index("/", len("https://"))
    place = place[:path] + _ODD.sub(_escaped, place[path:])
    parameters = _ODD.sub(_escaped, query).split("&")
    query = "&".join(sorted(kept for kept in parameters if kept and not _TRACKING.match(kept)))
    return f"{place}{query and '?'}{query}{mark}{ours}"


def canonicalize(url: str, base: str | None = None) -> str | None:
    """The canonical form of `url`, relative to `base`; None if it has no address."""
    found = address(url, base)
    return found and canonical(found)


def _escaped(odd: re.Match[str]) -> str:
    """Itself for an escape of an unreserved character (RFC 3986, section 6.2), else its escape."""
    if odd[1] is None:
        return f"%{ord(odd[0]):02X}"
    character = chr(int(odd[1], 16))
    return character if _UNRESERVED.match(character) else odd[0].upper()


@lru_cache(_LINKS_REMEMBERED)
def resolve(href: str, folder: str) -> str | None:
    """`address(href, folder)` for the address `folder`, one that ends in a slash.

    Pages of a site have most of their links in common, and most of the others are plain: to join those takes
    2 µs, to parse them 8.
    """
    plain = _PLAIN_LINK.fullmatch(href)
    if not plain or "/." in plain[2] or "//" in plain[2] or len(folder) + len(href) > MOST_CHARACTERS:
        return address(href, folder)
    up, path = plain.groups()
    origin = folder.index("/", len("https://"))
    end = origin if up == "/" else len(folder) - 1
    for _ in range(up.count("../")):
        end = max(origin, folder.rfind("/", 0, end))
    return f"{folder[: end + 1]}{path}"


def fingerprint(address: str, key: bytes = b"") -> int:
    """64-bit BLAKE2b of the page at `address`, of its canonical form; keyed if there is a `key`."""
    page = canonical(address).encode()
    return int.from_bytes(hashlib.blake2b(page, digest_size=8, key=key).digest(), "big")


def locate(address: str) -> Address:
    """Where an address lives in the frontier; `url_at` is its inverse."""
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    port = ""
    if ":" in host and not host.endswith("]"):
        host, _, port = host.rpartition(":")
    origin = f"{'' if scheme == 'https' else scheme}:{port}" if port or scheme != "https" else ""
    return Address(host, f"{origin}{slash}{path}")


def url_at(host: str, member: str) -> str:
    """The address that lives at `host` and `member`."""
    if member.startswith("/"):
        return f"https://{host}{member}"
    origin, _, path = member.partition("/")
    scheme, _, port = origin.partition(":")
    return f"{scheme or 'https'}://{host}{port and ':'}{port}/{path}"


@lru_cache(maxsize=_DOMAINS_REMEMBERED)
def domain(host: str) -> str:
    """The registrable domain of a host: what somebody could have registered, one label below a public suffix.

    By the Public Suffix List, as packed in tldextract, with its private part (each site of github.io is one
    of its own) and its rule for what it does not know, `*`: any last label is a suffix. An address, a public
    suffix and a name without dots are their own.
    """
    name = host if host.startswith("[") else host.partition(":")[0]
    found = _suffixes().extract_str(name)
    if found.top_domain_under_public_suffix:
        return found.top_domain_under_public_suffix
    labels = name.split(".")
    if found.suffix or len(labels) < 3 or labels[-1].isdigit() or name.startswith("["):
        return name
    return ".".join(labels[-2:])


@cache
def _suffixes() -> "TLDExtract":
    from tldextract import TLDExtract  # when it is first needed: it takes 50 ms to load

    # The list it was packed with; nothing is downloaded.
    return TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)
