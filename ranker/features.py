"""What is known of a URL from its own letters and from the link that led to it: groups and words.

A group is a set of URLs that tend to be worth the same: those of a host, of a directory, with a like file
name. Groups and words are known by hashes below `SLOTS`, so tables over them have a fixed size, however large
the web is (the hashing trick, Weinberger et al. 2009).
"""

import re
from typing import NamedTuple
from zlib import crc32

# Hashes are below this; it is also the slot that stands for "none". The promise's five tables: 42 MB.
SLOTS = 1 << 21
# Names of a URL's groups: the first six each within the one before, the last three of all hosts.
GROUPS = (
    "host",
    "directory, 1 deep",
    "directory, 2 deep",
    "directory, 3 deep",
    "directory and first word of the file",
    "directory and first words of the file",
    "host and pattern of the file",
    "last directory, of any host",
    "first word of the file, on any host",
    "end of the file, on any host",
)
# At most so many words a URL: the last of its path, the first of the link's text, and one that says where in
# its page the link stands (its innermost tags). Each costs 4 bytes a queued URL.
_URL_WORDS, _ANCHOR_WORDS, _TAGS = 7, 4, 3
WORDS = _URL_WORDS + _ANCHOR_WORDS + 1
# Letters of a word that count, so that its forms are one.
_LONGEST_WORD = 12
_DIGITS = re.compile(r"\d+")
_LETTERS = re.compile(r"[A-Za-z]{2,}")
_SEPARATOR = re.compile(r"[-_.?=&]")
_URL_WORD = re.compile(r"[a-z]+|\d+")
_ANCHOR_WORD = re.compile(r"\w+")


class Features(NamedTuple):
    """What is known of a URL when it is discovered."""

    host: str
    groups: list[int]
    words: list[int]
    letters: int
    segments: int


def describe(url: str, host: str, anchor: str = "", tag_path: str = "") -> Features:
    """The features of `url`, which is at `host`, found by a link with this text at this place of its page."""
    return Features(host, groups(url, host), words(url, host, anchor, tag_path), len(url), url.count("/") - 2)


def groups(url: str, host: str) -> list[int]:
    """The group of GROUPS that `url`, which is at `host`, is in, for each of them."""
    path = url.partition(f"://{host}/")[2]
    path, _, query = path.partition("?")
    *directories, file = path.split("/")
    stem, _, ending = file.rpartition(".")
    words = _SEPARATOR.split(stem or ending)
    parameters = "&".join(field.partition("=")[0] for field in query.split("&")) if query else ""
    plain = _DIGITS.sub("0", f"{file}?{parameters}" if query else file)
    folder = f"{host}/{'/'.join(directories)}"
    return [
        slot(name)
        for name in (
            f"host {host}",
            *(f"{depth} {host}/{'/'.join(directories[:depth])}" for depth in (1, 2, 3)),
            f"first {folder}/{words[0]}",
            f"firsts {folder}/{'.'.join(words[:2])}",
            f"pattern {host} {_LETTERS.sub('a', plain)}",
            f"last {directories[-1] if directories else ''}",
            f"stem {_DIGITS.sub('0', words[0]).lower()}",
            f"end {'.'.join(_SEPARATOR.split(plain.lower())[-2:])}",
        )
    ]


def words(url: str, host: str, anchor: str = "", tag_path: str = "") -> list[int]:
    """At most WORDS words: of the URL's path and of the link's text, and where in its page that stands."""
    path = url.partition(f"://{host}/")[2].lower()
    found = (word[:_LONGEST_WORD] if word.isalpha() else "0" for word in _URL_WORD.findall(path))
    names = [f"u {word}" for word in list(dict.fromkeys(found))[-_URL_WORDS:]]
    anchor_words = dict.fromkeys(_ANCHOR_WORD.findall(anchor.lower()))
    names += [f"a {word[:_LONGEST_WORD]}" for word in list(anchor_words)[:_ANCHOR_WORDS]]
    if tag_path:
        names.append(f"t {'/'.join(tag_path.split('/')[-_TAGS:])}")
    return [slot(name) for name in names]


def slot(name: str) -> int:
    """The hash of `name`, below SLOTS."""
    return crc32(name.encode()) % SLOTS
