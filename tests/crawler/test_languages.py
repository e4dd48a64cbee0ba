"""Real pages in many languages, from their bytes to the verdict."""

import tarfile
from collections import Counter, defaultdict
from random import Random

import pytest
from backports import zstd

from crawler.read.extract import Extractor, Screen
from shards.text.filters import judge
from shards.text.signals import Signals
from tests.crawler.conftest import DATA

# By their suffixes and names: of ten languages, at most so many of each.
_MOST = 25
_TOP = {
    "ar": ("assabah",),
    "de": (".de.",),
    "es": (".cl-", ".com.ar", "noticias"),
    "fi": (".fi.",),
    "fr": (".fr.",),
    "hu": (".hu.",),
    "it": (".it.",),
    "ja": (".or.jp",),
    "pl": ("INTERIA", "Dziennik", ".pl."),
    "pt": (".br-",),
    "ru": ("football.ua",),
    "zh": ("baidu", "banyuetan", "xinhuanet"),
}


@pytest.fixture(scope="module")
def pages():
    """Bytes of pages by what their names say of their language."""
    path = DATA / "extraction.tar.zst"
    if not path.is_file():
        pytest.skip(f"{path} is not there; TINYLM_TEST_DATA names its folder")
    found = defaultdict(list)
    with zstd.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            for code, marks in _TOP.items():
                if member.isfile() and any(mark in name for mark in marks):
                    found[code].append((name, archive.extractfile(member).read()))
    return {code: Random(0).sample(these, min(_MOST, len(these))) for code, these in found.items()}


def test_most_real_articles_are_kept_whatever_their_language(pages):
    assert len(pages) >= 10
    extract, said = Extractor(Screen()), defaultdict(Counter)
    for code, those in pages.items():
        for name, body in those:
            found = extract(body, f"http://{code}.test/{name}", "text/html", False, 30.0)
            verdict = found.reason or judge(Signals(found.text, found.language)).reason or "kept"
            said[code][verdict] += 1
    kept = {code: of["kept"] / of.total() for code, of in said.items()}
    assert sum(of["kept"] for of in said.values()) / sum(of.total() for of in said.values()) > 0.75, said
    assert all(share >= 0.5 for share in kept.values()), said
