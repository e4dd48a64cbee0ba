"""Common Crawl by command: by URL and by ranges, into a crawl or a file; once, whoever is killed."""

import signal

import pyarrow as pa
import pyarrow.parquet as pq

from deploy.cli.app import app
from shards.manifest import Manifest
from shards.reader import ShardReader
from tests.conftest import command, eventually, reply
from tests.crawler.test_commoncrawl import Files, record
from tests.deploy.test_read import page, settled

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"


def made(pages, folder):
    """The bytes of a WARC file, and the columnar index of every second record in it."""
    records = [record("response", n, HEAD + page(n).encode()) for n in range(pages)]
    starts = [sum(map(len, records[:n])) for n in range(pages)]
    rows = range(0, pages, 2)
    table = pa.table({
        "url": [f"http://a.test/{n}" for n in rows],
        "fetch_status": pa.array([200 for _ in rows], pa.int16()),
        "content_mime_detected": ["text/html" for _ in rows],
        "warc_filename": ["crawl-data/CC-MAIN-2026-05/x.warc.gz" for _ in rows],
        "warc_record_offset": pa.array([starts[n] for n in rows], pa.int32()),
        "warc_record_length": pa.array([len(records[n]) for n in rows], pa.int32()),
    })  # fmt: skip
    index = folder / "crawl=CC-MAIN-2026-05" / "part-00000.parquet"
    index.parent.mkdir()
    pq.write_table(table, index)
    return b"".join(records), index


def environment(site):
    return {
        "TINYLM_CRAWL_ALLOWED_NETWORKS": f"127.0.0.1/32:{site.port}",
        "TINYLM_CRAWL_RESOLVE": f"cc.test=127.0.0.1:{site.port}",
        "TINYLM_CRAWL_DISK_RESERVE_GIGABYTES": "0",
        "TINYLM_CRAWL_WORKERS": "1",
    }


def test_ranges_and_whole_files_of_a_web_server_are_read_once(site, tmp_path, monkeypatch, capsys):
    for name, value in environment(site).items():
        monkeypatch.setenv(name, value)
    data, index = made(8, tmp_path)
    files, place = Files(site), ["--data", str(tmp_path / "data")]
    url = files.url("crawl-data/CC-MAIN-2026-05/x.warc.gz", data)
    ranges = ["read", "warc", "--index", str(index), "--base", "http://cc.test/", *place]
    for kept in (4, 0):
        app(ranges, result_action="return_value")
        assert f"kept {kept};" in capsys.readouterr().out
    assert len(files.asked) == 1
    for kept in (4, 0):
        app(["read", "warc", url, *place], result_action="return_value")
        assert f"kept {kept};" in capsys.readouterr().out
    found = {row["url"]: row["source"] for row in ShardReader(tmp_path / "data" / "shards", split="all")}
    sources = "commoncrawl:CC-MAIN-2026-05", "warc:x.warc.gz"
    assert found == {f"http://a.test/{n}": sources[n % 2] for n in range(8)}
    app(
        ["seed", "commoncrawl", str(index), "--out", str(tmp_path / "s.parquet"), *place],
        result_action="return_value",
    )
    assert pq.read_table(tmp_path / "s.parquet")["url"].to_pylist() == [
        f"http://a.test/{n}" for n in range(0, 8, 2)
    ]


def test_a_file_on_a_web_server_is_read_on_after_sigkill(site, tmp_path):
    data, _ = made(130, tmp_path)
    files, place = Files(site), tmp_path / "data"
    arguments = "read", "warc", files.url("x.warc.gz", data), "--data", str(place)
    with command(tmp_path / "log", *arguments, **environment(site)) as process:
        ledger = place / "sources.sqlite"
        eventually(lambda: ledger.exists() and settled(ledger))
        process.send_signal(signal.SIGKILL)
        process.wait()
    with command(tmp_path / "again", *arguments, **environment(site)) as process:
        assert process.wait(120) == 0, (tmp_path / "again").read_text()
    urls = [row["url"] for row in ShardReader(place / "shards", split="all")]
    assert len(urls) == len(set(urls)) == Manifest.load(place / "shards").rows == 130


def test_ctrl_c_ends_a_command_that_waits_for_a_server(site, tmp_path):
    site.on("cc.test", "*", reply(503, "busy"))
    arguments = "read", "warc", "http://cc.test/x.warc.gz", "--data", str(tmp_path / "data")
    with command(tmp_path / "log", *arguments, **environment(site)) as process:
        eventually(lambda: "it answered 503: busy; asked again in 10 s" in (tmp_path / "log").read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, "all its waits are ten minutes"
    assert "the same command goes on from here" in (tmp_path / "log").read_text()
