"""Conversations as token ids: ChatML (OpenAI, 2023), with the mask that says which tokens are learned.

    <|im_start|>user\\nWhat is a shard?<|im_end|>\\n<|im_start|>assistant\\nA file of documents.<|im_end|>\\n

Markers are put in as ids, never as text, and the tokenizer reads no marker out of text: what a user types
cannot open another role. Every piece is encoded on its own, so a prompt is always a prefix of the
conversation that goes on from it; a merge across the line break after the role is the price.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from tinylm.errors import TinylmError
from trainer.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")
# 0 or false in one of them keeps a message from being learned: OpenAI and mistral-finetune, axolotl, ms-swift
# and slime, verl.
MARKS = ("weight", "train", "loss", "loss_mask")
# What a message or a conversation says beside its texts. No token is made of it, so what would be learned is
# something else: a call of a tool would end before the call.
UNSAID = (
    *("tool_calls", "tool_call_id", "function_call", "tools", "functions", "tool_choice"),
    *("reasoning_content", "reasoning", "thinking", "refusal", "system", "system_prompt", "prefix"),
    *("images", "image", "videos", "video", "audios", "audio", "documents", "chat_template_kwargs"),
    *("mask", "masked", "train_detail", "loss_scale", "rejected_response"),
)


class ConversationError(TinylmError):
    """A conversation that cannot be rendered; the message names the message and the field."""


class Message(TypedDict):
    """One turn: who speaks (`system`, `user` or `assistant`) and what is said."""

    role: str
    content: str
    learned: NotRequired[bool]
    """False in a message of the assistant's that is context only."""


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
    """Token ids and a mask of the same length: 1 on what is learned of a message, content and `<|im_end|>`.

    The content is inserted as text, whatever markers it spells. Validate first with `parse_messages`.
    """
    ids: list[int] = []
    mask: list[int] = []
    for message in messages:
        # Each part is encoded by itself, as the prompt is when the model is asked.
        head, tail = _frame(message["role"], tokenizer)
        body = [*tokenizer.encode(message["content"]), tokenizer.im_end]
        learned = int(message["role"] == "assistant" and message.get("learned", True))
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


def is_learned(value: Mapping[str, Any], where: str = "") -> bool:
    """Whether nothing in a message or a line, which is named `where`, keeps it from being learned.

    Raises `ConversationError` for a key that would change what is learned and that nobody obeys here.
    """
    for key in UNSAID:
        if value.get(key) not in (None, "", [], {}):
            raise ConversationError(
                f"{where}{key}: not rendered here, so something else would be learned: leave out the line"
            )
    marks = {key: value[key] for key in MARKS if value.get(key) is not None}
    for key, mark in marks.items():
        if mark not in (0, 1):
            raise ConversationError(f"{where}{key}: expected 0 or 1, found {repr(mark)[:40]}")
        if mark and value.get("role", "assistant") != "assistant":
            raise ConversationError(f"{where}{key}: only what the assistant says is learned; leave it out")
    return all(marks.values())


def _parse_message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise ConversationError(f"{where}: expected an object with role and content")
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise ConversationError(f"{where}.role: expected one of {', '.join(ROLES)}, found {role!r}")
    learned = is_learned(value, f"{where}.")
    if isinstance(content, list):
        for n, part in enumerate(content):
            kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (part, None)
            if kind != "text" or not isinstance(text, str):
                expected = f"expected a part of type 'text' with a text, found {repr(kind)[:40]}"
                raise ConversationError(f"{where}.content[{n}]: {expected}")
            if not is_learned(part, f"{where}.content[{n}]."):
                raise ConversationError(f"{where}.content[{n}]: a part cannot be left out, only its message")
        content = "".join(part["text"] for part in content)
    # An empty system message is one: templates render it, the one that is exported with the model too.
    if not isinstance(content, str) or not (content.strip() or role == "system"):
        raise ConversationError(f"{where}.content: expected text that is not empty")
    if learned:
        return Message(role=role, content=content)
    return Message(role=role, content=content, learned=False)
