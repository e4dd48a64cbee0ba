"""A web on loopback, half of it hostile: `python -m bench.hostile_web good|hostile PORT OUTWARD LOG`.

Names end in .test. `good0.test` to `good39.test` are sites of real prose without end, each at an address of
its own. All others are hostile: a domain's name without digits says what it does (`KINDS`), for itself and
for any subdomain. Everything follows from host and path, so that two crawls meet the same web. Whatever is
asked is written to the log first: the crawl's own count of what it sent is compared with that.
"""

import asyncio
import gzip
import json
import re
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

GOOD_HOSTS = 40
# Registrable domains of each hostile kind; subdomains beyond number.
_DOMAINS = 2
_ADDRESSES = 60  # that the hostile hosts are spread over, as if they were at many hosters
_BLOCK = 64 << 10  # bytes written at once
_HANG_SECONDS = 5.0  # of a lookup whose name servers are silent: what resolvers take until they give up
_REQUEST = re.compile(rb"GET (\S+) .*?\r\nHost: ([^\r:]+)", re.DOTALL | re.IGNORECASE)
Send = Callable[[bytes], Awaitable[None]]
Kind = Callable[["Asked", Send], Awaitable[None]]


class Asked:
    """One request, the random numbers that follow from it, and the port all hosts are at."""

    def __init__(self, host: str, path: str, port: int) -> None:
        self.host, self.path, self.port = host, path, port
        self.domain = ".".join(host.split(".")[-2:])
        self.random = Random(host + path)

    def name(self) -> str:
        return f"{self.random.getrandbits(40):010x}"

    def url(self, host: str, path: str = "") -> str:
        return f"http://{host}:{self.port}/{path or self.random.randrange(10**6)}"

    def own(self, n: int = 3) -> list[str]:
        """Links that keep a crawler: further pages of the host, and hosts of the domain it has not seen."""
        return [f"/{self.random.randrange(10**6)}" for _ in range(n)] + [
            self.url(f"s{self.random.randrange(10**6)}.{self.domain}") for _ in range(n)
        ]


def kind_of(host: str) -> str:
    """What a name does: its domain without digits; empty if there is no such name."""
    name, _, suffix = host.removesuffix(".").rpartition(".")
    kind = re.sub(r"\d+$", "", name.rpartition(".")[2])
    exists = suffix == "test" and kind in ("good", *KINDS) and "gone" not in host
    return kind if exists else ""


def look_up(host: Any, port: Any = None, *_: Any, **__: Any) -> list[Any]:
    """Stand in for `socket.getaddrinfo`: nobody's name server is asked."""
    name = host.decode() if isinstance(host, bytes) else str(host)
    found = kind_of(name)
    if name.endswith(("silent.test", "broken.test")):
        time.sleep(_HANG_SECONDS if name.endswith("silent.test") else 0.0)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    if not found:
        return _numeric(name, port, 0, 0, 0, socket.AI_NUMERICHOST)
    at = int(re.sub(r"\D", "", name) or 0) % GOOD_HOSTS if found == "good" else chosen(name) % _ADDRESSES
    address = f"127.9.{0 if found == 'good' else 1}.{at + 1}"
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


def chosen(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest())


_numeric = socket.getaddrinfo


@cache
def _chain() -> tuple[dict[str, list[str]], list[str]]:
    """Words that follow a word in our docs, and those that begin a sentence."""
    following: dict[str, list[str]] = {}
    for page in sorted((Path(__file__).parents[1] / "docs").glob("*.md")):
        for line in re.findall(r"^[A-Z][^|`<>\n]{150,}$", page.read_text(), re.MULTILINE):
            for first, second in pairwise(line.split()):
                following.setdefault(first, []).append(second)
    return following, [word for word in following if word.istitle() and word.isalpha()]


