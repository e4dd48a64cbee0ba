"""What strangers wrote is printed without what a terminal obeys or an eye cannot see."""

import ast
import subprocess
import sys
import unicodedata
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tinylm.terminal import clean, entered

ROOT = Path(__file__).parents[2]
ROOMS = ["crawler", "deploy", "ranker", "shards", "tinylm", "trainer"]
# Where text leaves, and a bar that is drawn in place.
PRINTERS = {"tinylm/terminal.py", "deploy/console.py", "trainer/run/metrics.py"}
NASTY = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\x85\u202egnp.exe\u2066\u061c\U000e0041\ud800\r\x08\x7f\u2028"


def test_controls_and_invisible_tricks_go_and_text_stays():
    kept = "a\tb\nc é 漢字 عربى می‌خواهم 👩‍👩‍👧 Schiff\xadfahrt [31m [red]"
    assert clean(kept) == kept
    assert clean(NASTY) == "]52;c;ZXZpbA==[2J31mgnp.exe"
    assert clean("a\r\nb") == "a\nb"


@given(st.text())
def test_nothing_is_left_that_unicode_calls_a_control_or_bidirectional(text):
    for character in clean(text):
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in (
            "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        )  # fmt: skip


@given(st.text(), st.integers(0, 50))
def test_what_comes_in_pieces_is_cleaned_alike(text, at):
    assert clean(text[:at]) + clean(text[at:]) == clean(text)


@given(st.binary(), st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_what_was_typed_is_utf8_wherever_the_locale_left_bytes_alone(raw, encoding):
    text = entered(raw.decode(encoding, "surrogateescape"))
    assert text == raw.decode("latin-1" if encoding == "latin-1" else "utf-8", "replace")
    text.encode()


def test_a_record_of_a_log_is_one_line_and_cannot_be_forged():
    code = (
        "from tinylm.log import setup; log = setup('walk')\n"
        "log.warning('skipped %s', nasty + '\\n2026-01-01 00:00:00,000 walk INFO forged')\n"
        "try: raise ValueError(nasty + '\\nforged')\n"
        "except ValueError: log.exception('failed')\n"
        "raise RuntimeError(nasty + '\\nforged')"
    )
    code = f"nasty = {NASTY!a}\n{code}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = ended.stderr.split("\n")
    assert ended.stderr == clean(ended.stderr)
    assert [line.split(" ", 2)[2] for line in lines if line[:1] == "2"] == [
        "walk WARNING skipped ]52;c;ZXZpbA==[2J31mgnp.exe",
        "walk ERROR failed",
        "walk CRITICAL ends by a bug",
    ]
    assert sum("forged" in line for line in lines) == 3
    assert all(line.startswith(("2", "  ")) or not line for line in lines)


def test_text_leaves_by_one_function_and_one_console():
    """A `print`, a Console of rich's own or a write to stdout would show what a page says as it is."""
    found = []
    for path in [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]:
        name = str(path.relative_to(ROOT))
        for node in [] if name in PRINTERS else ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name("print")):
                    found.append(f"{name}:{node.lineno}: print")
                case ast.Attribute(ast.Attribute(ast.Name("sys"), "stdout" | "stderr"), "write"):
                    found.append(f"{name}:{node.lineno}: write")
                case ast.ImportFrom("rich.console" | "rich", names=names):
                    found += [f"{name}:{node.lineno}" for each in names if each.name in ("Console", "print")]
    assert found == []
