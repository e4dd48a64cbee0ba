"""Conversations as token ids: ChatML (OpenAI, 2023), with the mask that says which tokens are learned.

    <|im_start|>user\\nWhat is a shard?<|im_end|>\\n<|im_start|>assistant\\nA file of documents.<|im_end|>\\n

Markers are put in as ids, never as text, and the tokenizer reads no marker out of text: what a user types
cannot open another role. Every piece is encoded on its own, so a prompt is always a prefix of the
conversation that goes on from it; a merge across the line break after the role is the price.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from tinylm.errors import TinylmError
from trainer.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")


class ConversationError(TinylmError):
    """A conversation that cannot be rendered; the message names the message and the field."""


class Message(TypedDict):
    """One turn: who speaks (`system`, `user` or `assistant`) and what is said."""

    role: str
    content: str


def held_out_file(path: Path) -> Path:
    """The file of the held-out conversations of `path`: `chat.val.jsonl` beside `chat.jsonl`."""
    return path.with_suffix(f".val{path.suffix}")


def parse_messages(value: Any) -> list[Message]:
    """The messages of a decoded JSON value: an optional system message, then user and assistant in turn.

    Raises `ConversationError` naming the first field that is wrong.
    """
    if not isinstance(value, list) or not value:
        raise ConversationError("messages: expected a non-empty list of objects with role and content")
    messages = [_parse_message(message, f"messages[{index}]") for index, message in enumerate(value)]
    first_turn = 1 if messages[0]["role"] == "system" else 0
    for index, message in enumerate(messages[first_turn:]):
        due = ROLES[1 + index % 2]  # after "system": user and assistant in turn
        if message["role"] != due:
            where = f"messages[{first_turn + index}].role"
            raise ConversationError(
                f"{where}: expected {due!r}, found {message['role']!r} "
                "(one system message at most, first, then user and assistant in turn)"
            )
    return messages


def render(messages: Sequence[Message], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Token ids and a mask of the same length: 1 on the assistant's content and the `<|im_end|>` after it.

    The content is inserted as text, whatever markers it spells. Validate first with `parse_messages`.
    """
    ids: list[int] = []
    mask: list[int] = []
    for message in messages:
        # Each part is encoded by itself, as the prompt is when the model is asked.
        head, tail = _frame(message["role"], tokenizer)
        body = [*tokenizer.encode(message["content"]), tokenizer.im_end]
        learned = int(message["role"] == "assistant")
        ids += head + body + tail
        mask += [0] * len(head) + [learned] * len(body) + [0] * len(tail)
    return ids, mask


def render_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Token ids after which the model writes the assistant's next message."""
    return render(messages, tokenizer)[0] + _frame("assistant", tokenizer)[0]


def template(*, mask: bool) -> str:
    """The Jinja template with which other programs render conversations to the same text.

    With `mask`, it says which part is the assistant's to those who ask (transformers' {% generation %}).
    """
    # This and `render` say the same form twice: other programs need a template, and ours would read a marker
    # out of a content as the marker. A test renders conversations with both.
    said = "{{ message['content'] + '<|im_end|>' }}"
    begin, end = ("{% generation %}", "{% endgeneration %}") if mask else ("", "")
    return (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{% if message['role'] == 'assistant' %}" + begin + said + end + "{% else %}" + said + "{% endif %}"
        "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


@lru_cache(maxsize=len(ROLES))
def _frame(role: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What stands before a message's content and after its `<|im_end|>`, for every message of a role."""
    return [tokenizer.im_start, *tokenizer.encode(f"{role}\n")], tokenizer.encode("\n")


def _parse_message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise ConversationError(f"{where}: expected an object with role and content")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise ConversationError(f"{where}.role: expected one of {', '.join(ROLES)}, found {role!r}")
    if not isinstance(content, str) or not content.strip():
        raise ConversationError(f"{where}.content: expected text that is not empty")
    return Message(role=role, content=content)
