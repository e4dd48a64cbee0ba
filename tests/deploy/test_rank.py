"""`tinylm shards rank` says what it found, once."""

from hashlib import blake2b

import pytest

from deploy.cli.app import main
from shards.manifest import Manifest
from shards.schema import Document, LinkRow
from shards.writer import ShardWriter


@pytest.fixture
def directory(tmp_path):
    """Four pages, of which all link to the first."""
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        for number in range(4):
            url = f"https://h{number}.example/"
            name = f"{blake2b(url.encode(), digest_size=8).hexdigest()}-1"
            document = Document(
                id=name, url=url, host=f"h{number}.example", fetched_at=0, status=200, content_sha256="",
                language="en", language_score=1.0, title="", text="text", extractor="test 1", quality=0.5,
                promise=0.5, propensity=1.0, policy="bfs", karma=0.0, equity=0.0, inlinks=0, depth=0,
                crawl_id="c",
            )  # fmt: skip
            link = LinkRow(
                src_id=name,
                dst_url="https://h0.example/",
                anchor="",
                tag_path="html",
                position=0,
                nofollow=False,
            )
            writer.append(document, [link])
        writer.commit()
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["shards", "rank", *arguments])
    return ended.value.code, capsys.readouterr()


def test_the_best_page_and_host_come_first_and_the_second_run_has_nothing_to_do(directory, capsys):
    code, (out, _) = run(capsys, str(directory), "--top", "2")
    assert not code
    assert out.index("https://h0.example/") == out.index("https://h")
    assert "4 pages, 3 links, 4 hosts" in out
    snapshot = Manifest.load(directory).fingerprint[:12]
    code, (out, _) = run(capsys, str(directory))
    assert not code
    assert out.strip().endswith(f"columns/rank-{snapshot}.parquet: up to date")


def test_a_directory_without_a_corpus_is_one_line(tmp_path, capsys):
    code, (_, err) = run(capsys, str(tmp_path))
    assert code
    assert "no manifest.json here" in err
    assert "Traceback" not in err
