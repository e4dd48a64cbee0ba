"""robots.txt and Retry-After: RFC 9309 and RFC 9110, and what real servers send."""

import ast
import gzip
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
from protego._protego import (
    _ALLOW_DIRECTIVE,
    _DISALLOW_DIRECTIVE,
    _SITEMAP_DIRECTIVE,
    _USER_AGENT_DIRECTIVE,
    _extract_directive,
)

from crawler.config import product_token
from crawler.errors import RulesMissing
from crawler.fetch.robots import (
    MOST_BYTES,
    HostRules,
    Rules,
    interpret,
    retry_at,
)
from crawler.frontier import Discovered
from crawler.urls import address
from tests.conftest import open_frontier

AGENT = "tinylm/0.1 (+https://lab.example/crawler)"
URL = "https://h.example/private/page"


def rules(text: str) -> Rules:
    return Rules(text, AGENT)


def groups_by_rfc_9309(text):
    """[(agents, rules)], as section 2.1 has it, and all sitemaps; the fields of lines are read by protego.

    A value is cut where Google's parser cuts it: behind the last letter, `_` or `-`.
    """
    groups, sitemaps = [], []
    for line in re.split("\r\n|\r|\n", text.replace("\ufeff", "")):
        said = line.partition("#")[0].strip()
        field, value = (said and _extract_directive(said)) or ("", "")
        if field in _USER_AGENT_DIRECTIVE:
            if not groups or groups[-1][1]:
                groups.append(([], []))
            groups[-1][0].append(re.match(r"\*(?![a-z_-])|[a-z_-]*", value.lower())[0])
        elif field in _ALLOW_DIRECTIVE | _DISALLOW_DIRECTIVE and groups:
            groups[-1][1].append(f"{field}: {value}")
        elif value and field in _SITEMAP_DIRECTIVE:
            sitemaps.append(value)
    return groups, sitemaps


def by_rfc_9309(groups, token):
    """The rules for `token` by section 2.2.1; paths are read by protego."""
    name = token if any(token in agents for agents, _ in groups) else "*"
    ours = [line for agents, lines in groups if name in agents for line in lines]
    return Protego.parse("\n".join(["User-agent: *", *ours]))


