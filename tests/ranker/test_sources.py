"""What a source brought is what its fetches brought, each once, with intervals that cover."""

import json
import math

import numpy as np
import pytest

from crawler.config import FrontierConfig
from crawler.seeds.ledger import FILE_NAME, Ledger
from deploy.cli.app import app
from ranker.sources import UNKNOWN, Sources, Yield, kind
from shards.schema import Document, FetchRow
from shards.writer import ShardWriter

WORDS = 300


def written(writer, number, source, hops, host="h.example", *, kept=True, quality=0.5, novelty=1.0):
    about = {
        "id": f"{number:016x}-1", "url": f"https://{host}/{number}", "host": host, "fetched_at": number,
        "status": 200, "promise": 0.5, "propensity": 1.0, "policy": "tinylm", "source": source,
        "source_hops": hops,
    }  # fmt: skip
    document = Document(
        **about, quality=quality, novelty=novelty, karma=0.0, equity=0.0, inlinks=0, depth=0, crawl_id="c",
        text="text", signals={"rps_doc_word_count": WORDS},
    )  # fmt: skip
    fetch = FetchRow(**about, reason="" if kept else "short", worth=0.5, expected=0.5, ingredients={})
    writer.append(document if kept else None, [], fetch)


@pytest.fixture
def corpus(tmp_path):
    """Two searches and a list, in two shards; what one search led to was kept, the other's seeds were not."""
    with ShardWriter(tmp_path / "shards", crawl_id="c") as writer:
        written(writer, 1, "search:x:otters", 0, kept=False)
        written(writer, 2, "search:x:otters", 1, "g.example", novelty=0.5)
        written(writer, 3, "search:x:bears", 0)
        writer.commit({"0": "1-0"}, state=b"s")
        written(writer, 4, "search:x:otters", 2, "g.example")
        written(writer, 5, "seeds.txt", 0, "f.example")
        written(writer, 6, None, None, "f.example")
        written(writer, 7, "warc:x.warc.gz", 0, "f.example")
        writer.commit({"0": "2-0"}, state=b"s")
    return tmp_path


TOKENS = WORDS * 4 / 3 * 0.5  # of a document of quality 0.5


def test_tokens_are_those_of_what_was_kept_by_quality_and_novelty(corpus):
    sources = Sources(corpus / "shards")
    for _ in range(2):  # a shard is read once
        sources.update()
    found = {source.name: source for source in sources.by(str)}
    otters = found["search:x:otters"]
    assert (otters.seeds.fetches, otters.seeds.tokens) == (1, 0)
    assert (otters.all.fetches, otters.all.hosts) == (3, 2)
    assert otters.all.tokens == pytest.approx(1.5 * TOKENS)
    assert found["search:x:bears"].seeds.per_fetch == pytest.approx(TOKENS)
    assert found[UNKNOWN].all.fetches == 1
    # What was brought cost no fetch.
    assert found["warc:x.warc.gz"].all.fetches == 0
    assert found["warc:x.warc.gz"].all.tokens == pytest.approx(TOKENS)
    kinds = {source.name: source.all.fetches for source in sources.by(kind)}
    assert kinds == {"search": 4, "list": 1, "warc": 0, UNKNOWN: 1}


def test_a_corpus_that_grows_is_read_on(corpus):
    sources = Sources(corpus / "shards")
    sources.update()
    with ShardWriter(corpus / "shards", crawl_id="c") as writer:
        written(writer, 8, "search:x:bears", 0)
        writer.commit({"0": "3-0"}, state=b"s")
    sources.update()
    [bears] = [source for source in sources.by(str) if source.name == "search:x:bears"]
    assert bears.all.fetches == 2


def test_intervals_cover_what_they_estimate():
    """Hosts of a few pages and of many, each with a worth of its own around one mean for all pages."""
    random, covered = np.random.default_rng(1), 0
    for _ in range(400):
        pages = random.geometric(0.1, 40)
        worth = random.gamma(2.0, 50.0, 40)
        tokens = [random.poisson(w * n) for w, n in zip(worth, pages, strict=True)]
        low, high = Yield.of(zip(pages, tokens, strict=True)).interval
        covered += low <= 100 <= high
    assert covered / 400 >= 0.88


def test_of_one_host_there_is_no_interval():
    assert math.isnan(Yield.of([[5, 100.0]]).interval[1])
    assert math.isnan(Yield.of([]).per_fetch)


def test_the_command_says_what_was_spent_too(corpus, capsys):
    with Ledger(FrontierConfig(data=corpus).data / FILE_NAME) as ledger:
        ledger.spend("search:x:otters", "queries", 2)
        ledger.spend("search:x:bears", "queries", 1)
        ledger.spend("search:x:wolves", "queries", 1)
    app(["sources", "--data", str(corpus), "--as-json"], result_action="return_value")
    told = json.loads(capsys.readouterr().out)
    assert told["search"]["spent"] == {"queries": 4}
    assert told["search"]["all"]["per_fetch"] == pytest.approx(2.5 * TOKENS / 4, rel=1e-3)
    assert told["warc"]["all"]["low"] is None
    app(["sources", "--data", str(corpus), "--by", "source"], result_action="return_value")
    lines = capsys.readouterr().out
    assert "queries" in lines
    assert "no fetch" in lines
