"""Hosts: lists of every form, what is known before anybody is asked, and polite probes of the rest."""

import asyncio
import gzip
import json
import time
from collections import Counter
from itertools import pairwise

import duckdb
import pytest
from backports import zstd

from crawler.config import CrawlConfig
from crawler.errors import SeedError
from crawler.seeds.config import HostsConfig
from crawler.seeds.hosts import seeds_of_hosts
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import Progress
from tests.conftest import reply

NAMES = [f"h{n}.example" for n in range(40)]


PLAIN, ENGLISH_ONLY = HostsConfig(), ("en",)


def hosts(
    tmp_path, *lists, config=PLAIN, crawl=None, languages=ENGLISH_ONLY, ledger=None, clock=None, stop=None
):
    """URLs of the seeds of these lists, with their facts, and what was left out."""
    crawl = crawl or CrawlConfig(allowed_networks=("127.0.0.1/32",))
    progress, found = Progress(), {}
    more = {"clock": clock} if clock else {}
    with ledger or Ledger(":memory:") as kept:
        batches = seeds_of_hosts(
            [str(each) for each in lists],
            config,
            crawl,
            languages,
            tmp_path,
            kept,
            progress,
            **more,
        )
        for number, batch in enumerate(batches):
            for at, seed in enumerate(batch.seeds):
                found[seed.url] = seed._asdict() | {name: column[at] for name, column in batch.facts.items()}
            if number == stop:
                batches.close()
                break
    return found, +progress.dropped


def listed(path, text):
    pack = {".gz": gzip.compress, ".zst": zstd.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(text.encode()))
    return path


