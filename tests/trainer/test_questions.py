import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.post.questions import PHRASINGS, Candidate, candidates, fault, plain, sections

ANSWER = "A queue hands out its items in the order in which they came."


def asked(text, title="queues — Python", document_id="d1"):
    found = candidates({"id": document_id, "title": title, "text": text}, max_chars=300)
    return [(candidate.kind, candidate.question, candidate.answer) for candidate in found]


def is_phrased(question, phrasing, subject):
    return question in [form.format(subject) for form in PHRASINGS[phrasing]]


def test_a_page_says_what_its_subject_is():
    ((kind, question, answer),) = asked("# queues\n\nOrdered containers for threads that talk to each other.")
    assert kind == "definition"
    assert is_phrased(question, "definition", "queues")
    assert answer == "Ordered containers for threads that talk to each other."


def test_a_page_without_a_heading_is_about_its_title():
    ((kind, question, _),) = asked("Ordered containers for threads that talk to each other.")
    assert kind == "definition"
    assert is_phrased(question, "definition", "queues")


@pytest.mark.parametrize(
    ("sentence", "phrasing", "subject"),
    [
        ("A deque is a queue with two ends, made for speed.", "definition", "a deque"),
        ("Redis is an in-memory store of data structures.", "definition", "Redis"),
        ("Lua scripts are the way to do several things at once.", "plural", "Lua scripts"),
        ("The event loop is the core of every such application.", "definition", "the event loop"),
    ],
)
def test_a_sentence_of_the_form_of_a_definition_answers_what_it_defines(sentence, phrasing, subject):
    *_, (kind, question, answer) = asked(f"# Notes\n\nSome other words first.\n\n{sentence}")
    assert kind == "definition"
    assert is_phrased(question, phrasing, subject)
    assert answer == sentence


@pytest.mark.parametrize(
    "sentence",
    [
        "This is a function that returns the first of its arguments.",
        "The following is a list of all the things that it can do.",
        "What is a queue and why would anyone want to have one?",
        "If the queue is a bounded one, the call waits for room.",
    ],
)
def test_a_sentence_about_something_said_before_defines_nothing(sentence):
    assert asked(f"## Notes\n\n{sentence}", title="") == []


@pytest.mark.parametrize(
    ("heading", "kind", "phrasing", "subject"),
    [
        ("Installing the package", "heading", "task", "install the package"),
        ("Writing a spider", "heading", "task", "write a spider"),
        ("Running it twice", "heading", "task", "run it twice"),
        ("Create a new project", "heading", "task", "create a new project"),
        ("Why is it slow?", "heading", "as it is", "Why is it slow?"),
        ("Ordering between several producers", "heading", "topic", "Ordering between several producers"),
        ("Fairness", "heading", "topic", "Fairness in queues"),
        ("Overview", "heading", "topic", "queues"),
        ("`get(block=True, timeout=None)`", "api", "api", "get"),
        ("class queue.Queue(maxsize=0)", "api", "api", "queue.Queue"),
        ("async def drain() -> None:", "api", "api", "drain"),
    ],
)
def test_a_heading_asks_for_the_paragraph_under_it(heading, kind, phrasing, subject):
    found = asked(f"# queues\n\n## {heading}\n\nItems come out in the order in which they went in.")
    assert [(found_kind, answer) for found_kind, _, answer in found] == [
        (kind, "Items come out in the order in which they went in.")
    ]
    assert is_phrased(found[0][1], phrasing, subject)


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("`def drain(queue, *, timeout=None) -> None`", "drain"),
        ("`async def Queue.join(self)`", "Queue.join"),
        ("`class Empty(Exception)`\nBases: Exception", "Empty"),
        ("`class Empty(Exception)`\nBases: Exception\n", "Empty"),
    ],
)
def test_a_signature_under_a_heading_asks_what_it_does_and_is_no_part_of_the_answer(signature, name):
    described = "Items come out in the order in which they went in."
    ((kind, question, answer),) = asked(f"# queues\n\n## {name}\n\n{signature}\n{described}\n\nMore of it.")
    assert kind == "api"
    assert is_phrased(question, "api", name)
    assert answer == described


def test_a_signature_without_a_description_asks_for_nothing():
    assert asked("# queues\n\n## drain\n\n`def drain(queue)`") == []


@pytest.mark.parametrize("heading", ["License", "See also", "Table of contents", "Parameters", "1.2.3", ""])
def test_boilerplate_headings_ask_for_nothing(heading):
    assert asked(f"# queues\n\n## {heading}\n\nItems come out in the order in which they went in.") == []


def test_a_heading_over_code_asks_for_nothing():
    assert asked("# queues\n\n## Making one\n\n```\nq = Queue()\n```\n\nThat was easy enough to do.") == []


def test_a_long_paragraph_is_cut_after_a_sentence():
    sentence = "Every sentence of this paragraph is as long as all the others of it. "
    ((_, _, answer),) = asked("# queues\n\n" + sentence * 10)
    assert answer == (sentence * 4).strip()


def test_the_phrasing_depends_on_the_document_and_on_nothing_else():
    text = f"# queues\n\n{ANSWER}"
    assert len({tuple(asked(text)) for _ in range(3)}) == 1
    assert len({asked(text, document_id=f"d{n}")[0][1] for n in range(30)}) == len(
        set(PHRASINGS["definition"])
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ANSWER, None),
        ("A queue.", "answer too short"),
        ("x " * 30 + "a bc d.", "answer too short"),
        (ANSWER * 6, "answer too long"),
        (">>> q = Queue(); q.put(1); q.get() and so on and so forth.", "answer is code"),
        ("Parameters ---------- maxsize : int The most items it can hold.", "answer is code"),
        ("`pip install the package and then some more of the others`", "answer is code"),
        ("Copyright by the authors, who keep all of the rights to it.", "boilerplate"),
        ("A queue hands out items in the following order of importance:", "not prose"),
        ("Read about it in [the manual](http://python.test/) of this package.", "not prose"),
        ("Numbers such as 1234567890, 0987654321, 55555 and 77777 are one two.", "not prose"),
    ],
)
def test_a_bad_answer_is_dropped_with_its_reason(answer, reason):
    assert fault(Candidate("definition", "What is a queue?", answer), answer, 40, 300) == reason


def test_an_answer_that_is_not_in_the_document_is_dropped():
    candidate = Candidate("definition", "What is a queue?", ANSWER)
    assert fault(candidate, "Something else. " + ANSWER.replace(" ", "\n "), 40, 300) is None
    assert fault(candidate, ANSWER.replace("order", "sequence"), 40, 300) == "answer not in the document"


SENTENCE = st.sampled_from(
    [
        ANSWER,
        "A deque is a queue with two ends, made for speed.",
        "It has two\nlines, and both of them count.",
    ]
)
BLOCK = SENTENCE | st.sampled_from(["# Deques", "## Using them", "### `pop()`", "```\ncode\n```", "- item"])


@given(st.lists(BLOCK, max_size=12), st.integers(50, 200))
def test_every_answer_without_a_fault_is_text_of_the_document(blocks, max_chars):
    text = "\n\n".join(blocks)
    document = {"id": "d1", "title": "Deques", "text": text}
    for candidate in candidates(document, max_chars):
        assert fault(candidate, text, 40, max_chars) != "answer not in the document"
        if fault(candidate, text, 40, max_chars) is None:
            assert " ".join(candidate.answer.split()) in " ".join(text.split())
            assert len(candidate.answer) <= max_chars


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
