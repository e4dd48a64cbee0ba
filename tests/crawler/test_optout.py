"""Signals that a page is not for training: heard wherever they are given, by whom they are meant for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.fetch.robots import Rules
from crawler.read.optout import addressed, forbids_training, from_headers, from_metas

AGENT = "tinylm/0.1 (+https://lab.example/crawler)"


def of_robots(text, path="/page"):
    return Rules(text, AGENT).opt_out(f"https://h.example{path}")


@pytest.mark.parametrize(
    ("tag", "directives"),
    [
        ("noindex, NOAI", "noindex noai"),
        ("googlebot: noindex", ""),
        ("googlebot: noindex, tinylm: noai", "noai"),
        ("TinyLM: noai, noarchive", "noai noarchive"),
        ("tinylm/1.0: noai", "noai"),
        ("tinylm-news: noai", ""),
        ("nofollow, otherbot: noindex, none", "nofollow"),
        ("*: noai", "noai"),
        ("otherbot: noindex, robots: noai", "noai"),
        ("unavailable_after: 25 jun 2030 15:00 pst, noai", "noai"),
        ("unavailable_after: Wed, 25 Jun 2030 15:00:00 GMT, noai", "noai"),
        ("unavailable_after: Wednesday, 25-Jun-30 15:00:00 GMT", ""),
        ("max-snippet: 20, noindex", "noindex"),
        ("max-image-preview:none, max-video-preview: -1", ""),
        ("max-image-preview : none", ""),
        ("otherbot: max-image-preview: large, noindex", ""),
        ("otherbot: unavailable_after: 25 Jun 2030 15:00:00 PST, noindex", ""),
        ("max-new-thing: 3, noindex", "noindex"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_robots_tag_may_be_addressed_to_one_crawler(tag, directives):
    assert addressed(tag, "tinylm") == directives.split()


@pytest.mark.parametrize(
    ("said", "signals", "nofollow"),
    [
        ("index, follow, max-image-preview:none", (), False),
        ("max-image-preview: none", (), False),
        ("x-noindex-y, x-none, no-nofollow", (), False),
        ("noindex-but-only-sometimes", (), False),
        ("this page is none of your business", (), False),
        ("we say noindex to nobody", (), False),
        ("unavailable_after: 2030-01-01, max-snippet:-1, noarchive", ("noarchive",), False),
        ("noindex nofollow", ("noindex",), True),
        ("NoIndex;NoFollow;", ("noindex",), True),
        ("noindex nosuchthing", ("noindex",), False),
        (" , noai ,, nofollow", ("noai",), True),
        ("all, none", ("none",), True),
        ("max-image-preview:none, none", ("none",), True),
    ],
)
def test_a_directive_is_a_member_of_a_list_and_no_word_in_a_text(said, signals, nofollow):
    for heard, where in (
        (from_metas([("robots", said)], "tinylm"), "meta"),
        (from_headers([("x-robots-tag", said)], "tinylm"), "header"),
    ):
        assert heard == (tuple(f"{where}:{signal}" for signal in signals), nofollow)


def test_every_meta_element_counts():
    metas = [
        ("robots", "max-image-preview:none"),
        ("robots", "noarchive"),
        ("tinylm", "noai"),
        ("tinylm-news", "noindex, nofollow"),
    ]
    assert from_metas(metas, "TinyLM") == (("meta:noarchive", "meta:noai"), False)


def test_what_stands_in_quotes_is_no_statement():
    for said in ('note="a, train-ai=n", train-ai=y', 'train-ai=y;why="no, genai=n, ai=n"', '"train-ai=n"'):
        assert from_headers([("content-usage", said)], "tinylm").signals == ()
    assert from_headers([("content-usage", 'a="\\", b", train-ai=n;x="y"')], "tinylm").signals == (
        "header:train-ai=n",
    )


def test_every_header_counts():
    headers = [
        ("x-robots-tag", "otherbot: noindex"),
        ("x-robots-tag", "noarchive"),
        ("x-robots-tag", "tinylm: noai"),
        ("content-usage", "train-ai=n;note=1, search=y"),
        ("tdm-reservation", " 1 "),
        ("x-other", "noindex"),
    ]
    assert from_headers(headers, "tinylm").signals == (
        "header:noarchive", "header:noai", "header:train-ai=n", "header:tdm-reservation=1"
    )  # fmt: skip
    assert from_headers([("tdm-reservation", "0"), ("content-usage", "train-ai=y")], "tinylm").signals == ()


@pytest.mark.parametrize(
    ("tags", "nofollow"),
    [(["noai"], False), (["NoFollow", "noai"], True), (["noindex, none"], True),
     (["otherbot: nofollow"], False),
     (["otherbot: noindex", "tinylm: nofollow"], True)],
)  # fmt: skip
def test_links_are_not_followed_where_a_header_says_so(tags, nofollow):
    assert from_headers([("x-robots-tag", tag) for tag in tags], "tinylm").nofollow is nofollow


@pytest.mark.parametrize(
    ("name", "content", "signals", "nofollow"),
    [
        ("robots", "NoIndex, nofollow", ("meta:noindex",), True),
        ("ROBOTS", "noai, noimageai", ("meta:noai", "meta:noimageai"), False),
        ("TinyLM", "noai", ("meta:noai",), False),
        ("tinylm", "none", ("meta:none",), True),
        ("googlebot", "noindex, nofollow", (), False),
        ("tdm-reservation", "1", ("meta:tdm-reservation=1",), False),
        ("tdm-reservation", "0", (), False),
        ("description", "noindex nofollow", (), False),
    ],
)
def test_a_meta_element_speaks_to_all_or_to_one(name, content, signals, nofollow):
    assert from_metas([(name, content), ("description", "")], "tinylm") == (signals, nofollow)


@pytest.mark.parametrize(
    ("signal", "forbidden"),
    [("meta:noai", True), ("header:noindex", True), ("header:none", True), ("robots:ai-train=no", True),
     ("robots:train-ai=n", True), ("header:tdm-reservation=1", True), ("robots:ai-input=no", False),
     ("robots:search=no", False), ("meta:noarchive", False), ("meta:noimageai", False), ("noai", False)],
)  # fmt: skip
def test_one_place_decides_which_signals_are_about_training(signal, forbidden):
    assert forbids_training(["meta:noarchive", signal]) is forbidden
    assert not forbids_training([])


def test_content_signals_of_the_group_for_all():
    text = "User-Agent: *\nContent-Signal: ai-train=no, search=yes, ai-input=no\nAllow: /\n"
    assert of_robots(text) == ("robots:ai-train=no", "robots:ai-input=no")
    assert of_robots("User-agent: *\nContent-Signal: ai-train=yes\n") == ()
    assert of_robots("User-agent: *\nDisallow: /x\n") == ()


DRAFT = """
User-Agent: *
Allow: /
Disallow: /never/
Content-Usage: / train-ai=n
Content-Usage: /ai-ok/ train-ai=y