def test_the_rules_of_real_files_are_those_of_rfc_9309(conformance):
    """For paths that a file names and some that it may not, and for crawlers that some name or none."""
    files = [
        body for name, body in conformance.items() if name.startswith("conformance/protego/tests/test_data/")
    ]
    agents = ("Mozilla/5.0 (compatible; GoogleBot/2.1; +http://g)", "bingbot/2", "baiduspider", "msnbot/1")
    compared = forbidden = 0
    for number, body in enumerate(files[::2]):
        text = interpret(200, body)
        paths = re.findall(r"(?i)^(?:dis)?allow\s*:\s*(/[^\s#$]*)", text, re.MULTILINE)
        paths = ["/", "/index.html", "/a/b?c=d", *dict.fromkeys(paths)]
        groups, sitemaps = groups_by_rfc_9309(text)
        for agent in (AGENT, agents[number % 4]):
            whole, ours = by_rfc_9309(groups, product_token(agent).lower()), Rules(text, agent)
            for path in paths[:: max(1, len(paths) // 10)]:
                url = f"https://h.example{path.replace('*', 'x')}"
                compared += 1
                forbidden += not whole.can_fetch(url, "*")
                assert ours.allow(url) is whole.can_fetch(url, "*"), (body[:80], agent, url)
        vouched = (address(sitemap, URL) for sitemap in sitemaps[:1000])
        assert ours.sitemaps(URL) == tuple(dict.fromkeys(filter(None, vouched))), body[:80]
    assert len(files) == 4231
    assert compared > 25_000
    assert forbidden > 5_000


LINES = st.sampled_from(
    ["User-agent: *", "User-agent: tinylm", "user agent tiny", "useragent: TINY*", "User-agent:",
     "User-agent: **", "User-agent: t", "User-agent: lm", "User-agent: other",
     "User-agent: a\x0bDisallow: /b", "Disallow: /private", "Disallow:", "Allow /private/page",
     "disalow: /", "Allow: /*e$", "Sitemap: /s.xml", "Host: h", "Host h", "nonsense", "X: y", "X:y",
     "Crawl-delay: 3", "Crawl delay 7", "crawl-delay: nan", "Request-rate: 1/5", "Content-Usage: ai=n",
     "# User-agent: tinylm", "  Disallow:/private # but", "", " ", "\x00", "Sitemap https://h.example/s",
     "Disallow: /private$", "Disallow : /a  b", "Disallow /a  b", "Disallow: http://h.example/private"]
)  # fmt: skip


@given(st.lists(LINES, max_size=12).map("\n".join), st.sampled_from(["tinylm", "tiny_lm", "x-tinylm", "*"]))
def test_any_order_of_lines_means_what_rfc_9309_says(text, agent):
    whole, ours = by_rfc_9309(groups_by_rfc_9309(text)[0], agent), Rules(text, agent)
    for path in ("/", "/private", "/private/page", "/b", "/a%20%20b", "/a%20b", "/http://h.example/private"):
        assert ours.allow(f"https://h.example{path}") is whole.can_fetch(f"https://h.example{path}", "*")


@pytest.mark.parametrize(
    "value",
    ["labbot", "LabBot", "labbot/1.0", "LabBot/1.0 (+https://lab.example)", "labbot (research)", "labbot*",
     "labbot research", "labbot;", "labbot, other", "labbot2", "labbot.com", "\tlabbot # us", "labbot\x0b"],
)  # fmt: skip
def test_a_group_is_ours_whatever_stands_behind_its_name(value):
    text = f"User-agent: *\nAllow: /\n\nUser-agent: {value}\nDisallow: /\nContent-Signal: ai-train=no"
    for agent in ("labbot", "LabBot/2.0 (+https://l)", "Mozilla/5.0 (compatible; LabBot/1.0; +https://l)"):
        assert not Rules(text, agent).allow(URL)
        assert Rules(text, agent).opt_out(URL) == ("robots:ai-train=no",)


@pytest.mark.parametrize(
    "value",
    ["lab", "labbot-news", "labbot_news", "labbots", "xlabbot", "x labbot", "Mozilla/5.0", "compatible", ""],
)
def test_a_group_of_another_name_is_not_ours(value):
    text = f"User-agent: {value}\nDisallow: /\nContent-Signal: ai-train=no\nCrawl-delay: 9"
    parsed = Rules(text, "Mozilla/5.0 (compatible; LabBot/1.0; +https://l)")
    assert parsed.allow(URL)
    assert parsed.opt_out(URL) == ()
    assert parsed.crawl_delay == 0


@pytest.mark.parametrize("value", ["*", "* ", "*/1.0", "* # all", "**"])
def test_a_star_is_everybody(value):
    assert not rules(f"User-agent: {value}\nDisallow: /").allow(URL)


@pytest.mark.parametrize(
    "line",
    ["Content-Signal: search=yes", "Content-Usage: train-ai=y", "Sitemap: /s.xml", "Host: h.example",
     "Some-Thing: 1", "Crawl-delay: 5", "Request-rate: 1/5", "Visit-time: 0600-0845", "Clean-param: s /",
     "LLM-Policy: /llms.txt", "<html>", "no field at all", "", "# a comment", "Disallow-all: /"],
)  # fmt: skip
def test_no_line_but_allow_and_disallow_ends_the_list_of_agents(line):
    text = f"User-agent: tinylm\n{line}\nUser-agent: x\n{line}\nUser-agent: y\nDisallow: /private"
    for agent in ("tinylm", "x", "y"):
        assert not Rules(text, agent).allow(URL)
        assert Rules(text, agent).allow("https://h.example/")
        assert Rules(f"{text}\n{line}\nUser-agent: z\nDisallow: /", agent).allow("https://h.example/")


@pytest.mark.parametrize("rule", ["Allow: /", "Disallow:", "Disallow: /x", "disalow: /x", "Allow /"])
def test_a_rule_ends_the_list_of_agents(rule):
    text = (
        f"User-agent: tinylm\n{rule}\nUser-agent: x\nDisallow: /\nContent-Signal: ai-train=no\nCrawl-delay: 9"
    )
    assert rules(text).allow(URL)
    assert rules(text).opt_out(URL) == ()
    assert rules(text).crawl_delay == 0


def test_all_groups_of_a_name_are_one():
    text = (
        "User-agent: TINYLM\nDisallow: /a\nUser-agent: *\nDisallow: /b\nUser-agent: x\nUser-agent: tinylm/2\n"
        "Disallow: /c\nContent-Usage: train-ai=n\nUser-agent: *\nDisallow: /d"
    )
    for agent, refused in ((AGENT, "ac"), ("other", "bd")):
        parsed = Rules(text, agent)
        assert [path for path in "abcd" if not parsed.allow(f"https://h.example/{path}")] == [*refused]
        assert parsed.opt_out(URL) == (("robots:train-ai=n",) if agent == AGENT else ())


def test_what_is_no_line_end_by_the_rfc_hides_no_rule_and_makes_none():
    for space in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029":
        assert not rules(f"User-agent: *\nDisallow: /\n# to{space}Allow: /private").allow(URL)
        assert not rules(f"User-agent: *\nDisallow: /\nDisallow: /x{space}Allow: /private").allow(URL)


@pytest.mark.parametrize(
    ("agent", "delay"),
    [("mybot", 10.0), ("yourbot", 0.0), ("anyotherbot", 30.0), ("Mozilla/5.0 (mybot/1)", 10.0)],
)
def test_a_crawl_delay_is_for_the_agents_just_before_it(conformance, agent, delay):
    """Two of crawler-commons' files and a case of its tests: rules are for all of a group, delays are not."""
    folder = "conformance/crawler_commons/src/test/resources/robots"
    parsed = Rules(interpret(200, conformance[f"{folder}/crawl-delay-group-merging.txt"]), agent)
    assert parsed.crawl_delay == delay
    of_two = parsed.allow("https://h.example/private/"), parsed.allow("https://h.example/login/")
    assert of_two == {10.0: (False, True), 0.0: (False, False), 30.0: (True, True)}[delay]
    delays = (
        "User-agent: mybot\nCrawl-delay: 10\nUser-agent: *\nCrawl-delay: 30\nUser-agent: yourbot\nAllow: /"
    )
    assert Rules(delays, agent).crawl_delay == delay
    extensions = Rules(interpret(200, conformance[f"{folder}/extensions-group-merging.txt"]), agent)
    assert extensions.allow("https://h.example/private/") is False
    assert extensions.allow("https://h.example/") is (delay != 30)


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


@pytest.mark.parametrize(
    ("agent", "group"), [("hedwig-news", "/group1"), ("hedwig", "/group3"), ("otherbot", "/group2")]
)
def test_groups_are_chosen_as_google_says(agent, group):
    """But for those of its crawlers that have two names: `googlebot-news` obeys `googlebot` too, ours one."""
    groups = {"/group1": "hedwig-news", "/group2": "*", "/group3": "hedwig"}
    text = "".join(f"user-agent: {agent}\ndisallow: /\nallow: {path}\n" for path, agent in groups.items())
    assert [known for known in groups if Rules(text, agent).allow(f"http://h{known}")] == [group]


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


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf" * 2, b"# a file\n\xef\xbb\xbf"])
def test_a_byte_order_mark_hides_no_rule(mark):
    text = interpret(200, mark + b"User-agent: *\nDisallow: /private")
    assert text is not None
    assert not rules(text).allow(URL)
    assert rules(text).allow("https://h.example/")


def test_a_file_that_is_packed_without_saying_so_is_read():
    packed = gzip.compress(b"User-agent: *\nDisallow: /private\n")
    for body in (packed, packed[:-8], packed + gzip.compress(b"Disallow: /x\n")):
        assert not rules(interpret(200, body)).allow(URL)
        assert rules(interpret(200, body)).allow("https://h.example/")
    assert rules(interpret(200, b"\x1f\x8bnonsense")).allow(URL)


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
        ("Mozilla/5.0 (compatible; LabBot/1.0; +https://lab.example)", "LabBot"),
        ("Mozilla/5.0 (compatible;LabBot;+https://lab.example)", "LabBot"),
        ("Mozilla/5.0 (compatible; lab.org_bot +http://lab.example)", "lab.org_bot"),
        ("Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; LabBot/1.2; +https://l)", "LabBot"),
        ("Mozilla/5.0 (Linux; Android 6.0; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) "
         "Chrome/1.2 Mobile Safari/537.36 (compatible; LabBot/2.1; +http://l)", "LabBot"),
        ("Mozilla/5.0 (Macintosh) Version/13.1 Safari/605.1.15 (LabBot/0.1; +http://l)", "LabBot"),
        ("Mozilla/5.0 (X11; Linux x86_64) Chrome/91 Safari/537.36 LabBot/1.0 (me@lab.example)", "LabBot"),
        ("Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; LabBot/1.0; +http://l)", "LabBot"),
        ("LabBot/1.0 (compatible; Mozilla/5.0; +https://l)", "LabBot"),
        ("Mozilla/5.0 (+https://lab.example)", "*"),
        ("Mozilla/5.0 (X11; Linux x86_64; +https://lab.example/bot) Chrome/91.0 Safari/537.36", "*"),
        ("+https://lab.example/bot", "*"),
        ("me@lab.example", "*"),
    ],
)  # fmt: skip
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
