"""Text out of a model, piece by piece: completion of one prompt or of several, and answers in a conversation.

The prompt is read once, then a position a step (KV cache). When the context is full the older half is
forgotten and the newer half read again: the text goes on at any length for about one more reading of each
token.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import randbits
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.config import SamplingConfig
from trainer.model.decoder import Decoder, Weights, fits
from trainer.model.model import GPT, KVCache
from trainer.post.chat import ConversationError, Message, parse_messages, render_prompt
from trainer.run.checkpoint import load_model
from trainer.tokenizer import Tokenizer

# Parameters from which a step is split between threads: on a busy machine their waiting for each other costs
# a model of 27 M parameters nine tenths of its speed, so that one stays on one thread.
_WORTH_SHARING = 2**25
# A temperature at which only the likeliest token can be drawn; some 1e-28 less, and logits overflow.
_AS_ZERO = 1e-9


class Token(NamedTuple):
    """A token and how likely the model held it, before temperature and limits."""

    id: int
    logprob: float
    """Natural logarithm of its probability."""
    likeliest: tuple[tuple[int, float], ...]
    """The likeliest tokens in its place, with their logprobs."""


class Generator:
    """A model with its tokenizer, ready to write. Not to be shared between threads.

    On a CPU it keeps a copy of the weights as they are read fastest, where the layout allows
    (`trainer.model.decoder`): what is changed in `model` later makes no difference then. With `weights` None
    it runs `model` itself, as for a few words in the midst of training.
    """

    def __init__(self, model: GPT, tokenizer: Tokenizer, weights: Weights | None = "fp32") -> None:
        """Raises `ConfigError` for weights = fp16 with a layout, or on a device, that has no use for it."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.context_len = model.config.sequence_len
        self._device = model.embed_tokens.weight.device
        small = model.parameters_count < _WORTH_SHARING
        self._threads = 1 if small else torch.get_num_threads()
        quick = self._device.type == "cpu" and (weights == "fp16" or fits(model.config))
        self._decoder = Decoder(model, weights) if weights and quick else None
        self._ends = (tokenizer.endoftext, *tokenizer.ends)

    @classmethod
    def load(cls, directory: Path | str, device: str = "cpu", weights: Weights = "fp32") -> "Generator":
        """From the folder of a run (its latest checkpoint) or of one checkpoint; raises `CheckpointError`."""
        return cls(*load_model(Path(directory), device), weights)

    def complete(self, prompt: str, **sampling: Any) -> Iterator[str]:
        """Pieces of the text after `prompt`; `sampling`: the fields of `SamplingConfig`.

        Ends at `<|endoftext|>`, or at what ended texts in the model this one began as; of a prompt longer
        than the context only the end is seen.
        """
        config = SamplingConfig(**sampling)
        tokens = self.tokens(self._prompt(prompt), config, self._ends)
        return stream(tokens, self.tokenizer, config.stop)

    def complete_all(self, prompts: Sequence[str], **sampling: Any) -> list[str]:
        """What `complete` gives for each of `prompts`, read together; prompt n is given the seed plus n."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        config, tokenizer = SamplingConfig(**sampling), self.tokenizer
        streams = [TextStream(tokenizer, config.stop) for _ in prompts]
        texts = [""] * len(prompts)
        done: set[int] = set()
        rows = [self._prompt(prompt) for prompt in prompts]
        for step in self.together(rows, config, self._ends, done):
            for row, token in step.items():
                texts[row] += streams[row].add(token)
                if streams[row].stopped:
                    done.add(row)
        return [text + stream.held for text, stream in zip(texts, streams, strict=True)]

    def complete_tokens(self, prompt: str, likeliest: int = 0, **sampling: Any) -> Iterator[Token]:
        """The tokens of `complete`, each with its and the `likeliest` ones' logprobs.

        Ends before the token with which a stop string is complete.
        """
        config, tokenizer = SamplingConfig(**sampling), self.tokenizer
        stream = TextStream(tokenizer, config.stop)
        for token, logits in self._drawn(self._prompt(prompt), config, self._ends):
            stream.add(token)
            if stream.stopped:
                return
            yield _token(token, logits, likeliest)

    def chat(self, messages: Sequence[Message], **sampling: Any) -> Iterator[str]:
        """Pieces of the assistant's answer to `messages`; `sampling`: the fields of `SamplingConfig`.

        Turns that do not fit are forgotten, oldest first, the system message and the last turn never.
        Raises `ConversationError` if the messages are malformed, do not end with the user's, or do not fit.
        """
        tokenizer, config = self.tokenizer, SamplingConfig(**sampling)
        ids = self._fitting_prompt(parse_messages(list(messages)), config.max_tokens)
        tokens = self.tokens(ids, config, (tokenizer.im_end, *self._ends))
        return stream(tokens, tokenizer, config.stop)

    def score(self, ids: Sequence[int], likeliest: int = 0) -> list[Token]:
        """The tokens of `ids` after the first, as the model would have guessed them from those before.

        Raises `ValueError` for more than `context_len` + 1 of them.
        """
        logits = self._read([list(ids[:-1])], self._empty_cache())[0]
        return [_token(token, row, likeliest) for token, row in zip(ids[1:], logits, strict=True)]

    def tokens(self, ids: Sequence[int], config: SamplingConfig, ends: Sequence[int]) -> Iterator[int]:
        """Token ids after `ids`, until `config.max_tokens` or one of `ends`; no other special token comes."""
        return (token for token, _ in self._drawn(ids, config, ends))

    def together(
        self, rows: Sequence[Sequence[int]], config: SamplingConfig, ends: Sequence[int], done: set[int]
    ) -> Iterator[dict[int, int]]:
        """As `tokens` for several `rows` at once: at each step the next token of each row that goes on.

        Rows that the caller adds to `done` end. Row n is drawn with the seed plus n.
        """
        contexts = [list(ids[-self.context_len :]) for ids in rows]
        # One generator a row: a row's text does not depend on the company it is written in.
        rngs = [_rng(config.seed, row) for row in range(len(rows))]
        forbidden = self._forbidden(ends)
        cache, reading = self._empty_cache(), list[int]()
        for _ in range(config.max_tokens):
            going = [row for row in range(len(rows)) if row not in done]
            if not going:
                return
            # Rows that are done are read on: taking one out of the cache would copy all of it.
            if reading and cache.length < self.context_len:
                logits = self._read([contexts[row][-1:] for row in reading], cache)[:, -1]
            else:
                contexts = [self._shortened(context) for context in contexts]
                reading = going
                logits, cache = self._read_padded([contexts[row] for row in reading])
            step = {}
            for row, values in zip(reading, logits.index_fill(1, forbidden, -torch.inf), strict=True):
                token = sample(values, config, rngs[row])
                contexts[row].append(token)
                if row not in done and token not in ends:
                    step[row] = token
                else:
                    done.add(row)
            yield step

    def _drawn(
        self, ids: Sequence[int], config: SamplingConfig, ends: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Tokens after `ids`, each with the logits (V,) it was drawn from.

        Guessed tokens are read with the token before them. Each position is drawn from as if there had been
        no guess; as long as that is what was guessed, the next position has been read already.
        """
        rng = _rng(config.seed, 0)
        forbidden = self._forbidden(ends)
        context = list(ids[-self.context_len :])
        ngrams = NGrams(context) if config.speculate else None
        cache, unread = self._empty_cache(), context
        left = config.max_tokens
        while left:
            if cache.length + len(unread) > self.context_len:
                context = self._shortened(context)
                cache, unread = self._empty_cache(), context
            room = self.context_len - cache.length - len(unread)
            # One less than are left: the position after the guess gives a token too.
            guess = ngrams.guess(min(config.speculate, room, left - 1)) if ngrams else []
            read = self._read([unread + guess], cache)[0, -len(guess) - 1 :]
            # The first logits follow the last token that is sure, the others one guessed token each.
            for position, logits in enumerate(read, 1):
                token = sample(logits.index_fill(0, forbidden, -torch.inf), config, rng)
                if token in ends:
                    return
                yield token, logits
                left -= 1
                context.append(token)
                if ngrams:
                    ngrams.append(token)
                if guess[position - 1 : position] != [token]:
                    break
            cache.length -= len(read) - position  # what was guessed wrong, to be overwritten
            unread = [token]

    @torch.inference_mode()
    def _read(self, rows: list[list[int]], cache: KVCache) -> Tensor:
        """Logits (B, T, V) of `rows` of one length, on the CPU, where the same seed gives the same text."""
        ids = torch.tensor(rows, device=self._device)
        with _threads(self._threads):
            logits = self._decoder(ids, cache) if self._decoder else self.model(ids, cache=cache)
        return logits.float().cpu()

    def _read_padded(self, rows: list[list[int]]) -> tuple[Tensor, KVCache]:
        """Logits (B, V) after rows of any length, and the cache that holds them, padded on the left."""
        longest = max(map(len, rows))
        padding = torch.tensor([longest - len(row) for row in rows], device=self._device)
        cache = KVCache(self.model.config, len(rows), self._device, padding if padding.any() else None)
        filled = [[self.tokenizer.endoftext] * (longest - len(row)) + row for row in rows]
        return self._read(filled, cache)[:, -1], cache

    def _prompt(self, text: str) -> list[int]:
        # As a document begins in training (data/packing.py).
        return [self.tokenizer.endoftext, *self.tokenizer.encode(text)]

    def _shortened(self, context: list[int]) -> list[int]:
        """The newer half of a context that is full, to read again.

        Half: a longer rest is full again sooner, and read more often; a shorter one has forgotten more.
        """
        return context[-(self.context_len // 2) :] if len(context) > self.context_len else context

    def _empty_cache(self) -> KVCache:
        return KVCache(self.model.config, 1, self._device)

    def _forbidden(self, ends: Sequence[int]) -> Tensor:
        """Special tokens other than `ends`, and ids that the tokenizer does not have."""
        missing = range(self.tokenizer.vocab_size, self.model.config.vocab_size)
        return torch.tensor([*(self.tokenizer.special - {*ends}), *missing], dtype=torch.long)

    def _fitting_prompt(self, messages: list[Message], max_tokens: int) -> list[int]:
        if messages[-1]["role"] != "user":
            raise ConversationError("messages[-1].role: expected 'user', whose message is to be answered")
        # Room for the answer, but never more than half of the context: the question has to be seen too.
        room = min(max_tokens, self.context_len // 2)
        system = [message for message in messages if message["role"] == "system"]
        turns = messages[len(system) :]
        while len(ids := render_prompt([*system, *turns], self.tokenizer)) > self.context_len - room:
            if len(turns) == 1:
                break
            turns = turns[2:]  # a question goes with its answer, so that the rest begins with the user again
        if len(ids) >= self.context_len:
            raise ConversationError(
                f"messages[-1].content: {len(ids)} tokens with its frame, and this model sees "
                f"{self.context_len} at once; ask something shorter"
            )
        return ids


def _rng(seed: int | None, row: int) -> torch.Generator:
    return torch.Generator().manual_seed(randbits(63) if seed is None else seed + row)


def _token(token: int, logits: Tensor, likeliest: int) -> Token:
    logprobs = logits.log_softmax(-1)
    top = logprobs.topk(min(likeliest, len(logprobs)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Token(token, float(logprobs[token]), tuple(pairs))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sample(logits: Tensor, config: SamplingConfig, rng: torch.Generator) -> int:
    """A token id drawn from `logits` (V,): temperature, top-k, top-p (arXiv:1904.09751), min-p."""
    if config.temperature < _AS_ZERO:
        return int(logits.argmax())
    # Sorted, so that top-p is a running sum; what is cut off has probability 0 and is drawn never.
    likeliest = logits.topk(min(config.top_k or len(logits), len(logits)))
    p = torch.softmax(likeliest.values / config.temperature, dim=-1)
    kept = (p >= config.min_p * p[0]) & (p.cumsum(0) - p < config.top_p)
    kept[0] = True  # whatever of a tiny top_p is left in fp32
    return int(likeliest.indices[torch.multinomial(p * kept, 1, generator=rng)])


class TextStream:
    """The text of tokens as they come, up to whichever of `stop` is complete first.

    `held` is what is known and not passed on yet: an end in which one of `stop` could begin. It is shorter
    than the longest of them, so a token costs the same however long the text is.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self.held = ""
        self._tokenizer, self._stop = tokenizer, stop
        self._longest = max(map(len, stop), default=1)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """The text that is decided with `token`; half a character waits for its other half."""
        self.held += self._decoder.decode(self._tokenizer.decode_bytes((token,)))
        found = [(start + len(stop), start) for stop in self._stop if (start := self.held.find(stop)) >= 0]
        if found:
            self.stopped = True
            text, self.held = self.held[: min(found)[1]], ""
            return text
        ends = range(min(len(self.held), self._longest - 1), 0, -1)
        undecided = next((n for n in ends if any(stop.startswith(self.held[-n:]) for stop in self._stop)), 0)
        decided = len(self.held) - undecided
        text, self.held = self.held[:decided], self.held[decided:]
        return text


def stream(tokens: Iterable[int], tokenizer: Tokenizer, stop: Sequence[str] = ()) -> Iterator[str]:
    """The text of `tokens` in pieces, each as soon as it is decided, without half a character at the end."""
    text = TextStream(tokenizer, stop)
    for token in tokens:
        if piece := text.add(token):
            yield piece
        if text.stopped:
            return
    if text.held:
        yield text.held


class NGrams:
    """Guesses how a text goes on by where its last `n` tokens stood before (transformers' prompt lookup).

    A guess costs a look into a dictionary and nothing to train.
    """

    def __init__(self, tokens: Iterable[int], n: int = 3) -> None:
        self._n = n
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        if len(self._text) >= self._n:
            self._after[tuple(self._text[-self._n :])] = len(self._text)
        self._text.append(token)

    def guess(self, most: int) -> list[int]:
        """Up to `most` tokens that came after the last n when they stood in the text before; often none."""
        at = self._after.get(tuple(self._text[-self._n :])) if most > 0 else None
        return [] if at is None else self._text[at : at + most]
