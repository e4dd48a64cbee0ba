"""`tinylm complete`, `chat` and `export`: what a trained model says, and the model for other programs."""

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from tinylm.errors import ConfigError
from tinylm.terminal import entered, say
from trainer.config import PretrainConfig, SamplingConfig, SFTConfig

if TYPE_CHECKING:  # torch, which only the commands load
    from trainer.generate import Token
    from trainer.post.chat import Message
    from trainer.tokenizer import Tokenizer

Run = Annotated[Path, Parameter(help="Directory of a training run, or one of its checkpoints.")]
app = App()
export = App(name="export", help="A trained model for transformers or llama.cpp.")
app.command(export)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatSampling(SamplingConfig):
    """As in a completion, but longer and a little nearer to what is likeliest."""

    max_tokens: int = 192
    """Most tokens to add."""
    temperature: float = 0.7
    """Divides the logits; 0 always takes the likeliest token."""


_COMPLETION, _CHAT = SamplingConfig(), ChatSampling()
_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\\": "\\"}
# Where training writes if it is not told otherwise.
_MODEL, _CHAT_MODEL = PretrainConfig().out, SFTConfig().out


@app.command
def complete(
    prompt: str,
    *,
    run: Run = _MODEL,
    sampling: Annotated[SamplingConfig, Parameter(name="*")] = _COMPLETION,
    logprobs: int | None = None,
    weights: Literal["fp32", "fp16"] = "fp32",
) -> None:
    """Continue PROMPT with a trained model.

    Parameters
    ----------
    logprobs
        Print a token a line with its probability, and with so many of the likeliest.
    weights
        fp16 is about twice as fast as fp32 where the model is larger than the processor's cache.
    """
    from trainer.generate import Generator

    prompt = entered(prompt)
    generator, options = Generator.load(run, weights=weights), _options(sampling)
    if logprobs is not None:
        if logprobs < 0:
            raise ConfigError(f"logprobs = {logprobs}: must not be negative")
        tokens = generator.complete_tokens(prompt, logprobs, **options)
        _print_tokens(tokens, generator.tokenizer)
        return
    say(prompt, end="")
    print_stream(generator.complete(prompt, **options))


@app.command
def chat(
    message: str | None = None,
    *,
    run: Path = _CHAT_MODEL,
    sampling: Annotated[ChatSampling, Parameter(name="*")] = _CHAT,
) -> None:
    """Talk to a fine-tuned model; with MESSAGE, ask once and end.

    Parameters
    ----------
    run
        Directory of a fine-tuning run, or one of its checkpoints.
    """
    from deploy.console import Console
    from trainer.generate import Generator
    from trainer.post.chat import ConversationError

    generator, options = Generator.load(run), _options(sampling)
    if message is not None:
        print_stream(generator.chat([{"role": "user", "content": entered(message)}], **options))
        return
    console = Console()
    console.print("Ctrl-D ends the conversation.", style="dim")
    messages: list[Message] = []
    while True:
        try:
            asked = entered(console.input("[bold]> [/bold]")).strip()
        except (EOFError, RuntimeError):  # the second of a stdin that is closed
            return
        if not asked:
            continue
        messages.append({"role": "user", "content": asked})
        try:
            answer = print_stream(generator.chat(messages, **options))
        except ConversationError as error:
            answer = ""
            console.print(str(error), style="red")
        # Roles take turns (the template knows nothing else): a question without an answer is forgotten.
        if answer.strip():
            messages.append({"role": "assistant", "content": answer})
        else:
            messages.pop()


@export.command
def hf(run: Run, *, out: Annotated[Path, Parameter(help="New directory; there once all of it is.")]) -> None:
    """Write RUN as transformers loads it, with its tokenizer and chat template."""
    from trainer.interop.hf import export_hf

    say(f"{out}: {export_hf(run, out)}; AutoModelForCausalLM and AutoTokenizer open it")


@export.command
def gguf(run: Run, *, out: Path, weights: Literal["fp32", "fp16", "q8_0"] = "fp16") -> None:
    """Write RUN as one file for llama.cpp, with its tokenizer and chat template.

    Parameters
    ----------
    out
        New file; there once all of it is.
    weights
        Of matrices: as trained, in half, or in blocks of 8 bits.
    """
    if find_spec("gguf") is None:
        raise ConfigError("the package gguf is not installed: pip install '.[export]'")
    from trainer.interop.gguf import export_gguf

    say(f"{out}: {export_gguf(run, out, weights)} in {weights}, {out.stat().st_size / 1e6:.1f} MB")


def _options(sampling: SamplingConfig) -> dict[str, Any]:
    """The fields of `sampling`, with what a shell hands over as two characters put in its stop strings."""
    stop = [re.sub(r"\\[nrt\\]", lambda found: _ESCAPES[found[0]], text) for text in sampling.stop]
    return asdict(sampling) | {"stop": tuple(stop)}


def print_stream(pieces: Iterable[str]) -> str:
    """Print pieces of text as they come; returns the text."""
    said = []
    for piece in pieces:
        say(piece, end="")
        said.append(piece)
    say()
    return "".join(said)


def _print_tokens(tokens: "Iterable[Token]", tokenizer: "Tokenizer") -> None:
    """Print a token a line: its logarithmic and plain probability, itself, and the likeliest in its place."""
    for token in tokens:
        likeliest = "  ".join(
            f"{tokenizer.shown(one)} {math.exp(logprob):.1%}" for one, logprob in token.likeliest
        )
        shown = f"{token.logprob:8.3f} {math.exp(token.logprob):6.1%}  {tokenizer.shown(token.id):<16}"
        say(f"{shown} {likeliest}".rstrip())
