"""How good a model is: bits per byte of text it has never seen, beside what the text costs without a model.

Unlike a loss per token, bits per byte compare models with different tokenizers, and with the baselines, which
know the very tokens the model was trained on. Bytes are counted on the text itself, never on what tokens
decode to. Scoring 100 kB takes about a third of the time of training on it; the baselines take about a second
per million tokens to count and a second per MB for xz, on two cores.
"""

import lzma
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.reader import ShardReader
from trainer.data.batch import IGNORE
from trainer.model.model import GPT
from trainer.run.checkpoint import find, load_model
from trainer.run.distributed import World
from trainer.tokenizer import Tokenizer

Tokens = NDArray[np.int64]
Probabilities = NDArray[np.float64]

# Rows of sequence_len tokens in one forward pass: more take more memory and save little time.
_ROWS_AT_ONCE = 16
# Characters of a text by which it is judged: a bound on the time a page of any length takes.
_JUDGED_CHARACTERS = 2000
_ALONE = World()


def held_out_texts(reader: ShardReader, most_bytes: int) -> list[str]:
    """Up to `most_bytes` of the text `reader` reads, an even share of each row group; [] if there is none."""
    groups = sorted((reader.texts(group) for group in reader.row_groups), key=_bytes)
    chosen: list[str] = []
    for number, texts in enumerate(groups):
        # Smallest group first: what it leaves of its share is for those after it.
        left = (most_bytes - _bytes(chosen)) // (len(groups) - number)
        for text in texts:
            head = text.encode()[:left].decode(errors="ignore")  # the last one is cut between two characters
            if not head:
                break
            chosen.append(head)
            left -= len(head.encode())
    return chosen


def _bytes(texts: Sequence[str]) -> int:
    return sum(len(text.encode()) for text in texts)


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """The model as it is used and not as it is trained, which differ with batch norm; without gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def bits_per_byte(model: GPT, tokenizer: Tokenizer, texts: Sequence[str], world: World = _ALONE) -> float:
    """Bits the model needs for a byte of `texts`, each text read alone, in windows of `sequence_len` tokens.

    Every token is predicted once, the first from `<|endoftext|>`; a window knows nothing of the one before
    it. The ranks of `world` share the work and get the same result; they must be called with the same texts.
    """
    rows = torch.cat(
        [_windows(tokenizer.encode(text), tokenizer, model.config.sequence_len) for text in texts]
    )
    nats = torch.zeros((), dtype=torch.float64, device=world.device)
    with evaluating(model):
        for start in range(world.rank * _ROWS_AT_ONCE, len(rows), world.size * _ROWS_AT_ONCE):
            batch = rows[start : start + _ROWS_AT_ONCE].to(world.device)
            # IGNORE stands only after a text's end, where no id is of consequence, but it must be one.
            loss, _ = model(batch[:, :-1].clamp(min=0), batch[:, 1:])
            nats += loss
    return float(world.sum(nats)) / math.log(2) / _bytes(texts)


def _windows(tokens: Sequence[int], tokenizer: Tokenizer, length: int) -> Tensor:
    """Rows (n, length + 1): the targets of a row are its tokens from the second on, `IGNORE` past the end."""
    count = -(-len(tokens) // length)
    padding = [IGNORE] * (count * length - len(tokens))
    # Windows overlap by one token: the last target of one is the first that the next one reads.
    row = torch.tensor([tokenizer.endoftext, *tokens, *padding])
    return row.unfold(0, length + 1, length)[:count] if count else row.new_empty((0, length + 1))


def baselines(ids: Tokens, targets: Tokens, texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, float]:
    """Bits per byte of `texts` by baseline, knowing the training rows `ids` and `targets` (n, T).

    `uniform` over the vocabulary; `unigram` counts, add one; `bigram` counts interpolated with them by the
    rule of Witten and Bell (1991); `xz -9`: how much longer its output gets when `texts` follow the training
    text, of which it remembers the last 64 MB.
    """
    history = np.concatenate([[tokenizer.endoftext, *tokenizer.encode(text)[:-1]] for text in texts])
    following = np.concatenate([tokenizer.encode(text) for text in texts])
    kept = targets != IGNORE
    bigram = Bigram(ids[kept], targets[kept], tokenizer.vocab_size)
    probabilities = {
        "uniform": np.full(len(following), 1 / tokenizer.vocab_size),
        "unigram": bigram.unigram[following],
        "bigram": bigram(history, following),
    }
    bits = {name: -float(np.log2(each).sum()) for name, each in probabilities.items()}
    # -9 has a dictionary of 64 MiB, the largest; of a longer training text, xz has forgotten the beginning.
    known, new = tokenizer.decode_bytes(targets[kept].tolist()), "".join(texts).encode()
    with ThreadPoolExecutor(max_workers=2) as threads:  # lzma works outside the interpreter lock
        alone, both = threads.map(lambda data: len(lzma.compress(data, preset=9)), (known, known + new))
    bits["xz -9"] = 8.0 * (both - alone)
    return {name: value / _bytes(texts) for name, value in bits.items()}


class Bigram:
    """P(next | token) out of counts of pairs; `unigram` (V,) is P(next) alone."""

    def __init__(self, tokens: Tokens, following: Tokens, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        # A pair is one number, token * V + next; sorted, so that it is found by bisection.
        self._pairs, self._counts = np.unique(tokens * vocab_size + following, return_counts=True)
        self._seen = np.bincount(tokens, minlength=vocab_size)
        self._kinds = np.bincount(self._pairs // vocab_size, minlength=vocab_size)
        self.unigram: Probabilities = (np.bincount(following, minlength=vocab_size) + 1) / (
            len(following) + vocab_size
        )

    def __call__(self, tokens: Tokens, following: Tokens) -> Probabilities:
        """P(following | tokens), element by element.

        A token followed by k kinds of token in n places gives the unigrams the weight k / (n + k).
        """
        pairs = tokens * self._vocab_size + following
        at = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        counts = np.where(self._pairs[at] == pairs, self._counts[at], 0)
        # A token never seen before another has only the unigrams to go by.
        kinds = np.maximum(self._kinds[tokens], 1)
        mixed: Probabilities = (counts + kinds * self.unigram[following]) / (self._seen[tokens] + kinds)
        return mixed


class CheckpointQuality:
    """A model as the judge of what it should read: how well it predicts a text.

    `path` is a run (its latest checkpoint) or one checkpoint. It has the methods of the ranker's
    `QualityModel`; the two rooms know nothing of each other. Raises `CheckpointError` or `TokenizerError` if
    it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._model, self._tokenizer = load_model(path)
        checkpoint = find(path)
        self.name = f"checkpoint {checkpoint.parent.name}/{checkpoint.name}"

    def score(self, text: str) -> float:
        """The probability the model gives to an average byte of the text's beginning, 2 ** -(bits per byte).

        The mean is the geometric one; the beginning is 2,000 characters. 0 for no text.
        """
        # A page may hold half of a surrogate pair, for which UTF-8 has no bytes.
        beginning = text[:_JUDGED_CHARACTERS].encode("utf-8", "replace").decode()
        if not beginning:
            return 0.0
        return min(1.0, math.exp2(-bits_per_byte(self._model, self._tokenizer, [beginning])))

    def close(self) -> None:
        """Nothing is open."""
