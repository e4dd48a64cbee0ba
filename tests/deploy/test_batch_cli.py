"""`tinylm shards import`, filter, stats, diff and why, as a user types them."""

import json

import pytest

from crawler.urls import fingerprint
from deploy.cli.app import main

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
TEXT = "The otter swims in the river, and it sleeps on its back while it holds a stone in its paws. "


def shards(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["shards", *map(str, arguments)])
    return ended.value.code


def test_somebodys_lines_are_imported_filtered_and_explained(tmp_path, capsys):
    rows = [
        {"url": f"http://HOST{n % 3}.test/{n}#top", "text": TEXT * n + ("statistics" if n % 2 else "")}
        for n in range(1, 21)
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{bad\n")
    corpus, kept = tmp_path / "corpus", tmp_path / "kept"
    assert not shards("import", tmp_path / "lines.jsonl", "--out", corpus)
    assert f"{corpus}: 20 of 21 documents, " in capsys.readouterr().out
    assert not shards(
        "filter", corpus, "text contains 'statistics' and rps_doc_word_count > 100", "--out", kept
    )
    assert "8 of 20 documents" in (said := capsys.readouterr().out)
    assert "dropped: text contains 'statistics' 10, rps_doc_word_count > 100 2" in said
    assert not shards("dedup", corpus, "--keep", "rps_doc_word_count", "--out", tmp_path / "unique")
    said = capsys.readouterr().out
    assert "of 20 documents" in said
    assert "audit of " in said
    assert shards("dedup", corpus, "--keep", "qality", "--out", tmp_path / "none") == 2
    assert "error: no column 'qality'; there is" in capsys.readouterr().err
    assert not shards("stats", corpus, "--by", "host")
    assert "20 documents, " in (said := capsys.readouterr().out)
    assert "host2.test" in said
    assert shards("language", corpus, "en") == 2
    assert "error: 20 texts in 'en'" in capsys.readouterr().err
    assert not shards("diff", corpus, kept)
    assert "lost: 12 documents" in (said := capsys.readouterr().out)
    assert "text contains 'statistics' 10" in said
    assert not shards("why", kept, "http://host1.test/1")
    assert "rps_doc_word_count" in (said := capsys.readouterr().out)
    assert f"{fingerprint('http://host1.test/1'):016x}-" in said
    assert shards("why", kept, "http://host1.test/99") == 2
    assert "no stage looked at http://host1.test/99" in capsys.readouterr().err
    assert shards("filter", corpus, "qality > 1", "--out", tmp_path / "none") == 2
    assert "error: no column 'qality'; there is" in capsys.readouterr().err
    assert shards("filter", corpus, "quality >", "--out", tmp_path / "none") == 2
    assert "error: 'quality >': a column, a number or a 'word' is needed" in capsys.readouterr().err
