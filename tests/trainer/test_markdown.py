from hypothesis import given
from hypothesis import strategies as st

from trainer.post.markdown import plain, sections

PAGE = """Before any heading.

# Queues ¶

A queue keeps
order.

It is fair.

```
# not a heading
q = Queue()
```

After the code.

## `get\\_nowait(self)` #

- a list

Then prose.
"""

LINES = st.lists(
    st.sampled_from(
        ["", "Some prose.", "# Title", "## Part", "```", "- item", ">>> code", "    code", "| a |"]
    ),
    max_size=30,
)


def test_a_section_is_its_heading_and_the_prose_right_under_it():
    found = [tuple(section) for section in sections(PAGE)]
    assert found == [
        (0, "", ("Before any heading.",)),
        (1, "Queues", ("A queue keeps\norder.", "It is fair.")),
        (2, "get_nowait(self)", ()),
    ]


def test_a_heading_is_read_without_its_markup():
    assert plain("**The** `a\\_b` \\*args") == "The a_b *args"


@given(LINES)
def test_paragraphs_stand_in_the_text_word_for_word_and_in_order(lines):
    text = "\n".join(lines)
    position = 0
    for section in sections(text):
        for paragraph in section.paragraphs:
            position = text.index(paragraph, position) + len(paragraph)


@given(st.text())
def test_any_text_has_an_outline(text):
    assert next(iter(sections(text))).level in range(7)
