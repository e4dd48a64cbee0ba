"""`tinylm chat`: a conversation on the terminal."""

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer.generate import Generator, Token
from trainer.post.chat import ConversationError, Message
from trainer.tokenizer import Tokenizer


def print_stream(pieces: Iterable[str]) -> str:
    """Print pieces of text as they come; returns the whole."""
    said = []
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
        said.append(piece)
    sys.stdout.write("\n")
    return "".join(said)


def print_tokens(tokens: Iterable[Token], tokenizer: Tokenizer) -> None:
    """A token a line: its logarithmic and plain probability, itself, and the likeliest in its place."""
    for token in tokens:
        likeliest = "  ".join(
            f"{tokenizer.decode((one,))!r} {math.exp(logprob):.1%}" for one, logprob in token.likeliest
        )
        said = repr(tokenizer.decode((token.id,)))
        print(
            f"{token.logprob:8.3f} {math.exp(token.logprob):6.1%}  {said:<16} {likeliest}".rstrip(),
            flush=True,
        )


def converse(run: Path, message: str | None, **sampling: Any) -> None:
    """Answer `message`, or messages from the terminal until end of input.

    What got no answer, or is too long for one, is forgotten: the conversation goes on without it.
    """
    generator = Generator.load(run)
    if message is not None:
        print_stream(generator.chat([{"role": "user", "content": message}], **sampling))
        return
    console = Console()
    console.print("Ctrl-D ends the conversation.", style="dim")
    messages: list[Message] = []
    while True:
        try:
            asked = console.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        if not asked:
            continue
        messages.append({"role": "user", "content": asked})
        try:
            answer = print_stream(generator.chat(messages, **sampling))
        except ConversationError as error:
            answer = ""
            console.print(str(error), style="red", markup=False)
        if answer.strip():
            messages.append({"role": "assistant", "content": answer})
        else:
            messages.pop()
