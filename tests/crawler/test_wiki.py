"""Dumps of wikis become the answers that a crawl would have had, or their text; reading goes on anywhere."""

import bz2
import gzip
import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from crawler.archives.wiki import read_dump, read_zim
from crawler.archives.wikitext import read
from crawler.errors import SeedError
from crawler.read.extract import Extractor
from crawler.seeds.seed import Progress
from tests.conftest import real
from tests.crawler.conftest import DATA

MARKUP = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|'''|<ref|^\||thumb\|", re.MULTILINE)


def records(reader, path, position=""):
    progress = Progress()
    return list(reader(str(path), position, progress)), +progress.dropped


@pytest.fixture(scope="module")
def real_dumps():
    """Dumps of English and Bulgarian Wikipedia, as gensim's wheel has them."""
    folder = Path(real("gensim").__file__).parent / "test" / "test_data"
    return {path.name[:6]: path for path in folder.glob("*wiki*.bz2") if "table" not in path.name}


def test_a_real_dump_is_read_to_prose_without_markup(real_dumps):
    found, dropped = records(read_dump, real_dumps["enwiki"])
    assert len(found) == 106
    assert dropped == {"redirect": 99, "namespace": 1}
    texts = {each.content.url: read(each.content.body.decode(), each.content.url) for each in found}
    assert [url for url, (text, _) in texts.items() if MARKUP.search(text)] == []
    text, links = texts["https://en.wikipedia.org/wiki/Anarchism"]
    assert text.startswith("Anarchism is a political philosophy")
    assert re.search(r"^## ", text, re.MULTILINE)
    assert "https://en.wikipedia.org/wiki/Political_philosophy" in {link.url for link in links}
    assert all(2010 < 1970 + each.content.at / 3.156e10 < 2018 for each in found)


def test_another_language_and_encoding_is_read_as_well(real_dumps):
    [found], _ = records(read_dump, real_dumps["bgwiki"])
    extracted = Extractor()(
        found.content.body, found.content.url, found.content.header("content-type"), False, 20
    )
    assert (extracted.language, extracted.title) == ("bg", "Григориански календар")
    assert extracted.extractor == "wikitext"
    assert extracted.text.startswith("Григорианският календар")


def test_reading_goes_on_behind_any_position(real_dumps):
    found, _ = records(read_dump, real_dumps["enwiki"])
    rest, _ = records(read_dump, real_dumps["enwiki"], found[50].position)
    assert [each.content.url for each in rest] == [each.content.url for each in found[51:]]


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_of_a_dump_that_is_cut_off_what_came_before_is_read(real_dumps, tmp_path, keep):
    data = real_dumps["enwiki"].read_bytes()
    path = tmp_path / "cut.xml.bz2"
    path.write_bytes(data[: int(keep * len(data))])
    found = []
    with pytest.raises(SeedError, match=r"cut\.xml\.bz2: .*what came before is kept"):
        found.extend(read_dump(str(path), "", Progress()))
    assert 0 < len(found) < 106


@pytest.fixture(scope="module")
def dump(real_dumps):
    """A dump's text: its head, its pages, its end."""
    text = bz2.decompress(real_dumps["enwiki"].read_bytes())
    head, *rest = text.split(b"  <page>")
    pages = [b"  <page>" + part for part in rest]
    last, _, end = pages[-1].partition(b"</page>\n")
    return head, [*pages[:-1], last + b"</page>\n"], end


def multistream(dump, each=20):
    """Packed as Wikimedia packs it: a stream for the head, for each few pages, and for the end."""
    head, pages, end = dump
    parts = [b"".join(pages[at : at + each]) for at in range(0, len(pages), each)]
    return [bz2.compress(part) for part in (head, *parts, end)]


def test_streams_of_a_dump_are_unpacked_by_themselves_and_a_damaged_one_costs_itself(dump, tmp_path):
    path = tmp_path / "x.xml.bz2"
    path.write_bytes(bz2.compress(b"".join([dump[0], *dump[1], dump[2]])))
    whole, counted = records(read_dump, path)
    streams = multistream(dump)
    path.write_bytes(b"".join(streams))
    assert records(read_dump, path) == (whole, counted)
    rest, _ = records(read_dump, path, whole[50].position)
    assert rest == whole[51:]
    broken = bytearray(streams[3])
    broken[len(broken) // 2] ^= 0xFF
    path.write_bytes(b"".join([*streams[:3], broken, *streams[4:]]))
    found, dropped = records(read_dump, path)
    assert dropped["damaged"] == 1
    lost = {each.content.url for each in whole} - {each.content.url for each in found}
    assert 0 < len(lost) <= 20
    assert len(found) == len(whole) - len(lost)
    path.write_bytes(b"".join(streams[:5]) + streams[5][:200])
    with pytest.raises(SeedError, match="cut off"):
        records(read_dump, path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_of_a_dump_nothing_is_lost_but_what_is_damaged(dump, tmp_path, suffix, monkeypatch):
    head, pages, end = dump
    pack = gzip.compress if suffix else bytes
    path = tmp_path / f"x.xml{suffix}"

    def read_of(*parts):
        path.write_bytes(pack(b"".join(parts)))
        progress, found = Progress(), []
        try:
            found.extend(read_dump(str(path), "", progress))
        except SeedError as error:
            return found, progress.dropped, str(error)
        return found, progress.dropped, ""

    whole, _, said = read_of(head, *pages, end)
    assert (len(whole), said) == (106, "")
    half = len(pages) // 2
    found, _, said = read_of(head, *pages[:half], pages[half][:-30])
    assert found == whole[: len(found)]
    assert "cut off" in said
    garbage = pages[half][:400] + b"\0\xff<&" + pages[half][400:]
    found, dropped, said = read_of(head, *pages[:half], garbage, *pages[half + 1 :], end)
    assert (len(found) >= 105, dropped["damaged"], said) == (True, 1, "")
    without_end = pages[half][:-30]
    found, dropped, said = read_of(head, *pages[:half], without_end, *pages[half + 1 :], end)
    assert (len(found) >= 105, dropped["damaged"], said) == (True, 1, "")
    monkeypatch.setattr("crawler.archives.wiki._LONGEST_PAGE", 1 << 20)
    endless = b"  <page><title>T</title><text>" + b"x" * (3 << 20)
    found, dropped, said = read_of(head, *pages[:half], endless, *pages[half:], end)
    assert (found, dropped["too_large"], said) == (whole, 1, "")


def test_an_entity_bomb_expands_to_nothing(tmp_path):
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(9))
    page = "<page><title>T</title><ns>0</ns><revision><text>before &e9; after</text></revision></page>"
    path = tmp_path / "bomb.xml"
    path.write_text(f'<!DOCTYPE x [<!ENTITY e0 "aaaaaaaaaa">{entities}]><mediawiki>{page}</mediawiki>')
    found, _ = records(read_dump, path)
    assert sum(len(each.content.body) for each in found) < 1000


def test_what_is_neither_form_is_one_error(tmp_path):
    (tmp_path / "x").write_text("something else")
    with pytest.raises(SeedError, match="neither MediaWiki's XML nor articles as JSON"):
        records(read_dump, tmp_path / "x")


# HTML as Wikimedia Enterprise has it: no real snapshot is at hand, the form is its documentation's.


def article(n, **fields):
    return {
        "name": f"T{n}", "date_modified": "2026-01-02T03:04:05Z", "namespace": {"identifier": 0},
        "url": f"https://en.wikipedia.org/wiki/T{n}", "in_language": {"identifier": "en"},
        "article_body": {"html": f"<html><body><p>Article {n}</p></body></html>", "wikitext": "x"},
    } | fields  # fmt: skip


def snapshot(articles, bad=()):
    lines = [json.dumps(each) for each in articles]
    for at, line in bad:
        lines.insert(at, line)
    return ("\n".join(lines) + "\n").encode()


def test_html_snapshots_are_read_packed_or_not_and_bad_lines_counted(tmp_path):
    articles = [article(n) for n in range(6)] + [article(9, namespace={"identifier": 14})]
    odd = json.dumps(article(8, url=None))
    bad = [(2, "{"), (4, "[]"), (5, odd)]
    plain, packed = tmp_path / "x.ndjson", tmp_path / "enwiki.json.tar.gz"
    plain.write_bytes(snapshot(articles, bad))
    with tarfile.open(packed, "w:gz") as archive:
        for name, part in (
            ("0.ndjson", snapshot(articles[:3], bad[:1])),
            ("1.ndjson", snapshot(articles[3:], bad[:2])),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))
    for path in (plain, packed):
        found, dropped = records(read_dump, path)
        assert [each.content.url[-2:] for each in found] == [f"T{n}" for n in range(6)]
        assert dropped == {"bad_line": 3, "namespace": 1}
        assert found[0].content.at == 1_767_323_045_000
        rest, _ = records(read_dump, path, found[3].position)
        assert [each.content.url[-2:] for each in rest] == ["T4", "T5"]
    packed.write_bytes(packed.read_bytes()[:-60])
    with pytest.raises(SeedError, match="cut off or damaged"):
        records(read_dump, packed)
    for pack, suffix in ((gzip.compress, ".gz"), (bz2.compress, ".bz2")):
        path = tmp_path / f"x.ndjson{suffix}"
        path.write_bytes(pack(snapshot(articles)))
        assert len(records(read_dump, path)[0]) == 6


# ZIM


@pytest.fixture(scope="module")
def zim(tmp_path_factory):
    """Real pages of one site as a ZIM file, with a picture and a redirect; their number."""
    writer = real("libzim.writer")
    archive = DATA / "web" / "docs.pytest.org.tar.zst"
    if not archive.is_file():
        pytest.skip(f"{archive} is not there; TINYLM_TEST_DATA names its folder")
    from backports import zstd

    class Made(writer.Item):
        def __init__(self, path, content, mimetype):
            super().__init__()
            self._of = path, content, mimetype

        def get_path(self):
            return self._of[0]

        def get_title(self):
            return self._of[0]

        def get_mimetype(self):
            return self._of[2]

        def get_contentprovider(self):
            return writer.StringProvider(self._of[1])

        def get_hints(self):
            return {writer.Hint.FRONT_ARTICLE: True}

    path, pages = tmp_path_factory.mktemp("zim") / "pytest.zim", {}
    with zstd.open(archive) as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as tar:
        for member in list(tar)[:40]:
            if member.name.endswith(".html"):
                pages[member.name.partition("docs.pytest.org/")[2]] = tar.extractfile(member).read()
    with writer.Creator(path) as creator:
        for name, body in pages.items():
            creator.add_item(Made(name, body.decode("utf-8", "replace"), "text/html"))
        creator.add_item(Made("logo.png", "x", "image/png"))
        creator.add_redirection("home", "Home", next(iter(pages)), {})
        creator.add_metadata("Source", "docs.pytest.org")
        creator.add_metadata("Date", "2026-01-02")
    return path, pages


def test_a_zim_file_has_pages_at_the_addresses_of_its_site(zim):
    path, pages = zim
    found, dropped = records(read_zim, path)
    assert {each.content.url: each.content.body for each in found} == {
        f"https://docs.pytest.org/{name}": body.decode("utf-8", "replace").encode()
        for name, body in pages.items()
    }
    assert dropped["redirect"] == 1
    assert dropped["media_type"] >= 1
    assert {each.content.at for each in found} == {1_767_312_000_000}
    rest, _ = records(read_zim, path, found[3].position)
    assert rest == found[4:]


def test_a_zim_file_that_is_none_or_cut_short_is_one_error(zim, tmp_path):
    path, _ = zim
    for data in (b"no ZIM", path.read_bytes()[:2000]):
        (tmp_path / "x.zim").write_bytes(data)
        with pytest.raises(SeedError, match=r"x\.zim: no ZIM file, or it is damaged"):
            records(read_zim, tmp_path / "x.zim")
