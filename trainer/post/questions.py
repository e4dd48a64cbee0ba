"""Questions that a page already answers: its definitions, its headings, its signatures.

Question and answer pairs that people wrote are on the pages (WebInstruct, arXiv:2405.03548, recalls them with
models; here their form gives them away): a sentence "X is a ..." answers "What is X?", a heading asks for the
paragraph under it, a signature for its description. The answer is always text of the page, so whatever is
wrong with it was wrong there. About 5 MB of text a second.

A page is read as Markdown the way extractors write it: enough of CommonMark to tell prose from code, lists
and tables, one pass over the lines, 20 MB/s or so.
"""

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, NamedTuple

# Ways to ask for a subject; one that stands there twice is taken twice as often.
PHRASINGS = {
    "definition": ("What is {}?", "What is {}?", "Can you tell me what {} is?", "Define {}."),
    "plural": ("What are {}?", "What are {}?", "Can you tell me what {} are?", "Define {}."),
    "topic": ("Explain {}.", "Explain {} to me.", "What can you tell me about {}?", "Tell me about {}."),
    "task": ("How do you {}?", "How do I {}?", "How can I {}?"),
    "as it is": ("{}",),
    "api": ("What does `{}` do?", "What does `{}` do?", "What is `{}` for?", "Explain `{}`."),
}

