"""A first instruction set out of a corpus, without a model: its own definitions, headings and signatures.

`trainer.post.questions` says what counts as a question and its answer; here good ones are told from bad ones,
duplicates dropped, and an even sample of the kinds written. One pass over the corpus, memory for
`max_examples` of each kind and two hashes of each candidate kept.

    python -m trainer.instructions --shards runs/crawl/shards --out runs/instructions.jsonl

writes that file and, from documents of their own, `runs/instructions.val.jsonl`; only the training side of
the corpus is read. The result is a pure function of the manifest and the settings: killed, the same command
makes it again, and a file that is not this result is never replaced.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from typing import Annotated, Any, NamedTuple

from cyclopts import App, Parameter

from shards.reader import ShardReader
from tinylm.config import layers
from tinylm.errors import TinylmError, exit_on_error
from tinylm.files import alone, replacing
from tinylm.terminal import say, tally
from trainer.config import InstructionsConfig
from trainer.post.chat import held_out_file
from trainer.post.questions import Candidate, candidates, fault, hashed

# What is read of a document: columns that are not named cost nothing, as Parquet stores each by itself.
COLUMNS = ("id", "url", "title", "text", "content_sha256")
KINDS = ("definition", "heading", "api")


class InstructionError(TinylmError):
    """No instruction set could be made."""


class Example(NamedTuple):
    """A line of the file to write, and what decides about it."""

    line: str
    kind: str
    document: str
    """Id of the document it was made of."""


class Tally(NamedTuple):
    """What became of the candidates: kept by kind, dropped by reason."""

    kept: Counter[str]
    dropped: Counter[str]


class Seen:
    """Questions and answers had before, by hash: pages repeat each other, mirrors do so word for word."""

    def __init__(self) -> None:
        self._questions: set[int] = set()
        self._answers: set[int] = set()

    def fault(self, candidate: Candidate) -> str | None:
        """What of `candidate` was there before; if nothing was, it is from now on."""
        question, answer = hashed(candidate.question.lower()), hashed(candidate.answer)
        if question in self._questions:
            return "duplicate question"
        if answer in self._answers:
            return "duplicate answer"
        self._questions.add(question)
        self._answers.add(answer)
        return None


class Smallest:
    """The `size` examples of smallest key seen so far: a sample that no order of reading can change."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[int, Example]] = []

    def add(self, key: int, example: Example) -> None:
        entry = (-key, example)  # heapq keeps the smallest on top, which is the one to go
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)

    def __iter__(self) -> Iterator[Example]:
        return (example for _, example in sorted(self._heap, reverse=True))


def collect(reader: ShardReader, config: InstructionsConfig) -> tuple[list[Example], Tally]:
    """The chosen examples, and what became of all candidates."""
    dropped: Counter[str] = Counter()
    samples = {kind: Smallest(config.max_examples) for kind in KINDS}
    seen = Seen()
    documents = (row for group in reader.row_groups for row in reader.documents(group, columns=COLUMNS))
    for document in documents:
        for candidate in candidates(document, config.max_answer_chars):
            # Faults first: what is dropped for one must not make a good twin elsewhere a duplicate.
            reason = fault(candidate, document["text"], config.min_answer_chars, config.max_answer_chars)
            if reason := reason or seen.fault(candidate):
                dropped[reason] += 1
            else:
                samples[candidate.kind].add(hashed(candidate.question), _example(candidate, document))
    # One of each kind in turn, so that none crowds out another.
    rounds = zip_longest(*samples.values())
    chosen = list(islice((example for each in rounds for example in each if example), config.max_examples))
    return chosen, Tally(Counter(example.kind for example in chosen), dropped)


def split(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples; a document stands on one side only."""
    ids = sorted({example.document for example in examples}, key=hashed)
    # At least one document is held out where any is to be, and at least one is left to train on.
    count = min(max(1, round(share * len(ids))), len(ids) - 1) if share and ids else 0
    held_out = frozenset(ids[:count])
    train = [example for example in examples if example.document not in held_out]
    return train, [example for example in examples if example.document in held_out]


def make(config: InstructionsConfig) -> Tally:
    """Write the instruction set of a corpus: the held-out file first, so the other never stands alone.

    Raises `InstructionError` if the corpus yields nothing or a file holds anything else, `ShardError` if the
    corpus cannot be read.
    """
    with alone(config.out):
        examples, made = collect(ShardReader(config.shards, split="train"), config)
        if not examples:
            dropped = tally(made.dropped) or "none, no candidate at all"
            raise InstructionError(
                f"{config.shards}: no document defines, explains or describes anything in a form that can be "
                f"asked for (dropped: {dropped}); crawl more prose"
            )
        train, held_out = split(examples, config.held_out)
        contents = {held_out_file(config.out): held_out, config.out: train}
        written = {path: "".join(each.line + "\n" for each in part) for path, part in contents.items()}
        for path, content in written.items():
            if path.exists() and path.read_bytes() != content.encode():
                raise InstructionError(
                    f"{path} holds something else than {config.shards} gives with these settings: name "
                    "another --out, or remove it"
                )
        for path, content in written.items():
            with replacing(path) as temporary:
                temporary.write_text(content)
    return made


def _example(candidate: Candidate, document: dict[str, Any]) -> Example:
    line = {
        "messages": [
            {"role": "user", "content": candidate.question},
            {"role": "assistant", "content": candidate.answer},
        ],
        "source": {name: document[name] for name in ("id", "url", "content_sha256")},
        "kind": candidate.kind,
    }
    return Example(json.dumps(line), candidate.kind, document["id"])


def instructions(config: Annotated[InstructionsConfig, Parameter(name="*")] = InstructionsConfig()) -> None:
    """Make the instruction set and say what became of the candidates."""
    made = make(config)
    kept = ", ".join(f"{kind} {made.kept[kind]}" for kind in KINDS)
    say(f"instructions: {made.kept.total()} ({kept})")
    say(f"dropped: {made.dropped.total()} ({tally(made.dropped)})")
    say(f"written: {config.out}, held out: {held_out_file(config.out)}")


def main() -> None:
    with exit_on_error():
        app = App(
            name="python -m trainer.instructions",
            help=__doc__,
            config=layers(instructions=InstructionsConfig),
            suppress_keyboard_interrupt=False,  # it is for `exit_on_error`
        )
        app.default(instructions)
        app()


if __name__ == "__main__":
    main()
