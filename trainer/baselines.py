"""What held-out text costs without a model, in bits per byte: the figures a model has to beat.

All of them know the very tokens the model was trained on. Counting takes about a second per million tokens,
xz about a second per MB, on two cores.
"""

import lzma
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from trainer.model.model import IGNORE
from trainer.tokenizer import Tokenizer

Tokens = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def baselines(ids: Tokens, targets: Tokens, texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, float]:
    """Bits per byte of `texts` by baseline, knowing the training rows `ids` and `targets` (n, T).

    `uniform` over the vocabulary; `unigram` counts, add one; `bigram` counts interpolated with them by the
    rule of Witten and Bell (1991); `xz -9`: how much longer its output gets when `texts` follow the training
    text, which is the whole of it up to 64 MB.
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
    size = sum(len(text.encode()) for text in texts)
    bits = {name: -float(np.log2(each).sum()) for name, each in probabilities.items()}
    bits["xz -9"] = 8.0 * _xz_growth(tokenizer.decode_bytes(targets[kept].tolist()), "".join(texts).encode())
    return {name: value / size for name, value in bits.items()}


class Bigram:
    """P(next | token) out of counts of pairs; `unigram` (V,) is P(next) alone."""

    def __init__(self, tokens: Tokens, following: Tokens, vocab_size: int) -> None:
        self._vocab_size = vocab_size
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


def _xz_growth(known: bytes, new: bytes) -> int:
    """Bytes by which xz -9's output grows when `new` follows `known`."""
    with ThreadPoolExecutor(max_workers=2) as threads:  # lzma works outside the interpreter lock
        alone, both = threads.map(_xz_size, (known, known + new))
    return both - alone


def _xz_size(data: bytes) -> int:
    return len(lzma.compress(data, preset=9))