# Verbs with which a heading says what to do ("Install tinylm", "Installing tinylm"), and can be asked how.
_IMPERATIVE = re.compile(
    "add|apply|build|call|change|check|choose|clean|compare|compile|compute|configure|connect|contribute|"
    "convert|copy|create|customize|debug|define|delete|deploy|disable|download|edit|enable|evaluate|execute|"
    "export|extend|fetch|filter|find|fix|format|generate|get|handle|import|improve|initialize|insert|inspect|"
    "install|iterate|join|load|log|make|manage|measure|merge|migrate|modify|monitor|move|open|optimize|parse|"
    "pass|print|process|profile|publish|query|read|register|remove|rename|render|replace|run|save|search|"
    "select|send|serve|set|share|solve|sort|specify|split|start|stop|store|submit|test|train|transform|"
    "uninstall|update|upgrade|upload|use|validate|verify|visualize|wait|work|write"
)
# Characters of a heading; a longer one is a sentence or a line of code, and asks for nothing.
_LONGEST_HEADING = 80
# Headings that stand for the page's subject, and headings over what is no answer to anything.
_OVERVIEW = re.compile("about|description|introduction|overview|summary")
_BOILERPLATE = re.compile(
    "acknowledgements|api( reference)?|(keyword )?arguments|attributes|authors?|badges|bugs|changelog|"
    "changes|citation|classes|contact|contents|contributing|contributors|copyright|credits|documentation|examples?|"
    "functions|history|index|indices and tables|installation|legal|licen[sc]e|licensing|links|maintainers|"
    "menu|methods|module contents|navigation|news|notes?|parameters|privacy|raises|references|related|"
    "release notes|resources|returns?|return type|search|see also|share|source( code)?|sponsors|subpackages|"
    "submodules|support|table of contents|thanks|todo|versions|warnings?|what.s (changed|new)|yields"
)
# A subject of one to six words and "is" or "are" with what it is: "The event loop is the core of ...".
_DEFINITION = re.compile(
    r"(?P<subject>(?:(?:An?|The) )?[\w`][\w`.+/#-]*(?: [\w`.+/#()-]+){0,4}) "
    r"(?P<verb>is|are) (?:an?|the|one of|used|any)\b"
)
# Subjects that mean something only after the sentence before, or are half a clause: "This", "The following".
_NOT_A_SUBJECT = re.compile(
    r"(?:[Tt]h(?:is|ese|ose|at|ere|ey)|It|Its|Here|What|Which|Who|When|Where|Why|How|If|Each|Every|Another|Other"
    r"|Such|Some|All|Both|One|We|You|I|He|She|In|On|At|By|For|With|As|But|And|Or|So|Since|While|Note|Now|Also)\b"
    r"|The (?:following|default|first|second|third|last|next|main|only|other|same|above|below|result|return"
    r"|reason|value|argument|option|parameter|idea|goal|purpose|rest|latter|former|remaining|returned|current"
    r"|general)\b"
    r"|.*\b(?:which|that|who|when|if|where|whether|because|this|these|it|and|or|of|by|to|from)\b"
)
# A signature as a heading, "class queue.Queue(maxsize=0)", and as the first line of what is under one.
_SIGNATURE = re.compile(
    r"(?:(?:async|class|def|exception|function|method|classmethod|staticmethod|property|abstract) )*"
    r"(?P<name>[A-Za-z_][\w.]*)\s?\(.*\)(?: ?(?:->|→) ?.+)?:?$"
)
_SIGNATURE_LINE = re.compile(r"`(?:async def|def|class) (?P<name>[\w.]++).*`")
# " - Python 3.11 documentation" after what a page is about.
_TITLE_TAIL = re.compile(r"(?<!\s)\s+[|·—–-]\s+.*$", re.DOTALL)
# What gives an answer away: all of it in code marks, a prompt, a rule, a decorator, docstring fields, a call;
# notices; links that ask to read elsewhere. Prose begins with a word and ends a sentence.
_CODE = re.compile(r"^`[^`]*`$|>>>|\\>|[-=~^]{4,}|^\s*[@$%]|:param|:return|\(\)\s*$")
_NOISE = re.compile(r"(?i)copyright|©|licensed under|all rights reserved|cookie|^bases: |\[source\]|^see ")
_LINK = re.compile(r"\]\(|\]\[")
_URL = re.compile(r"https?://\S")
_PROSE = re.compile(r"[\w`\"'(*].*[.!?)\"'`]", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_WORD = re.compile(r"[A-Za-z]{2,}")
# Of Markdown: a heading, the fence of code, the first characters of what is neither, nor a paragraph.
_HEADING = re.compile(r"(#{1,6})\s+((?:.*[^\s#¶])?)[\s#¶]*$")
_FENCE = re.compile(r"\s*(```|~~~)")
_OTHER_BLOCK = re.compile(r"\\?>|\s*[-*+]\s|\s*\d+[.)]\s|\||<|!\[|\[!|[-=*_]{3,}\s*$| {4}|\t")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
# The least of an answer that is a sentence: fewer words are a label or a name, and where fewer of the
# characters are letters it is a table, a version or code.
_LEAST_WORDS = 5
_LEAST_LETTERS = 0.7


class Section(NamedTuple):
    """A heading (level 0 and empty: the text before any) and the run of paragraphs right under it."""

    level: int
    heading: str
    paragraphs: tuple[str, ...]


class Candidate(NamedTuple):
    """A question with its answer, the text of a document."""

    kind: str
    question: str
    answer: str


def candidates(document: dict[str, Any], max_chars: int) -> Iterator[Candidate]:
    """Every question that `document` (a row with `id`, `title` and `text`) answers by its form, good or not.

    Paragraphs of more than `max_chars` are cut after a sentence where one ends before that.
    """
    page = page_subject(document["title"])
    outline = list(sections(document["text"]))
    if not any(section.level == 1 for section in outline):  # the text has no title of its own
        outline[0] = outline[0]._replace(level=1, heading=page)
    for section in outline:
        name, paragraphs = _described(section.paragraphs)
        if not paragraphs:
            continue
        asked = ("api", "api", name) if name else _asked(section, page)
        if asked:
            kind, phrasing, subject = asked
            question = phrase(phrasing, subject, document["id"])
            yield Candidate(kind, question, _opening(paragraphs[: 2 if kind == "heading" else 1], max_chars))
        for paragraph in paragraphs:
            defined = _DEFINITION.match(paragraph)
            if defined and not _NOT_A_SUBJECT.match(subject := defined["subject"]):
                article, _, rest = subject.partition(" ")
                if article in ("A", "An", "The"):  # not the first word of the question
                    subject = f"{article.lower()} {rest}"
                phrasing = "definition" if defined["verb"] == "is" else "plural"
                question = phrase(phrasing, subject, document["id"])
                yield Candidate("definition", question, _opening((paragraph,), max_chars))


def phrase(phrasing: str, subject: str, document_id: str) -> str:
    """`subject` as a question; which of the phrasings is decided by a hash, the same on every machine."""
    forms = PHRASINGS[phrasing]
    return forms[hashed(document_id, subject) % len(forms)].format(subject)


def page_subject(title: str) -> str:
    """What a page is about, from its title: without the name of the site."""
    return _TITLE_TAIL.sub("", plain(title))


def fault(candidate: Candidate, text: str, min_chars: int, max_chars: int) -> str | None:
    """Why `candidate` is not worth keeping, None if it is; `text` is the document it came from.

    The rules of `shards.text.filters` judged that document before; none of them is one of these. They are
    statistics of a page (50 words at least, stop words, repeated lines), which an answer of one sentence
    does not have.
    """
    answer = candidate.answer
    if _CODE.search(answer):
        return "answer is code"
    if len(answer) < min_chars or len(_WORD.findall(answer)) < _LEAST_WORDS:
        return "answer too short"
    if len(answer) > max_chars:
        return "answer too long"
    if _NOISE.search(answer):
        return "boilerplate"
    if _LINK.search(answer) or _URL.search(answer.split()[-1]) or not _PROSE.fullmatch(answer):
        return "not prose"
    if sum(map(str.isalpha, answer)) < _LEAST_LETTERS * len(answer.replace(" ", "")):
        return "not prose"
    if " ".join(answer.split()) not in " ".join(text.split()):
        return "answer not in the document"
    return None


def hashed(*parts: str) -> int:
    """64 bits of SHA-256: a choice that is the same on every machine."""
    return int.from_bytes(sha256("\0".join(parts).encode()).digest()[:8])


def _described(paragraphs: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The name whose signature opens a section ("" if none does), and the paragraphs after the signature."""
    first, *lines = paragraphs[0].splitlines() if paragraphs else [""]
    signature = _SIGNATURE_LINE.fullmatch(first)
    if not signature:
        return "", paragraphs
    while lines and lines[0].startswith("Bases:"):
        del lines[0]
    return signature["name"], (*(["\n".join(lines)] if lines else []), *paragraphs[1:])


def _asked(section: Section, page: str) -> tuple[str, str, str] | None:
    """(kind, phrasing, subject) of the question that the heading of `section` stands for."""
    heading = section.heading.rstrip(":. ")
    if signature := _SIGNATURE.match(heading):
        return "api", "api", signature["name"]
    says_something = len(heading) <= _LONGEST_HEADING and _WORD.search(heading)
    if not says_something or _BOILERPLATE.fullmatch(heading.lower()):
        return None
    if heading.endswith("?"):
        return "heading", "as it is", heading
    if task := _task(heading):
        return "heading", "task", task
    if section.level == 1:
        return "definition", "definition", page_subject(heading)
    if _OVERVIEW.fullmatch(heading.lower()):
        return "heading", "topic", page or heading
    narrow = len(heading.split()) < 3 and page and page.lower() not in heading.lower()
    return "heading", "topic", f"{heading} in {page}" if narrow else heading


def _task(heading: str) -> str | None:
    """What "Installing tinylm" and "Install tinylm" ask to do: "install tinylm"."""
    first, _, rest = heading.partition(" ")
    verb = first.lower()
    if verb.endswith("ing"):
        stem = verb[:-3]
        verb = next(filter(_IMPERATIVE.fullmatch, (stem, stem + "e", stem[:-1])), "")
    return f"{verb} {rest}" if rest and _IMPERATIVE.fullmatch(verb) else None


def _opening(paragraphs: tuple[str, ...], limit: int) -> str:
    """The paragraphs that fit into `limit` characters; of a longer first one, its sentences that do."""
    first, *others = (" ".join(paragraph.split()) for paragraph in paragraphs)
    if len(first) > limit:
        ends = [end.end() for end in _SENTENCE_END.finditer(first) if end.end() <= limit]
        return first[: ends[-1]] if ends else first
    for other in others:
        if len(first) + len(other) + 2 > limit or other.endswith(":"):
            break
        first += "\n\n" + other
    return first


def sections(text: str) -> Iterator[Section]:
    """The sections of `text` in order; headings without markup, paragraphs as they stand."""
    level, heading = 0, ""
    paragraphs: list[str] = []
    ended = False  # by a block that is no paragraph: only those before it are right under the heading
    for found in (*_blocks(text), (0, "")):
        if isinstance(found, tuple):
            yield Section(level, heading, tuple(paragraphs))
            (level, heading), paragraphs, ended = found, [], False
        elif found is None:
            ended = True
        elif not ended:
            paragraphs.append(found)


def plain(line: str) -> str:
    """`line` without escapes, emphasis and code marks."""
    return _ESCAPE.sub(r"\1", line).replace("**", "").replace("`", "").strip()


def _blocks(text: str) -> Iterator[tuple[int, str] | str | None]:
    """(level, heading), or a paragraph, or None for any other block."""
    paragraph: list[str] = []
    fenced = False
    for line in text.splitlines():
        fence, heading = _FENCE.match(line), _HEADING.match(line)
        prose = not (fenced or fence or heading or _OTHER_BLOCK.match(line)) and line.strip()
        if prose:
            paragraph.append(line)
            continue
        if paragraph:
            yield "\n".join(paragraph)
            paragraph = []
        if fence:
            fenced = not fenced
        if heading and not fenced:
            yield len(heading[1]), plain(heading[2])
        elif line.strip():
            yield None
    if paragraph:
        yield "\n".join(paragraph)