def text(asked: Asked, words: int) -> list[str]:
    """Paragraphs nobody has written: new text, so that a page is worth what a good one is."""
    following, starts = _chain()
    parts = []
    for _ in range(words // 50):
        part = [asked.random.choice(starts)]
        while len(part) < 50 or not part[-1].endswith("."):
            part.append(asked.random.choice(following.get(part[-1], starts)))
        parts.append(" ".join(part))
    return parts


def html(asked: Asked, links: list[str], words: int = 350) -> bytes:
    """A page in English that no other is like, its links in its sentences."""
    parts = text(asked, words)
    for number, link in enumerate(links):
        parts[number % len(parts)] += (
            f' What follows from it is in <a href="{link}">part {number}</a> of this.'
        )
    title = f"{asked.host}{asked.path}"
    body = "".join(f"<p>{part}</p>" for part in parts)
    head = f'<html lang="en"><head><title>{title}</title></head><body><main><h1>{title}</h1>'
    return f"{head}{body}</main></body></html>".encode()


def answer(body: bytes = b"", *, status: int = 200, **headers: str) -> bytes:
    lines = {"Content_Type": "text/html; charset=utf-8", "Content_Length": str(len(body))} | headers
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} .\r\n{head}\r\n".encode() + body


def packed(body: bytes, content_type: str = "text/html") -> bytes:
    return answer(gzip.compress(body, 6), Content_Encoding="gzip", Content_Type=content_type)


def moved(to: str) -> bytes:
    return answer(status=302, Location=to)


# What hostile hosts do


async def farm(asked: Asked, send: Send) -> None:
    """Links to 40 subdomains nobody has seen, in real prose."""
    await send(answer(html(asked, [asked.url(f"{asked.name()}.{asked.domain}") for _ in range(40)])))


async def names(asked: Asked, send: Send) -> None:
    """Nearly two thousand links to names that do not exist, of its own domain and of as many others."""
    ends = (f".gone.{asked.domain}", "-gone.test", "-silent.test", "-broken.test")
    # Of ten names four are its own, six are domains; of one the lookup hangs, of one the name server fails.
    shares = (ends[0],) * 4 + (ends[1],) * 4 + ends[2:]
    links = [asked.url(asked.name() + shares[n % len(shares)], "x") for n in range(1990)]
    await send(answer(html(asked, [*asked.own(), *links])))


async def tags(asked: Asked, send: Send) -> None:
    """2,000 links below sixty elements whose names have 700 letters."""
    await send(packed(_tags() + html(asked, asked.own(), 100)))


@cache
def _tags() -> bytes:
    nested = "".join(f"<x{'y' * 700}{n}>" for n in range(60))
    return (nested + "".join(f"<a href=/{n}>a</a>" for n in range(2000))).encode()


async def nested(asked: Asked, send: Send) -> None:
    """Lists in lists a hundred thousand deep, and other ways to keep a parser."""
    shapes = (
        b"<ul><li>" * 100_000,
        b"<blockquote>" * 200_000,
        b"<table><tr><td>" * 100_000,
        b"<p " + b"".join(b"a%d " % number for number in range(300_000)) + b">x",
    )
    await send(packed(html(asked, asked.own(), 100) + shapes[chosen(asked.path) % len(shapes)]))


async def agents(asked: Asked, send: Send) -> None:
    """A robots.txt of 512 KiB: agents times rules, or agents times uses."""
    await send(
        _agents(chosen(asked.host) % 2) if asked.path == "/robots.txt" else answer(html(asked, asked.own()))
    )


@cache
def _agents(of_uses: int) -> bytes:
    many = "".join(f"User-agent: a{n}\n" for n in range(16_000))
    uses = ", ".join(f"c{n}=n" for n in range(16))
    lines = (f"Content-Usage: /{n} {uses}\n" if of_uses else f"Disallow: /{n}\n" for n in range(20_000))
    return packed((many + "".join(lines))[: 512 << 10].encode(), "text/plain")