User-Agent: ExampleBot
Allow: /
Content-Usage: / train-ai=y
"""


def test_content_usage_of_the_longest_path_counts():
    """The example of draft-ietf-aipref-attach."""
    assert of_robots(DRAFT, "/test") == ("robots:train-ai=n",)
    assert of_robots(DRAFT, "/ai-ok/test") == ()
    assert Rules(DRAFT, "ExampleBot/2").opt_out("https://h.example/test") == ()


@pytest.mark.parametrize(
    ("text", "signals"),
    [
        ("User-agent: tinylm\nDisallow: /x\nUser-agent: *\nContent-Usage: train-ai=n", ()),
        ("User-agent: tinylm\nContent-Usage: train-ai=n\nUser-agent: *\nDisallow: /", ("robots:train-ai=n",)),
        ("User-agent: a\nUser-agent: TinyLM\nContent-Signal: ai-train=no", ("robots:ai-train=no",)),
        ("User-agent: a\nDisallow:\nUser-agent: b\nContent-Signal: ai-train=no", ()),
        ("User-agent: tinylm\nDisallow: /x\n\nUser-agent: tinylm\nContent-Usage: train-ai=n",
         ("robots:train-ai=n",)),
        ("Content-Signal: ai-train=no\nUser-agent: a\nDisallow: /", ("robots:ai-train=no",)),
        ("User-agent: *\nContent-Usage: /p* train-ai=n # no", ("robots:train-ai=n",)),
        ("User-agent: *\nContent-Usage: /page$ train-ai=n", ("robots:train-ai=n",)),
        ("User-agent: *\nContent-Usage: /pag$ train-ai=n", ()),
        ("User-agent: *\nContent-Usage: / train-ai=y\nContent-Usage: / train-ai=n", ("robots:train-ai=n",)),
        ("User-agent: *\ncontent-usage : train-ai = n", ("robots:train-ai=n",)),
        ("User-agent: *\n# Content-Usage: train-ai=n", ()),
        ("User-agent: *\nContent-Usage: train-ai=maybe", ()),
        ("User-agent: *\nSitemap: /s.xml\nUser-agent: a\nContent-Usage: train-ai=n", ("robots:train-ai=n",)),
        ("User-agent: tinylm\nThing: 1\nUser-agent: x\nContent-Usage: train-ai=n", ("robots:train-ai=n",)),
        ("User-agent: tinylm\nCrawl-delay:9\nUseragent:x\nContent-Usage: train-ai=n", ("robots:train-ai=n",)),
        ("User-agent: tinylm\nContent-Usage: train-ai=n\nUser-agent: x\nDisallow: /", ("robots:train-ai=n",)),
        ("User-agent: *\nContent-Signal: ai-train=yes\nUser-agent: x\nContent-Signal: ai-train=no", ()),
        ("User-agent: tinylm (research)\nContent-Signal: ai-train=no", ("robots:ai-train=no",)),
        ("\ufeffUser-agent: *\rContent-Signal: ai-train=no\rAllow: /", ("robots:ai-train=no",)),
    ],
)  # fmt: skip
def test_signals_follow_the_groups_of_robots_txt(text, signals):
    assert of_robots(text) == signals


def test_a_real_robots_txt_says_nothing_by_accident(conformance):
    for name, body in conformance.items():
        if name.startswith("conformance/protego/tests/test_data/"):
            text = body.decode("utf-8", "replace")
            assert of_robots(text) == () or "content-" in text.lower()


@given(st.text(max_size=80), st.text(max_size=20))
def test_hearing_is_total(text, agent):
    addressed(text, agent)
    assert isinstance(
        Rules(f"User-agent: *\nContent-Usage: {text}\n{text}", agent).opt_out("http://h/"), tuple
    )
    from_headers([("x-robots-tag", text), ("content-usage", text), ("tdm-reservation", text)], agent)
    from_metas([(text, text), ("robots", text), (agent, text)], agent)
