"""Dumps of wikis: HTML as Wikimedia Enterprise has it, ZIM files of Kiwix, MediaWiki's XML for want of them.

HTML goes the way of fetched pages. Wikitext goes to the extraction children too, under a media type of its
own, so that a page that takes long costs itself alone, and all cores are used.
"""

import codecs
import json
import re
import tarfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from lxml import etree

from crawler.archives.packed import AT_ONCE, LONGEST_LINE, has_streams, lines, streams, unpacked
from crawler.archives.records import Archived, Record
from crawler.archives.wikitext import MEDIA_TYPE
from crawler.errors import SeedError
from crawler.seeds.seed import Progress
from tinylm.records import MALFORMED

_PAGE, _BASE, _END = b"page", b"base", b"</mediawiki>"
_BEGIN = re.compile(rb"<(page|base)>")
# The largest articles of Wikipedia have 2 MB.
_LONGEST_PAGE = 16 << 20
_HTML = (("content-type", "text/html; charset=utf-8"),)
_WIKITEXT = (("content-type", f"{MEDIA_TYPE}; charset=utf-8"),)


def read_dump(place: str, position: str, progress: Progress) -> Iterator[Record]:
    """Articles of a dump, of either form: its first byte tells. Raises SeedError."""
    path = Path(place)
    if path.name.endswith((".tar.gz", ".tgz", ".tar")):
        yield from _read_html(_lines_of_tar(path, _tell(path, progress)), position, progress)
        return
    with closing(_pieces(path, lambda _: None, Progress())) as pieces:
        first = next(pieces, b"").lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1]
    if first == b"<":
        yield from _read_xml(path, position, progress)
    elif first == b"{":
        yield from _read_html(lines(path, 0, _tell(path, progress)), position, progress)
    else:
        raise SeedError(f"{path}: neither MediaWiki's XML nor articles as JSON, one a line")


def _tell(path: Path, progress: Progress) -> Callable[[int], None]:
    progress.unit, progress.total = "bytes", path.stat().st_size

    def tell(read: int) -> None:
        progress.done = read

    return tell


def _lines_of_tar(path: Path, tell: Callable[[int], object]) -> Iterator[bytes]:
    """The lines of all files in an archive, as Wikimedia Enterprise packs its own."""
    try:
        with unpacked(path) as (stream, read), tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                file = archive.extractfile(member)
                while file and (line := file.readline(LONGEST_LINE)):
                    tell(read())
                    yield line
    except tarfile.TarError as error:
        raise SeedError(f"{path}: cut off or damaged ({error}); what came before is kept") from error


def _read_html(found: Iterator[bytes], position: str, progress: Progress) -> Iterator[Record]:
    """Articles as Wikimedia Enterprise's snapshots have them, a JSON object a line; positions count lines."""
    start = int(position or 0)
    for number, line in enumerate(islice(found, start, None), start + 1):
        try:
            article = json.loads(line)
            if article.get("namespace", {}).get("identifier", 0) != 0:
                progress.dropped["namespace"] += 1
                continue
            modified = article.get("date_modified", "")
            at = int(datetime.fromisoformat(modified).timestamp() * 1000) if modified else 0
            url, body = article["url"], article["article_body"]["html"].encode("utf-8", "replace")
            if not isinstance(url, str):
                raise TypeError("a URL that is no text")
        except MALFORMED:
            progress.dropped["bad_line"] += 1
            continue
        yield Record(Archived(url=url, status=200, headers=_HTML, body=body, at=at), str(number))


def _read_xml(path: Path, position: str, progress: Progress) -> Iterator[Record]:
    """Articles of MediaWiki's export format, without redirects; positions are numbers of pages.

    Each page is parsed by itself: what is damaged costs itself alone.
    """
    tell, base, start = _tell(path, progress), "http://wiki.invalid/wiki/", int(position or 0)
    # Entities are not expanded, nothing external is loaded, no tree is deep.
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    number = 0
    for name, part in _elements(path, _utf8(_pieces(path, tell, progress)), progress):
        try:
            element = etree.fromstring(part, parser)
        except etree.XMLSyntaxError:
            number += name == _PAGE
            progress.dropped["damaged"] += 1
            continue
        if name == _BASE:
            base = urljoin(element.text or base, ".")
            continue
        number += 1
        if number > start and (found := _page_of(element, base, progress)):
            yield Record(found, str(number))


def _pieces(path: Path, tell: Callable[[int], object], progress: Progress) -> Generator[bytes]:
    """What a file unpacks to, if that is in many streams by many threads."""
    if path.suffix == ".bz2" and has_streams(path):
        yield from streams(path, tell, progress)
        return
    with unpacked(path) as (stream, read):
        while piece := stream.read(AT_ONCE):
            tell(read())
            yield piece