async def rules(asked: Asked, send: Send) -> None:
    """A robots.txt of 27,000 rules that hold, and 2,000 sitemaps of others."""
    await send(_rules() if asked.path == "/robots.txt" else answer(html(asked, asked.own())))


@cache
def _rules() -> bytes:
    maps = "".join(f"Sitemap: http://{n}-gone.test/sitemap.xml\n" for n in range(2000))
    disallowed = "".join(f"Disallow: /x{n}\n" for n in range(27_000))
    return packed((f"{maps}User-agent: *\n{disallowed}")[: 512 << 10].encode(), "text/plain")


async def sends(asked: Asked, send: Send) -> None:
    """Every robots.txt is said to be at a good host, each time at another address there, or at a slow one."""
    place = f"good{asked.random.randrange(GOOD_HOSTS)}" if asked.random.random() < 0.8 else "drip1"
    to = asked.url(f"{place}.test", f"search?q={asked.name()}")
    await send(moved(to) if asked.path == "/robots.txt" else answer(html(asked, asked.own())))


async def drip(_asked: Asked, send: Send) -> None:
    """A byte a second, of any file."""
    await send(b"HTTP/1.1 200 .\r\nContent-Type: text/html\r\nContent-Length: 5000\r\n\r\n")
    for _ in range(600):
        await send(b"x")
        await asyncio.sleep(1)


async def mute(_asked: Asked, _send: Send) -> None:
    """Takes the request and never answers."""
    await asyncio.sleep(600)


async def bomb(asked: Asked, send: Send) -> None:
    """A gigabyte of nothing in a megabyte, packed twice every other time."""
    body, times = (_zeros(), 1) if chosen(asked.path) % 2 else (gzip.compress(_zeros()), 2)
    await send(answer(body, Content_Encoding=", ".join(["gzip"] * times)))


@cache
def _zeros() -> bytes:
    pieces, block = [], bytes(1 << 24)
    member = gzip.compress(block)
    pieces += [member] * 64
    return b"".join(pieces)


async def huge(asked: Asked, send: Send) -> None:
    """Forty megabytes, whose length is told or not."""
    told = b"Content-Length: 41943040\r\n" if chosen(asked.path) % 2 else b"Connection: close\r\n"
    await send(b"HTTP/1.1 200 .\r\nContent-Type: text/html\r\n" + told + b"\r\n" + html(asked, asked.own()))
    for _ in range(640):
        await send(b"<p>word word</p>".ljust(_BLOCK))


async def calendar(asked: Asked, send: Send) -> None:
    """Days without end, each in views without end."""
    day = asked.random.randrange(10**6)
    view = asked.path + ("&" if "?" in asked.path else "?")
    await send(
        answer(html(asked, [f"/{day + n}" for n in range(20)] + [f"{view}view={n}" for n in range(20)], 100))
    )


async def loops(asked: Asked, send: Send) -> None:
    """Redirects to more of themselves, also of robots.txt."""
    await send(moved(asked.random.choice(asked.own())))


async def ports(asked: Asked, send: Send) -> None:
    """One machine that asks for 5 s between requests, linked at every port there is, most of them closed."""
    if asked.path == "/robots.txt":
        await send(answer(b"User-agent: *\nCrawl-delay: 5\n", Content_Type="text/plain"))
        return
    links = [f"http://{asked.domain}:{asked.port + n}/{asked.name()}" for n in range(10) for _ in range(3)]
    await send(answer(html(asked, [*asked.own(), *links])))