FORMS = {
    "tranco.csv": "1,h0.example\n2,h1.example\n3,h2.example\n",
    "plain.txt": "# mine\nh0.example\nH1.example\n\nh2.example\n",
    "names.txt.gz": "*.h0.example\nh1.example\n*.h2.example\n",
    "zone.txt": "$ORIGIN .\nh0.example. 3600 in ns ns.x.\nh1.example. 3600 in ns ns.y.\n"
                "h1.example. 1 in txt x\nh2.example. 1 in a 1.2.3.4\n",
    "ranks.txt.zst": "#harmonicc_pos\t#harmonicc_val\t#pr_pos\t#pr_val\t#host_rev\n"
                     "1\t9e7\t1\t0.1\texample.h0\n2\t8e7\t2\t0.1\texample.h1\n3\t7e7\t3\t0.1\texample.h2\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_lists_of_every_form_are_read(tmp_path, name):
    found, dropped = hosts(tmp_path, listed(tmp_path / name, FORMS[name]))
    assert set(found) == {f"https://h{n}.example/" for n in range(3)}
    assert dropped == ({"no_host": 1} if name == "zone.txt" else {})
    assert {seed["source"] for seed in found.values()} == {f"hosts:{name}"}
    if name in ("tranco.csv", "ranks.txt.zst"):
        priors = [found[f"https://h{n}.example/"]["prior"] for n in range(3)]
        assert priors == sorted(priors, reverse=True)
        assert priors[0] == 10


def test_bad_lines_are_counted_and_a_list_without_hosts_is_one_error(tmp_path):
    path = listed(tmp_path / "x.txt", "h0.example\nno host here\nlocalhost\n1.2.3.4.5.\n-x.example\n\x00\n")
    found, dropped = hosts(tmp_path, path)
    assert set(found) == {"https://h0.example/"}
    assert dropped["no_host"] >= 4
    with pytest.raises(SeedError, match="none of its lines names a host; known are Tranco"):
        hosts(tmp_path, listed(tmp_path / "y.txt", "nothing\n" * 5))
    with pytest.raises(SeedError, match=r"missing\.txt: no such file"):
        hosts(tmp_path, tmp_path / "missing.txt")


def test_the_order_is_random_each_host_comes_once_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr("crawler.seeds.hosts._GIVEN", 7)
    path = listed(tmp_path / "x.txt", "\n".join([*NAMES, *NAMES]))
    whole = list(hosts(tmp_path, path)[0])
    assert sorted(whole) == sorted(f"https://{name}/" for name in NAMES)
    assert whole != [f"https://{name}/" for name in NAMES]
    ledger = tmp_path / "sources.sqlite"
    first = list(hosts(tmp_path, path, ledger=Ledger(ledger), stop=2)[0])
    rest = list(hosts(tmp_path, path, ledger=Ledger(ledger))[0])
    # The batch that nobody said was given comes again.
    assert first[:14] + rest == whole
    assert hosts(tmp_path, path, ledger=Ledger(ledger))[0] == {}


def host_index(path, **rows):
    """A Host Index: of each host what differs from a host with ten pages in English."""
    counts = "fetch_200 fetch_200_lote_pct fetch_4xx fetch_5xx robots_200 robots_gone robots_4xx robots_5xx"
    columns = (*counts.split(), "hcrank10")
    usual = dict.fromkeys(columns, 0) | {"fetch_200": 10, "robots_200": 1, "hcrank10": 2.5}
    values = [{"surt_host_name": f"example,{name}", **usual, **of} for name, of in rows.items()]
    source = path.with_suffix(".json")
    source.write_text(json.dumps(values))
    duckdb.sql(f"copy (from read_json('{source}')) to '{path}'")
    return path


def test_hosts_that_are_known_to_refuse_or_to_write_otherwise_are_not_asked(tmp_path):
    known = host_index(
        tmp_path / "index.parquet",
        h0={"hcrank10": 7.5}, h1={"robots_200": 0, "robots_4xx": 3}, h2={"fetch_200_lote_pct": 95},
        h3={"fetch_200": 0, "fetch_5xx": 4}, h4={"robots_200": 0, "robots_gone": 1},
        h5={"fetch_200": 0, "robots_200": 0},
    )  # fmt: skip
    path = listed(tmp_path / "x.txt", "\n".join(NAMES[:7]))
    found, dropped = hosts(tmp_path, path, config=HostsConfig(known=(known,)))
    assert {url: of["known"] for url, of in found.items()} == {
        "https://h0.example/": "alive", "https://h4.example/": "alive", "https://h5.example/": "unknown",
        "https://h6.example/": "unknown",
    }  # fmt: skip
    assert found["https://h0.example/"]["prior"] == 7.5
    assert dropped == {"refuses": 2, "language": 1}
    assert hosts(tmp_path, path, config=HostsConfig(known=(known,)), languages=("de",))[1] == {"refuses": 2}


class Clock:
    """A time that passes only while somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += max(0.0, seconds)
        await asyncio.sleep(0)


ENGLISH = "<html><p>" + "This is a page in plain English that says what it is about and why. " * 5
GERMAN = "<html><p>" + "Diese Seite ist auf Deutsch geschrieben und sagt, worum es darin geht. " * 5


@pytest.fixture
def probing(site, tmp_path):
    """Six hosts on loopback, one that does not answer, one whose address is forbidden; how to ask them."""
    text = "<link rel=alternate type='application/rss+xml' href=/feed>"
    on = {
        "h0": {
            "/": reply(200, text + ENGLISH),
            "/robots.txt": reply(200, "Sitemap: http://h0.example/s.xml"),
        },
        "h1": {"/": reply(200, ENGLISH), "/robots.txt": reply(200, "User-agent: *\nDisallow: /")},
        "h2": {"/": reply(200, GERMAN)},
        "h3": {"/": reply(503)},
        "h4": {"/robots.txt": reply(500)},
        "h5": {"/": reply(200, ENGLISH + "x" * 1_000_000)},
    }
    for name, answers in on.items():
        for path, answer in answers.items():
            site.on(f"{name}.example", path, answer)
    resolve = [f"h{n}.example=127.0.0.1:{site.port}" for n in range(6)]
    resolve += ["h6.example=127.0.0.1:1", "h7.example=192.0.2.1:80"]
    crawl = CrawlConfig(allowed_networks=("127.0.0.1/32",), resolve=tuple(resolve), timeout=3.0,
                        user_agent="lab/1.0 (+http://lab.example)")  # fmt: skip
    return crawl, listed(tmp_path / "x.txt", "\n".join(NAMES[:8]))


def test_probes_say_who_is_there_and_a_second_run_asks_nobody(probing, site, tmp_path):
    crawl, path = probing
    config = HostsConfig(probe=True, description="http://lab.example/.well-known/probing.txt")
    clock = Clock()
    ledger = tmp_path / "sources.sqlite"
    found, dropped = hosts(
        tmp_path, path, config=config, crawl=crawl, ledger=Ledger(ledger), clock=(clock, clock.sleep)
    )
    assert set(found) == {"http://h0.example/", "http://h5.example/"}
    first = found["http://h0.example/"]
    assert (first["robots"], first["sitemaps"], first["feed"], first["language"]) == (200, 1, 1, "en")
    assert dropped == {"refuses": 2, "language": 1, "status_503": 1, "dead": 1, "forbidden_network": 1}
    asked = Counter(hit.host for hit in site.hits)
    assert asked == {
        "h0.example": 2,
        "h1.example": 1,
        "h2.example": 2,
        "h3.example": 2,
        "h4.example": 1,
        "h5.example": 2,
    }
    with Ledger(ledger) as kept:
        # https first, at each; where nobody may be asked nothing was sent.
        assert kept.spent()["hosts:x.txt"]["probes"] >= 10
        kept.db.execute("delete from positions")
    again, _ = hosts(
        tmp_path, path, config=config, crawl=crawl, ledger=Ledger(ledger), clock=(clock, clock.sleep)
    )
    assert set(again) == set(found)
    assert Counter(hit.host for hit in site.hits) == asked


def test_one_network_is_probed_once_a_second_and_all_at_the_rate(probing, tmp_path):
    """All are at 127.0.0.1: one after the other, however many slots there are."""
    crawl, path = probing
    times, clock = [], Clock()

    async def sleep(seconds):
        times.append(clock.now + max(0.0, seconds))
        await clock.sleep(seconds)

    hosts(tmp_path, path, config=HostsConfig(probe=True), crawl=crawl, clock=(clock, sleep))
    turns = sorted(times)
    assert len(turns) >= 10
    assert all(later - before >= 0.99 for before, later in pairwise(turns))


def test_a_network_is_probed_once_a_second_also_from_one_part_of_a_list_to_the_next(
    probing, tmp_path, monkeypatch
):
    monkeypatch.setattr("crawler.seeds.hosts._PROBED", 1)
    test_one_network_is_probed_once_a_second_and_all_at_the_rate(probing, tmp_path)


def moved(site, name, *hops):
    """A robots.txt that leads from hop to hop, and a front page that must not be asked for."""
    for at, to in pairwise(("/robots.txt", *hops)):
        site.on(name, at, reply(301, Location=to))
    site.on(name, "/", reply(200, ENGLISH))


def test_rules_hold_wherever_a_robots_txt_has_moved_to(site, tmp_path):
    walls = reply(200, "User-agent: *\nDisallow: /")
    moved(site, "h0.example", "/rules")
    site.on("h0.example", "/rules", walls)
    moved(site, "h1.example", "http://h0.example/rules")
    moved(site, "h2.example", *(f"/{n}" for n in range(6)))  # beyond the fifth nobody looks
    site.on("h2.example", "/5", walls)
    moved(site, "h3.example", "http://h9.example/robots.txt")
    moved(site, "h4.example", "ftp://h4.example/")
    resolve = [f"h{n}.example=127.0.0.1:{site.port}" for n in range(5)] + ["h9.example=192.0.2.1:80"]
    crawl = CrawlConfig(allowed_networks=("127.0.0.1/32",), resolve=tuple(resolve), timeout=3.0)
    path, clock = listed(tmp_path / "x.txt", "\n".join(NAMES[:5])), Clock()
    found, dropped = hosts(
        tmp_path, path, config=HostsConfig(probe=True), crawl=crawl, clock=(clock, clock.sleep)
    )
    assert set(found) == {"http://h2.example/"}
    assert dropped == {"refuses": 2, "forbidden_network": 1, "dead": 1}
    assert {hit.host for hit in site.hits if hit.path == "/"} == {"h2.example"}


def test_a_list_that_has_changed_is_read_anew_and_old_answers_are_asked_for_again(
    probing, site, tmp_path, monkeypatch
):
    crawl, path = probing
    ledger, clock = tmp_path / "sources.sqlite", Clock()

    def run():
        with Ledger(ledger) as kept:
            config, times = HostsConfig(probe=True), (clock, clock.sleep)
            return set(hosts(tmp_path, path, config=config, crawl=crawl, ledger=kept, clock=times)[0])

    first = run()
    asked = len(site.hits)
    listed(path, "\n".join(["# again", *NAMES[:8]]))
    assert run() == first
    assert (run(), len(site.hits)) == (set(), asked)
    with Ledger(ledger) as kept:
        kept.db.execute("update probed set at = at - 40 * 86400")
        for job, position in list(kept.db.execute("select * from positions")):
            turn, begun = position.split()
            kept.settle(job, f"{turn} {float(begun) - 40 * 86400}")
    assert run() == first
    assert len(site.hits) == 2 * asked


def test_each_host_has_the_source_of_the_list_that_names_it_first(tmp_path):
    first = listed(tmp_path / "a.txt", "h0.example\nh1.example")
    second = listed(tmp_path / "b.txt", "h1.example\nh2.example")
    found = hosts(tmp_path, first, second)[0]
    assert {url[8:10]: of["source"] for url, of in found.items()} == {
        "h0": "hosts:a.txt", "h1": "hosts:a.txt", "h2": "hosts:b.txt",
    }  # fmt: skip


def test_ranks_of_the_web_graph_are_known_as_well_and_what_is_neither_is_one_error(tmp_path):
    ranks = tmp_path / "ranks.parquet"
    duckdb.sql(f"copy (select 'example.h1' host_rev, 32::bigint harmonicc_pos) to '{ranks}'")
    path = listed(tmp_path / "x.txt", "h0.example\nh1.example")
    found, _ = hosts(
        tmp_path, path, config=HostsConfig(known=(ranks, host_index(tmp_path / "i.parquet", h0={})))
    )
    assert found["https://h1.example/"]["prior"] == pytest.approx(1 + 9 / 32**0.2)
    assert {url: of["known"] for url, of in found.items()} == {
        "https://h0.example/": "alive", "https://h1.example/": "unknown",
    }  # fmt: skip
    other, broken = tmp_path / "other.parquet", tmp_path / "broken.parquet"
    duckdb.sql(f"copy (select 1 x) to '{other}'")
    broken.write_bytes(ranks.read_bytes()[:-9])
    for wrong, says in (
        (other, "neither"),
        (broken, "broken.parquet: "),
        (tmp_path / "no.parquet", "no.parquet"),
    ):
        with pytest.raises(SeedError, match=says):
            hosts(tmp_path, path, config=HostsConfig(known=(wrong,)))
    with pytest.raises(SeedError, match="line 1: ranks without a column harmonicc_pos"):
        hosts(tmp_path, listed(tmp_path / "r.txt", "#pr_pos\t#host_rev\n1\texample.h1\n"))


def test_a_range_of_addresses_is_asked_only_if_it_is_allowed(tmp_path):
    crawl = CrawlConfig(allowed_networks=("127.0.0.0/28",))
    found, _ = hosts(tmp_path, "127.0.0.8/30", crawl=crawl)
    assert set(found) == {"https://127.0.0.9/", "https://127.0.0.10/"}
    for wrong, says in (
        ("127.0.1.0/24", "allowed_networks"),
        ("10.0.0.0/8", "allowed_networks"),
        ("300.0.0.0/8", "no range"),
    ):
        with pytest.raises(SeedError, match=says):
            hosts(tmp_path, wrong, crawl=crawl)


def test_names_that_do_not_resolve_or_hang_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("crawler.seeds.hosts._PATIENCE", 0.5)

    async def lookup(host, port):
        if host == "h0.example":
            await asyncio.sleep(30)
        raise __import__("socket").gaierror(-2, "Name or service not known")

    monkeypatch.setattr("crawler.fetch.addresses._getaddrinfo", lookup)
    path, began = listed(tmp_path / "x.txt", "h0.example\nh1.example\n"), time.monotonic()
    found, dropped = hosts(tmp_path, path, config=HostsConfig(probe=True))
    assert found == {}
    assert dropped == {"dead": 1, "no_name": 1}
    assert time.monotonic() - began < 25  # less than the lookup takes
