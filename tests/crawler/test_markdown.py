"""Text is the page's: no escape stays, none is undone that nobody wrote, and code has its lines."""

from html import escape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crawler.read.extract import Extractor, Screen
from crawler.read.markdown import main_text

SENTENCES = " ".join(
    f"The {noun} was carried over the river in the morning, and nobody asked where it came from."
    for noun in ("table", "clock", "piano", "ladder", "mirror", "letter", "basket", "candle")
)
# What Markdown, HTML, TeX or trafilatura gives a meaning to.
ODD = st.sampled_from([*"\\*_`~[]<>#&|-+.!()$;=1aé", "\\(", "\\)", "\\[", "\\]", "&amp;", "&nbsp;", "&#92;"])
WORDS = st.lists(st.lists(ODD, min_size=1, max_size=6).map("".join), min_size=1, max_size=8).map(" ".join)
CODE = st.lists(st.one_of(st.just(""), WORDS, WORDS.map("    {}".format)), max_size=6).map("\n".join)


def text_of(body, *, before=SENTENCES):
    html = f"<html><body><main><h1>Title</h1><p>{before}</p>{body}<p>The end.</p></main></body></html>"
    text = main_text(html, "http://a.test/")
    assert text.startswith(f"# Title\n\n{before}")
    assert text.endswith("The end.")
    return text.removeprefix(f"# Title\n\n{before}").removesuffix("The end.").strip()


@given(WORDS)
@example(r"C:\_temp\#1 \\server\share \section{A} some\_name \* 1\. \- a\\b \`")
@example(r"In sed \( and \) go around a group, \[ and \] around \\( nothing \\)")
@example("&amp; &lt;b&gt; &#92; &amp;amp; &nbsp; \u2424 | \\|")
def test_prose_is_the_pages(words):
    assert text_of(f"<p>So {escape(words)} it is.</p>") == f"So {words} it is."
    assert text_of(f"<ul><li>So {escape(words)} it is.</li></ul>") == f"- So {words} it is."
    assert text_of(f"<h2>So {escape(words)} it is.</h2>") == f"## So {words} it is."
    assert f" So {words} it is. |" in text_of(f"<table><tr><td>So {escape(words)} it is.</td></tr></table>")
    assert text_of(f"<p><b>So {escape(words)} it is.</b></p>") == f"**So {words} it is.**"


@pytest.mark.parametrize(
    "start", ["# a", "1. a", "12) a", "- a", "+ a", "> a", "* a", r"1\. a", r"\- a", r"\# a"]
)
def test_the_beginning_of_a_paragraph_is_the_pages(start):
    assert text_of(f"<p>{escape(start)}</p>") == start
    assert text_of(f"<blockquote><p>{escape(start)}</p></blockquote>") == start


@given(CODE)
@example("re.sub(r'\\[\\d+\\]', '\\*')\n\n\nfind . -name \\*.py\n\techo `ls` \\\\")
def test_code_is_the_pages(code):
    code = f"begin({code}\nend"
    for markup in (
        f"<pre><code>{escape(code)}</code></pre>",
        f"<pre>{escape(code)}</pre>",
        f"<div class=highlight><pre><span></span><span>{escape(code)}</span></pre></div>",
        f"<figure class=highlight><pre><code>{escape(code)}</code></pre></figure>",
        f"<table><tr><td><pre>1\n2</pre></td><td><pre><code>{escape(code)}</code></pre></td></tr></table>",
    ):
        assert code in text_of(markup)


def test_a_table_that_has_more_than_code_stays_one():
    for first in ("<td>Syntax", "<td>1</td><td>So: <pre>x</pre>", "<td>a</td><td>1</td><td>b"):
        assert text_of(f"<table><tr>{first}</td><td><pre>1 \\*</pre></td></tr></table>").startswith("| ")


def test_code_in_pieces_has_its_empty_lines():
    pieces = "<span>a</span>(<span>\n</span><span>\n</span>  <span>b</span>)\n\n\n<span>\\*</span>"
    assert text_of(f"<div class=highlight><pre>{pieces}</pre></div>") == "```\na(\n\n  b)\n\n\n\\*\n```"


@given(WORDS)
def test_code_within_a_line_is_the_pages(words):
    assert f"{words} b" in text_of(f"<p>Use <code>a {escape(words)} b</code> here.</p>")
    assert f"{words} b" in text_of(f"<p>Use <kbd>a {escape(words)} b</kbd> here.</p>")


