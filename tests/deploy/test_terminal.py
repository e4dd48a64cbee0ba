"""All commands that print what pages, hosts or models say, over a corpus and a frontier that are hostile."""

import io
import os
import pty
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
from rich.markdown import Markdown
from rich.progress import Progress
from rich.table import Table

from crawler.frontier import Discovered
from crawler.urls import fingerprint
from deploy.cli.app import main
from deploy.cli.model import print_stream
from deploy.console import Console
from shards.manifest import HeldOut
from shards.writer import ShardWriter
from tests.conftest import open_frontier
from tests.crawler.driving import next_page
from tests.shards.conftest import make_document, make_fetch, make_link
from tinylm.terminal import clean

NASTY = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\r\x08\x1b]8;;http://evil/\x1b\\[red][/blue]:boom:"
VISIBLE = "[red][/blue]:boom:"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def corpus(tmp_path):
    """Of a stranger: every string in it is as nasty as the schema allows."""
    with ShardWriter(tmp_path / "shards", crawl_id="c") as writer:
        for number in range(3):
            url = f"https://a.test/{number}{NASTY if number else ''}"
            own = {"id": f"{fingerprint(url):016x}-1", "url": url, "host": f"a{NASTY}.test"}
            text = f"Line {NASTY} &#27;[2J &#x202e;gnp\n\n    {NASTY}\n\n[click](http://evil/{NASTY})\n"
            names = {"language": "en", "title": NASTY, "quality_model": NASTY, "policy": NASTY}
            fetch = replace(make_fetch(number), **own, policy=NASTY, ingredients={NASTY: 0.5})
            link = replace(
                make_link(number), dst_url=f"https://b.test/{number}{NASTY}", anchor=NASTY, tag_path=NASTY
            )
            writer.append(replace(make_document(number, text=text), **own, **names), [link], fetch)
        writer.commit({"0": "1-0"}, dropped={NASTY: 3})
        writer.update(held_out=HeldOut(hosts=(NASTY,)), tombstones=(NASTY,))
    return tmp_path / "shards"


@pytest.fixture
def tell(capsys):
    def run(*words):
        with suppress(SystemExit):
            main([str(word) for word in words])
        said = "".join(capsys.readouterr())
        assert clean(said) == said
        assert "Traceback" not in said
        return said

    return run


def test_a_hostile_corpus_is_shown_without_its_controls(corpus, tell):
    assert VISIBLE in tell("shards", "show", corpus)
    assert VISIBLE in tell("shards", "list", corpus)
    assert VISIBLE in tell("shards", "rank", corpus)
    assert VISIBLE in tell("why", "https://a.test/0", corpus)
    assert "every file is as it was committed" in tell("shards", "verify", corpus)
    assert "hits nothing" in tell("shards", "take-down", corpus, f"https://a.test/{NASTY}")
    assert "names no host" in tell("shards", "take-down", corpus, NASTY)


def test_a_hostile_frontier_is_shown_without_its_controls(server, tell):
    crawl = open_frontier(server, delay=0, attempts=1)
    of_it = ["--redis-url", server.url, "--crawl-id", crawl.config.crawl_id]
    crawl.put([Discovered("https://a.test/1", 0.5)])
    crawl.nack(next_page(crawl), NASTY)
    crawl.publish("walker", {"dropped": {NASTY: 5}, "kept": 1, "quality_model": NASTY, "quality": 0.5}
        | {"calibration_error": None, "drift": 0.0, "novelty": 0.0})  # fmt: skip
    assert VISIBLE in tell("frontier", "dead", *of_it)
    assert VISIBLE in tell("status", *of_it)
    crawl.stop(NASTY)
    assert VISIBLE in tell("status", *of_it)


def test_what_a_model_says_is_clean_in_whichever_pieces_it_comes(capsys):
    assert (
        print_stream(iter(["\x1b", "]52;c;", "x\x07 \x9b", "31m\r", "\n", "end"]))
        == "\x1b]52;c;x\x07 \x9b31m\r\nend"
    )
    assert capsys.readouterr().out == "]52;c;x 31m\nend\n"


def test_everything_that_rich_draws_is_clean_on_a_terminal_too():
    """Its own colours stay, as the control sequences of a display do; those of the text do not."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=300, color_system="truecolor")
    table = Table("a")
    table.add_row(NASTY)
    console.print(
        NASTY, table, {"x": NASTY}, Markdown(f"{NASTY} &#x202e; [x](http://e/{NASTY})", hyperlinks=False)
    )
    console.rule(NASTY)
    with Progress(console=console) as progress:
        progress.add_task(NASTY.replace("[red][/blue]", ""))
    said = file.getvalue()
    for sequence in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\u202e", "\u2066", "\x08"):
        assert sequence not in said
    assert "\x1b[" in said


def test_on_a_terminal_a_page_is_shown_clean(corpus):
    """A real one, with rich's colours."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "deploy.cli.app", "shards", "show", str(corpus), "--limit", "1"]
    with subprocess.Popen(
        argv, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm-256color"}
    ) as shown:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # Linux says EIO at the end of a terminal
            while chunk := os.read(ours, 1 << 16):
                said += chunk
    os.close(ours)
    assert shown.returncode == 0
    assert b"\x1b[" in said
    for sequence in ("\x1b]", "\x1b[2J", "\u202e", "\u009b", "\x07"):
        assert sequence.encode() not in said
