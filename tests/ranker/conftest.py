"""Texts that the rules keep, and of two kinds; a fastText classifier; and real pages with what they are, from
the data of tests/crawler/conftest.py.
"""

import csv
import io
import math
import random
import struct
import tarfile
from collections import Counter
from typing import NamedTuple

import pytest
from backports import zstd
from resiliparse.extract.html2text import extract_plain_text

from tests.crawler.conftest import DATA, conformance  # noqa: F401 (a fixture here too)

HOSTS = ("docs.djangoproject.com", "www.postgresql.org", "docs.python.org", "llvm.org", "docs.pytest.org")
API_HOSTS = ("www.freepascal.org",)


WORDS = [
    f"{first}{second}"
    for first in ("par", "ser", "que", "mod", "rea", "wri", "fro", "lea", "tok", "ind")
    for second in ("ser", "ver", "ue", "ule", "nic", "tal")
]


def prose(number):
    """Text that passes the quality rules, different for each number."""
    chosen = random.Random(number)
    sentence = "{} {} {} the {} {} of {} {} and {} to {} {} with {}."
    return "\n\n".join(
        " ".join(sentence.format(*(chosen.choice(WORDS) for _ in range(11))) for _ in range(8))
        for _ in range(5)
    )


ESSAY = (
    "because",
    "however",
    "therefore",
    "although",
    "question",
    "history",
    "argument",
    "river",
    "evidence",
    "thought",
    "people",
    "change",
)
SHOP = (
    "buy",
    "cart",
    "price",
    "shipping",
    "discount",
    "login",
    "checkout",
    "coupon",
    "offer",
    "sale",
    "free",
    "click",
)
COMMON = ("the", "of", "and", "to", "in", "is", "it", "that", "for", "with", "as", "on")


def text(words, seed):
    source = random.Random(seed)
    return " ".join(source.choice(words if source.random() < 0.4 else COMMON) for _ in range(200))


class RealPage(NamedTuple):
    host: str
    kind: str
    text: str


@pytest.fixture(scope="session")
def real_pages() -> list[RealPage]:
    """Up to 900 English pages, prose of some hosts and API stubs of another, in a fixed random order."""
    table = DATA / "web" / "pages.tsv.zst"
    if not table.is_file():
        pytest.skip(f"{table} is not there; TINYLM_TEST_DATA names the folder of `web`")
    with zstd.open(table, "rt", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["lang"] in ("en", "")]
    source = random.Random(5)
    prose = [row for row in rows if row["host"] in HOSTS and row["kind"] == "prose"]
    stubs = [row for row in rows if row["host"] in API_HOSTS + HOSTS and row["kind"] in ("api", "stub")]
    chosen = {row["file"]: row for row in source.sample(prose, 450) + source.sample(stubs, 450)}
    found = []
    for host in sorted({row["host"] for row in chosen.values()}):
        packed = io.BytesIO(zstd.open(DATA / "web" / f"{host}.tar.zst").read())
        with tarfile.open(fileobj=packed) as archive:
            for member in archive:
                row = chosen.get(member.name.removeprefix("./"))
                if row and (file := archive.extractfile(member)):
                    html = file.read().decode("utf-8", "replace")
                    text = extract_plain_text(html, main_content=True, alt_texts=False)
                    found.append(RealPage(host, row["kind"], text))
    source.shuffle(found)
    return found


def write_classifier(path, texts):
    """A supervised model in fastText's format, of one dimension: log odds of each word.

    `texts`: of `__label__cc` and of `__label__hq`.
    """
    counts = [Counter(word for each in kind for word in each.split()) for kind in texts]
    words = ["</s>", *sorted(set().union(*counts))]
    odds = [math.log((counts[1][word] + 1) / (counts[0][word] + 1)) for word in words]
    with path.open("wb") as file:
        file.write(struct.pack("<ii", 793712314, 12))
        arguments = (1, 5, 1, 1, 5, 1, 3, 3, 0, 0, 0, 100)  # dim …, loss softmax, supervised, no buckets …
        file.write(struct.pack("<12id", *arguments, 1e-4))
        file.write(struct.pack("<iiiqq", len(words) + 2, len(words), 2, 1000, -1))
        for word, kind in [*((word, 0) for word in words), ("__label__cc", 1), ("__label__hq", 1)]:
            file.write(word.encode() + b"\0" + struct.pack("<qb", 10, kind))
        for rows, values in ((len(words), odds), (2, [-1.0, 1.0])):
            file.write(struct.pack("<?qq", False, rows, 1) + struct.pack(f"<{rows}f", *values))
    return path


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    texts = [[text(words, seed) for seed in range(40)] for words in (SHOP, ESSAY)]
    return write_classifier(tmp_path_factory.mktemp("fasttext") / "hq.bin", texts)
