"""Held-out text: mirrors never stand on both sides, and the choice is made once."""

import random

import pytest

from shards.errors import ShardError
from shards.holdout import hold_out
from shards.manifest import Manifest
from shards.reader import ShardReader
from shards.text.dedup import signature

SHARE = 0.3


def prose(seed: int, words: int = 400) -> str:
    source = random.Random(seed)
    return " ".join("".join(source.choices("abcdefghij", k=source.randint(2, 9))) for _ in range(words))


def changed(text: str, count: int) -> str:
    words = text.split()
    for position in range(count):
        words[position * len(words) // count] = "changed"
    return " ".join(words)


def texts(directory, split):
    return {row["url"]: row["text"] for row in ShardReader(directory, split=split)}


@pytest.fixture
def web(tmp_path, document, corpus):
    """Ten hosts of five pages; three of each stand, word for word or nearly, on the next host as well."""
    documents = []
    for host in range(10):
        for page in range(5):
            number = host * 5 + page
            documents.append(document(number, host=f"h{host}.example", text=prose(number)))
            if page < 3:
                near = prose(number) if page % 2 else changed(prose(number), 4)
                documents.append(document(1000 + number, host=f"h{(host + 1) % 10}.example", text=near))
    corpus(tmp_path, documents, commits=3)
    return tmp_path


def test_no_text_of_one_side_nearly_stands_on_the_other(web):
    held_out = hold_out(web, SHARE)
    train = [signature(text) for text in texts(web, "train").values()]
    held = texts(web, "held_out")
    for text in held.values():
        assert max(float((signature(text) == other).mean()) for other in train) < 0.5
    assert held_out.excluded
    all_held = {row["id"] for row in ShardReader(web, split="all") if row["host"] in held_out.hosts}
    assert set(held_out.excluded) < all_held


def test_about_the_wanted_share_is_held_out_by_whole_hosts(web):
    held_out = hold_out(web, SHARE)
    assert len(held_out.hosts) == 3
    assert {row["host"] for row in ShardReader(web, split="train")}.isdisjoint(held_out.hosts)


def test_the_choice_is_deterministic_and_does_not_depend_on_the_commits(tmp_path, document, corpus):
    documents = [document(n, host=f"h{n % 7}.example", text=prose(n)) for n in range(21)]
    corpus(tmp_path / "one", documents)
    corpus(tmp_path / "other", documents[::-1], commits=4)
    one, other = hold_out(tmp_path / "one", SHARE), hold_out(tmp_path / "other", SHARE)
    assert (one.hosts, one.excluded) == (other.hosts, other.excluded)


def test_hosts_once_recorded_stay_and_nothing_is_written_again(web):
    first = hold_out(web, SHARE)
    manifest = Manifest.load(web)
    assert manifest.held_out == first
    assert hold_out(web, 0.1) == first
    assert Manifest.load(web) == manifest


def test_a_mirror_that_a_later_crawl_brings_is_excluded_too(web, document, corpus):
    first = hold_out(web, SHARE)
    mirrored = next(row for row in ShardReader(web, split="held_out"))
    corpus(web, [document(5000, host="mirror.example", text=mirrored["text"])])
    assert not Manifest.load(web).held_out_is_current
    second = hold_out(web, SHARE)
    assert Manifest.load(web).held_out_is_current
    assert second.hosts == first.hosts
    assert set(second.excluded) == {*first.excluded, mirrored["id"]}
    assert mirrored["text"] not in texts(web, "held_out").values()


def test_the_signature_estimates_the_overlap_of_texts():
    text = prose(1, words=1000)
    assert (signature(text) == signature(text)).all()
    assert (signature(text) == signature(changed(text, 10))).mean() > 0.8
    assert (signature(text) == signature(changed(text, 300))).mean() < 0.4
    assert (signature(text) == signature(prose(2, words=1000))).mean() < 0.1
    assert (signature("") == signature("")).all()


def test_a_single_host_cannot_be_held_out(tmp_path, document, corpus):
    corpus(tmp_path, [document(1), document(2)])
    with pytest.raises(ShardError, match="whole hosts are held out"):
        hold_out(tmp_path, SHARE)


def test_a_directory_without_a_corpus_is_refused_and_not_made(tmp_path):
    with pytest.raises(ShardError, match="no corpus"):
        hold_out(tmp_path / "typo", SHARE)
    assert not (tmp_path / "typo").exists()


def test_of_two_hosts_the_smaller_is_held_out(tmp_path, document, corpus):
    small = [document(1, host="small.example", text=prose(1, 50))]
    corpus(tmp_path, [*small, document(2, host="large.example", text=prose(2, 500))])
    assert hold_out(tmp_path, 0.05).hosts == ("small.example",)
