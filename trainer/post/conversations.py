"""Conversations of a JSONL file as rows of fixed length, each conversation by itself in its row.

A line is {"messages": [{"role": ..., "content": ...}, ...]}; which more keys are obeyed or refused says
trainer/post/chat.py, others are left alone and named. Rows are packed best fit, longest first
(arXiv:2404.10830): no conversation is split, about 3 % is padding, and a segment number keeps the
conversations of a row from seeing each other. The order is a pure function of the file's SHA-256, the seed
and the epoch; all rows of a run are planned before it starts (one integer a conversation and epoch), so a
reading position is a step number.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import torch

from trainer.config import SFTConfig
from trainer.data.batch import IGNORE, Batch, DataError
from trainer.data.packing import best_fit
from trainer.post.chat import MARKS, UNSAID, ConversationError, is_learned, parse_messages, render
from trainer.run.distributed import World
from trainer.tokenizer import Tokenizer

_READ = frozenset({"messages", "role", "content", *MARKS, *UNSAID})
_INDEX = re.compile(r"\[\d+\]")


class Example(NamedTuple):
    """A rendered conversation: what the model reads and, of the same length, what it is to say next."""

    inputs: list[int]
    targets: list[int]
    """`IGNORE` wherever the next token is not the assistant's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversations:
    """The examples of one file."""

    path: Path
    sha256: str
    examples: list[Example]
    bad: Counter[str]
    """Lines left out because they hold no valid conversation, by the field that is at fault."""
    masked: int
    """Answers that are read and not learned, as they say themselves."""
    unread: frozenset[str]
    """Keys of lines and messages that nothing is done with."""
    cut: int
    """Conversations longer than a row, cut at its end."""
    unanswered: int
    """Conversations left out because nothing of an answer was left after the cut."""

    @property
    def supervised(self) -> int:
        """Tokens that are learned in an epoch."""
        return sum(target != IGNORE for example in self.examples for target in example.targets)


def read_conversations(
    path: Path, tokenizer: Tokenizer, sequence_len: int, on_bad_line: Literal["error", "skip"] = "error"
) -> Conversations:
    """Read, check, render and, where needed, cut the conversations of `path`.

    Raises `DataError` if there is no such file, for the first bad line unless told to `skip`, and if no token
    would be learned.
    """
    content = _content(path)
    examples, cut, masked, unanswered = [], 0, 0, 0
    bad: Counter[str] = Counter()
    unread: set[str] = set()
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = _decoded(line)
            messages = parse_messages(value["messages"])
            if not is_learned(value):
                messages = [{**message, "learned": False} for message in messages]
        except (ConversationError, ValueError) as error:
            if on_bad_line == "error":
                raise DataError(f"{path}:{number}: {error}") from None
            bad[_INDEX.sub("", str(error)).partition(":")[0].partition(" (")[0]] += 1
            continue
        for each in (value, *value["messages"]):
            unread |= {key[:40] for key, said in each.items() if said is not None and key not in _READ}
        masked += sum(message["role"] == "assistant" and "learned" in message for message in messages)
        ids, mask = render(messages, tokenizer)
        inputs, targets = _example(ids, mask)
        cut += len(inputs) > sequence_len
        example = Example(inputs[:sequence_len], targets[:sequence_len])
        if all(target == IGNORE for target in example.targets):
            unanswered += 1
        else:
            examples.append(example)
    if not examples:
        raise DataError(
            f"{path}: no token to learn ({bad.total()} bad lines, {unanswered} without an answer to learn in "
            f"the first {sequence_len} tokens); give conversations with an assistant's message"
        )
    digest = sha256(content).hexdigest()
    return Conversations(
        path=path,
        sha256=digest,
        examples=examples,
        bad=bad,
        masked=masked,
        unread=frozenset(unread),
        cut=cut,
        unanswered=unanswered,
    )


def digest(path: Path) -> str:
    """SHA-256 of a file of conversations; raises `DataError` if it cannot be read."""
    return sha256(_content(path)).hexdigest()


# Indices of the examples that stand in a row, in order.
Row = list[int]