@pytest.mark.parametrize(
    ("formula", "tex"),
    [
        ("<math alttext='\\frac{a_1}{2}'><mi>a</mi></math>", r"\(\frac{a_1}{2}\)"),
        ("<math display=block><semantics><mi>a</mi><annotation encoding='application/x-tex'>a_1 \\_"
         "</annotation></semantics></math>", r"\[a_1 \_\]"),
        ("<math><msup><mi>x</mi><mn>2</mn></msup><mo>+</mo><mi>y</mi></math>", "x2+y"),
    ],
)  # fmt: skip
def test_formulas_are_tex(formula, tex):
    assert text_of(f"<p>So {formula} holds.</p>") == f"So {tex} holds."
    assert (
        text_of(r"<p>So \(a_1\) and \[b^2\] and $c_1$ hold.</p>") == r"So \(a_1\) and \[b^2\] and $c_1$ hold."
    )


def test_code_in_a_sentence_may_go_on_in_the_next_line_and_code_in_an_item_keeps_its_lines():
    assert text_of("<p>Use <code>git log\n  --all</code> here.</p>") == "Use `git log --all` here."
    assert text_of("<p><code>git log\n  --all</code></p>") == "```\ngit log\n  --all\n```"
    for markup in ("<ol><li>So:<pre>a(\n  \\*\n\n)</pre></ol>", "<dl><dd><pre>a(\n  \\*\n\n)</pre></dl>"):
        assert "```\na(\n  \\*\n\n)\n```" in text_of(markup)


def test_a_summary_is_kept():
    for markup in ("<details><summary>A <b>question</b>?</summary><p>Why, yes.</p></details>",
                   "<summary>A <b>question</b>?</summary><p>Why, yes.</p>"):  # fmt: skip
        assert text_of(markup).removeprefix("## ") == "A **question**?\n\nWhy, yes."
    assert text_of("<details><summary><h3>A?</h3></summary><p>B.</p></details>") == "### A?\n\nB."
    assert (
        text_of("<details><summary>A?</summary><div>B, <i>not</i> C.</div></details>")
        == "## A?\n\nB, *not* C."
    )


@pytest.mark.parametrize("name", ["aside", "figure", "label", "object", "ul><li"])
def test_the_main_text_may_be_where_usually_none_is(name):
    html = (
        f"<body><p>We use cookies to make the site better for you.</p><{name}><h1>D</h1><p>{SENTENCES}</body>"
    )
    found = Extractor(Screen())(html.encode(), "http://a.test/", "text/html", False, 30.0)
    assert found.reason == ""
    assert SENTENCES in found.text


def test_an_aside_that_is_none_of_the_text_is_left_out():
    aside = f"<aside><p>{SENTENCES.replace('river', 'ocean')}</p></aside>"
    assert "ocean" not in text_of(f"{aside}<p>{SENTENCES.upper()}</p>")


def test_a_page_may_have_what_stands_for_its_backslashes():
    assert text_of("<p>\\* &amp;lt; \U00013000\U00013001\u2424\U00013003</p>") == (
        "\\* &lt; \U00013000\U00013001\u2424\U00013003"
    )


@pytest.mark.parametrize("element", ["article", "main", "header", "section", "figure"])
def test_a_page_may_leave_out_its_head_and_body(element):
    """HTML, section 13.1.2.4: the tags are optional."""
    parts = "".join(f"<h2>Part {n}</h2><p>This is the text of part {n}, in a sentence.</p>" for n in range(9))
    code = "<pre>one\ntwo</pre><ul><li>first<li>second</ul>"
    body = f"<article>{parts}{code}</article>"
    whole = main_text(f"<html><head><title>x</title></head><body>{body}</body></html>", "http://h.test/")
    assert "## Part 1" in whole
    assert "one\ntwo" in whole
    short = main_text(f"<!doctype html><title>x</title><{element}></{element}>{body}", "http://h.test/")
    assert short == whole


def test_joiners_and_marks_of_direction_are_the_pages():
    sentences = "".join(f"<p>This is the text of part {n}, in a sentence.</p>" for n in range(9))
    words = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f468\u200d\U0001f469 \u200ex\u200f."
    assert words in main_text(f"<body><article>{sentences}<p>{words}</p></article></body>", "http://h.test/")
