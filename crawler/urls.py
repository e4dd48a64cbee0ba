"""URL identity: which strings mean the same page, and where in the frontier a page lives.

Canonical form: scheme and host in lower case, IDNA (as browsers: UTS 46, so ß is not ss), numeric hosts in
their usual notation, no default port, no credentials, dot segments resolved, percent-encoding normalised
(RFC 3986, section 6.2), no fragment, query sorted and without tracking parameters. What people's HTML has in
it is read as browsers read it (WHATWG URL): backslashes are slashes, tabs and line breaks are nothing,
`http:/host` has a host.
"""

import hashlib
import re
import socket
from functools import cache, lru_cache
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

import idna

if TYPE_CHECKING:
    from tldextract import TLDExtract

MOST_CHARACTERS = 2048
_DOMAINS_REMEMBERED = 100_000
_LINKS_REMEMBERED = 1 << 15
_TRACKING = re.compile(
    r"(utm_\w+|fbclid|gclid|dclid|msclkid|yclid|igshid|mc_[ce]id|_hs(enc|mi)|ref_src|ref_url)(=|$)",
    re.IGNORECASE,
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LONGEST_ORIGIN = len("http://") + 253
_SAFE_PATH = "/~!$&'()*+,;=:@-._%"
_SAFE_QUERY = _SAFE_PATH.replace("'", "") + "?"
_ESCAPE = re.compile(r"%(?:([0-9A-Fa-f]{2})|)")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$")
_IGNORED = {ord(character): None for character in "\t\n\r"}
_ENDS = "".join(map(chr, range(0x21)))
_SCHEME = re.compile(r"(https?):(/*)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"((?:https?:)?/{2,})[^/?#]*@(?=[^/?#])", re.IGNORECASE)
_EMPTY_HEX = re.compile(r"0x(?=\.|$)")
_SLASHES = re.compile(r"^/{3,}")
_PLAIN_PATH, _PLAIN_QUERY = r"[A-Za-z0-9._~!$&'()*+,=@/-]*", r"""(?:\?([!-"$-~]*))?"""
_PLAIN = re.compile(
    rf"(https?://(?:{_LABEL}\.)*[a-z](?:[a-z0-9_-]{{0,61}}[a-z0-9_])?)(/{_PLAIN_PATH})?{_PLAIN_QUERY}"
)
_PLAIN_LINK = re.compile(rf"(/|(?:\.\./)*)([A-Za-z0-9_~-]{_PLAIN_PATH}){_PLAIN_QUERY}")


class Address(NamedTuple):
    """Where a URL lives in the frontier."""

    host: str
    """Host name, with the port if it is not the scheme's own: the unit of politeness."""
    member: str
    """Path and query; `http:` in front unless the scheme is https."""


def canonicalize(url: str, base: str | None = None) -> str | None:
    """The canonical form of `url`, relative to `base`; None if it is no http(s) URL a crawler can use."""
    if len(url) > MOST_CHARACTERS:
        return None
    if (plain := _PLAIN.fullmatch(url)) and len(plain[1]) < _LONGEST_ORIGIN and "/." not in url:
        return _with_query(plain[1] + (plain[2] or "/"), plain[3])
    try:
        parts = urlsplit(_absolute(_as_browsers_read(url), base))
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            return None
        port = parts.port
        host = _ipv6(parts.hostname) if "[" in parts.netloc else _ascii_host(parts.hostname)
    except ValueError:
        return None
    if host is None or port == 0:
        return None
    netloc = host if port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{host}:{port}"
    path, query = _canonical_path(parts.path), _canonical_query(parts.query)
    canonical = urlunsplit((parts.scheme, netloc, path, query, ""))
    return canonical if len(canonical) <= MOST_CHARACTERS else None


@lru_cache(_LINKS_REMEMBERED)
def resolve(href: str, folder: str) -> str | None:
    """`canonicalize(href, folder)` for a canonical `folder`, one that ends in a slash, and short work of it.

    Pages of a site have most of their links in common, and of a page's links most are plain.
    """
    plain = _PLAIN_LINK.fullmatch(href)
    if not plain or "/." in plain[2] or "//" in plain[2] or folder.count("//") > 1:
        return canonicalize(href, folder)
    up, path, query = plain.groups()
    origin = folder.index("/", len("https://"))
    end = origin if up == "/" else len(folder) - 1
    for _ in range(up.count("../")):
        end = max(origin, folder.rfind("/", 0, end))
    return _with_query(f"{folder[: end + 1]}{path}", query)


def _with_query(url: str, query: str | None) -> str | None:
    if query and (query := _canonical_query(query)):
        url = f"{url}?{query}"
    return url if len(url) <= MOST_CHARACTERS else None


def _as_browsers_read(url: str) -> str:
    url = url.translate(_IGNORED).strip(_ENDS)
    address, mark, rest = re.match(r"([^?#]*)([?#]?)(.*)", url, re.DOTALL).groups()  # type: ignore[union-attr]
    return address.replace("\\", "/") + mark + rest


def _absolute(url: str, base: str | None) -> str:
    if credentials := _CREDENTIALS.match(url):
        url = credentials[1] + url[credentials.end() :]
    if match := _SCHEME.match(url):
        scheme, slashes = match.groups()
        rest = url[match.end() :]
        if base is None or len(slashes) > 1 or not base.startswith(f"{scheme.lower()}:"):
            return f"{scheme}://{rest}"
        url = slashes + rest
    return urljoin(base, _SLASHES.sub("//", url)) if base else url


def _ascii_host(host: str) -> str | None:
    host = unquote(host, errors="replace")
    if not host.isascii():
        labels = idna.uts46_remap(host, std3_rules=False).split(".")
        host = ".".join(
            label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels
        )
    host = host.lower().rstrip(".")
    if _NUMBER.search(host):
        return _ipv4(host)
    return host if _HOST.fullmatch(host) and len(host) <= 253 else None


def _ipv6(host: str) -> str | None:
    return None if "%" in host else f"[{IPv6Address(host).compressed}]"


def _ipv4(host: str) -> str | None:
    """A host that ends in a number is an IPv4 address, in whatever notation, or nothing."""
    try:
        return socket.inet_ntoa(socket.inet_aton(_EMPTY_HEX.sub("0", host)))
    except OSError:
        return None


def _canonical_path(path: str) -> str:
    return _without_dot_segments(_normalized(path, _SAFE_PATH)) or "/"


def _without_dot_segments(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")[1:]
    for position, segment in enumerate(segments):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
        if segment in (".", "..") and position == len(segments) - 1:
            kept.append("")
    return "/" + "/".join(kept)


def _canonical_query(query: str) -> str:
    parameters = [_normalized(parameter, _SAFE_QUERY) for parameter in query.split("&")]
    return "&".join(sorted(kept for kept in parameters if kept and not _TRACKING.match(kept)))


def _normalized(text: str, safe: str) -> str:
    """`text` with unreserved characters as they are, and every escape in upper case."""
    return _ESCAPE.sub(_normal_escape, quote(text, safe, errors="replace"))


def _normal_escape(match: re.Match[str]) -> str:
    if match[1] is None:
        return "%25"
    character = chr(int(match[1], 16))
    return character if _UNRESERVED.match(character) else match[0].upper()


def fingerprint(canonical_url: str) -> int:
    """64-bit BLAKE2b of a canonical URL."""
    return int.from_bytes(hashlib.blake2b(canonical_url.encode(), digest_size=8).digest(), "big")


def locate(canonical_url: str) -> Address:
    """The frontier's address of a canonical URL; `url_at` is its inverse."""
    scheme, _, rest = canonical_url.partition("://")
    host, slash, path = rest.partition("/")
    member = slash + path
    return Address(host, member if scheme == "https" else f"http:{member}")


def url_at(host: str, member: str) -> str:
    """The canonical URL that lives at `host` and `member`."""
    if member.startswith("/"):
        return f"https://{host}{member}"
    scheme, _, path = member.partition(":")
    return f"{scheme}://{host}{path}"


@lru_cache(maxsize=_DOMAINS_REMEMBERED)
def domain(host: str) -> str:
    """The registrable domain of a host (Public Suffix List, as packed in tldextract), or the host itself."""
    name = host.partition(":")[0]
    return _suffixes().extract_str(name).top_domain_under_public_suffix or name


@cache
def _suffixes() -> "TLDExtract":
    """Loaded when it is first wanted: who only keeps a frontier needs none. Nothing is downloaded."""
    from tldextract import TLDExtract

    return TLDExtract(suffix_list_urls=(), cache_dir=None, include_psl_private_domains=True)
