"""MinHash (Broder 1997): which texts are nearly the same, from a few numbers a text.

A text is the set of its word 5-grams. A signature is the least value each of 128 permutations gives to one
of them, so two signatures agree in the share of places in which the sets overlap (Jaccard), give or take
0.044. Permutations are affine maps modulo 2**32 with an odd factor, which numpy does many at a time; the
hashes under them are well mixed before. About 0.1 ms for 700 words, hashes of the words given.
"""

import numpy as np
from numpy.typing import NDArray

from shards.text.signals import Signals

SHINGLE = 5
PERMUTATIONS = 128
_BLOCK = 2048
_numbers = np.random.default_rng(5381)
_scale = _numbers.integers(0, 1 << 32, size=(PERMUTATIONS, 1), dtype=np.uint32) | np.uint32(1)
_offset = _numbers.integers(0, 1 << 32, size=(PERMUTATIONS, 1), dtype=np.uint32)
_place = _numbers.integers(0, 1 << 64, size=SHINGLE, dtype=np.uint64) | np.uint64(1)
_band = _numbers.integers(0, 1 << 64, size=PERMUTATIONS, dtype=np.uint64) | np.uint64(1)

Shingles = NDArray[np.uint64]
Signature = NDArray[np.uint32]


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each of `numbers` as another one, every bit of which depends on all of its bits (splitmix64's end)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def shingles(words: NDArray[np.uint32]) -> Shingles:
    """The 5-grams of a text, hashed, in order; `words`: a hash of each word. Of fewer words it is one.

    Shape (max(1, words - 4),).
    """
    padded = np.zeros(max(SHINGLE, len(words)), dtype=np.uint64)
    padded[: len(words)] = words
    padded += np.uint64(1)
    count = len(padded) - SHINGLE + 1
    grams = padded[:count] * _place[0]
    for n in range(1, SHINGLE):
        grams += padded[n : n + count] * _place[n]
    return mixed(grams)


def signature(text: str) -> Signature:
    """MinHash of a text: shape (128,)."""
    return minhash(shingles(Signals(text).hashes))


def minhash(of: Shingles) -> Signature:
    """MinHash of a set of at least one shingle: shape (128,)."""
    hashes = of.astype(np.uint32)
    least = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(hashes), _BLOCK):
        permuted = _scale * hashes[start : start + _BLOCK]
        permuted += _offset
        np.minimum(least, permuted.min(axis=1), out=least)
    return least


def bands(of: Signature, count: int, rows: int) -> NDArray[np.uint64]:
    """The first `count * rows` places of a signature as `count` keys: shape (count,).

    Two texts share a key if they agree in all places of a band, which for an overlap of s happens at least
    once with probability 1 - (1 - s**rows)**count.
    """
    places = of[: count * rows].reshape(count, rows) * _band[:rows]
    return mixed(places.sum(axis=1) + np.arange(count, dtype=np.uint64))
