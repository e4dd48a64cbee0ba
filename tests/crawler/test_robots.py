"""robots.txt and Retry-After: RFC 9309 and RFC 9110, and what real servers send."""

import ast
import re
import sys
import time
import tracemalloc
import weakref
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego

from crawler.errors import RulesMissing
from crawler.fetch.robots import (
    MOST_BYTES,
    HostRules,
    Rules,
    interpret,
    product_token,
    retry_at,
)
from crawler.frontier import Discovered
from crawler.urls import address
from tests.conftest import open_frontier

AGENT = "tinylm/0.1 (+https://lab.example/crawler)"
URL = "https://h.example/private/page"


def rules(text: str) -> Rules:
    return Rules(text, AGENT)


def test_the_group_that_is_ours_says_what_the_whole_file_says(conformance):
    """Of each real file, as protego reads all of it, for paths that it names and some that it may not."""
    files = [
        body for name, body in conformance.items() if name.startswith("conformance/protego/tests/test_data/")
    ]
    compared = forbidden = delayed = 0
    for number, body in enumerate(files):
        text = interpret(200, body)
        whole = Protego.parse(text)
        paths = re.findall(r"(?i)^(?:dis)?allow\s*:\s*(/[^\s#$]*)", text, re.MULTILINE)
        paths = ["/", "/index.html", "/a/b?c=d", *dict.fromkeys(paths)]
        for agent in (AGENT, ("GoogleBot/2.1", "my.bot-news/1", "baiduspider", "")[number % 4]):
            token, ours = product_token(agent), Rules(text, agent)
            for path in paths[:: max(1, len(paths) // 10)]:
                url = f"https://h.example{path.replace('*', 'x')}"
                compared += 1
                forbidden += not whole.can_fetch(url, token)
                assert ours.allow(url) is whole.can_fetch(url, token), (body[:80], agent, url)
            assert ours.crawl_delay == (whole.crawl_delay(token) or 0.0), (body[:80], agent)
            delayed += ours.crawl_delay > 0
        vouched = (address(sitemap, URL) for sitemap in [*whole.sitemaps][:1000])
        assert ours.sitemaps(URL) == tuple(dict.fromkeys(filter(None, vouched))), body[:80]
    assert len(files) == 4231
    assert compared > 50_000
    assert forbidden > 10_000
    assert delayed > 500


LINES = st.sampled_from(
    ["User-agent: *", "User-agent: tinylm", "user agent tiny", "useragent: TINY*", "User-agent:",
     "User-agent: **", "User-agent: t", "User-agent: lm", "User-agent: other",
     "User-agent: a\x0bDisallow: /b", "Disallow: /private", "Disallow:", "Allow /private/page",
     "disalow: /", "Allow: /*e$", "Sitemap: /s.xml", "Host: h", "Host h", "nonsense", "X: y", "X:y",
     "Crawl-delay: 3", "Crawl delay 7", "crawl-delay: nan", "Request-rate: 1/5", "Content-Usage: ai=n",
     "# User-agent: tinylm", "  Disallow:/private # but", "", " ", "\x00", "Sitemap https://h.example/s",
     "Disallow: /private$", "Disallow : /a  b", "Disallow /a  b", "Disallow: http://h.example/private"]
)  # fmt: skip


@given(st.lists(LINES, max_size=12).map("\n".join), st.sampled_from(["tinylm", "tiny.lm", "x-tinylm", "*"]))
def test_any_order_of_lines_means_what_protego_says(text, agent):
    whole, ours = Protego.parse(text), Rules(text, agent)
    for path in ("/", "/private", "/private/page", "/b", "/a%20%20b", "/a%20b", "/http://h.example/private"):
        assert ours.allow(f"https://h.example{path}") is whole.can_fetch(f"https://h.example{path}", agent)
    assert ours.crawl_delay == (whole.crawl_delay(agent) or 0.0)


def filled(line: str) -> str:
    """As many of a line, numbered, as are read."""
    return "".join(line.replace("#", str(n)) + "\n" for n in range(MOST_BYTES // len(line)))[:MOST_BYTES]


CATEGORIES = ", ".join(f"use{n}=n" for n in range(100))


FULL_OF = {
    "agents": filled("User-agent: a#")[: MOST_BYTES // 2] + "\n" + filled("Disallow: /#"),
    "prefixes": "".join(f"User-agent: {'tinylm'[:n]}\n" for n in range(1, 7)) + filled("Disallow: /#"),
    "rules": filled("User-agent:*\nAllow:/#"),
    "dollars": "User-agent: *\n" + filled("Allow:/$#$"),
    "index.html": "User-agent: *\n" + filled("Allow: /#/index.html"),
    "wildcards": "User-agent: *\n" + filled("Disallow: /*a*a*a*a#$"),
    "one wildcard": "User-agent: *\nDisallow: /" + "*a" * 250_000,
    "one line of dollars": "User-agent: *\nDisallow: /" + "$" * 500_000,
    "long rules": "User-agent: *\n" + filled("Disallow: /#" + "é" * 900),
    "uses of paths": filled("Content-Usage: /*#a " + CATEGORIES),
    "uses": "Content-Usage: " + filled("use#=n,").replace("\n", ""),
    "sitemaps": filled("Sitemap: https://h.example/#"),
    "one sitemap": "Sitemap: /" + "a" * 500_000,
    "line ends": "\r" * MOST_BYTES,
    "NUL": "\x00\n" * (MOST_BYTES // 2),
    "no lines": "a " * (MOST_BYTES // 2),
}


@pytest.mark.parametrize("text", FULL_OF.values(), ids=FULL_OF)
def test_whatever_a_file_is_full_of_takes_a_bounded_number_of_steps(text):
    """Ours and protego's, a step being a call or a return: 8 million are half a second."""
    steps = 0

    def step(*_):
        nonlocal steps
        steps += 1

    sys.setprofile(step)
    try:
        parsed = rules(text)
        parsed.sitemaps(URL)
    finally:
        sys.setprofile(None)
    assert steps < 10_000_000
    steps = 0
    sys.setprofile(step)
    try:
        parsed.allow("https://h.example/" + "a" * 2000)
        parsed.opt_out("https://h.example/" + "a" * 2000)
    finally:
        sys.setprofile(None)
    assert steps < 300_000
    assert len(parsed.opt_out(URL)) <= 16
    assert parsed.size < 40_000_000
    tracemalloc.start()
    again = rules(text)
    again.allow(URL)
    again.opt_out(URL)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1.2 * again.size


def test_the_memory_of_rules_is_bounded_and_who_was_not_asked_for_longest_goes(server, monkeypatch):
    monkeypatch.setattr("crawler.fetch.robots._REST_AFTER_LARGE", 0)
    frontier = open_frontier(server, delay=0.0)
    frontier.put([Discovered(f"https://h{n}.example/", 0.5) for n in range(6)])
    host_rules, kept = HostRules(frontier, AGENT), {}
    large = "User-agent: *\n" + "".join(f"Disallow: /{n}\n" for n in range(27_000))
    for lease in frontier.lease(6):
        text = (
            large
            if lease.host in ("h1.example", "h2.example", "h3.example")
            else "User-agent: *\nDisallow: /x"
        )
        frontier.ack_robots(lease, text, valid=99.0, crawl_delay=0.0, latency=0.0, size=0)
    leases = sorted(frontier.lease(6), key=lambda lease: lease.host)
    assert len(leases) == 6
    for lease in leases:
        kept[lease.host] = weakref.ref(host_rules.read(lease))
        host_rules.read(leases[0])
    assert [host for host, there in kept.items() if there() is None] == ["h1.example"]
    monkeypatch.setattr("crawler.fetch.robots._REST_AFTER_LARGE", 1e6)
    assert not host_rules.read(leases[1]).allow("https://h1.example/7")
    # Then none that is large and not remembered for a while; all others as ever.
    with pytest.raises(RulesMissing):
        host_rules.read(leases[2])
    assert not host_rules.read(leases[1]).allow("https://h1.example/7")
    assert HostRules(frontier, AGENT).read(leases[4]).allow("https://h4.example/7")


def google_cases(conformance, function):
    """The literal cases of one of protego's tests on Google's specification."""
    source = conformance["conformance/protego/tests/test_on_google_spec.py"].decode()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return ast.literal_eval(node.decorator_list[0].args[1])
    raise LookupError(function)


def test_paths_match_as_google_says(conformance):
    cases = google_cases(conformance, "test_path_matching")
    assert len(cases) == 49
    for pattern, path, match in cases:
        text = interpret(200, f"User-Agent: *\ndisallow: {pattern}\n".encode())
        assert rules(text).allow(f"https://h.example{path}") is not match, (pattern, path)


def test_records_take_precedence_as_google_says(conformance):
    for lines, url, allowed in google_cases(conformance, "test_record_precedence"):
        assert rules(interpret(200, f"User-Agent: *\n{lines}".encode())).allow(url) is allowed, (lines, url)


def test_groups_are_chosen_as_google_says(conformance):
    groups = {"/group1": "hedwig-news", "/group2": "*", "/group3": "hedwig"}
    text = "".join(f"user-agent: {agent}\ndisallow: /\nallow: {path}\n" for path, agent in groups.items())
    for path, agent in google_cases(conformance, "test_user_agent_precedence"):
        assert [known for known in groups if Rules(text, agent).allow(f"http://h{known}")] == [path], agent


@pytest.mark.parametrize(
    ("file", "agent", "path", "allowed"),
    [
        ("robots-with-utf8-bom", "foobot", "/profile", False),
        ("robots-with-utf16le-bom", "foobot", "/profile", False),
        ("robots-with-utf16be-bom", "foobot", "/profile", False),
        ("www.flot.com-robots", "foobot", "/img/", False),
        ("directive-typos-robots", "bot1", "/dissalow/", False),
        ("directive-typos-robots", "bot2", "/useragent/", False),
        ("directive-typos-robots", "bot4", "/useragent-no-colon/", False),
        ("format-errors-robots", "bot1", "/whitespace-before-colon/", False),
        ("format-errors-robots", "bot1", "/no-colon/", False),
        ("format-errors-robots", "bot2", "/no-colon-useragent/", False),
        ("format-errors-robots", "bot3", "/whitespace-before-colon/", True),
        ("merge-rules", "wget", "/foo/bar", True),
        ("merge-rules", "wget", "/tmp/bar", False),  # noqa: S108
        ("merge-rules", "other", "/foo/bar", False),
        ("rfc9309-example-longest-match-robots", "foobot", "/example/page/", True),
        ("rfc9309-example-longest-match-robots", "foobot", "/example/page/disallowed.gif", False),
        ("rfc9309-example-rule-group-merging", "ExampleBot", "/bar", False),
        ("rfc9309-example-rule-group-merging", "ExampleBot", "/baz", False),
        ("rfc9309-example-rule-group-merging", "BazBot", "/foo", True),
        ("rfc9309-example-simple-robots", "foobot", "/example/page.html", True),
        ("rfc9309-example-simple-robots", "foobot", "/publications/", False),
        ("rfc9309-example-simple-robots", "bazbot", "/example/page.html", False),
        ("rfc9309-example-simple-robots", "quxbot", "/example/page.html", True),
        ("rfc9309-example-simple-robots", "other", "/x/y.gif", False),
        ("rfc9309-example-simple-robots", "other", "/publications/", True),
    ],
)
def test_crawler_commons_files_mean_what_they_mean_there(conformance, file, agent, path, allowed):
    """But for `desallow` and `useg-agent`, which it takes for typos and protego for nothing."""
    body = conformance[f"conformance/crawler_commons/src/test/resources/robots/{file}.txt"]
    assert Rules(interpret(200, body), agent).allow(f"http://www.domain.com{path}") is allowed


def test_sitemaps_are_named_absolutely_or_not(conformance):
    folder = "conformance/crawler_commons/src/test/resources/robots"
    named = rules(interpret(200, conformance[f"{folder}/sitemap-robots.txt"])).sitemaps("https://h.example/r")
    assert named == ("http://domain.com/sitemap.xml", "http://domain.com/dir/MixedCased-sitemap.xml")
    relative = rules(interpret(200, conformance[f"{folder}/relative-sitemap-robots.txt"]))
    assert relative.sitemaps("https://h.example/robots.txt") == ("https://h.example/sitemap.xml",)
    assert rules("Sitemap: mailto:a@b\nSitemap:\nSitemap: https://o/s\nSitemap: https://o/s").sitemaps(
        URL
    ) == ("https://o/s",)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way_and_a_long_file_too(end):
    text = interpret(200, ("User-agent: *" + end + ("Disallow: /private/" + end) * 40_000).encode())
    assert text is not None
    assert not rules(text).allow(URL)
    assert rules(text).allow("https://h.example/")


@pytest.mark.parametrize("status", [200, 203, 206])
def test_a_success_is_the_rules(status):
    assert interpret(status, b"User-agent: *\nDisallow: /") == "User-agent: *\nDisallow: /"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_file_that_is_unavailable_allows_all(status):
    text = interpret(status, b"User-agent: *\nDisallow: /")
    assert text == ""
    assert rules(text).allow(URL)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 599, 301, 100])
def test_a_host_that_cannot_answer_is_left_alone(status):
    assert interpret(status, b"") is None


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_hides_no_rule(mark):
    text = interpret(200, mark + b"User-agent: *\nDisallow: /private")
    assert text is not None
    assert not rules(text).allow(URL)
    assert rules(text).allow("https://h.example/")


def test_bytes_that_are_no_utf8_spoil_only_their_line():
    text = interpret(200, b"# caf\xe9\nUser-agent: *\nDisallow: /private\nDisallow: /\xff\n")
    assert text is not None
    assert not rules(text).allow(URL)


def test_a_long_file_is_cut_after_a_whole_line():
    body = (b"User-agent: *\n" + b"Disallow: /private/\n" * 40_000)[: 600 * 1024]
    assert len(body) == 600 * 1024
    text = interpret(200, body)
    assert text is not None
    assert MOST_BYTES - 100 < len(text) <= MOST_BYTES
    assert set(text.splitlines()) == {"User-agent: *", "Disallow: /private/"}
    assert not rules(text).allow(URL)


def test_a_rule_cut_in_half_does_not_allow_more():
    start = b"User-agent: *\nDisallow: /\n#"
    body = start + b"x" * (MOST_BYTES - len(start) - len("\nAllow: /")) + b"\nAllow: /public\n"
    text = interpret(200, body)
    assert text is not None
    assert not rules(text).allow(URL)


@pytest.mark.parametrize(
    ("agent", "token"),
    [
        (AGENT, "tinylm"),
        ("tinylm (+mailto:a@b.example)", "tinylm"),
        ("my-lab_crawler/2.0", "my-lab_crawler"),
        ("  padded/1", "padded"),
        ("tab\tseparated", "tab"),
        ("", "*"),
        (" ", "*"),
        ("/1.0", "*"),
    ],
)
def test_robots_txt_addresses_a_crawler_by_its_product_token(agent, token):
    assert product_token(agent) == token


def test_a_group_for_this_crawler_replaces_the_one_for_all():
    text = "User-agent: *\nDisallow: /\n\nUser-agent: TinyLM\nDisallow: /private\nCrawl-delay: 7\n"
    assert not rules(text).allow(URL)
    assert rules(text).allow("https://h.example/")
    assert rules(text).crawl_delay == 7.0
    assert not Rules(text, "otherbot/1").allow("https://h.example/")
    assert Rules(text, "otherbot/1").crawl_delay == 0.0


@pytest.mark.parametrize(
    ("path", "allowed"), [("/a", False), ("/a/b", True), ("/a/x", False), ("/c.pdf", False)]
)
def test_the_longest_match_decides_and_wildcards_count(path, allowed):
    text = "User-agent: *\nDisallow: /a\nAllow: /a/b\nDisallow: /*.pdf$\n"
    assert rules(text).allow(f"https://h.example{path}") is allowed


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("-5", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("1e400", 0.0),
        ("soon", 0.0),
    ],
)
def test_a_crawl_delay_is_a_finite_number_of_seconds(said, seconds):
    assert rules(f"User-agent: *\nCrawl-delay: {said}\n").crawl_delay == seconds


def test_retry_after_in_seconds_counts_from_now():
    before = time.time()
    at = retry_at(" 120 ")
    assert at is not None
    assert before + 120 <= at <= time.time() + 120


@pytest.mark.parametrize(
    "date",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
     "Sun, 06 Nov 1994 08:49:37 -0000", "Sun, 06 Nov 1994 09:49:37 +0100"],
)  # fmt: skip
def test_retry_after_as_a_date_is_in_utc_wherever_we_are(date, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert retry_at(date) == datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "header", ["", "soon", "-5", "1.5", "²", "٣", "9" * 5000, "Sun, 99 Nov 1994 08:49:37 GMT"]
)
def test_a_retry_after_that_names_no_time_is_none(header):
    assert retry_at(header) is None


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,25} [A-Z][a-z]{2} \d{1,25} \d\d:\d\d:\d\d [+-]?\w*"))
def test_any_retry_after_is_a_time_or_none(header):
    at = retry_at(header)
    assert at is None or abs(at) < 1e12


@given(st.text())
def test_any_text_is_rules(text):
    parsed = rules(text)
    assert isinstance(parsed.allow(URL), bool)
    assert parsed.crawl_delay >= 0
