"""Sites without end come to an end, and sites that are only large do not."""

from collections import deque
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.read.extract import Extractor, Screen
from deploy.demo.hosts import Calendar
from ranker.traps import HOSTS, URLS, Traps, trap_of_shape

HOST = "http://h.example"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/docs/page.html?b=1&c=2", ""),
        ("/2024/10/10/10/10", ""),
        ("/en/docs/en/docs/en", ""),
        ("/a/a/b", ""),
        ("/" + "x" * 600, "trap_length"),
        ("/p?" + "&".join(f"f{n}=1" for n in range(11)), "trap_parameters"),
        ("/a/a/a", "trap_repeats"),
        ("/x/a/b/a/b/a/b/y", "trap_repeats"),
        ("/a/b/c/d/a/b/c/d/a/b/c/d", "trap_repeats"),
        ("/a/x/a/y/a/z/a/", "trap_repeats"),
    ],
)
def test_some_urls_tell_by_themselves(path, reason):
    assert trap_of_shape(HOST + path) == reason


def crawl(children, kept, most=20_000):
    """Fetch breadth first from the front page what the traps admit; returns how many URLs there were."""
    traps, seen, waiting = Traps(), {f"{HOST}/"}, deque([f"{HOST}/"])
    while waiting and len(seen) < most:
        url = waiting.popleft()
        traps.fetched(url, "", kept=kept(url))
        for link in children(url):
            if link not in seen and not traps.reason(link):
                seen.add(link)
                waiting.append(link)
    return len(seen)


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word(number):
    return "".join(LETTERS[int(digit)] for digit in str(number))


ENDLESS = {
    "calendar": lambda url, n: f"{HOST}/calendar/{1900 + n % 7000}/{n % 12}/",
    "session": lambda url, n: f"{HOST}/s/{n:016x}/page.html",
    "query": lambda url, n: f"{HOST}/list?sort={word(n)}",
    "parameters": lambda url, n: f"{HOST}/list?{word(n)}=1",
    "words": lambda url, n: f"{HOST}/{word(n)}",
    "folders": lambda url, n: f"{HOST}/{word(n)}/{word(n * 7)}/",
    "deeper": lambda url, n: f"{url}/{word(n)}",
}


@settings(max_examples=8)
@given(st.sampled_from(sorted(ENDLESS)), st.integers(1, 4))
def test_of_an_endless_site_that_is_worth_nothing_a_finite_number_of_urls_is_admitted(kind, links):
    numbers = count()
    assert (
        crawl(lambda url: [ENDLESS[kind](url, next(numbers)) for _ in range(links)], lambda url: False)
        < 15_000
    )


@pytest.mark.parametrize("kind", ["calendar", "session", "query", "parameters"])
def test_a_trap_on_a_good_site_does_not_end_the_site(kind):
    numbers = count()

    def children(url):
        own = [f"{HOST}/articles/{word(next(numbers))}"] if "articles" in url or url == f"{HOST}/" else []
        return [*own, *(ENDLESS[kind](url, next(numbers)) for _ in range(3))]

    traps_met = []

    def kept(url):
        if "articles" not in url:
            traps_met.append(url)
        return "articles" in url

    assert crawl(children, kept, most=3000) == 3000
    assert len(traps_met) < 300


def test_a_large_index_is_admitted_whole():
    assert crawl(lambda url: [f"{HOST}/story/{n}" for n in range(5000)] if url == f"{HOST}/" else [],
                 lambda url: url.endswith("0")) == 5001  # fmt: skip


def test_a_folder_that_brings_nothing_is_valued_less_and_not_closed():
    traps = Traps()
    for n in range(30):
        traps.fetched(f"{HOST}/empty/{word(n)}", "", kept=False)
    assert traps.reason(f"{HOST}/empty/new") == ""
    assert traps.weight(f"{HOST}/empty/new") < 1 == traps.weight(f"{HOST}/other/new")


def test_what_many_urls_of_a_host_answer_is_its_answer_to_nonsense():
    traps = Traps()
    found = [traps.fetched(f"{HOST}/{word(n)}", "ab12", kept=n == 0) for n in range(7)]
    assert found == [False] * 5 + [True] * 2
    assert not traps.fetched("http://other.example/", "ab12", kept=False)
    assert not any(traps.fetched(f"{HOST}/{word(n)}", "", kept=False) for n in range(20))


@pytest.mark.parametrize("names", [HOSTS, URLS])
def test_a_page_and_a_domain_name_so_many_and_more_for_each_page_that_is_kept(names):
    def name(source):
        count = traps.left(names, source)
        traps.named(names, source, count)
        return count

    traps, pages = Traps(), names.domain // names.page
    assert [name("farm.test") for _ in range(pages + 2)] == [names.page] * pages + [0] * 2
    for n in range(3):
        traps.fetched(f"https://farm.test/{n}", "", kept=n > 0)
    later = Traps()
    later.restore(traps.state())
    traps = later
    assert [name("farm.test"), name("farm.test"), name("good.test")] == [2 * names.kept_page, 0, names.page]
    assert len(traps.state()["keys"]) < 20, "names are not remembered, only how many they were"


def test_it_goes_on_from_its_state():
    traps, later = Traps(), Traps()
    for n in range(60):
        traps.fetched(f"{HOST}/c/{n}", "same", kept=False)
    later.restore(traps.state())
    assert later.reason(f"{HOST}/c/99") == "trap_pattern"
    assert later.fetched(f"{HOST}/x", "same", kept=False)
    empty = Traps()
    empty.restore(Traps().state())
    assert empty.reason(f"{HOST}/c/99") == ""


def test_the_calendar_of_the_local_web_ends_after_a_few_hundred_of_its_millions_of_pages():
    extractor, calendar, traps = Extractor(Screen(("en",), 0.65)), Calendar(), Traps()
    start = "http://calendar.test/2024/05/01.html"
    seen, waiting = {start}, deque([start])
    while waiting:
        url = waiting.popleft()
        path, _, query = url.removeprefix("http://calendar.test").partition("?")
        page = extractor(calendar.answer(path, query).body, url, "text/html", False, 10.0)
        assert page.reason
        traps.fetched(url, page.content_sha256, kept=False)
        new = [link.url for link in page.links if link.url not in seen and not traps.reason(link.url)]
        seen.update(new)
        waiting.extend(new)
    assert len(seen) < 1000
