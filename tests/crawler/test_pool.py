"""Extraction children: what hangs, swells or dies costs only itself."""

import asyncio
import json
import math
import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import crawler.read.pool
from crawler.page import Extracted
from crawler.read.extract import Extractor
from crawler.read.pool import Extractors, Times

SECONDS = 5.0


def act(what, argument, seconds):
    """Stands for the extraction of a page that does `what`."""
    global held
    match what:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die once":
            if not Path(argument).exists():
                Path(argument).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            time.sleep(3600)
        case "slow":
            time.sleep(argument)
        case "fill":
            try:
                held = bytearray(argument << 20)
            except MemoryError:
                return Extracted(reason="extract_memory")
    return Extracted(text=f"{what} {os.getpid()} {os.getpriority(os.PRIO_PROCESS, 0)}")


@asynccontextmanager
async def extractors(processes=1, seconds=SECONDS, extract=act):
    made = Extractors(extract, processes, seconds, megabytes=256)

    async def one(*task, domain="some.test", until=math.inf):
        return (await made(domain, *task, until=until))[0]

    one.times, one.measured = made.times, made
    try:
        yield one
    finally:
        made.close()


def test_pages_are_spread_over_children_that_stay():
    async def main():
        async with extractors(2) as extract:
            found = await asyncio.gather(*(extract("work", n) for n in range(20)))
            assert len({one.text for one in found}) <= 2
            assert extract.times.summary()["extracted"] == 20
            assert extract.times.failed == {}

    asyncio.run(main())


@pytest.mark.parametrize(("what", "reason"), [("die", "extract_crash"), ("hang", "extract_timeout")])
def test_a_page_that_kills_or_hangs_its_child_costs_only_itself(what, reason):
    async def main():
        async with extractors(2, 0.2) as extract:
            bad, *good = await asyncio.gather(extract(what, 0), *(extract("work", n) for n in range(10)))
            assert bad.reason == reason
            assert all(one.text for one in good)
            assert extract.times.failed == {reason: 1}

    asyncio.run(main())


def test_a_child_that_died_of_something_else_is_replaced_and_the_page_tried_again(tmp_path):
    async def main():
        async with extractors() as extract:
            assert (await extract("die once", str(tmp_path / "died"))).text
            assert extract.times.failed == {}

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is enforced by Linux")
def test_memory_is_limited_and_a_child_that_grew_is_replaced():
    async def main():
        async with extractors() as extract:
            first = await extract("work", 0)
            assert (await extract("fill", 400)).reason == "extract_memory"
            second = await extract("work", 0)
            grown = await extract("fill", 180)
            third = await extract("work", 0)
            assert first.text != second.text
            assert grown.text.split()[1] == second.text.split()[1] != third.text.split()[1]
            assert extract.times.failed == {"extract_memory": 1}

    asyncio.run(main())


def test_a_page_that_was_given_up_leaves_no_answer_to_the_next():
    async def main():
        async with extractors() as extract:
            await extract("work", 0)
            waiting = asyncio.create_task(extract("hang", 0))
            await asyncio.sleep(0.05)
            waiting.cancel()
            assert (await extract("work", 1)).text.startswith("work")

    asyncio.run(main())


def test_children_end_with_close_even_while_they_work():
    async def main():
        async with extractors() as extract:
            pid = int((await extract("work", 0)).text.split()[1])
            waiting = asyncio.create_task(extract("hang", 0))
            await asyncio.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()
        waiting.cancel()

    asyncio.run(main())


def test_a_real_page_that_hangs_in_c_is_given_up():
    """Lexbor takes quadratic time for open elements, where no alarm is heard."""

    async def main():
        async with extractors(1, 0.1, Extractor()) as extract:
            # Open elements that look closed, to all but a parser that knows everything of scopes.
            page = b"<p title='</p>'><svg><desc><div></svg></desc>" * 60_000
            found = await extract(page, "http://h.test/", "text/html", "")
            assert found.reason == "extract_timeout"

    asyncio.run(main())