def _utf8(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same, if its mark says that it is UTF-16: somebody's editor saved it so."""
    first = next(pieces, b"")
    pieces = chain([first], pieces)
    if not first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return pieces
    return (text.encode() for text in codecs.iterdecode(pieces, "utf-16", "replace"))


def _elements(path: Path, pieces: Iterator[bytes], progress: Progress) -> Iterator[tuple[bytes, bytes]]:
    """The elements of a dump that count, by name, as they stand: text has no `<`, so their tags are found.

    Raises SeedError if the end of the dump is not there.
    """
    held, whole = b"", False
    for piece in pieces:
        held += piece
        at = 0
        while begin := _BEGIN.search(held, at):
            name, start = begin[1], begin.start()
            if (end := held.find(b"</" + name + b">", start)) < 0:
                if len(held) - start <= _LONGEST_PAGE:
                    at = start
                    break
                progress.dropped["too_large"] += 1
                at = begin.end()
                continue
            if (later := held.rfind(begin[0], start + 1, end)) >= 0:  # the end of the one before is lost
                progress.dropped["damaged"] += 1
                start = later
            at = end + len(name) + 3
            yield name, held[start:at]
        else:
            whole |= held.find(_END, at) >= 0
            at = max(at, len(held) - len(_END))  # whose beginning may stand there
        held = held[at:]
    if not whole:
        raise SeedError(f"{path}: cut off, it has no </mediawiki>; what came before is kept: get it again")


def _page_of(element: Any, base: str, progress: Progress) -> Archived | None:
    def text_of(name: str) -> str:
        return str(element.findtext(f".//{name}") or "")

    if text_of("ns") not in ("0", ""):
        progress.dropped["namespace"] += 1
        return None
    if element.find("redirect") is not None:
        progress.dropped["redirect"] += 1
        return None
    title, wikitext = text_of("title"), text_of("text")
    if not title or not wikitext:
        progress.dropped["no_text"] += 1
        return None
    try:
        at = int(datetime.fromisoformat(text_of("timestamp")).timestamp() * 1000)
    except ValueError:
        at = 0
    url = base + quote(title.replace(" ", "_"), safe=":/()',;!*@$")
    return Archived(url=url, status=200, headers=_WIKITEXT, body=wikitext.encode("utf-8", "replace"), at=at)


def read_zim(place: str, position: str, progress: Progress) -> Iterator[Record]:
    """Pages of a ZIM file, by their numbers. Their addresses are those of the site that it says it is from.

    libzim is under the GPL, and loaded here only. Raises SeedError for a file that is none.
    """
    from libzim.reader import Archive

    try:
        archive = Archive(Path(place))
    except (RuntimeError, OSError) as error:
        raise SeedError(f"{place}: no ZIM file, or it is damaged ({error})") from error
    progress.unit, progress.total = "entries", archive.all_entry_count
    base, at = _origin(archive, place), _day(archive)
    for number in range(int(position or 0), archive.all_entry_count):
        progress.done = number
        try:
            entry = archive._get_entry_by_id(number)
            if entry.is_redirect:
                progress.dropped["redirect"] += 1
                continue
            item = entry.get_item()
            if not item.mimetype.startswith("text/html"):
                progress.dropped["media_type"] += 1
                continue
            url = base + quote(entry.path, safe=":/()',;!*@$?=&")
            body = bytes(item.content)
        except (RuntimeError, KeyError, IndexError):
            progress.dropped["damaged"] += 1
            continue
        yield Record(Archived(url=url, status=200, headers=_HTML, body=body, at=at), str(number + 1))


def _origin(archive: Any, place: str) -> str:
    """What addresses of pages begin with: the metadata `Source`, else the archive's name at `zim.invalid`."""
    said = _metadata(archive, "Source").strip().rstrip("/")
    if not said:
        return f"http://zim.invalid/{Path(place).stem}/"
    said = said if "://" in said else f"https://{said}"
    # Kiwix takes MediaWikis' articles from below /wiki/, and leaves that out.
    is_wiki = any(
        name in said for name in ("wikipedia.", "wiktionary.", "wikivoyage.", "wikibooks.", "wikisource.")
    )
    return f"{said}/wiki/" if is_wiki and "/wiki" not in said else f"{said}/"


def _day(archive: Any) -> int:
    try:
        return int(datetime.fromisoformat(_metadata(archive, "Date")).timestamp() * 1000)
    except ValueError:
        return 0


def _metadata(archive: Any, name: str) -> str:
    if name not in archive.metadata_keys:
        return ""
    return bytes(archive.get_metadata(name)).decode("utf-8", "replace")
