"""Archives by URL, by ranges and by Common Crawl's columnar index: real rows, real records, a real server.

The rows and the records are Common Crawl's own, as cdx_toolkit's tests recorded them.
"""

import base64
import gzip
import io
import json
import re
import tarfile
from collections import Counter
from itertools import pairwise

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from crawler.archives import places as places_module
from crawler.archives.commoncrawl import _GAP, _MOST_BYTES, Index, _merged
from crawler.archives.places import Places
from crawler.archives.warc import WarcReader, read_warc
from crawler.config import CrawlConfig
from crawler.errors import CrawlError, NetworkForbidden, SeedError
from crawler.fetch.client import AskError
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import Progress
from tests.conftest import reply
from tests.crawler.conftest import DATA

SLOW_DOWN = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(places_module, "_REST", 0.0)
    monkeypatch.setattr(places_module, "_FIRST_WAIT", 0.01)


class Files:
    """A web server's files: ranges of them, and before them what it is told to answer instead."""

    def __init__(self, site):
        self.site, self.first, self.asked, self.files = site, [], [], {}
        site.on("cc.test", "*", self)

    def __call__(self, handler):
        header = handler.headers["Range"]
        self.asked.append((handler.path, header))
        if self.first and (answer := self.first.pop(0)):
            return answer(handler)
        if (data := self.files.get(handler.path)) is None:
            return reply(404, "<h1>404</h1>")(handler)
        start, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", header).groups())
        if start >= len(data):
            return reply(416, b"", Content_Range=f"bytes */{len(data)}")(handler)
        part = data[start : end + 1]
        where = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        said = {"Content_Type": "application/octet-stream", "Content_Range": where, "ETag": '"1"'}
        return reply(206, part, **said)(handler)

    def url(self, name, data):
        self.files[f"/{name}"] = data
        return f"http://cc.test/{name}"


@pytest.fixture
def files(site):
    return Files(site)


@pytest.fixture
def places(site):
    resolve = (f"cc.test=127.0.0.1:{site.port}",)
    with Places(CrawlConfig(allowed_networks=(f"127.0.0.1/32:{site.port}",), resolve=resolve)) as opened:
        yield opened


@pytest.fixture(scope="module")
def recorded():
    """Each row that Common Crawl's index servers answered, once, and records of its files, by file."""
    path = DATA / "commoncrawl" / "cdx-recorded.tar.zst"
    if not path.is_file():
        pytest.skip(f"{path} is not there; TINYLM_TEST_DATA names the folder it is in")
    rows, records = {}, {}
    with zstd.open(path) as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
        for member in archive:
            if not member.name.endswith(".jsonl"):
                continue
            for line in archive.extractfile(member).read().splitlines():
                answer = json.loads(line)
                text = answer["response_text"] or ""
                if "data.commoncrawl.org" in answer["url"]:
                    records[answer["url"].partition(".org/")[2]] = base64.b64decode(text)
                elif answer["response_status_code"] == 200 and "index.commoncrawl" in answer["url"]:
                    found = [json.loads(row) for row in text.splitlines() if row.startswith("{")]
                    rows |= {(row["filename"], row["offset"]): row for row in found if "filename" in row}
    return [*rows.values()], records


def index_of(rows, path):
    """A file of the columnar index with these rows, in the schema of cc-index-table."""
    columns = {
        "url": pa.array([row["url"] for row in rows]),
        "url_host_name": pa.array([row["url"].split("/")[2] for row in rows]),
        "url_host_registered_domain": pa.array(["commoncrawl.org"] * len(rows)),
        "fetch_time": pa.array([int(row["timestamp"]) for row in rows], pa.int64()),
        "fetch_status": pa.array([int(row["status"]) for row in rows], pa.int16()),
        "content_languages": pa.array([row.get("languages") for row in rows]),
        "content_mime_detected": pa.array([row["mime-detected"] for row in rows]),
        "content_digest": pa.array([row["digest"] for row in rows]),
        "warc_filename": pa.array([row["filename"] for row in rows]),
        "warc_record_offset": pa.array([int(row["offset"]) for row in rows], pa.int32()),
        "warc_record_length": pa.array([int(row["length"]) for row in rows], pa.int32()),
    }  # fmt: skip
    pq.write_table(pa.table(columns), path, row_group_size=10)
    return path


