"""A small corpus of English-looking text, written by the real writer, and the settings of a tiny run."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random

import pytest

from shards.manifest import HeldOut
from shards.schema import Document
from shards.writer import ShardWriter
from trainer.config import PretrainConfig

HELD_OUT_HOST = "held-out.test"
NOUNS = ("parser", "server", "queue", "module", "reader", "writer", "frontier", "lease", "token", "model")
VERBS = ("returns", "opens", "closes", "checks", "writes", "reads", "orders", "keeps", "counts", "compares")


def sentence(random: Random) -> str:
    subject, verb, thing = random.choice(NOUNS), random.choice(VERBS), random.choice(NOUNS)
    return f"The {subject} {verb} the {thing} {random.randrange(99)}."


def prose(seed: int, sentences: int) -> str:
    random = Random(seed)
    return " ".join(sentence(random) for _ in range(sentences))


def document(number: int, text: str, host: str) -> Document:
    return Document(
        id=f"{number:016x}-1",
        url=f"http://{host}/{number}",
        host=host,
        fetched_at=0,
        status=200,
        content_sha256=hashlib.sha256(text.encode()).hexdigest(),
        language="en",
        language_score=1.0,
        title=f"Page {number}",
        text=text,
        extractor="test 1",
        quality=0.5,
        promise=0.5,
        propensity=1.0,
        policy="bfs",
        karma=0.0,
        equity=0.0,
        inlinks=0,
        depth=0,
        crawl_id="test",
    )


def commit(directory: Path, texts: Sequence[str], *, held_out: int = 0, row_group_rows: int = 8) -> Path:
    """Add `texts` to the corpus in `directory`, the first `held_out` of them under a held-out host."""
    with ShardWriter(directory, crawl_id="test", row_group_rows=row_group_rows) as writer:
        for number, text in enumerate(texts):
            host = HELD_OUT_HOST if number < held_out else f"host{number % 5}.test"
            writer.append(document(number, text, host))
        through = writer.commit().shards[-1].name
        writer.update(held_out=HeldOut(hosts=(HELD_OUT_HOST,), through=through))
    return directory


@pytest.fixture(scope="session")
def write_corpus() -> Callable[..., Path]:
    return commit


def sixty_texts() -> list[str]:
    """60 documents of 1 to 40 sentences."""
    return [prose(number, 1 + number * 7 % 40) for number in range(60)]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return sixty_texts()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """`texts` in row groups of 8, the first three held out."""
    return commit(tmp_path_factory.mktemp("corpus"), texts, held_out=3)


def tiny_config(corpus: Path, out: Path, **changes: object) -> PretrainConfig:
    """Settings of a run that takes a second."""
    sizes = {"vocab_size": 320, "sequence_len": 32, "width": 16, "layers": 2, "heads": 2, "kv_heads": 1}
    course = {"device_batch_size": 2, "tokens_per_step": 256, "steps": 8, "lanes": 4, "log_every": 1}
    rest = {"checkpoint_every": 4, "eval_every": 4, "keep_last": 10, "shards": corpus, "out": out}
    return PretrainConfig(**{**sizes, **course, **rest, **changes})


@pytest.fixture
def tiny(corpus: Path, tmp_path: Path) -> Callable[..., PretrainConfig]:
    """`tiny_config` for a folder of the test's own: `tiny(steps=4)`."""
    return partial(tiny_config, corpus, out=tmp_path / "run")