async def liar(asked: Asked, send: Send) -> None:
    """Says what is not so: of its encoding, its type, its length, and that it is HTTP."""
    body = html(asked, asked.own(), 100)
    lies = (
        answer(body, Content_Encoding="gzip"),
        answer(body, Content_Encoding=", ".join(["gzip"] * 20)),
        answer(body, Content_Type="text/html; charset=utf-16"),
        answer(gzip.compress(body)[:-9], Content_Encoding="gzip"),
        answer(bytes(range(256)) * 2000, Content_Type="text/html; charset=x-nothing"),
        answer(b"<urlset>" + b"<url><loc>http://1-gone.test/</loc></url>" * 50_000, Content_Type="text/xml"),
        answer(body, Content_Length=str(len(body) + 9), Connection="close"),
        b"\x16\x03\x01 no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 .\r\n" + b"X: y\r\n" * 100_000,
        b"HTTP/1.1 103 .\r\n\r\n" * 100_000 + answer(body),
        b"HTTP/1.1 200 .\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 500_000 + b"0\r\n\r\n",
        answer(
            b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><rss>&b;</rss>", Content_Type="text/xml"
        ),
    )
    await send(lies[chosen(asked.path) % len(lies)])


async def regex(asked: Asked, send: Send) -> None:
    """Text on which careless expressions need days: a heading and a million spaces, signs in a row."""
    words = "\n\n".join(text(asked, 300))
    tails = (
        "# a" + " " * 1_000_000 + "y",
        "`" * 500_000,
        "a(" * 300_000,
        "# " * 500_000 + "y",
        ".)" * 300_000,
    )
    await send(
        answer(
            f"{words}\n\n{tails[chosen(asked.path) % len(tails)]}\n\n{words}".encode(),
            Content_Type="text/plain",
        )
    )


async def busy(_asked: Asked, send: Send) -> None:
    """Wants to be asked again in thirty years."""
    await send(answer(status=429, Retry_After="1000000000"))


KINDS: dict[str, Kind] = {
    one.__name__: one
    for one in (
        farm, names, tags, nested, agents, rules, sends, drip, mute, bomb, huge, calendar, loops, ports, liar,
        regex, busy,
    )
}  # fmt: skip


async def good(asked: Asked, send: Send, outward: str) -> None:
    """A page with ten links of its site, one to another good one, and one outward."""
    choose = asked.random
    links = [f"/{choose.randrange(10**6)}" for _ in range(10)]
    links.append(asked.url(f"good{choose.randrange(GOOD_HOSTS)}.test"))
    number = choose.randrange(_DOMAINS)
    kind = choose.choice(outward.split(","))
    if kind == "good":
        links.append(asked.url(f"good{choose.randrange(GOOD_HOSTS)}.test"))
    elif kind == "dead":
        links.append(asked.url(f"dead{choose.randrange(1000)}-gone.test", "x"))
    else:
        links.append(asked.url(f"{kind}{number}.test"))
    await send(answer(html(asked, links)))


# Serving


async def serve(which: str, port: int, outward: str, log: Path) -> None:
    """Answer on the addresses of `which`, until the process is killed."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            while found := _REQUEST.match(await reader.readuntil(b"\r\n\r\n")):
                path, host = found.groups()
                asked = Asked(host.decode().lower(), path.decode("latin-1"), port)
                file.write(json.dumps([time.time(), asked.host, asked.path]) + "\n")
                kind = kind_of(asked.host)
                if asked.path == "/robots.txt" and kind not in (
                    "agents",
                    "rules",
                    "sends",
                    "ports",
                    *_ANY_FILE,
                ):
                    await send(answer(status=404))
                elif kind == "good":
                    await good(asked, send, outward)
                else:
                    await KINDS[kind](asked, send)
                if kind in ("huge", "liar"):  # whose answers may end only with the connection
                    return
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    with log.open("a", buffering=1) as file:
        for address in range(GOOD_HOSTS if which == "good" else _ADDRESSES):
            at = f"127.9.{0 if which == 'good' else 1}.{address + 1}"
            for number in range(1 if which == "good" else 3):
                await asyncio.start_server(connected, at, port + number)
        log.with_name(f"{log.name}.ready").touch()
        await asyncio.Event().wait()


_ANY_FILE = ("drip", "mute", "loops", "busy")  # that do to robots.txt what they do to all

if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])))
