"""Text out of a model, piece by piece: completion of a prompt, and answers in a conversation.

The prompt is read once, then a position a step (KV cache). When the context is full the older half is
forgotten and the newer half read again: the text goes on at any length for about one more reading of each
token. A stop string or half a character at the end of what is known is held back until it is decided.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.chat import ConversationError, Message, parse_messages, render_prompt
from trainer.checkpoint import load_model
from trainer.config import SamplingConfig
from trainer.model import GPT, KVCache
from trainer.tokenizer import Tokenizer

_WORTH_SHARING = 2**25
"""Parameters from which a step is split between threads: on a busy machine their waiting for each other costs
a model of 27 M parameters nine tenths of its speed."""


class Generator:
    """A model with its tokenizer, ready to write. One text at a time; not to be shared between threads."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.context_len = model.config.sequence_len
        self._device = model.embed_tokens.weight.device
        small = model.parameters_count < _WORTH_SHARING
        self._threads = 1 if small else torch.get_num_threads()

    @classmethod
    def load(cls, directory: Path | str, device: str = "cpu") -> "Generator":
        """From the folder of a run (its latest checkpoint) or of one checkpoint; raises `CheckpointError`."""
        return cls(*load_model(Path(directory), device))

    def complete(self, prompt: str, **sampling: Any) -> Iterator[str]:
        """Pieces of the text after `prompt`; `sampling`: the fields of `SamplingConfig`.

        Ends at `<|endoftext|>`; of a prompt longer than the context only the end is seen.
        """
        tokenizer, config = self.tokenizer, SamplingConfig(**sampling)
        ids = [tokenizer.endoftext, *tokenizer.encode(prompt)]
        tokens = self.tokens(ids, config, ends=(tokenizer.endoftext,))
        return until(decoded(tokens, tokenizer), config.stop)

    def chat(self, messages: Sequence[Message], **sampling: Any) -> Iterator[str]:
        """Pieces of the assistant's answer to `messages`; `sampling`: the fields of `SamplingConfig`.

        Turns that do not fit are forgotten, oldest first, the system message and the last turn never.
        Raises `ConversationError` if the messages are malformed, do not end with the user's, or do not fit.
        """
        tokenizer, config = self.tokenizer, SamplingConfig(**sampling)
        ids = self._fitting_prompt(parse_messages(list(messages)), config.max_tokens)
        tokens = self.tokens(ids, config, ends=(tokenizer.im_end, tokenizer.endoftext))
        return until(decoded(tokens, tokenizer), config.stop)

    def tokens(self, ids: Sequence[int], config: SamplingConfig, ends: Sequence[int]) -> Iterator[int]:
        """Token ids after `ids`, until `config.max_tokens` or one of `ends`; no other special token comes."""
        rng = torch.Generator()
        if config.seed is None:
            rng.seed()
        else:
            rng.manual_seed(config.seed)
        forbidden = self._forbidden(ends)
        context = list(ids[-self.context_len :])
        cache, unread = self._empty_cache(), context
        for _ in range(config.max_tokens):
            if cache.length + len(unread) > self.context_len:
                context = context[-(self.context_len // 2) :]
                cache, unread = self._empty_cache(), context
            logits = self._read(unread, cache)
            token = sample(logits.masked_fill(forbidden, -torch.inf), config, rng)
            if token in ends:
                return
            yield token
            context.append(token)
            unread = [token]

    @torch.inference_mode()
    def _read(self, ids: list[int], cache: KVCache) -> Tensor:
        """Logits (V,) of the token after `ids`, on the CPU, where the same seed gives the same text."""
        row = torch.tensor([ids], device=self._device)
        with _threads(self._threads):
            return self.model(row, cache=cache)[0, -1].float().cpu()  # type: ignore[no-any-return]

    def _empty_cache(self) -> KVCache:
        return KVCache(self.model.config, 1, self._device)

    def _forbidden(self, ends: Sequence[int]) -> Tensor:
        """Mask (V,) of special tokens other than `ends`, and of ids that the tokenizer does not have."""
        tokenizer = self.tokenizer
        mask = torch.arange(self.model.config.vocab_size) >= tokenizer.vocab_size
        mask[[tokenizer.endoftext, tokenizer.im_start, tokenizer.im_end]] = True
        mask[list(ends)] = False
        return mask

    def _fitting_prompt(self, messages: list[Message], max_tokens: int) -> list[int]:
        if messages[-1]["role"] != "user":
            raise ConversationError("messages[-1].role: expected 'user', whose message is to be answered")
        room = min(max_tokens, self.context_len // 2)
        system = [message for message in messages if message["role"] == "system"]
        turns = messages[len(system) :]
        ids = render_prompt([*system, *turns], self.tokenizer)
        while len(ids) > self.context_len - room and len(turns) > 1:
            turns = turns[2:]
            ids = render_prompt([*system, *turns], self.tokenizer)
        if len(ids) >= self.context_len:
            raise ConversationError(
                f"messages[-1].content: {len(ids)} tokens with its frame, and this model sees "
                f"{self.context_len} at once; ask something shorter"
            )
        return ids


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sample(logits: Tensor, config: SamplingConfig, rng: torch.Generator) -> int:
    """A token id drawn from `logits` (V,): temperature, top-k, top-p (arXiv:1904.09751), min-p."""
    if config.temperature == 0:
        return int(logits.argmax())
    likeliest = logits.topk(min(config.top_k or len(logits), len(logits)))
    p = torch.softmax(likeliest.values / config.temperature, dim=-1)
    kept = (p >= config.min_p * p[0]) & (p.cumsum(0) - p < config.top_p)
    return int(likeliest.indices[torch.multinomial(p * kept, 1, generator=rng)])


def decoded(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """The text of `tokens` as soon as its characters are whole; half a character at the end is left out."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if piece := decoder.decode(tokenizer.decode_bytes((token,))):
            yield piece


def until(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """The text of `pieces` up to whichever of `stop` is complete first, if need be over several pieces."""
    held = ""
    for piece in pieces:
        held += piece
        found = [(start + len(string), start) for string in stop if (start := held.find(string)) >= 0]
        if found:
            held = held[: min(found)[1]]
            break
        safe = len(held) - _open_end(held, stop)
        if safe:
            yield held[:safe]
            held = held[safe:]
    if held:
        yield held


def _open_end(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of `text` with which one of `stop` could begin."""
    longest = min(len(text), max(map(len, stop), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in stop)), 0)