def found_in(places, index, ledger, where=""):
    progress = Progress()
    batches = [*Index(places, str(index), where).seeds(ledger, progress)]
    return [seed for batch in batches for seed in batch.seeds], progress


# Places


def test_a_file_comes_in_parts_and_what_breaks_off_is_asked_for_again(files, places, caplog):
    data = bytes(range(256)) * 40_000  # two blocks
    url = files.url("a.warc.gz", data)

    def breaks(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:1000])
        handler.close_connection = True

    # In the words of a real answer; a page; nothing at all.
    files.first = [
        breaks,
        reply(503, SLOW_DOWN, Content_Type="application/xml"),
        reply(403, "<h1>403</h1>"),
        reply(429, "", Retry_After="0"),
        reply(200, "<html>Sign in</html>"),
        reply(206, b"", Content_Range="bytes 0-1/2"),
    ]
    with places.open(url) as file:
        assert file.read() == data
    assert "Please reduce your request rate." in caplog.text
    assert len(caplog.records) == 6
    sizes = [int(end) - int(start) for _, header in files.asked for start, end in [header[6:].split("-")]]
    assert max(sizes) < 1 << 23
    with places.open(url) as file:
        assert (file.seek(-3, 2), file.read(), file.seek(700), file.tell(), file.read(2)) == (
            len(data) - 3, data[-3:], 700, 700, data[700:702],
        )  # fmt: skip


@pytest.mark.parametrize("answer", [
    reply(403, "<p>one thread"), reply(503, SLOW_DOWN), reply(200, "<html>Sign in</html>"),
    reply(429, "", Retry_After="86400"),
])  # fmt: skip
def test_who_is_refused_for_good_is_told_why_and_when_to_come_back(files, places, answer):
    url = files.url("a.warc.gz", b"x")
    files.first = [answer] * 20
    with pytest.raises(
        AskError, match=r"a\.warc\.gz: not to be had now: it answered .*start again (later|in 24\.0)"
    ):
        places.part(url, 0, 1)
    assert len(files.asked) in (1, 7)


def test_what_can_never_be_read_is_not_asked_for_twice(files, places, forbidden, monkeypatch):
    url = files.url("a.warc.gz", bytes(1000))
    for answer, said in (
        (reply(401, "<p>who are you"), "it answered 401 , and not with that part: who are you"),
        (reply(206, b"xy", Content_Range="bytes 5-6/1000"), "it answered 206 bytes 5-6/1000"),
    ):
        files.first = [answer]
        with pytest.raises(CrawlError, match=said):
            places.part(url, 0, 2)
    with pytest.raises(FileNotFoundError):
        places.part("http://cc.test/none", 0, 1)
    assert places.part(url, 990, 100) == bytes(10)
    files.first = [reply(206, b"z", Content_Range="bytes 0-0/1001")]
    with pytest.raises(CrawlError, match="it is another file than when reading began"):
        places.part(url, 0, 1)
    # A server without ranges: a small file is cut here, a large one refused.
    whole = reply(200, bytes(range(200)), Content_Type="application/gzip")
    files.first = [whole, whole]
    assert places.part("http://cc.test/whole", 100, 10) == bytes(range(100, 110))
    monkeypatch.setattr(places_module, "_WHOLE", 100)
    with pytest.raises(CrawlError, match="its server sends no parts of files: download it"):
        places.part("http://cc.test/whole", 0, 10)
    asked = len(files.asked)
    for place in (f"http://127.0.0.1:{forbidden.port}/x", f"http://localhost:{forbidden.port}/x"):
        with pytest.raises(NetworkForbidden):
            places.part(place, 0, 1)
    with pytest.raises(CrawlError, match="through no other file system"):
        places.open("simplecache::http://cc.test/whole")
    assert (len(files.asked), forbidden.connections) == (asked, 0)


