"""How `tinylm crawl` ends: with what it came to, why it brought nothing, and what can be made good."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.cli.app import main
from deploy.summary import FILE_NAME, Summary
from tests.conftest import command, eventually, reply
from tests.ranker.conftest import prose
from tinylm.errors import Exit

HERE = Path(__file__).parents[2]
PAGES = [f"/{number}" for number in range(4)]


@pytest.fixture
def site(site):
    links = "".join(f'<a href="{path}">{path}</a>' for path in PAGES)
    site.on("a.test", "/", essay(0, links))
    for number, path in enumerate(PAGES, 1):
        site.on("a.test", path, essay(number))
    return site


def essay(number, more=""):
    """A page that is kept, if its language is."""
    paragraphs = "".join(f"<p>{each}</p>" for each in prose(number).split("\n\n"))
    return reply(200, f"<html><body><main><h1>Essay {number}</h1>{paragraphs}{more}</main></body></html>")


@pytest.fixture
def tell_here(site, tmp_path, capsys):
    """As `tell`, in this process."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(arguments(site, tmp_path, *words))
        return ended.value.code, "".join(capsys.readouterr())

    return run


@pytest.fixture
def tell(site, tmp_path):
    """`tinylm` of a crawl in `tmp_path`: tell("crawl", …) returns the code, and all that was said."""

    def run(*words):
        ended = subprocess.run(
            [sys.executable, "-m", "deploy.cli.app", *arguments(site, tmp_path, *words)],
            capture_output=True, text=True, check=False, cwd=HERE,
        )  # fmt: skip
        return ended.returncode, ended.stdout + ended.stderr

    return run


def arguments(site, data, *words):
    more = ["--data", str(data / "data")]
    if words[0] == "crawl":
        more += [
            "--workers",
            "1",
            "--disk-reserve-gigabytes",
            "0",
            "--delay",
            "0.01",
            "--latency-factor",
            "0",
        ]
        defaults = {
            "--allowed-networks": f"127.0.0.1/32:{site.port}", "--languages": "", "--attempts": "1",
            "--resolve": ",".join(f"{host}=127.0.0.1:{site.port}" for host in site.hosts),
        }  # fmt: skip
        more += [part for name, value in defaults.items() if name not in words for part in (name, value)]
    return [*words, *more]


def test_a_seed_that_its_network_forbade_is_fetched_once_it_is_allowed_and_then_the_crawl_has_finished(
    tell_here, site, tmp_path
):
    code, said = tell_here("crawl", "http://a.test/", "--allowed-networks", "127.0.0.2")
    assert (code, site.hits) == (Exit.NOTHING_KEPT, [])
    assert "not asked  forbidden_network 1" in said
    assert "error: nothing was fetched in all runs of this crawl: forbidden_network 1 (its address is" in said

    code, said = tell_here("crawl")
    assert (code, len(site.asked("a.test"))) == (Exit.DONE, 6)
    assert "1 URLs that were refused or given up are queued again" in said
    for line in (
        "done: nothing left to fetch\n",
        "fetched    6 answers of 1 hosts",
        "kept       5 documents",
    ):
        assert line in said
    assert "forbidden" not in said

    code, said = tell_here("crawl")
    assert (code, len(site.asked("a.test"))) == (Exit.DONE, 6)
    assert "done: nothing left to fetch; it had finished before" in said

    code, said = tell_here("status")
    assert code == Exit.DONE, said
    assert "no server runs; this was so at 20" in said
    assert "ended      nothing left to fetch" in said
    assert "kept       5 documents" in said
    assert json.loads((tmp_path / "data" / FILE_NAME).read_text())["kept"] == 5


@pytest.mark.long
def test_a_host_that_robots_refused_is_asked_under_another_name(tell, site):
    site.on("a.test", "/robots.txt", reply(200, "User-agent: good\nAllow: /\nUser-agent: *\nDisallow: /"))
    code, said = tell("crawl", "http://a.test/", "--user-agent", "bad (+https://x.test/)")
    assert code == Exit.NOTHING_KEPT
    assert "robots 1 (robots.txt does not let this user_agent in)" in said
    code, said = tell("crawl", "--user-agent", "good (+https://x.test/)")
    assert (code, len(site.asked("a.test"))) == (Exit.DONE, 6)


@pytest.mark.long
def test_a_crawl_that_kept_nothing_of_what_it_fetched_says_why(tell, site):
    code, said = tell("crawl", "http://a.test/", "--languages", "de,fr")
    assert code == Exit.NOTHING_KEPT
    assert "error: nothing was kept in all runs of this crawl: pre_language 5 (in none of the `lang" in said


@pytest.mark.long
@pytest.mark.parametrize(
    ("resolve", "said"),
    [
        ("b.test=127.0.0.1:1", "refused 1 (nobody listens there)"),
        ("x.test=127.0.0.1:1", "dns 1 (there is no such name"),
    ],
)
def test_a_seed_that_is_given_again_is_tried_again(tell, site, resolve, said):
    networks = ("--allowed-networks", f"127.0.0.1/32:1,127.0.0.1/32:{site.port}")
    code, told = tell("crawl", "http://b.test/", "--resolve", resolve, *networks)
    assert code == Exit.NOTHING_KEPT
    assert f"nothing was fetched in all runs of this crawl: {said}" in told
    site.on("b.test", "/", essay(9))
    assert tell("crawl", "http://b.test/", *networks)[0] == Exit.DONE


def test_no_seeds_are_no_success(tell_here, tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing yet\n\n")
    for seeds in ((), (str(tmp_path / "empty.txt"),)):
        code, said = tell_here("crawl", *seeds)
        assert code == Exit.NOTHING_KEPT
        assert "no crawl was begun in" in said
        assert ("empty.txt: no URL is in it" in said) == bool(seeds)
    code, said = tell_here("seed", str(tmp_path / "empty.txt"))
    assert (code, "nothing was given" in said) == (Exit.ERROR, True)


@pytest.mark.long
def test_a_crawl_whose_hosts_all_rest_beyond_its_hours_ends_and_says_for_whom_it_would_wait(tell, site):
    site.on("a.test", "/0", reply(503, "", Retry_After=str(366 * 86400)))
    for path in PAGES[1:]:
        site.on("a.test", path, reply(503, "", Retry_After=str(366 * 86400)))
    code, said = tell("crawl", "http://a.test/", "--attempts", "3")
    year = time.strftime("%Y-", time.gmtime(time.time() + 366 * 86400))
    assert code == Exit.DONE, said
    assert f"done: nothing may be asked before its time is up: a.test rests until {year}" in said
    assert "hosts that rest between requests: 1" in said
    assert f"the first, a.test, may be asked at {year}" in said
    assert len(site.asked("a.test")) == 3


@pytest.mark.long
def test_a_crawl_that_is_told_to_end_says_what_it_came_to(site, tmp_path):
    site.on("a.test", "/3", lambda handler: time.sleep(3))
    log = tmp_path / "log"
    with command(log, *arguments(site, tmp_path, "crawl", "http://a.test/")) as process:
        eventually(lambda: len(site.asked("a.test")) >= 2)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == Exit.INTERRUPTED
    said = log.read_text()
    assert "fetched    " in said
    assert "interrupted; the same command goes on from here" in said
    assert Summary.load(tmp_path / "data").ended == "interrupted"