def test_one_domain_waits_behind_others_however_many_hosts_it_has():
    async def main():
        async with extractors() as extract:
            done = []

            async def one(domain, number):
                await extract("work", number, domain=domain)
                done.append(domain)

            many = [one("many.test", number) for number in range(20)]
            await asyncio.gather(*many, *(one(f"other{n}.test", 0) for n in range(5)))
            assert set(done[:11]) >= {f"other{n}.test" for n in range(5)}

    asyncio.run(main())


@pytest.mark.parametrize("domains", [1, 3])
def test_slow_pages_go_last_at_low_priority_and_good_ones_go_on(domains, monkeypatch):
    monkeypatch.setattr(crawler.read.pool, "_FIRST_SECONDS", 0.5)
    monkeypatch.setattr(crawler.read.pool, "_TOLERATED_SECONDS", 0.5)

    async def main():
        async with extractors(1, 1.0) as extract:
            await extract("work", 0)
            slow = [
                asyncio.create_task(extract("hang", 0, domain=f"slow{n % domains}.test")) for n in range(3)
            ]
            # All but the first page of each domain, while that domain is known to be slow.
            while sum(known.wasted() > 0.5 for known in extract.measured._domains.values()) < domains:
                await asyncio.sleep(0.05)
            good = [await extract("work", n, domain=f"good{n}.test") for n in range(100)]
            assert {one.text.split()[2] for one in good} == {"0"}
            assert not all(task.done() for task in slow)
            found = await asyncio.gather(*slow)
            assert {one.reason for one in found} == {"extract_timeout"}
            # It is served, if it has a page that can be.
            late = await extract("work", 0, domain="slow0.test")
            assert late.text.split()[2] == "10"

    asyncio.run(main())


def test_a_page_that_needs_longer_than_the_first_second_gets_it_and_says_so(monkeypatch):
    monkeypatch.setattr(crawler.read.pool, "_FIRST_SECONDS", 0.5)

    async def main():
        async with extractors(1, 5.0) as extract:
            found, slow = await extract.measured("big.test", "slow", 0.9)
            assert found.text.startswith("slow")
            assert slow > 0.5

    asyncio.run(main())


def test_a_page_that_cannot_be_begun_in_time_is_not_to_blame_unless_its_domain_was_slow():
    async def main():
        async with extractors(1, 1.0) as extract:
            await extract("work", 0)
            ahead = asyncio.create_task(extract("hang", 0, domain="slow.test"))
            await asyncio.sleep(0.05)
            with pytest.raises(TimeoutError):
                await extract("work", 0, domain="good.test", until=time.monotonic() + 3.1)
            assert (await ahead).reason == "extract_timeout"
            assert (await extract("work", 0, domain="slow.test", until=time.monotonic())).reason == (
                "extract_timeout"
            )
            assert (await extract("work", 0, domain="good.test", until=time.monotonic() + 9)).text

    asyncio.run(main())


def test_quantiles_are_rounded_up_to_powers_of_two():
    times = Times()
    assert times.quantile(0.99) == 0
    for milliseconds in [3] * 98 + [20, 900]:
        times.add(milliseconds / 1000, "")
    times.add(0.0, "extract_crash")
    assert (times.quantile(0.5), times.quantile(0.985), times.quantile(1.0)) == (4, 32, 1024)
    assert times.summary()["failed"] == {"extract_crash": 1}


def test_what_workers_publish_adds_up():
    times, together = [Times() for _ in range(3)], Times()
    for number in range(300):
        failure = "extract_timeout" if number % 100 == 0 else ""
        times[number % 3].add(number / 1000, failure)
        together.add(number / 1000, failure)
    published = json.loads(json.dumps([each.state() for each in times]))
    assert Times.of_all(published).summary() == together.summary()
    assert Times.of_all([]).summary()["extracted"] == 0
