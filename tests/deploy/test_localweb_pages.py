"""From docstrings and READMEs to HTML, and from sources to docstrings."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.demo.docstrings import parse_module, to_html

VOID = {"hr", "br"}


class Balance(HTMLParser):
    """Fails if a tag is closed that is not open; `open` is empty at the end of well-formed HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID

    def handle_data(self, data):
        self.words += data.split()


LINES = st.lists(
    st.one_of(
        st.text(alphabet="ab `*:<>&|_[]()\\{}.#-=\"'@~", max_size=30),
        st.sampled_from(
            ["", ".. note::", "    deeper", "  - item", "* item", ">>> f(1)", "Args:", "x : int", "===="]
        ),
        st.sampled_from(
            ["```", ":param x: text", "Title", "-----", "text::", "+---+", "1. one", "@return: C{x}", ".."]
        ),
    ),
    max_size=25,
).map("\n".join)


@given(LINES)
def test_any_docstring_becomes_well_formed_html(text):
    assert Balance(to_html(text)).open == []


@given(st.lists(st.lists(st.from_regex(r"[a-z]{1,8}", fullmatch=True), min_size=1), min_size=1))
def test_plain_paragraphs_keep_every_word(paragraphs):
    html = to_html("\n\n".join(" ".join(words) for words in paragraphs))
    assert Balance(html).words == [word for words in paragraphs for word in words]
    assert html.count("<p>") == len(paragraphs)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one\ntwo", "<p>one\ntwo</p>\n"),
        ("a ``<b>`` c", "<p>a <code>&lt;b&gt;</code> c</p>\n"),
        ("See:\n\n    indented words", "<p>See:</p>\n<blockquote>\n<p>indented words</p>\n</blockquote>\n"),
        ("Code::\n\n    x = 1\n\nend", "<p>Code:</p>\n<pre><code>x = 1</code></pre>\n<p>end</p>\n"),
        ("text\n>>> 1 + 1\n2", "<p>text</p>\n<pre><code>&gt;&gt;&gt; 1 + 1\n2</code></pre>\n"),
        ("Title\n=====\n\nSub\n---\n", "<h2>Title</h2>\n<h3>Sub</h3>\n"),
        (
            "# Title\n```py\na\n\nb\n```\n## Sub",
            "<h2>Title</h2>\n<pre><code>a\n\nb</code></pre>\n<h3>Sub</h3>\n",
        ),
        ("- a\n  b\n- c", "<ul>\n<li>a\nb</li>\n<li>c</li>\n</ul>\n"),
        ("x : int\n    The x.", "<dl><dt>x : int</dt>\n<dd>The x.</dd></dl>\n"),
        (":param x: the x\n    value", "<ul>\n<li>param x: the x\nvalue</li>\n</ul>\n"),
        (
            "Args:\n    x (int): the\n        x",
            "<dl><dt>Args:</dt>\n<dd><ul>\n<li><code>x (int)</code>: the\nx</li>\n</ul>\n</dd></dl>\n",
        ),
        (".. code-block:: python\n\n   f(1)", "<pre><code>f(1)</code></pre>\n"),
        (".. image:: a.png\n\nend", "<p>end</p>\n"),
        (".. note:: mind\n   this", "<ul>\n<li>mind\nthis</li>\n</ul>\n"),
        (":class:`~a.C` :class:`shown <a.C>`", "<p><code>a.C</code> <code>shown</code></p>\n"),
        ("`text <https://a.org>`_ [out](https://o.org) `name`_", "<p>text out name</p>\n"),
        ("**bold** *slanted* 2 * 3 * 4", "<p><em>bold</em> <em>slanted</em> 2 * 3 * 4</p>\n"),
    ],
)
def test_what_docstrings_and_readmes_are_made_of(text, html):
    assert to_html(text) == html


SOURCE = '''
"""The module."""
import os.path as path
from . import sibling
from ..upper import Thing as Other
if True:
    def shown(
        a: int,  # first
        *rest: str,
    ) -> str:
        """Shown."""
def bare(): pass
def _hidden(): ...
class C(Other, path.X[int]):
    """A class."""
    @property
    def documented(self) -> int:
        "Yes."
    def undocumented(self): ...
'''


def test_a_module_is_read_from_its_syntax_tree():
    doc = parse_module(SOURCE, "top.pkg.mod", is_package=False)
    assert doc.doc == "The module."
    assert dict(doc.imports) == {"path": "os.path", "sibling": "top.pkg.sibling", "Other": "top.upper.Thing"}
    shown, bare, cls = doc.sections
    assert (shown.name, shown.doc) == ("shown", "Shown.")
    assert shown.signature == "def shown(a: int, *rest: str) -> str"
    assert bare.signature == "def bare(): pass"
    assert (cls.signature, cls.bases) == ("class C(Other, path.X[int])", ("Other", "path.X"))
    assert [member.name for member in cls.members] == ["documented"]


def test_relative_imports_of_a_package_start_at_itself():
    doc = parse_module("from . import a\nfrom .b import *", "top.pkg", is_package=True)
    assert doc.imports == (("a", "top.pkg.a"), ("*", "top.pkg.b.*"))


@pytest.mark.parametrize("text", ["print 'two'", "x = '\0'", "(" * 1000])
def test_what_is_not_python_has_no_documentation(text):
    assert parse_module(text, "m", is_package=False) is None