@pytest.fixture
def warc(tmp_path):
    return b"".join(
        record("response", n, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>%d</html>" % n)
        for n in range(30)
    )


def record(kind, number, block, media_type="application/http; msgtype=response"):
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2026-01-16T09:18:33Z\r\n"
        f"WARC-Target-URI: http://a.test/{number}\r\nContent-Type: {media_type}\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0)


def test_wherever_a_file_lies_it_is_the_same_and_is_read_on_from_each_position(files, places, warc, tmp_path):
    path = tmp_path / "a.warc.gz"
    path.write_bytes(warc)
    with fsspec.open("memory://cc/a.warc.gz", "wb") as file:
        file.write(warc)
    there = [str(path), path.as_uri(), "memory://cc/a.warc.gz", files.url("a.warc.gz", warc)]
    progress = Progress()
    first = [*read_warc(places, there[0], "", progress)]
    assert [found.content.url for found in first] == [f"http://a.test/{n}" for n in range(30)]
    assert progress.done == progress.total == len(warc)
    for place in there:
        assert [*read_warc(places, place, "", Progress())] == first
        assert [*read_warc(places, place, first[20].position, Progress())] == first[21:]
    for missing in (tmp_path / "none", "memory://cc/none", "http://cc.test/none"):
        with pytest.raises(SeedError, match=f"{missing}: cannot be read"):
            [*read_warc(places, str(missing), "", Progress())]


def test_damage_in_a_file_elsewhere_costs_what_is_damaged(files, places, warc):
    middle = warc.index(gzip.compress(b"")[:3], len(warc) // 2)
    for data, lost in ((warc[:middle] + b"torn" + warc[middle + 40 :], 1), (warc[: middle + 40], 15)):
        progress = Progress()
        found = [*read_warc(places, files.url(f"{lost}.warc.gz", data), "", progress)]
        assert 29 - lost <= len(found) < 30
        assert progress.dropped["damaged"] <= 1


# WET and WAT


def test_a_wet_file_has_texts(places):
    texts = ["Título\nA page of words, and «more».", "Second"]
    data = record("warcinfo", 0, b"isPartOf: CC-MAIN-2026-05\r\n", "application/warc-fields") + b"".join(
        record("conversion", n, text.encode(), "text/plain") for n, text in enumerate(texts)
    )
    found = [*WarcReader(io.BytesIO(data))]
    assert [(one.url, one.body.decode(), one.header("content-type")) for one in found] == [
        (f"http://a.test/{n}", text, "text/plain; charset=utf-8") for n, text in enumerate(texts)
    ]
    assert found[0].at == 1768555113000


def wat(url, status=200, headers=(), **html):
    envelope = {
        "Format": "WARC",
        "WARC-Header-Metadata": {"WARC-Type": "response", "WARC-Target-URI": url},
        "Payload-Metadata": {
            "Actual-Content-Type": "application/http; msgtype=response",
            "HTTP-Response-Metadata": {
                "Response-Message": {"Version": "HTTP/1.1", "Status": str(status), "Reason": "OK"},
                "Headers": dict(headers) | {"Content-Type": "text/html"},
                "HTML-Metadata": html,
            },
        },
    }
    return {"Container": {"Filename": "x.warc.gz", "Compressed": True}, "Envelope": envelope}


def test_a_wat_file_has_pages_with_links_and_no_text():
    links = [
        {"path": "A@/href", "url": "/b", "text": "To b"},
        {"path": "A@/href", "url": "http://c.test/", "rel": "noopener nofollow"},
        {"path": "IMG@/src", "url": "/i.png"},
        {"path": "A@/href", "url": "javascript:void(0)"},
        {"path": "A@/href"},
    ]
    request = wat("http://a.test/")
    request["Envelope"]["WARC-Header-Metadata"]["WARC-Type"] = "request"
    told = [
        wat("http://a.test/x/", Head={"Title": "A", "Base": "/y/", "Metas": []}, Links=links),
        wat(
            "http://a.test/quiet",
            Head={"Metas": [{"name": "robots", "content": "nofollow"}]},
            Links=links[:1],
        ),
        wat("http://a.test/old", 301, {"Location": "/new"}),
        request,
        {"Envelope": {}},
        wat("http://a.test/odd", Head={"Title": 7, "Metas": [7]}, Links=7),
    ]
    data = b"".join(
        record("metadata", n, json.dumps(one).encode(), "application/json") for n, one in enumerate(told)
    )
    reader = WarcReader(io.BytesIO(data))
    page, quiet, old = reader
    assert (page.url, page.title, page.reason, page.text) == ("http://a.test/x/", "A", "links_only", "")
    assert [(link.url, link.anchor, link.nofollow) for link in page.links] == [
        ("http://a.test/b", "To b", False), ("http://c.test/", "", True),
    ]  # fmt: skip
    assert [link.nofollow for link in quiet.links] == [True]
    assert (old.status, old.header("location")) == (301, "/new")
    assert reader.broken == 2


# The columnar index


def test_the_index_gives_the_urls_of_pages_once(places, files, recorded, tmp_path):
    rows, _ = recorded
    index = index_of(rows, tmp_path / "part-00000.parquet")
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        seeds, progress = found_in(places, index, ledger)
        assert {seed.url for seed in seeds} == {row["url"] for row in rows if row["status"] == "200"}
        crawls = {row["filename"].split("/")[1] for row in rows if row["status"] == "200"}
        assert {seed.source for seed in seeds} == {f"commoncrawl:{name}" for name in crawls}
        assert {(seed.prior, seed.precision) for seed in seeds} == {(1.0, 0.0)}
        assert progress.dropped == {"status_301": len(rows) - len(seeds)} | {"where": 0}
        assert progress.read == progress.done == progress.total == len(rows)
        assert found_in(places, index, ledger)[0] == []
        # By URL, in parts; another question is another job.
        url = files.url("cc-index/part-00000.parquet", index.read_bytes())
        where = "content_languages = 'eng' and url_host_name like '%commoncrawl.org'"
        seeds, progress = found_in(places, url, ledger, where)
        english = [row["url"] for row in rows if row.get("languages") == "eng"]
        assert Counter(seed.url for seed in seeds) == Counter(url for url in english if "commoncrawl" in url)
        assert 5 < len(seeds) < len(english)
        assert progress.dropped["where"] == len(rows) - len(seeds)
        for place, where in (
            (index, "nothing = 1"), (index, "'"), (tmp_path / "none.parquet", ""),
            ("http://cc.test/none", ""), ("nonsense://x", ""),
        ):  # fmt: skip
            with pytest.raises(SeedError, match="not to be read as Common Crawl's columnar index"):
                found_in(places, place, ledger, where)


def test_why_an_index_cannot_be_had_is_said_in_the_servers_words(places, files, tmp_path):
    url = files.url("i.parquet", bytes(1000))
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        files.first = [reply(401, "<p>who are you")]
        with pytest.raises(CrawlError, match="it answered 401 , and not with that part: who are you"):
            found_in(places, url, ledger)
        with pytest.raises(SeedError, match=r"i\.parquet: not to be read as .*No magic bytes"):
            found_in(places, url, ledger)


def test_seeds_go_on_from_the_row_that_was_settled(places, tmp_path, monkeypatch):
    monkeypatch.setattr("crawler.archives.commoncrawl._ROWS", 100)
    about = {
        "timestamp": 1,
        "digest": "",
        "filename": "crawl-data/CC-MAIN-2026-05/x",
        "offset": 0,
        "length": 1,
    }
    rows = [
        about
        | {
            "url": f"http://h{n % 7}.test/{n}",
            "status": "200" if n % 10 else "404",
            "mime-detected": "text/html" if n % 9 else "image/png",
        }
        for n in range(5000)
    ]
    index = index_of(rows, tmp_path / "i.parquet")
    wanted = [row["url"] for row in rows if row["status"] == "200" and row["mime-detected"] == "text/html"]
    got, stops = [], 0
    while True:
        with Ledger(tmp_path / "sources.sqlite") as ledger:
            batches = Index(places, str(index), "").seeds(ledger, Progress())
            taken = [batch for batch, _ in zip(batches, range(7), strict=False)]
            got += [seed.url for batch in taken for seed in batch.seeds]
            stops += 1
        if len(taken) < 7:
            break
    assert stops > 5
    assert Counter(got).keys() == set(wanted)
    assert got == sorted(got, key=lambda url: int(url.rpartition("/")[2])), (
        "given again at most, and in order"
    )


class Sparse:
    """A file of zeros, but for one record."""

    def __init__(self, at, record):
        self.at, self.record = at, record

    def __len__(self):
        return self.at + len(self.record) + 1000

    def __getitem__(self, part):
        zeros = max(0, self.at - part.start)
        return (bytes(zeros) + self.record[max(0, part.start - self.at) :])[: part.stop - part.start]


def test_real_records_are_read_by_ranges_out_of_their_files(places, files, recorded, tmp_path):
    rows, records = recorded
    urls = set()
    for row in rows:
        if len(data := records.get(row["filename"], b"")) == int(row["length"]):
            files.url(row["filename"], Sparse(int(row["offset"]), data))
            urls.add(row["url"])
    assert len(urls) > 1
    index = index_of(rows, tmp_path / "part-00000.parquet")
    progress = Progress()
    found = [*Index(places, str(index), "").records("http://cc.test/", "", progress)]
    assert {one.content.url for one in found} == urls
    assert progress.dropped["missing_file"] == len(rows) - len(urls)
    assert progress.done == progress.total == len(rows)
    for n, one in enumerate(found):
        again = Index(places, str(index), "").records("http://cc.test/", one.position, Progress())
        assert [each.content for each in again] == [each.content for each in found[n + 1 :]]


def test_what_the_plan_says_of_a_file_may_be_wrong(places, files, warc, tmp_path):
    starts = [at for at in range(len(warc)) if warc[at : at + 4] == b"\x1f\x8b\x08\x00"]
    spans = [*zip(starts, [*starts[1:], len(warc)], strict=True)]
    given = [("w.warc.gz", start, end - start) for start, end in spans]
    given += [given[3], ("gone.warc.gz", 0, 9), ("gone.warc.gz", 1 << 27, 9), ("../w.warc.gz", 0, 9)]
    given += [
        ("w.warc.gz", 5, 20),
        ("w.warc.gz", len(warc) + 5, 20),
        ("w.warc.gz", 3, 1 << 30),
        ("x/w.warc.gz", None, 1),
    ]
    table = pa.table({
        "warc_filename": [row[0] for row in given],
        "warc_record_offset": pa.array([row[1] for row in given], pa.int64()),
        "warc_record_length": pa.array([row[2] for row in given], pa.int64()),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "i.parquet")
    files.url("w.warc.gz", warc)
    index, progress = Index(places, str(tmp_path / "i.parquet"), ""), Progress()
    found = [*index.records("http://cc.test", "", progress)]
    assert [one.content.url for one in found] == [f"http://a.test/{n}" for n in range(30)]
    assert progress.dropped == {"missing_file": 2, "bad_range": 3, "damaged": 2}
    assert len([path for path, _ in files.asked if path == "/w.warc.gz"]) == 1, "one request for all of them"
    assert len([path for path, _ in files.asked if path == "/gone.warc.gz"]) == 1
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "w.warc.gz").write_bytes(warc)
    assert [*index.records(str(folder), "", Progress())] == found


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 1 << 26), st.integers(1, 1 << 22)),
        unique_by=lambda r: r[:2],
    )
)
def test_ranges_are_merged_only_where_little_lies_between(ranges):
    ranges.sort()
    groups = [*_merged(iter(ranges))]
    assert [one for group in groups for one in group] == ranges
    for group in groups:
        assert len({name for name, _, _ in group}) == 1
        assert len(group) == 1 or group[-1][1] + group[-1][2] - group[0][1] <= _MOST_BYTES
        assert all(after[1] - before[1] - before[2] <= _GAP for before, after in pairwise(group))