def plan(conversations: Conversations, sequence_len: int, *, seed: int, epochs: int) -> list[Row]:
    """The rows of all `epochs`, in the order in which they are trained on."""
    rows: list[Row] = []
    for epoch in range(epochs):
        # A string seeds through SHA-512, the same on every machine and Python.
        random = Random(f"{conversations.sha256} {seed} {epoch}")
        rows += pack([len(example.inputs) for example in conversations.examples], sequence_len, random)
    return rows


def pack(lengths: Sequence[int], sequence_len: int, random: Random) -> list[Row]:
    """Rows of at most `sequence_len`, by best fit, longest first; in random order, as are equal lengths.

    No length may exceed `sequence_len`.
    """
    order = list(range(len(lengths)))
    random.shuffle(order)  # before a stable sort: the order of equal lengths is another in each epoch
    order.sort(key=lambda index: -lengths[index])
    rows = best_fit(order, lengths, sequence_len)
    random.shuffle(rows)
    return rows


def collate(examples: Sequence[Example], rows: Sequence[Row], sequence_len: int) -> Batch:
    """`rows` as a micro-batch (B, T); padding is a segment of its own, without targets."""
    shape = (len(rows), sequence_len)
    ids = torch.zeros(shape, dtype=torch.long)
    targets = torch.full(shape, IGNORE)
    segments = torch.full(shape, -1)  # padding's own: attention to nothing at all would be NaN
    for number, row in enumerate(rows):
        start = 0
        for segment, index in enumerate(row):
            end = start + len(examples[index].inputs)
            ids[number, start:end] = torch.tensor(examples[index].inputs)
            targets[number, start:end] = torch.tensor(examples[index].targets)
            segments[number, start:end] = segment
            start = end
    return {"ids": ids, "targets": targets, "segments": segments}


def batches(
    conversations: Conversations, rows: Sequence[Row], sequence_len: int, batch_size: int, world: World
) -> Iterator[Batch]:
    """This rank's share of `rows`, `batch_size` at a time, on its device."""
    # By turns, so that ranks differ by one batch at most.
    for start in range(world.rank * batch_size, len(rows), world.size * batch_size):
        batch = collate(conversations.examples, rows[start : start + batch_size], sequence_len)
        yield {name: part.to(world.device) for name, part in batch.items()}


class ConversationSource:
    """Gives a rank its micro-batches, `steps` times; number i of a step goes to rank i mod world size."""

    def __init__(
        self, conversations: Conversations, sequence_len: int, config: SFTConfig, world: World
    ) -> None:
        self._conversations = conversations
        self._sequence_len = sequence_len
        self._batch_size = config.device_batch_size
        self._world = world
        self._step = 0
        rows = plan(conversations, sequence_len, seed=config.seed, epochs=config.epochs)
        per_step = config.micro_batches_per_step(sequence_len) * config.device_batch_size
        self._rows = [rows[start : start + per_step] for start in range(0, len(rows), per_step)]
        self.steps = len(self._rows)

    def next_step(self) -> list[Batch]:
        """This rank's micro-batches of the next step, on its device; maybe none in the last one.

        After the last step it begins anew, for a run that left out steps.
        """
        rows = self._rows[self._step % self.steps]
        self._step += 1
        return list(batches(self._conversations, rows, self._sequence_len, self._batch_size, self._world))

    def state(self) -> dict[str, Any]:
        return {"step": self._step}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, whatever the number of ranks."""
        self._step = state["step"]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; `python -m trainer.instructions` makes one") from None


def _decoded(line: bytes) -> dict[str, Any]:
    """A line, which has `messages`; raises `ValueError` (so do bad JSON and bad UTF-8)."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(value, dict) or "messages" not in value:
        raise ValueError('expected an object with the key "messages"')
    return value


def _example(ids: list[int], mask: list[int]) -> Example:
    """Inputs and next tokens, up to the last one that is learned."""
    # What follows the last learned token would be computed for nothing.
    targets = [token if learned else IGNORE for token, learned in zip(ids[1:], mask[1:], strict=True)]
    end = max((position for position, target in enumerate(targets, 1) if target != IGNORE), default=0)
    return Example(ids[:end], targets[:end])
