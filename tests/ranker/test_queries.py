"""Queries out of a corpus are of what its best documents write, and not of what all do."""

import random
from dataclasses import replace

from ranker.queries import distinctive
from shards.writer import ShardWriter
from tests.ranker.conftest import WORDS
from tests.shards.conftest import make_document


def test_what_distinguishes_the_best_documents_is_asked_for(tmp_path):
    source = random.Random(0)
    with ShardWriter(tmp_path, crawl_id="c", row_group_rows=16) as writer:
        for number in range(200):
            best = number % 4 == 0
            words = [source.choice(WORDS) for _ in range(80)]
            told = "cheap loans for everybody " if number % 8 == 1 else ""
            told = "marine biology of harbour seals " * 9 if number % 8 == 0 else told
            site = "our cookie banner " if number % 10 == 0 else ""  # one host's own
            text = " ".join(words) + " " + told + site
            host = "one.example" if site else f"h{number % 7}.example"
            document = make_document(number, host=host, text=text)
            writer.append(replace(document, quality=0.9 if best else 0.2))
        writer.commit({"0": "1-0"}, state=b"s")
    queries = distinctive(tmp_path, 3)
    assert queries[0] in ("marine biology", "harbour seals")
    assert not {"cheap loans", "cookie banner"} & set(queries)
    words = [word for query in queries for word in query.split()]
    assert len(words) == len(set(words))
    assert queries[0] not in distinctive(tmp_path, 3, asked={queries[0]})


def test_a_corpus_without_documents_asks_nothing(tmp_path):
    with ShardWriter(tmp_path, crawl_id="c"):
        pass
    assert distinctive(tmp_path, 3) == []
